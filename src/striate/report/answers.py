"""What a net said of each picture of a validation set: losses, confusions, the worst pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np

Array = np.ndarray[Any, Any]

WORST = 12
PAIRS = 10


class Pair(TypedDict):
    """How many pictures of one class were taken for another."""

    true: str
    predicted: str
    count: int
    share: float


class Answers:
    """What a net said of each picture of a validation set, in order."""

    def __init__(self) -> None:
        self._parts: list[tuple[Array, ...]] = []

    def add(self, scores: Array, y: Array) -> None:
        """Count a batch: scores (n, classes), labels (n,).

        loss = −log p(true class), p = softmax(scores)
        """
        wide = scores.astype(np.float64)
        wide -= wide.max(axis=1, keepdims=True)
        own = wide[np.arange(len(y)), y]
        loss = np.log(np.exp(wide).sum(axis=1)) - own
        self._parts.append((np.asarray(y), scores.argmax(axis=1), loss))

    def __len__(self) -> int:
        """Return the number of pictures."""
        return sum(len(part[0]) for part in self._parts)

    @property
    def labels(self) -> Array:
        """(N,) true classes."""
        return np.concatenate([part[0] for part in self._parts])

    @property
    def predicted(self) -> Array:
        """(N,) classes with the highest score."""
        return np.concatenate([part[1] for part in self._parts])

    @property
    def losses(self) -> Array:
        """(N,) cross-entropy of each picture."""
        return np.concatenate([part[2] for part in self._parts])


def most_confused(matrix: Array, classes: Sequence[str], most: int = PAIRS) -> list[Pair]:
    """The largest counts off the diagonal of a confusion matrix (row = true class)."""
    off = matrix - np.diag(np.diag(matrix))
    order = np.argsort(-off, axis=None, kind="stable")[:most]
    pairs = [divmod(int(place), len(classes)) for place in order]
    return [
        Pair(
            true=classes[i],
            predicted=classes[j],
            count=int(off[i, j]),
            share=float(off[i, j] / matrix[i].sum()),
        )
        for i, j in pairs
        if off[i, j]
    ]


def worst_pictures(losses: Array, most: int = WORST) -> list[int]:
    """Positions of the greatest losses, the greatest first; NaN counts as the greatest."""
    filled = np.where(np.isnan(losses), np.inf, losses)
    return [int(i) for i in np.argsort(-filled, kind="stable")[:most]]
