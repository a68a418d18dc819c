"""Reductions, data movement and axis maps against NumPy, gradients by finite differences."""

from itertools import pairwise, product

import numpy as np
import pytest

from striate.errors import ArgumentError, ShapeError
from striate.graph import Trace, evaluate, gradients
from striate.graph.ops.axismap import (
    AdaptiveAverage1d,
    AveragePool1d,
    AxisMap,
    Pad1d,
    Slice1d,
    Transposed,
)
from striate.graph.ops.reduce import Reduce
from striate.graph.ops.resize import Resize1d
from striate.graph.ops.shape import Broadcast, Concat, Flip, Reshape, Slice
from striate.graph.ops.transpose import ShuffleChannels, Transpose
from tests.symbols import apply, check_gradients, spread

NAN = np.nan


@pytest.mark.parametrize("axes", [(0,), (1, 2), (0, 1, 2)])
@pytest.mark.parametrize("kind", ["sum", "max"])
def test_reductions(kind, axes):
    x = spread((2, 3, 4))
    expected = getattr(np, kind)(x, axis=axes, keepdims=True)
    np.testing.assert_allclose(apply(Reduce(kind, axes), x), expected)
    check_gradients(Reduce(kind, axes), x)


def test_equal_maxima_share_the_gradient_and_nan_wins():
    with Trace() as trace:
        x = trace.input("x", (2, 3))
        y = Reduce("max", (1,))(x)
        (g,) = gradients(y.sum(), [x])
    y, g = evaluate(trace.graph(y, g), [[[2.0, 2.0, 1.0], [NAN, 5.0, 1.0]]])
    np.testing.assert_array_equal(g[0], [0.5, 0.5, 0])
    assert y[0] == 2
    assert np.isnan(y[1])


def test_a_detached_maximum_carries_no_gradient():
    with Trace() as trace:
        x = trace.input("x", (3,))
        assert gradients(Reduce("max", (0,), detached=True)(x), [x]) == [None]


MOVES = [
    (Reshape((4, 6)), lambda x: x.reshape(4, 6), (2, 3, 4)),
    (Broadcast((5, 2, 3, 4)), lambda x: np.broadcast_to(x, (5, 2, 3, 4)), (2, 1, 4)),
    (Flip((0, 2)), lambda x: x[::-1, :, ::-1], (2, 3, 4)),
    (Slice(1, 1, 3), lambda x: x[:, 1:3], (2, 5, 3)),
    (Slice(1, 1, 6, 2), lambda x: x[:, 1:6:2], (2, 7, 3)),
    (Slice(0, 0, 7, 3), lambda x: x[:7:3], (8, 2)),
    (Slice(0, 2, 3, 4), lambda x: x[2:3:4], (9, 2)),
    (Transpose((2, 0, 1)), lambda x: np.einsum("abc->cab", x), (2, 3, 4)),
    (ShuffleChannels(2), lambda x: x[:, [0, 3, 1, 4, 2, 5]], (2, 6, 1, 2)),
]


@pytest.mark.parametrize(("op", "meaning", "shape"), MOVES, ids=[str(op) for op, _, _ in MOVES])
def test_data_movement(op, meaning, shape):
    x = spread(shape)
    np.testing.assert_array_equal(apply(op, x), meaning(x))
    check_gradients(op, x)


def test_concat():
    arrays = [spread((2, c, 3), seed=c) for c in (1, 4, 2)]
    np.testing.assert_array_equal(apply(Concat(1), *arrays), np.concatenate(arrays, 1))
    check_gradients(Concat(1), *arrays)
    labels = np.arange(3, dtype=np.int32)
    assert apply(Concat(0), labels, labels).dtype == np.int32
    with pytest.raises(ShapeError, match="along axis 1"):
        apply(Concat(1), np.ones((2, 3)), np.ones((3, 3)))


@pytest.mark.parametrize("op", [Slice(0, 1, 1), Slice(0, 0, 5), Broadcast((3,)), Reshape((3,))])
def test_movement_out_of_range_is_refused(op):
    with pytest.raises(ShapeError):
        apply(op, np.ones(4))


