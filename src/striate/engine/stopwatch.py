"""Timing the steps of a program while it runs: a clock is read, natively, after each step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from striate.ir.runner import STEP_WORDS
from striate.jit.load import address
from striate.jit.pool import Pool
from striate.jit.target import machine
from striate.kernels.clock import Clock
from striate.kernels.peak import Peak

Rows = npt.NDArray[np.int64]
Seconds = npt.NDArray[np.float64]
# Before the first clock every thread has some 150 µs to do: those that sleep wake up meanwhile.
WARM_UP_ITERATIONS = 100_000
CALIBRATION = 200


class Stopwatch:
    """A program with its memory, to be run and timed again and again.

    `each()` puts a clock after every step, `whole()` only one after the last. A clock is a step of
    one part: whoever finishes the step before reads it, when all of that step is done. What a
    clock takes by itself is measured at first and subtracted.
    """

    def __init__(
        self, rows: Rows, workers: Pool, threads: int | None, kept: Sequence[object]
    ) -> None:
        """`rows` as `run.Table.rows`; `kept` is what their addresses point into."""
        self._workers, self._threads, self._kept = workers, threads, kept
        self._count = count = len(rows)
        self._times = np.zeros((max(count, CALIBRATION) + 1, 2), np.int64)
        self._places = self._times.ctypes.data + 16 * np.arange(len(self._times), dtype=np.int64)
        clock, places = address(Clock()), self._places.ctypes.data
        clocks = np.array([(clock, places + 8 * i, 0, 1) for i in range(len(self._times))])
        warm_up = self._warm_up(1 if threads == 1 else workers.threads)
        each = np.empty((2 * count, STEP_WORDS), np.int64)
        each[::2], each[1::2] = rows, clocks[1 : count + 1]
        self._each = np.concatenate([warm_up, clocks[:1], each])
        self._whole = np.concatenate([warm_up, clocks[:1], rows, clocks[1:2]])
        self.overhead = 0.0
        self._run(self._whole, 1)
        calibration = np.concatenate([warm_up, clocks[: CALIBRATION + 1]])
        self.overhead = float(np.median(self._run(calibration, CALIBRATION)))

    def each(self) -> Seconds:
        """Run once; seconds of every step (steps,)."""
        return self._run(self._each, self._count)

    def whole(self) -> float:
        """Run once; seconds of all steps together."""
        return float(self._run(self._whole, 1)[0])

    def _warm_up(self, threads: int) -> Rows:
        """A step that keeps every thread busy for a while, in memory of its own."""
        out = np.zeros(threads * machine().lanes, np.float32)
        tables = np.array([out.ctypes.data, WARM_UP_ITERATIONS], np.int64)
        self._kept = (*self._kept, out, tables)
        first = tables.ctypes.data
        return np.array([(address(Peak(1)), first, first + 8, threads)], np.int64)

    def _run(self, rows: Rows, intervals: int) -> Seconds:
        self._workers.run(rows.ctypes.data, len(rows), self._threads)
        times = self._times[: intervals + 1]
        ticks = np.diff(times[:, 0] * 1_000_000_000 + times[:, 1])
        return np.maximum(ticks * 1e-9 - self.overhead, 0.0)
