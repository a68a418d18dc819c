"""Counts that say how good a classifier is. `n` images, `k` classes; all counts are exact."""

from __future__ import annotations

from typing import Any

import numpy as np

from striate.errors import ShapeError

Array = np.ndarray[Any, Any]


def is_classification(outputs: Array, y: Array) -> bool:
    """Whether `outputs` (n, k) are scores of classes and `y` (n,) holds class numbers."""
    return outputs.ndim == 2 and y.ndim == 1 and np.issubdtype(y.dtype, np.integer)


def top_k_correct(scores: Array, y: Array, k: int = 1) -> int:
    """How many of the labels `y` (n,) are among the `k` highest of `scores` (n, classes).

    Of equal scores the class with the smaller number counts as the higher one, so a net that
    gives all classes the same score is not called right. A label whose score is NaN never counts.
    """
    if scores.ndim != 2 or y.shape != scores.shape[:1]:
        raise ShapeError(f"scores {scores.shape} and labels {y.shape} do not belong together")
    rows = np.arange(len(y))
    own = scores[rows, y][:, None]
    before = np.arange(scores.shape[1])[None, :] < y[:, None]
    better = (scores > own) | ((scores == own) & before) | np.isnan(scores)
    return int(((better.sum(axis=1) < k) & ~np.isnan(own[:, 0])).sum())


def confusion_matrix(y: Array, predicted: Array, classes: int) -> Array:
    """(classes, classes) int64: row = true class, column = predicted class."""
    flat = np.bincount(np.asarray(y) * classes + np.asarray(predicted), minlength=classes**2)
    return flat.reshape(classes, classes)


def per_class(matrix: Array) -> list[dict[str, float]]:
    """Count, precision, recall and F1 of each class of a confusion matrix.

    precision = hits / predicted, recall = hits / count, F1 = 2 · hits / (count + predicted);
    a quotient whose divisor is 0 is NaN.
    """
    table = []
    for i in range(len(matrix)):
        hits, count, predicted = int(matrix[i, i]), int(matrix[i].sum()), int(matrix[:, i].sum())
        table.append(
            {
                "count": count,
                "precision": hits / predicted if predicted else float("nan"),
                "recall": hits / count if count else float("nan"),
                "f1": 2 * hits / (count + predicted) if count + predicted else float("nan"),
            }
        )
    return table
