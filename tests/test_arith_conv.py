"""Sizes, paddings and input-gradient phases against brute force on every small case."""

from itertools import product

import numpy as np
import pytest

from striate.arith.conv import ConvShape, output_size
from striate.arith.padding import normalise, pair, same
from striate.errors import ArgumentError, ShapeError


def brute_force_size(n, k, begin, end, s, d):
    """How many windows fit, counted one by one."""
    count = 0
    while count * s + (k - 1) * d + 1 <= n + begin + end:
        count += 1
    return count


@pytest.mark.parametrize("n", range(1, 9))
def test_output_size_counts_windows(n):
    for k, p, s, d in product(range(1, 5), range(4), range(1, 4), range(1, 4)):
        count = brute_force_size(n, k, p, p, s, d)
        if count:
            assert output_size(n, k, 2 * p, s, d) == count
        else:
            with pytest.raises(ShapeError, match=rf"floor\(\({n} \+ {2 * p} - "):
                output_size(n, k, 2 * p, s, d)


def test_same_padding_gives_ceil_and_puts_the_odd_one_at_the_end():
    for n, k, s, d in product(range(1, 12), range(1, 6), range(1, 5), range(1, 4)):
        begin, end = same(n, k, s, d)
        assert output_size(n, k, begin + end, s, d) == -(-n // s)
        assert end - begin in (0, 1)
        # No padding is wasted: with one less, an output is missing.
        if begin + end:
            assert brute_force_size(n, k, begin, end - 1, s, d) < -(-n // s)


@pytest.mark.parametrize(
    ("padding", "expected"),
    [
        (1, ((1, 1), (1, 1))),
        (np.int64(2), ((2, 2), (2, 2))),
        ((1, 2), ((1, 1), (2, 2))),
        ([1, 2], ((1, 1), (2, 2))),
        (((1, 2), (3, 4)), ((1, 2), (3, 4))),
        ("valid", ((0, 0), (0, 0))),
        ("full", ((2, 2), (8, 8))),
        ("same", ((0, 1), (4, 4))),
    ],
)
def test_padding_forms(padding, expected):
    assert normalise(padding, (8, 8), (3, 5), (2, 1), (1, 2)) == expected


@pytest.mark.parametrize("padding", ["SAME", -1, (1, 2, 3), (1, -2), 1.5, True, ((1, 2), 3), None])
def test_wrong_paddings_are_refused(padding):
    with pytest.raises(ArgumentError, match="padding"):
        normalise(padding, (8, 8), (3, 3), (1, 1), (1, 1))


@pytest.mark.parametrize("value", [0, -1, (1, 0), (1, 2, 3), 1.5, "3", None, (1.0, 2)])
def test_pair_names_the_argument(value):
    with pytest.raises(ArgumentError, match="stride"):
        pair("stride", value)


def scatter_axis(dy, w, size, stride, begin, dilation):
    """dx along one axis by its definition: every output gives to every element it has read."""
    dx = np.zeros(size)
    for o, g in enumerate(dy):
        for k, weight in enumerate(w):
            h = o * stride - begin + k * dilation
            if 0 <= h < size:
                dx[h] += g * weight
    return dx


AXIS_CASES = [
    (n, k, s, begin, end, d)
    for n, k, s, begin, end, d in product(
        range(1, 8), range(1, 5), range(1, 5), range(3), range(3), range(1, 4)
    )
    if brute_force_size(n, k, begin, end, s, d)
]


def test_phases_along_one_axis_equal_the_scatter_definition():
    rng = np.random.default_rng(0)
    for n, k, s, begin, end, d in AXIS_CASES:
        shape = ConvShape(1, 1, n, 1, 1, k, 1, (s, 1), ((begin, end), (0, 0)), (d, 1))
        dy, w = rng.standard_normal(shape.out_h), rng.standard_normal(k)
        dx = np.full(n, np.nan)
        for phase in shape.phases():
            assert len(phase.taps) == phase.kh_taps * phase.kw_taps
            h0, step, rows = phase.out_offset[0], phase.out_stride[0], phase.out_size[0]
            for i in range(rows):
                total = 0.0
                for a, (tap, _) in enumerate(phase.taps):
                    row = i - phase.padding_begin[0] + a * phase.dilation[0]
                    if 0 <= row < len(dy):
                        total += dy[row] * w[tap]
                assert np.isnan(dx[h0 + i * step]), "covered twice"
                dx[h0 + i * step] = total
        np.testing.assert_allclose(dx, scatter_axis(dy, w, n, s, begin, d), atol=1e-12)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"),
    [
        ((3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1)),
        ((3, 2), (2, 3), ((1, 0), (0, 2)), (1, 1)),
        ((1, 3), (3, 2), ((0, 0), (2, 1)), (1, 2)),
        ((4, 3), (2, 4), ((2, 1), (1, 1)), (3, 2)),
    ],
)
def test_phases_in_two_dimensions(kernel, stride, padding, dilation):
    rng = np.random.default_rng(1)
    shape = ConvShape(1, 1, 9, 10, 1, *kernel, stride, padding, dilation)
    dy, w = rng.standard_normal((shape.out_h, shape.out_w)), rng.standard_normal(kernel)
    expected = np.zeros((9, 10))
    for i, j in np.ndindex(*dy.shape):
        for a, b in np.ndindex(*kernel):
            h = i * stride[0] - padding[0][0] + a * dilation[0]
            v = j * stride[1] - padding[1][0] + b * dilation[1]
            if 0 <= h < 9 and 0 <= v < 10:
                expected[h, v] += dy[i, j] * w[a, b]
    dx = np.full((9, 10), np.nan)
    for phase in shape.phases():
        (h0, w0), (sh, sw), (rows, cols) = phase.out_offset, phase.out_stride, phase.out_size
        (pt, pl), (dh, dw) = phase.padding_begin, phase.dilation
        for i, j in np.ndindex(rows, cols):
            total = 0.0
            for t, tap in enumerate(phase.taps):
                a, b = divmod(t, phase.kw_taps)
                row, col = i - pt + a * dh, j - pl + b * dw
                if 0 <= row < shape.out_h and 0 <= col < shape.out_w:
                    total += dy[row, col] * w[tap]
            dx[h0 + i * sh, w0 + j * sw] = total
    np.testing.assert_allclose(dx, expected, atol=1e-12)


@pytest.mark.parametrize("size", [1, 2, 5, 9])
def test_met_counts_the_taps_inside_the_image(size):
    for k, p, q, s, d in product((1, 2, 3), range(5), (0, 3), range(1, 4), range(1, 4)):
        if not (outputs := brute_force_size(size, k, p, q, s, d)):
            continue
        rows = [i * s - p + a * d for i in range(outputs) for a in range(k)]
        inside = sum(0 <= row < size for row in rows)
        tall = ConvShape(1, 1, size, 4, 1, k, 1, (s, 1), ((p, q), (0, 0)), (d, 1))
        wide = ConvShape(1, 1, 4, size, 1, 1, k, (1, s), ((0, 0), (p, q)), (1, d))
        assert (tall.met(0), tall.met(1)) == (inside, 4)
        assert (wide.met(0), wide.met(1)) == (4, inside)


def test_costs_of_resnet_layers():
    first = ConvShape(1, 3, 224, 224, 64, 7, 7, (2, 2), ((3, 3), (3, 3)))
    assert (first.out_h, first.out_w) == (112, 112)
    assert first.macs == 118_013_952
    depthwise = ConvShape(2, 32, 56, 56, 32, 3, 3, (1, 1), ((1, 1), (1, 1)), groups=32)
    assert depthwise.macs == 2 * 32 * 56 * 56 * 9
    assert depthwise.bytes == 4 * (2 * 2 * 32 * 56 * 56 + 32 * 9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"groups": 2}, r"input channels \(3\)"),
        ({"kh": 9}, "does not fit"),
        ({"stride": (0, 1)}, "at least 1"),
    ],
)
def test_impossible_shapes_are_refused(changes, message):
    arguments = {"n": 1, "ci": 3, "h": 8, "w": 8, "co": 4, "kh": 3, "kw": 3} | changes
    with pytest.raises(ShapeError, match=message):
        ConvShape(**arguments)
