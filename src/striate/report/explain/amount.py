"""How much is shown, so that a page stays small: which maps, at which size, how many points."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from striate.report.explain.pack import Array

POINT_BYTES = 2_300_000  # of all sums behind points
FEWEST_MAPS, MOST_MAPS = 4, 16
LARGEST_SIDE = 112  # a larger map is shown at a half, a third … of its size


def most_active(maps: Array, share: int) -> Array:
    """Positions of the maps (C, h, w) that vary most, or of the units (C,) that are largest."""
    if maps.ndim == 1:
        return np.argsort(-maps, kind="stable")[:MOST_MAPS]
    h, w = maps.shape[1:]
    shown = h * w // factor(h, w) ** 2
    count = min(MOST_MAPS, max(FEWEST_MAPS, share // max(1, shown)))
    activity = maps.std((1, 2), dtype=np.float64) if h * w > 1 else np.abs(maps[:, 0, 0])
    return np.argsort(-np.nan_to_num(activity), kind="stable")[:count]


def factor(h: int, w: int) -> int:
    """By how much a map is shown smaller than it is."""
    return max(1, -(-max(h, w) // LARGEST_SIDE))


def fill(wishes: Sequence[tuple[int, int]]) -> list[int]:
    """Points for each (bytes a point, points wished for): what one leaves the others share."""
    left = POINT_BYTES
    counts = [0] * len(wishes)
    order = sorted(range(len(wishes)), key=lambda i: wishes[i][0] * wishes[i][1])
    for done, i in enumerate(order):
        each, wish = wishes[i]
        counts[i] = max(1, min(wish, left // (len(wishes) - done) // each))
        left -= counts[i] * each
    return counts


def grid(sides: tuple[int, ...], count: int) -> tuple[Array, Array]:
    """Rows and columns, as evenly spread as they can be, borders included: `count` crossings."""
    if not sides:
        return np.zeros(1, np.int64), np.zeros(1, np.int64)
    side = max(1, math.isqrt(count))
    if count >= sides[0] * sides[1]:
        side = max(sides)
    rows, cols = (
        np.unique(np.rint(np.linspace(0, n - 1, min(side, n))).astype(np.int64))
        if min(side, n) > 1
        else np.array([n // 2])
        for n in sides
    )
    return rows, cols
