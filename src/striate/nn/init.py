"""Initial values of weights, seeded, with PyTorch's rules and default arguments.

Every function returns a new float32 array. All draws come from one generator of the process,
set by `manual_seed`; it starts from seed 0, so a program gives the same weights in every run.

fan_in of a weight `(co, ci/groups, kh, kw)` is ci/groups · kh · kw, fan_out is co · kh · kw; of a
dense weight `(out, in)` they are `in` and `out`.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from striate.errors import ArgumentError

Array = np.ndarray[Any, Any]


class _Source:
    """The generator of the process, made at first use: a net that is loaded draws nothing."""

    generator: np.random.Generator | None = None


class _Skip(threading.local):
    """Whether this thread draws no weights at present."""

    on = False


_skip = _Skip()


def manual_seed(seed: int) -> None:
    """Start all following initial values, and the seeds of new `Dropout` layers, from `seed`."""
    _Source.generator = np.random.default_rng(seed)


def _generator() -> np.random.Generator:
    if _Source.generator is None:
        manual_seed(0)
    assert _Source.generator is not None
    return _Source.generator


def draw_seed() -> int:
    """A fresh seed of 31 bits from the generator of the process."""
    return int(_generator().integers(2**31))


@contextlib.contextmanager
def skipped() -> Iterator[None]:
    """Give zeros (read-only) and draw nothing: for a net whose weights are loaded right after."""
    before, _skip.on = _skip.on, True
    try:
        yield
    finally:
        _skip.on = before


def uniform(shape: tuple[int, ...], low: float, high: float) -> Array:
    """Uniform in [low, high)."""
    if _skip.on:
        return np.broadcast_to(np.float32(0), shape)
    unit = _generator().random(shape, np.float32)
    unit *= np.float32(high - low)
    unit += np.float32(low)
    return unit


def normal(shape: tuple[int, ...], std: float, mean: float = 0.0) -> Array:
    """Normal with mean `mean` and standard deviation `std`."""
    if _skip.on:
        return np.broadcast_to(np.float32(0), shape)
    unit = _generator().standard_normal(shape, np.float32)
    unit *= np.float32(std)
    unit += np.float32(mean)
    return unit


def zeros(shape: tuple[int, ...]) -> Array:
    """All 0."""
    return np.zeros(shape, np.float32)


def ones(shape: tuple[int, ...]) -> Array:
    """All 1."""
    return np.ones(shape, np.float32)


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """(fan_in, fan_out) of a weight. Raises ArgumentError for fewer than two axes."""
    if len(shape) < 2:
        raise ArgumentError(f"fan_in and fan_out need at least two axes, got shape {shape}")
    window = math.prod(shape[2:])
    return shape[1] * window, shape[0] * window


def gain(nonlinearity: str, a: float = 0.0) -> float:
    """√2 for "relu", √(2 / (1 + a²)) for "leaky_relu", 5/3 for "tanh", 1 for "linear"."""
    gains = {
        "linear": 1.0,
        "sigmoid": 1.0,
        "tanh": 5 / 3,
        "relu": math.sqrt(2),
        "leaky_relu": math.sqrt(2 / (1 + a**2)),
    }
    if nonlinearity not in gains:
        raise ArgumentError(
            f"no gain is known for nonlinearity {nonlinearity!r}; known: {', '.join(gains)}"
        )
    return gains[nonlinearity]


def _fan(shape: tuple[int, ...], mode: str) -> int:
    if mode not in {"fan_in", "fan_out"}:
        raise ArgumentError(f"mode must be 'fan_in' or 'fan_out', got {mode!r}")
    return fans(shape)[mode == "fan_out"]


def kaiming_uniform(
    shape: tuple[int, ...], a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu"
) -> Array:
    """He et al., 2015: uniform in ±gain · √(3 / fan)."""
    bound = gain(nonlinearity, a) * math.sqrt(3 / _fan(shape, mode))
    return uniform(shape, -bound, bound)


def kaiming_normal(
    shape: tuple[int, ...], a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu"
) -> Array:
    """He et al., 2015: normal with standard deviation gain / √fan."""
    return normal(shape, gain(nonlinearity, a) / math.sqrt(_fan(shape, mode)))


def xavier_uniform(shape: tuple[int, ...], gain: float = 1.0) -> Array:
    """Glorot and Bengio, 2010: uniform in ±gain · √(6 / (fan_in + fan_out))."""
    bound = gain * math.sqrt(6 / sum(fans(shape)))
    return uniform(shape, -bound, bound)


def xavier_normal(shape: tuple[int, ...], gain: float = 1.0) -> Array:
    """Glorot and Bengio, 2010: normal with deviation gain · √(2 / (fan_in + fan_out))."""
    return normal(shape, gain * math.sqrt(2 / sum(fans(shape))))


def default_weight(shape: tuple[int, ...]) -> Array:
    """What PyTorch's Conv2d and Linear start from: `kaiming_uniform(a=√5)`, i.e. ±1/√fan_in."""
    return kaiming_uniform(shape, a=math.sqrt(5))


def default_bias(count: int, fan_in: int) -> Array:
    """What PyTorch's Conv2d and Linear start their bias from: uniform in ±1/√fan_in."""
    bound = 1 / math.sqrt(fan_in)
    return uniform((count,), -bound, bound)
