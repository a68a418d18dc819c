"""A classifier with scikit-learn's face: pipelines, cross-validation, grid search.

    from striate.sklearn import CNNClassifier

    classifier = CNNClassifier(model="lenet-bn", epochs=5)
    cross_val_score(classifier, images, labels)

Needs scikit-learn (`pip install 'striate[sklearn]'`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from striate import models
from striate.errors import ArgumentError, ShapeError
from striate.nn.init import manual_seed
from striate.train import optim
from striate.train import schedule as schedules
from striate.train.batches import ArrayBatches
from striate.train.step import Step, compile_step
from striate.train.trainer import Trainer

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import (
        check_array,
        check_consistent_length,
        check_is_fitted,
        column_or_1d,
        validate_data,
    )
except ImportError as error:
    raise ImportError(
        "striate.sklearn needs scikit-learn: pip install 'striate[sklearn]'"
    ) from error

if TYPE_CHECKING:
    from typing_extensions import Self

Array = np.ndarray[Any, Any]

OPTIMIZERS: dict[str, Callable[[float], optim.Optimizer]] = {
    "sgd": lambda lr: optim.SGD(lr, momentum=0.9, weight_decay=5e-4),
    "adam": optim.Adam,
    "adamw": optim.AdamW,
    "rmsprop": optim.RMSprop,
}
SCHEDULES = ("cosine", "onecycle", "constant")
NO_LABELS = "no_validation"  # scikit-learn's word for it
BATCH = 256  # images of a call in prediction
LEAST_SIDE = 8  # of the square that a table is written into


class CNNClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # sklearn has no types
    """A convolutional network as a scikit-learn classifier.

    X may be images (n, h, w) or (n, channels, h, w), or flat: (n, features) with `image_shape`.
    Without it a flat X with 3·s² or s² features, s ≥ 8, is taken as colour or grey squares
    (channels first); any other table is written row by row into the smallest grey square that
    holds it, at least 8×8, and the rest of the square is 0. A table without neighbourhoods is
    better served by another classifier.

    Pixels are standardised by each channel's mean and deviation over the X of the first `fit`, so
    their scale does not matter. The same data, parameters and seed give the same bits, for any
    number of threads.

    Args:
        model: a network of `striate.models.list()`; it gets the image size and, where it has the
            choice, the stem for images of up to 96 pixels.
        epochs: passes of `fit`; `partial_fit` makes one.
        batch_size: images a step.
        lr: the highest rate.
        optimizer: "sgd" (momentum 0.9, decay 5e-4), "adam", "adamw", "rmsprop".
        schedule: "cosine", "onecycle", "constant", for `fit`; `partial_fit` is constant.
        label_smoothing: as in PyTorch.
        seed: of the weights and of the order of images.
        image_shape: (h, w) or (channels, h, w) of the rows of a flat X.

    Attributes:
        classes_: the labels, sorted.
        n_features_in_: numbers of one image.
        image_shape_: (channels, h, w) that the net takes.
        net_: the `striate.nn.Module`, in evaluation mode.
        mean_, scale_: (channels,), by which pixels are standardised.
        history_: dictionary of the last `fit`: loss and accuracy of each epoch.
    """

    def __init__(
        self,
        model: str = "lenet-bn",
        *,
        epochs: int = 10,
        batch_size: int = 32,
        lr: float = 1e-3,
        optimizer: str = "adam",
        schedule: str = "cosine",
        label_smoothing: float = 0.0,
        seed: int = 0,
        image_shape: tuple[int, ...] | None = None,
    ) -> None:
        self.model = model
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.optimizer = optimizer
        self.schedule = schedule
        self.label_smoothing = label_smoothing
        self.seed = seed
        self.image_shape = image_shape

    # ------------------------------------------------------------------ learning

    def fit(self, X: Any, y: Any) -> Self:
        """Train a new net for `epochs` epochs; returns itself.

        Raises: ArgumentError for a parameter that is not one of those above; ShapeError, ValueError
        for data that do not fit them.
        """
        images, labels = self._begin(X, y, None)
        trainer = Trainer(
            self.net_,
            self._rule(),
            schedule=self._course(),
            batch_size=self.batch_size,
            seed=self.seed,
            label_smoothing=self.label_smoothing,
        )
        self.history_ = trainer.fit((images, labels), epochs=self.epochs).history
        self.net_.eval()
        return self

    def partial_fit(self, X: Any, y: Any, classes: Any = None) -> Self:
        """Train for one epoch on a part of the data; returns itself.

        Args:
            X: images as for `fit`.
            y: their labels.
            classes: all labels that will come; needed at the first call.
        """
        if not hasattr(self, "net_"):
            if classes is None:
                raise ArgumentError("the first partial_fit needs classes: all labels there will be")
            images, labels = self._begin(X, y, classes)
        else:
            raw, targets = self._validated(X, y, reset=False)
            images, labels = self._standardised(raw), self._numbers(targets)
        step = self._compiled()
        for x, part in ArrayBatches(
            images, labels, self.batch_size, shuffle=True, seed=self.seed
        ).epoch(self.passes_):
            step(x, part)
        self.passes_ += 1
        self.net_.eval()
        return self

    def _begin(self, X: Any, y: Any, classes: Any) -> tuple[Array, Array]:
        """A new net for such data, and the data as it takes them."""
        raw, targets = self._validated(X, y, reset=True)
        self.classes_ = np.unique(targets if classes is None else np.asarray(classes))
        self.n_features_in_ = math.prod(raw.shape[1:])
        self.image_shape_ = _image_shape(raw.shape[1:], self.image_shape)
        values = _by_channel(raw, self.image_shape_)
        deviation = values.std((0, 2), dtype=np.float64)
        self.mean_ = values.mean((0, 2), dtype=np.float64).astype(np.float32)
        self.scale_ = np.where(deviation > 0, deviation, 1).astype(np.float32)
        manual_seed(self.seed)
        self.net_ = models.create(self.model, **self._arguments())
        self._step: Step | None = None
        self._step_state: Any = None
        self.passes_ = 0
        return self._standardised(raw), self._numbers(targets)

    def _arguments(self) -> dict[str, Any]:
        """What the network is made with."""
        channels, h, w = self.image_shape_
        arguments: dict[str, Any] = {"num_classes": len(self.classes_), "in_channels": channels}
        known = models.options(self.model)
        if "stem" in known:
            arguments["stem"] = "32" if min(h, w) <= 96 else "224"
        if "image_size" in known:
            if h != w:
                raise ShapeError(f"{self.model} takes square images, not {h}x{w} (height x width)")
            arguments["image_size"] = h
        return arguments

    def _rule(self) -> optim.Optimizer:
        if self.optimizer not in OPTIMIZERS:
            raise ArgumentError(f"optimizer={self.optimizer!r} is none of {', '.join(OPTIMIZERS)}")
        return OPTIMIZERS[self.optimizer](self.lr)

    def _course(self) -> schedules.Schedule | None:
        if self.schedule not in SCHEDULES:
            raise ArgumentError(f"schedule={self.schedule!r} is none of {', '.join(SCHEDULES)}")
        if self.schedule == "onecycle":
            return schedules.OneCycle(self.lr)
        return schedules.Cosine() if self.schedule == "cosine" else None

    def _compiled(self) -> Step:
        """The step of `partial_fit`, which keeps the optimiser's state from call to call."""
        if self._step is None:
            self._step = compile_step(
                self.net_, optimizer=self._rule(), label_smoothing=self.label_smoothing
            )
            if self._step_state is not None:
                self._step.load_state_dict(*self._step_state)
        return self._step

    def __getstate__(self) -> dict[str, Any]:
        """For pickle: the optimiser's numbers instead of the compiled step."""
        state = dict(super().__getstate__())
        step = state.get("_step")
        if step is not None:
            state["_step_state"] = step.state_dict()
        return {**state, "_step": None} if "_step" in state else state

    # ------------------------------------------------------------------ data

    def _validated(self, X: Any, y: Any = NO_LABELS, *, reset: bool) -> tuple[Array, Array]:
        """X as float32 (n, …) and labels (n,), as scikit-learn checks them."""
        labelled = y is not NO_LABELS
        axes = X.ndim if hasattr(X, "ndim") else np.asarray(X).ndim
        if axes < 3 or y is None:
            found = validate_data(self, X, y, reset=reset, dtype=np.float32)
            raw, y = found if labelled else (found, y)
        else:
            raw = check_array(X, allow_nd=True, dtype=np.float32)
            if raw.ndim > 4:
                raise ShapeError(f"X must be (n, h, w) or (n, channels, h, w), got {raw.shape}")
            if not reset and _image_shape(raw.shape[1:], None) != self.image_shape_:
                raise ShapeError(
                    f"X has images {raw.shape[1:]}, the classifier was fitted on "
                    f"{self.image_shape_} (channels, height, width)"
                )
            if labelled:
                y = column_or_1d(y, warn=True)
                check_consistent_length(raw, y)
        if labelled:
            check_classification_targets(y)
        return raw, y

    def _standardised(self, raw: Array) -> Array:
        """Images (n, channels, h, w): (x − mean) / scale, and 0 where a table has no number."""
        channels, h, w = self.image_shape_
        values = (_by_channel(raw, self.image_shape_) - self.mean_[:, None]) / self.scale_[:, None]
        missing = h * w - values.shape[2]
        if missing:
            values = np.pad(values, [(0, 0), (0, 0), (0, missing)])
        return np.ascontiguousarray(values.reshape(len(raw), channels, h, w))

    def _numbers(self, targets: Array) -> Array:
        """Labels as positions in `classes_`."""
        found = np.searchsorted(self.classes_, targets).clip(max=len(self.classes_) - 1)
        unknown = targets[self.classes_[found] != targets]
        if len(unknown):
            raise ArgumentError(f"y has the label {unknown[0]!r}, which is not among the classes")
        return found

    # ------------------------------------------------------------------ answers

    def predict_proba(self, X: Any) -> Array:
        """Probabilities (n, classes) float64, columns in the order of `classes_`."""
        check_is_fitted(self, "net_")
        raw, _ = self._validated(X, reset=False)
        images = self._standardised(raw)
        parts = [self.net_(images[i : i + BATCH]) for i in range(0, len(images), BATCH)]
        scores = np.concatenate(parts).astype(np.float64)
        # softmax: p_i = exp(s_i − max s) / Σ_j exp(s_j − max s)
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        return np.asarray(weights / weights.sum(axis=1, keepdims=True))

    def predict(self, X: Any) -> Array:
        """The most probable label of each image, (n,)."""
        best = self.predict_proba(X).argmax(axis=1)
        return np.asarray(self.classes_[best])


def _image_shape(row: tuple[int, ...], wanted: tuple[int, ...] | None) -> tuple[int, int, int]:
    """(channels, h, w) of images (h, w), (channels, h, w), or of rows of so many features."""
    if len(row) == 1 and wanted is None:
        count = row[0]
        for channels in (1, 3):
            side = math.isqrt(count // channels)
            if side >= LEAST_SIDE and channels * side * side == count:
                return channels, side, side
        side = max(LEAST_SIDE, math.isqrt(count - 1) + 1)
        return 1, side, side
    shape = tuple(wanted) if len(row) == 1 and wanted is not None else row
    if len(shape) not in {2, 3} or not all(int(side) == side and side > 0 for side in shape):
        raise ArgumentError(f"image_shape={shape!r} must be (h, w) or (channels, h, w)")
    channels, h, w = (1, *shape) if len(shape) == 2 else shape
    if math.prod(shape) != math.prod(row):
        raise ShapeError(f"image_shape={shape} has {math.prod(shape)} numbers, X has {row[0]}")
    return int(channels), int(h), int(w)


def _by_channel(raw: Array, shape: tuple[int, int, int]) -> Array:
    """(n, channels, numbers of a channel)."""
    return raw.reshape(len(raw), shape[0], -1)
