"""The learning-rate range test: train with a rate that grows, and see where the loss falls best.

    rate_i = start · (end / start)^(i / (steps − 1))

Smith: Cyclical learning rates for training neural networks, 2017.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from striate.errors import ArgumentError
from striate.nn.module import Module
from striate.train.batches import Batches
from striate.train.optim import Optimizer
from striate.train.step import compile_step

SMOOTHING = 0.9  # weight of the past in the mean that suggestions are read off
STOP_AT = 4.0  # times the best loss
FEWEST = 10  # points that a suggestion needs


@dataclass(frozen=True)
class RangeTest:
    """What a range test has measured.

    Attributes:
        rates: of each step, rising.
        losses: of each step's batch, before its update.
        smooth: their running mean.
        steepest: the rate where the smooth loss falls fastest over log(rate); None if it never
            falls.
        valley: the rate halfway down the longest fall into the valley of the losses, as a rule a
            more careful choice; None likewise.
    """

    rates: list[float]
    losses: list[float]
    smooth: list[float]
    steepest: float | None
    valley: float | None


def range_test(
    net: Module,
    batches: Batches,
    optimizer: Optimizer,
    *,
    start: float = 1e-6,
    end: float = 1.0,
    steps: int = 100,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> RangeTest:
    """Do at most `steps` steps with rates from `start` to `end`, then put everything back.

    It ends sooner when the smooth loss exceeds four times its best, or is not finite. Weights,
    statistics and dropout keys of the net are afterwards what they were.

    Args:
        net: the module.
        batches: where steps come from, epoch after epoch.
        optimizer: the rule; its own rate does not matter.
        start: the first rate, above 0.
        end: the last one, above `start`.
        steps: how many, at least 10.
        progress: called with (steps done, steps in all).
        options: of `compile_step`.

    Raises: ArgumentError for arguments outside these.
    """
    if not 0 < start < end or not math.isfinite(end):
        raise ArgumentError(f"rates must rise from above 0, got start={start} and end={end}")
    if steps < FEWEST:
        raise ArgumentError(f"steps must be at least {FEWEST}, got {steps}")
    params = [*net.parameters(), *(p for _, p in net.named_buffers(transient=True))]
    before = [np.array(param.data) for param in params]
    try:
        rates, losses, smooth = _run(
            net, batches, optimizer, (start, end, steps), progress, options
        )
    finally:
        for param, data in zip(params, before, strict=True):
            param.assign(data)
    return RangeTest(rates, losses, smooth, *suggest(rates, smooth))


def _run(
    net: Module,
    batches: Batches,
    optimizer: Optimizer,
    sweep: tuple[float, float, int],
    progress: Callable[[int, int], None] | None,
    options: dict[str, Any],
) -> tuple[list[float], list[float], list[float]]:
    start, end, steps = sweep
    step = compile_step(net, optimizer=optimizer, **options)
    rates: list[float] = []
    losses: list[float] = []
    smooth: list[float] = []
    mean, best, epoch = 0.0, math.inf, 0
    while True:
        for x, y in batches.epoch(epoch):
            i = len(rates)
            step.lr = start * (end / start) ** (i / (steps - 1))
            loss = step(x, y)
            # m ← s·m + (1 − s)·loss, free of its beginning at 0 when divided by 1 − sⁱ⁺¹
            mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
            present = mean / (1 - SMOOTHING ** (i + 1))
            if not math.isfinite(loss) or present > STOP_AT * best:
                return rates, losses, smooth
            best = min(best, present)
            rates.append(step.lr)
            losses.append(loss)
            smooth.append(present)
            if progress is not None:
                progress(i + 1, steps)
            if i + 1 == steps:
                return rates, losses, smooth
        epoch += 1


def suggest(rates: Sequence[float], smooth: Sequence[float]) -> tuple[float | None, float | None]:
    """The rates where the loss falls fastest, and halfway down its longest fall.

    None where there are too few points, or nothing falls.
    """
    if len(rates) < FEWEST:
        return None, None
    lowest = int(np.argmin(smooth))
    slope = np.gradient(np.array(smooth), np.log(rates))[: lowest + 1]
    steepest = rates[int(np.argmin(slope))] if slope.min() < 0 else None
    first, last = _longest_fall(smooth)
    half = (smooth[first] + smooth[last]) / 2
    below = next((i for i in range(first, last + 1) if smooth[i] <= half), first)
    return steepest, rates[below] if last > first else None


def _longest_fall(values: Sequence[float]) -> tuple[int, int]:
    """Where the longest strictly falling subsequence begins and ends."""
    ends: list[float] = []  # −(greatest last value) of the falling subsequences by length
    at: list[int] = []  # its position
    begins: list[int] = []  # where that subsequence begins
    for i, value in enumerate(values):
        length = bisect_left(ends, -value)
        begin = begins[length - 1] if length else i
        if length == len(ends):
            ends.append(-value)
            at.append(i)
            begins.append(begin)
        else:
            ends[length], at[length], begins[length] = -value, i, begin
    return begins[-1], at[-1]
