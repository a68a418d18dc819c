"""Measuring the machine's limits, so that every speed can be given as a share of them."""

from __future__ import annotations

import time

import numpy as np

from striate.jit.load import address
from striate.jit.pool import Pool, pool
from striate.jit.target import machine
from striate.kernels.peak import Peak

CHAINS_OF_REGISTERS = 24 / 32


def measure_peak(threads: int | None = None, seconds: float = 0.05) -> float:
    """Fused multiply-add throughput in GFLOP/s: the best of several short runs.

    `threads`: how many (default: all that programs use). FLOPs ÷ time of a kernel that works on
    registers only; see `striate.kernels.peak`.
    """
    target, workers = machine(), pool()
    own = Pool(threads) if threads is not None and threads not in (1, workers.threads) else None
    workers = own or workers
    count = threads or workers.threads
    chains = int(target.registers * CHAINS_OF_REGISTERS)
    spec = Peak(chains)
    out = np.empty(count * chains * target.lanes, np.float32)
    iterations = 20_000
    tables = [np.array([out.ctypes.data], np.int64), np.array([iterations], np.int64)]
    step = np.array([address(spec), *(t.ctypes.data for t in tables), count], np.int64)
    # A part for each thread. One that comes late leaves its part to another: not the best run.
    best, stop = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < stop or best == float("inf"):
        start = time.perf_counter()
        workers.run(step.ctypes.data, 1, threads=1 if count == 1 else None)
        best = min(best, time.perf_counter() - start)
    if own is not None:
        own.close()
    return count * spec.flops(target, iterations) / best / 1e9
