"""Pictures of bytes, and how they become numbers: the one place where that is defined."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from striate.errors import ArgumentError, DTypeError, ShapeError

MOST_CHANNELS = 4


@dataclass(frozen=True, eq=False, repr=False)
class Pixels:
    """Pictures as they are decoded, for a net that makes numbers of the bytes itself.

        net(st.Pixels(pictures, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)))

    It stands wherever images do, in `net(x)`, `step(x, y)` and `Trainer.fit((x, y))`, for the
    float32 array (N, C, H, W) of

        x = (v / 255 − mean) / std

    and gives the same bits, but those numbers are made by the net's program, on all its threads,
    and never stored by the caller. `np.asarray` gives them. (A plain uint8 array is no picture to
    a net: it is converted to the numbers 0 to 255.)

    Args:
        samples: (N, H, W, C) uint8, C from 1 to 4; of images (N, C, H, W) give
            `x.transpose(0, 2, 3, 1)`. Not copied: do not change it before it is used.
        mean: one number a channel, where black is 0 and white is 1; () means 0.
        std: one number a channel, 1e-6 to 1e6; () means 1.

    Raises:
        DTypeError: `samples` is no array of uint8.
        ShapeError: it has another number of axes or channels.
        ArgumentError: `mean` or `std` does not fit.
    """

    samples: NDArray[np.uint8]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        samples: Any = self.samples
        if not isinstance(samples, np.ndarray) or samples.dtype != np.uint8:
            what = getattr(samples, "dtype", type(samples).__name__)
            raise DTypeError(f"Pixels: samples must be an array of uint8, got {what}")
        if samples.ndim != 4 or not 1 <= samples.shape[3] <= MOST_CHANNELS:
            raise ShapeError(
                f"Pixels: samples must be (N, H, W, 1 to {MOST_CHANNELS}), got {samples.shape}"
            )
        mean, std = checked_factors("Pixels", self.mean, self.std, samples.shape[3])
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "std", std)

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, C, H, W)."""
        n, h, w, c = self.samples.shape
        return n, c, h, w

    @property
    def ndim(self) -> int:
        """Number of axes: 4."""
        return 4

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.samples)

    def __getitem__(self, pictures: Any) -> Pixels:
        """Return some of the pictures: a slice, numbers (n,) or a mask (N,)."""
        return replace(self, samples=self.samples[pictures])

    def __array__(self, dtype: Any = None, copy: Any = None) -> NDArray[Any]:
        x = normalised(self.samples, self.mean, self.std)
        return x if dtype is None else x.astype(dtype, copy=False)

    def __repr__(self) -> str:
        return f"Pixels({list(self.shape)}, mean={self.mean}, std={self.std})"


def as_unit_float(samples: NDArray[Any]) -> NDArray[np.float32]:
    """Return float32 samples where 1 is white: uint8 is divided by 255, float32 stays."""
    if samples.dtype == np.uint8:
        # x = v / 255, correctly rounded
        return samples.astype(np.float32) / np.float32(255)
    return samples.astype(np.float32, copy=False)


def normalised(
    samples: NDArray[Any], mean: tuple[float, ...], std: tuple[float, ...]
) -> NDArray[np.float32]:
    """(n, h, w, c) uint8, or float32 with 1 for white → (n, c, h, w) float32, a new array."""
    x = as_unit_float(np.ascontiguousarray(samples.transpose(0, 3, 1, 2)))
    if np.may_share_memory(x, samples):
        x = x.copy()
    # y = (x − mean) / std: two correctly rounded operations, the same on every machine
    x -= np.array(mean, dtype=np.float32).reshape(-1, 1, 1)
    x /= np.array(std, dtype=np.float32).reshape(-1, 1, 1)
    return x


def checked_factors(
    owner: str, mean: Any, std: Any, channels: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation with a number for each channel; () is 0 and 1. Raises ArgumentError."""
    means = _numbers(owner, "mean", mean, channels, 0.0)
    stds = _numbers(owner, "std", std, channels, 1.0)
    # Beyond these bounds float32 can overflow or divide by zero.
    if not all(abs(number) <= 1e6 for number in means):
        raise ArgumentError(f"{owner}: mean is {means}; it must lie in −1e6..1e6")
    if not all(1e-6 <= number <= 1e6 for number in stds):
        raise ArgumentError(f"{owner}: std is {stds}; it must lie in 1e-6..1e6")
    return means, stds


def _numbers(owner: str, name: str, value: Any, channels: int, default: float) -> tuple[float, ...]:
    numbers = tuple(value) if isinstance(value, tuple | list) else None
    if numbers == ():
        return (default,) * channels
    real = (int, float, np.floating)
    if numbers is None or any(isinstance(x, bool) or not isinstance(x, real) for x in numbers):
        raise ArgumentError(f"{owner}: {name} is {value!r}; it must be a tuple of numbers")
    if len(numbers) != channels or not all(math.isfinite(x) for x in numbers):
        raise ArgumentError(f"{owner}: {name} is {value!r}; it must be {channels} finite number(s)")
    return tuple(float(x) for x in numbers)
