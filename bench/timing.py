"""Interleaved timing: every contender in every round, medians, and the spread beside them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

# A pause between contenders: the threads of the one before may still spin.
SETTLE_SECONDS = 0.003


@dataclass(frozen=True)
class Timing:
    """Seconds a call: median over the rounds, and the lowest and highest round."""

    median: float
    low: float
    high: float


def once(call: Callable[[], object], least_seconds: float) -> float:
    """Seconds a call, averaged over as many calls as fill `least_seconds`."""
    call()
    calls, start = 0, time.perf_counter()
    while True:
        call()
        calls += 1
        elapsed = time.perf_counter() - start
        if elapsed >= least_seconds:
            return elapsed / calls


def interleave(
    contenders: Mapping[str, Callable[[], object]], rounds: int, least_seconds: float
) -> dict[str, Timing]:
    """Time all contenders in turn, `rounds` times."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for round_ in range(rounds):
        names = list(contenders)
        for name in names if round_ % 2 == 0 else reversed(names):
            time.sleep(SETTLE_SECONDS)
            seconds[name].append(once(contenders[name], least_seconds))
    return {name: Timing(statistics.median(s), min(s), max(s)) for name, s in seconds.items()}
