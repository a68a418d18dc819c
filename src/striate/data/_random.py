"""Random numbers that are a function of a key and of nothing else.

Only the raw stream of Philox and the mixing of `SeedSequence` are used: NumPy promises that
both stay the same from release to release, which it does not promise of `permutation` or
`uniform`. So a run can be resumed, and a split repeated, with another NumPy.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from striate.errors import ArgumentError


class Use(IntEnum):
    """What the numbers are for: no two uses ever share a stream."""

    ORDER = 1
    AUGMENT = 2
    SPLIT = 3


def check_seed(seed: object) -> int:
    """Return `seed` if it is an integer ≥ 0.

    Raises:
        ArgumentError: it is not.
    """
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ArgumentError(f"seed is {seed!r}; give an integer of 0 or more")
    return int(seed)


def words(count: int, use: Use, seed: int, part: int) -> NDArray[np.uint64]:
    """Return `count` random words of 64 bits, a function of (use, seed, part)."""
    key = np.random.SeedSequence((int(use), part, seed))
    return np.asarray(np.random.Philox(key).random_raw(count), dtype=np.uint64)


def permutation(count: int, use: Use, seed: int, part: int) -> NDArray[np.int64]:
    """Return the numbers 0..count-1 in an order that is a function of (use, seed, part)."""
    return np.argsort(words(count, use, seed, part), kind="stable").astype(np.int64, copy=False)


def uniform(rows: int, columns: int, use: Use, seed: int, part: int) -> NDArray[np.float64]:
    """Return (rows, columns) numbers in [0, 1); more rows change none."""
    # The upper 53 bits are the mantissa of a float64: u = ⌊word / 2¹¹⌋ · 2⁻⁵³
    raw = words(rows * columns, use, seed, part).reshape(rows, columns)
    return (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53
