"""Measuring a trained net on labelled pictures, for `train` and `evaluate`."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from striate.cli._model import declared, open_onnx
from striate.cli._output import note
from striate.errors import FormatError, UnsupportedError

if TYPE_CHECKING:
    from striate.data import Dataset, Recipe
    from striate.nn import Module

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class TrainedModel:
    """A net with the class names and the preprocessing of its file."""

    path: Path
    net: Module
    classes: tuple[str, ...]
    recipe: Recipe
    probabilities: bool = False  # what the net gives; else scores


@dataclass(frozen=True)
class Evaluation:
    """Counts of one pass; the confusion matrix has a row for each true class."""

    matrix: Array
    top5: float
    seconds: float

    @property
    def count(self) -> int:
        """Pictures in all."""
        return int(self.matrix.sum())

    @property
    def accuracy(self) -> float:
        """Share of pictures whose class has the highest score."""
        return float(np.trace(self.matrix)) / self.count


def load_model(path: Path) -> TrainedModel:
    """Read a model file that `striate train` wrote, or an ONNX file.

    Raises FormatError if it is damaged, of another kind, or lacks class names or preprocessing.
    """
    if path.suffix == ".onnx":
        return _load_onnx(path)
    from striate.data import Recipe
    from striate.io.model import load

    net = load(path)
    meta: dict[str, Any] = getattr(net, "meta", {})
    for name in ("classes", "recipe"):
        if not meta.get(name):
            raise FormatError(
                f"{path}: the model file has no {name}; save it with "
                "striate.save(net, path, classes=[...], recipe=dataclasses.asdict(recipe))"
            )
    recipe = Recipe.from_json(json.dumps(meta["recipe"]))
    return TrainedModel(path, net, tuple(meta["classes"]), recipe)


def _load_onnx(path: Path) -> TrainedModel:
    """What the file does not say about classes and preprocessing is told and taken to be usual."""
    from striate.data import Recipe

    net = open_onnx(path)
    channels, size = declared(net)
    if net.recipe is not None:
        recipe = Recipe.from_json(json.dumps(net.recipe))
    elif channels is None:
        raise FormatError(f"{path}: the file does not say how many channels pictures have")
    else:
        recipe = Recipe(channels, size)
        note(
            f"striate: {path}: the file does not say how pictures are prepared; taken are values "
            "from 0 to 1, mean and deviation left as they are"
        )
    scores = net(np.zeros((1, recipe.channels, *(recipe.size or (224, 224))), np.float32))
    if not isinstance(scores, np.ndarray) or scores.ndim != 2:
        raise UnsupportedError(f"{path}: the model does not give one score for each class (N, K)")
    names = net.classes or [str(i) for i in range(scores.shape[1])]
    if len(names) != scores.shape[1]:
        raise FormatError(
            f"{path}: {len(names)} class names for {scores.shape[1]} scores in the file"
        )
    last = next(n for n in net.graph.nodes if net.output_names[0] in n.outputs)
    return TrainedModel(path, net, tuple(names), recipe, last.op == "Softmax")


def measure(net: Module, pictures: Dataset, labels: Array, classes: int) -> Evaluation:
    """Run the net on all pictures. `labels` (N,) are positions among the net's `classes`."""
    from striate.data import Loader
    from striate.train.metrics import confusion_matrix, top_k_correct

    began = time.perf_counter()
    matrix = np.zeros((classes, classes), np.int64)
    among_five = first = 0
    for x, _ in Loader(pictures, 64, raw=True).epoch(0):
        scores = net(x)
        truth = labels[first : first + len(x)]
        first += len(x)
        matrix += confusion_matrix(truth, scores.argmax(axis=1), classes)
        among_five += top_k_correct(scores, truth, 5)
    return Evaluation(matrix, among_five / max(first, 1), time.perf_counter() - began)
