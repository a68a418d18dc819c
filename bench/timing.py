"""Interleaved timing: every contender in every round, medians, and the spread beside them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

# A pause between contenders: the threads of the one before may still spin.
SETTLE_SECONDS = 0.01


class Timing(NamedTuple):
    """Seconds a call: median over the rounds, and the lowest and highest round."""

    median: float
    low: float
    high: float


def timing(seconds: Sequence[float]) -> Timing:
    """Of the rounds."""
    return Timing(statistics.median(seconds), min(seconds), max(seconds))


def once(call: Callable[[], object], least_seconds: float) -> float:
    """Seconds a call, averaged over as many calls as fill `least_seconds`.

    A first call is left out, for it wakes threads and fills caches; unless it takes so long by
    itself that this makes no difference.
    """
    start = time.perf_counter()
    call()
    first = time.perf_counter() - start
    if first >= least_seconds:
        return first
    calls, start = 0, time.perf_counter()
    while True:
        call()
        calls += 1
        elapsed = time.perf_counter() - start
        if elapsed >= least_seconds:
            return elapsed / calls


def turns(names: Sequence[str], rounds: int) -> list[str]:
    """Every name once a round, forwards and backwards by turns, so that none has one neighbour."""
    return [n for i in range(rounds) for n in (names if i % 2 == 0 else reversed(names))]


def interleave(
    contenders: Mapping[str, Callable[[], object]], rounds: int, least_seconds: float
) -> dict[str, Timing]:
    """Time all contenders in turn, `rounds` times."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for name in turns(list(contenders), rounds):
        time.sleep(SETTLE_SECONDS)
        seconds[name].append(once(contenders[name], least_seconds))
    return {name: timing(s) for name, s in seconds.items()}
