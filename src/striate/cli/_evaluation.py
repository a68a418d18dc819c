"""Measuring a trained net on labelled pictures, for `train` and `evaluate`."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from striate.errors import FormatError

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
    """Read a model file that `striate train` wrote.

    Raises FormatError if it is damaged, of another kind, or lacks class names or preprocessing.
    """
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