RULES = [
    AveragePool1d(7, 3, 2, (1, 1)),
    AveragePool1d(7, 3, 2, (1, 0), ceil_mode=True, count_include_pad=False),
    AveragePool1d(7, 2, 2, divisor=5),
    AdaptiveAverage1d(7, 3),
    Pad1d(7, 2, 3, "zeros"),
    Pad1d(7, 2, 3, "reflect"),
    Pad1d(7, 2, 3, "replicate"),
    Pad1d(7, 2, 3, "circular"),
    Pad1d(7, -2, 1, "zeros"),
    Slice1d(7, 1, 6, 2),
    Resize1d(7, 11, "nearest"),
    Resize1d(7, 4, "nearest-exact"),
    Resize1d(7, 11, "linear"),
    Resize1d(7, 12, "linear", align_corners=True),
    Resize1d(7, 5, "cubic"),
    Resize1d(7, 3, "cubic", antialias=True),
    Resize1d(7, 3, "linear", antialias=True),
    Transposed(Slice1d(9, 1, 8, 1)),
]


def matrix(rule):
    m = np.zeros((rule.out_size, rule.in_size))
    for j, row in enumerate(rule.rows()):
        for i, weight in row:
            m[j, i] += weight
    return m


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_axis_maps_are_their_matrix_and_differentiate_to_its_transpose(rule):
    rows = rule.rows()
    assert len(rows) == rule.out_size
    for row in rows:
        assert all(0 <= i < rule.in_size and w != 0 for i, w in row)
        assert all(a < b for (a, _), (b, _) in pairwise(row))
    np.testing.assert_array_equal(matrix(Transposed(rule)), matrix(rule).T)
    x = spread((2, 2, 7, 3))
    np.testing.assert_allclose(
        apply(AxisMap(2, rule), x), np.einsum("ji,ncik->ncjk", matrix(rule), x), atol=1e-12
    )
    check_gradients(AxisMap(3, rule), x.transpose(0, 1, 3, 2))


PAD_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


@pytest.mark.parametrize("mode", PAD_MODES)
def test_pad_modes_against_numpy(mode):
    x = np.arange(1.0, 6.0)
    for begin, end in product(range(5), range(5)):
        expected = np.pad(x, (begin, end), mode=PAD_MODES[mode])
        np.testing.assert_array_equal(matrix(Pad1d(5, begin, end, mode)) @ x, expected)


def test_interpolation_weights_sum_to_one_and_keep_straight_lines():
    for n, m, mode in product(range(2, 9), range(1, 12), ("linear", "cubic")):
        weights = matrix(Resize1d(n, m, mode))
        np.testing.assert_allclose(weights.sum(1), 1)
        if m > 1:
            corners = matrix(Resize1d(n, m, "linear", align_corners=True)) @ np.arange(n)
            np.testing.assert_allclose(corners, np.linspace(0, n - 1, m), atol=1e-12)


def test_a_nan_stays_where_it_is():
    x = np.ones((1, 1, 4, 1))
    x[0, 0, 3] = NAN
    y = apply(AxisMap(2, AveragePool1d(4, 2, 2)), x)
    assert y[0, 0, 0, 0] == 1
    assert np.isnan(y[0, 0, 1, 0])


@pytest.mark.parametrize(
    ("mode", "begin", "error"),
    [
        ("reflect", 4, ShapeError),
        ("circular", 5, ShapeError),
        ("zeros", -4, ShapeError),
        ("mirror", 1, ArgumentError),
    ],
)
def test_impossible_padding_is_refused(mode, begin, error):
    with pytest.raises(error):
        Pad1d(4, begin, 0, mode)


def test_axis_maps_take_images_of_their_size_only():
    for axis, shape in ((1, (1, 4, 4, 4)), (2, (4, 4, 4)), (2, (1, 4, 5, 4))):
        with pytest.raises(ShapeError):
            apply(AxisMap(axis, Slice1d(4, 0, 2)), np.ones(shape))
