"""Batches of a data set, epoch by epoch, prepared beside the training."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from striate.data._random import Use, check_seed, permutation
from striate.data.augment import Augment
from striate.data.base import Dataset
from striate.errors import ArgumentError, DataError
from striate.pixels import Pixels

Batch: TypeAlias = tuple["NDArray[np.float32] | Pixels", NDArray[np.int64]]


class Loader:
    """Batches of a data set.

    The order of an epoch is a function of (seed, epoch), and what augmentation does to a
    picture a function of (seed, epoch, position in the data set). So an epoch that is started
    again at batch `start_batch` goes on with exactly the batches that were left.

    Args:
        dataset: the pictures.
        batch_size: pictures a batch, ≥ 1.
        shuffle: another order each epoch; False keeps the order of the data set.
        seed: integer ≥ 0.
        augment: random changes; None (for evaluation) changes nothing.
        drop_last: leave out the last batch if it is smaller than the others.
        avoid_single: a last batch of one picture is joined to the batch before, which is then
            larger by one, for batch normalisation has no deviation of a single value.
        prefetch: batches that one background thread prepares ahead; 0 prepares each when it
            is asked for, without a thread.
        raw: give a batch of bytes as `striate.Pixels`, of which a net makes the same numbers
            itself; batches that hold other pictures are arrays.

    Raises:
        ArgumentError: an argument is out of range.
        DataError: the data set has no pictures.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        augment: Augment | None = None,
        drop_last: bool = False,
        avoid_single: bool = True,
        prefetch: int = 2,
        raw: bool = False,
    ) -> None:
        if batch_size < 1:
            raise ArgumentError(f"batch_size is {batch_size}; give 1 or more")
        if prefetch < 0:
            raise ArgumentError(f"prefetch is {prefetch}; give 0 or more")
        if len(dataset) == 0:
            raise DataError("the data set has no pictures to make batches of")
        self.dataset = dataset
        self.shuffle = shuffle
        self.seed = check_seed(seed)
        self.augment = augment if augment is not None and augment != Augment() else None
        self.prefetch = prefetch
        self.raw = raw
        self._bounds = _bounds(len(dataset), batch_size, drop_last, avoid_single)
        if len(self._bounds) < 2:
            raise ArgumentError(
                f"drop_last leaves nothing of {len(dataset)} pictures in batches of {batch_size}"
            )

    def __len__(self) -> int:
        """Return the number of batches an epoch."""
        return len(self._bounds) - 1

    @property
    def pictures(self) -> int:
        """Pictures an epoch; fewer than the data set has only with `drop_last`."""
        return self._bounds[-1]

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Return the positions of the pictures in the order of this epoch."""
        count = len(self.dataset)
        if not self.shuffle:
            return np.arange(count, dtype=np.int64)
        return permutation(count, Use.ORDER, self.seed, epoch)

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[Batch]:
        """Return an iterator of (inputs (n, c, h, w) float32 or `Pixels`, labels (n,) int64).

        Arrays are the caller's own. Closing the iterator, or dropping it, stops the thread.

        Args:
            epoch: number of the epoch, ≥ 0.
            start_batch: batches to leave out at the beginning, 0 to len(self).

        Raises:
            ArgumentError: an argument is out of range.
            DataError: (from the iterator) a picture cannot be read.
        """
        if epoch < 0:
            raise ArgumentError(f"epoch is {epoch}; give 0 or more")
        if not 0 <= start_batch <= len(self):
            raise ArgumentError(f"start_batch is {start_batch}; the epoch has {len(self)} batches")
        batches = self._batches(epoch, start_batch)
        return _ahead(batches, self.prefetch) if self.prefetch else batches

    def _batches(self, epoch: int, start_batch: int) -> Iterator[Batch]:
        order = self.order(epoch)
        dataset, augment = self.dataset, self.augment
        made = dataset.recipe.input if self.raw else dataset.recipe.normalise
        draws = augment.draw(len(dataset), self.seed, epoch) if augment else None
        for i in range(start_batch, len(self)):
            index = order[self._bounds[i] : self._bounds[i + 1]]
            raw = dataset.raw(index)
            if augment is not None and draws is not None:
                raw = augment.apply(raw, draws[index])
            yield made(raw), dataset.labels[index]


def _bounds(count: int, batch_size: int, drop_last: bool, avoid_single: bool) -> list[int]:
    """Return where the batches begin and the last one ends."""
    bounds = [*range(0, count, batch_size), count]
    last = bounds[-1] - bounds[-2]
    if drop_last and last < batch_size:
        bounds.pop()
    elif avoid_single and last == 1 and batch_size > 1 and len(bounds) > 2:
        del bounds[-2]
    return bounds


class _End:
    """Comes out of the queue after the last batch, with the error that ended the work, if any."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def _ahead(batches: Iterator[Batch], depth: int) -> Iterator[Batch]:
    """Yield `batches`, made by a thread that is at most `depth` of them ahead."""
    ready: queue.Queue[Batch | _End] = queue.Queue(depth)
    stop = threading.Event()

    def work() -> None:
        end = _End(None)
        try:
            for batch in batches:
                ready.put(batch)
                if stop.is_set():
                    return
        except BaseException as error:  # noqa: BLE001  it is raised again where it is seen
            end = _End(error)
        ready.put(end)

    thread = threading.Thread(target=work, name="striate-loader", daemon=True)
    thread.start()
    try:
        while True:
            item = ready.get()
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item
    finally:
        # The thread may wait for room in the queue: make room until it has seen `stop`.
        stop.set()
        while thread.is_alive():
            with contextlib.suppress(queue.Empty):
                ready.get(timeout=0.01)
