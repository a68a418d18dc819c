"""Timing the steps of a program while it runs: a clock is read, natively, after each step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from striate.jit.load import address
from striate.jit.pool import Pool
from striate.kernels.clock import Clock

Rows = npt.NDArray[np.int64]
Seconds = npt.NDArray[np.float64]
WARM_UP = 2  # clocks before the one that counts: sleeping threads wake up during the first
CALIBRATION = 200


class Stopwatch:
    """A program with its memory, to be run and timed again and again.

    `each()` puts a clock after every step, `whole()` only one after the last. What a clock and its
    barrier take by themselves is measured at first and subtracted.
    """

    def __init__(
        self, rows: Rows, workers: Pool, threads: int | None, kept: Sequence[object]
    ) -> None:
        """`rows` as `run.Table.rows`; `kept` is what their addresses point into."""
        self._workers, self._threads, self._kept = workers, threads, kept
        self._count = count = len(rows)
        self._times = np.zeros((max(count, CALIBRATION) + 1 + WARM_UP, 2), np.int64)
        self._places = self._times.ctypes.data + 16 * np.arange(len(self._times), dtype=np.int64)
        clock, places = address(Clock()), self._places.ctypes.data
        self._clocks = np.array([(clock, places + 8 * i, 0) for i in range(len(self._times))])
        self._each = np.empty((WARM_UP + 1 + 2 * count, 3), np.int64)
        self._each[: WARM_UP + 1] = self._clocks[: WARM_UP + 1]
        self._each[WARM_UP + 1 :: 2] = rows
        self._each[WARM_UP + 2 :: 2] = self._clocks[WARM_UP + 1 : WARM_UP + 1 + count]
        ends = self._clocks[: WARM_UP + 2]
        self._whole = np.concatenate([ends[:-1], rows, ends[-1:]])
        self.overhead = 0.0
        self._run(self._whole, 1)
        self.overhead = float(np.median(self._run(self._clocks, CALIBRATION)))

    def each(self) -> Seconds:
        """Run once; seconds of every step (steps,)."""
        return self._run(self._each, self._count)

    def whole(self) -> float:
        """Run once; seconds of all steps together."""
        return float(self._run(self._whole, 1)[0])

    def _run(self, rows: Rows, intervals: int) -> Seconds:
        self._workers.run(rows.ctypes.data, len(rows), self._threads)
        times = self._times[WARM_UP : WARM_UP + intervals + 1]
        ticks = np.diff(times[:, 0] * 1_000_000_000 + times[:, 1])
        return np.maximum(ticks * 1e-9 - self.overhead, 0.0)
