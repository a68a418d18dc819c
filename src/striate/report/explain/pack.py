"""Numbers as the page reads them: little-endian arrays in base64."""

from __future__ import annotations

import base64
import math
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def packed(array: Array, dtype: str) -> str:
    """Elements in C order as `dtype`, "<f4", "<f8" or "u1", in base64."""
    return base64.b64encode(np.ascontiguousarray(array, dtype).tobytes()).decode()


def number(value: float) -> float | None:
    """A number for JSON; None for what JSON cannot hold."""
    return float(value) if math.isfinite(value) else None


def as_bytes(maps: Array) -> tuple[Array, Array, Array]:
    """Maps (k, h, w) as bytes, where 0 is the least and 255 the largest of each, and both (k,).

    What is no number counts as 0.
    """
    finite = np.nan_to_num(maps.astype(np.float64), nan=0.0, posinf=3e38, neginf=-3e38)
    low, high = finite.min((1, 2)), finite.max((1, 2))
    width = np.where(high > low, high - low, 1.0)
    scaled = (finite - low[:, None, None]) / width[:, None, None]
    return np.rint(scaled * 255).astype(np.uint8), low, high
