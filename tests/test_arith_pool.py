"""Pooling windows and divisors against their definitions, element by element."""

from itertools import product

import pytest

from striate.arith.pool import adaptive_windows, average_counts, pool_size, windows
from striate.errors import ShapeError

GRID = [
    (n, k, s, begin, end, d, ceil)
    for n, k, s, begin, end, d, ceil in product(
        range(1, 8), range(1, 4), range(1, 4), range(3), range(3), range(1, 3), (False, True)
    )
    if begin <= (k - 1) * d and end <= (k - 1) * d and n + begin + end >= (k - 1) * d + 1
]


def outputs(n, k, s, begin, end, d, ceil):
    """Window starts, walked one by one over the padded image."""
    extent, total = (k - 1) * d + 1, n + begin + end
    starts = [at for at in range(0, total, s) if at + extent <= total]
    following = starts[-1] + s if starts else 0
    # ceil_mode adds the window that begins next, if it begins inside image or begin padding and
    # the windows so far did not end exactly at the end.
    if ceil and starts[-1] + extent < total and following < n + begin:
        starts.append(following)
    return starts


def test_sizes_and_windows_equal_the_walk():
    for n, k, s, begin, end, d, ceil in GRID:
        starts = outputs(n, k, s, begin, end, d, ceil)
        case = (n, k, s, (begin, end), d, ceil)
        assert pool_size(*case) == len(starts), case
        for start, window in zip(starts, windows(*case), strict=True):
            taps = [start - begin + t * d for t in range(k)]
            assert list(range(*window)) == [t for t in taps if 0 <= t < n], case


def test_average_counts_equal_the_definition():
    for n, k, s, begin, end, d, ceil in GRID:
        if d > 1:
            continue
        case = (n, k, s, (begin, end), ceil)
        starts = outputs(n, k, s, begin, end, d, ceil)
        padded = [len([t for t in range(a, a + k) if t < n + begin + end]) for a in starts]
        image = [len([t for t in range(a, a + k) if begin <= t < n + begin]) for a in starts]
        assert average_counts(*case, True) == tuple(padded), case
        assert average_counts(*case, False) == tuple(image), case


def test_adaptive_windows_cover_everything_in_order():
    for n, o in product(range(1, 12), range(1, 12)):
        bins = adaptive_windows(n, o)
        assert len(bins) == o
        assert sorted({i for b in bins for i in range(*b)}) == list(range(n))
        for i, (start, stop, step) in enumerate(bins):
            assert start <= i * n / o < start + 1
            assert stop - 1 < (i + 1) * n / o <= stop
            assert step == 1


def test_a_window_larger_than_the_image_is_refused():
    with pytest.raises(ShapeError, match="does not fit"):
        pool_size(2, 4, 1, (0, 0))
