"""What the trainer takes as data: batches epoch by epoch, and how to make them of other things."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np

from striate.data import Loader
from striate.errors import ArgumentError, ShapeError
from striate.pixels import Pixels

Array = np.ndarray[Any, Any]


@runtime_checkable
class Batches(Protocol):
    """Batches whose order is a function of the epoch, so that a run can go on in the middle.

    `striate.data.Loader` is one.
    """

    def __len__(self) -> int:
        """Batches an epoch."""

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[tuple[Any, Any]]:
        """The batches (x, y) of epoch `epoch` from number `start_batch` on."""


class ArrayBatches:
    """Batches of arrays in memory, in an order that is a function of (seed, epoch).

    A last batch of one sample is joined to the batch before, for batch normalisation has no
    deviation of a single value.

    Args:
        x: (N, …) or `Pixels`, or a tuple of such for a net of several inputs.
        y: (N, …) targets.
        batch_size: samples a batch.
        shuffle: another order each epoch.
        seed: integer ≥ 0.

    Raises: ArgumentError for a batch size below 1; ShapeError if lengths differ or N is 0.
    """

    def __init__(
        self, x: Any, y: Any, batch_size: int, *, shuffle: bool = False, seed: int = 0
    ) -> None:
        if batch_size < 1:
            raise ArgumentError(f"batch_size must be at least 1, got {batch_size}")
        given = x if isinstance(x, tuple) else (x,)
        self._x = tuple(a if isinstance(a, Pixels) else np.asarray(a) for a in given)
        self._several = isinstance(x, tuple)
        self._y = np.asarray(y)
        counts = {a.shape[:1] for a in (*self._x, self._y)}
        if len(counts) != 1 or not self._y.size:
            raise ShapeError(
                f"x and y must have one length above 0, got shapes "
                f"{', '.join(str(a.shape) for a in (*self._x, self._y))}"
            )
        count = len(self._y)
        self._starts = list(range(0, count, batch_size))
        if len(self._starts) > 1 and batch_size > 1 and count - self._starts[-1] == 1:
            self._starts.pop()
        self._shuffle = shuffle
        self._seed = seed

    def __len__(self) -> int:
        """Batches an epoch."""
        return len(self._starts)

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[tuple[Any, Array]]:
        """The batches of epoch `epoch` from number `start_batch` on."""
        count = len(self._y)
        order = np.arange(count)
        if self._shuffle:
            # The raw words of Philox are the same in every release of NumPy.
            words = np.random.Philox(np.random.SeedSequence((self._seed, epoch)))
            order = np.argsort(words.random_raw(count), kind="stable")
        stops = [*self._starts[1:], count]
        for start, stop in list(zip(self._starts, stops, strict=True))[start_batch:]:
            index = order[start:stop]
            x = tuple(a[index] for a in self._x)
            yield (x if self._several else x[0]), self._y[index]


def as_batches(
    data: Any,
    batch_size: int,
    *,
    shuffle: bool,
    seed: int,
    augment: Any = None,
) -> Batches:
    """Batches of `data`: batches as they are, a pair of arrays (x, y), or a data set.

    Raises ArgumentError if `augment` is given with something that is no data set.
    """
    is_pair = isinstance(data, tuple) and len(data) == 2
    if augment is not None and (is_pair or isinstance(data, Batches)):
        raise ArgumentError("augment works on data sets; give it to the Loader, or a data set")
    if is_pair:
        x, y = data
        return ArrayBatches(x, y, batch_size, shuffle=shuffle, seed=seed)
    if isinstance(data, Batches):
        return data
    return Loader(data, batch_size, shuffle=shuffle, seed=seed, augment=augment, raw=True)
