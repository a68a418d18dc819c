"""Convolution, pooling, normalisation, labels and random numbers by their definitions."""

import numpy as np
import pytest

from striate.arith.pool import adaptive_windows, windows
from striate.errors import DTypeError, ShapeError
from striate.graph import Trace, evaluate, gradients, typecheck
from striate.graph.ops.conv import Conv2d, ConvInputGrad, ConvWeightGrad
from striate.graph.ops.labels import OneHot
from striate.graph.ops.norm import BatchNorm, ChannelStats
from striate.graph.ops.pool import MaxPool, MaxPoolGrad, MaxPoolIndices
from striate.graph.ops.random import RandomUniform
from tests.symbols import apply, check_gradients, rng, spread

INF, NAN = np.inf, np.nan


CONVS = [
    # stride, padding, dilation, groups, kernel
    ((1, 1), ((0, 0), (0, 0)), (1, 1), 1, (3, 3)),
    ((2, 1), ((1, 0), (2, 1)), (1, 2), 1, (2, 3)),
    ((3, 2), ((1, 1), (0, 3)), (2, 1), 2, (3, 2)),
    ((1, 2), ((2, 2), (2, 2)), (1, 1), 2, (1, 3)),
]


def direct(x, w, stride, padding, dilation, groups):
    """The definition, one output at a time."""
    x = np.pad(x, ((0, 0), (0, 0), *padding))
    (co, per_group, kh, kw), (sh, sw), (dh, dw) = w.shape, stride, dilation
    rows = (x.shape[2] - (kh - 1) * dh - 1) // sh + 1
    cols = (x.shape[3] - (kw - 1) * dw - 1) // sw + 1
    y = np.zeros((len(x), co, rows, cols))
    for n, o, i, j in np.ndindex(*y.shape):
        first = o // (co // groups) * per_group
        patch = x[
            n,
            first : first + per_group,
            i * sh : i * sh + (kh - 1) * dh + 1 : dh,
            j * sw : j * sw + (kw - 1) * dw + 1 : dw,
        ]
        y[n, o, i, j] = np.sum(patch * w[o])
    return y


@pytest.mark.parametrize(("stride", "padding", "dilation", "groups", "kernel"), CONVS)
def test_convolution_and_its_gradients(stride, padding, dilation, groups, kernel):
    fields = (stride, padding, dilation, groups)
    x = rng(0).standard_normal((2, 2 * groups, 6, 5))
    w = rng(1).standard_normal((2 * groups, 2, *kernel))
    y = apply(Conv2d(*fields), x, w)
    np.testing.assert_allclose(y, direct(x, w, *fields), atol=1e-12)
    small = x[:1, :, :5, :4]
    check_gradients(Conv2d(*fields), small, w)
    dy = rng(2).standard_normal(apply(Conv2d(*fields), small, w).shape)
    # The gradients are themselves sums over (x, w, dy): their gradients are checked too.
    check_gradients(ConvInputGrad(*fields, 5, 4), dy, w)
    check_gradients(ConvWeightGrad(*fields, *kernel), small, dy)


@pytest.mark.parametrize(("stride", "padding", "dilation", "groups", "kernel"), CONVS)
def test_the_three_convolutions_are_one_sum(stride, padding, dilation, groups, kernel):
    fields = (stride, padding, dilation, groups)
    x = rng(0).standard_normal((2, 2 * groups, 6, 5))
    w = rng(1).standard_normal((2 * groups, 2, *kernel))
    y = apply(Conv2d(*fields), x, w)
    dy = rng(2).standard_normal(y.shape)
    total = np.sum(y * dy)
    assert np.sum(apply(ConvInputGrad(*fields, 6, 5), dy, w) * x) == pytest.approx(total)
    assert np.sum(apply(ConvWeightGrad(*fields, *kernel), x, dy) * w) == pytest.approx(total)


def test_all_three_count_the_same_macs():
    with Trace() as trace:
        x, w = trace.input("x", (2, 4, 8, 8)), trace.input("w", (6, 2, 3, 3))
        y = Conv2d(groups=2)(x, w)
        nodes = [v.node for v in gradients(y.sum(), [x, w])]
    counts = [n.op.macs(*(v.type for v in n.inputs)) for n in (y.node, *nodes)]
    assert counts == [2 * 6 * 36 * 2 * 9] * 3


@pytest.mark.parametrize(
    ("op", "shapes", "message"),
    [
        (Conv2d(), [(1, 3, 8, 8), (4, 2, 3, 3)], "3 channels"),
        (Conv2d(), [(3, 8, 8), (4, 3, 3, 3)], "images"),
        (Conv2d(groups=2), [(1, 4, 8, 8), (3, 2, 3, 3)], "divisible"),
        (ConvInputGrad(in_h=8, in_w=8), [(1, 4, 5, 6), (4, 3, 3, 3)], r"gives \(6, 6\)"),
        (ConvInputGrad(in_h=8, in_w=8), [(1, 5, 6, 6), (4, 3, 3, 3)], "first axis"),
        (ConvWeightGrad(kh=3, kw=3), [(1, 3, 8, 8), (1, 4, 6, 5)], "gives"),
    ],
)
def test_convolutions_of_wrong_shapes_are_refused(op, shapes, message):
    with pytest.raises(ShapeError, match=message):
        apply(op, *(np.ones(s) for s in shapes))


POOLS = [
    (windows(7, 3, 2, (1, 1)), windows(6, 2, 2, (0, 0))),
    (windows(7, 2, 2, (0, 1), 2, True), windows(6, 3, 1, (2, 2))),
    (adaptive_windows(7, 3), adaptive_windows(6, 4)),
]


@pytest.mark.parametrize(("rows", "cols"), POOLS)
def test_max_pooling(rows, cols):
    x = spread((2, 2, 7, 6))
    y, indices = apply(MaxPool(rows, cols), x), apply(MaxPoolIndices(rows, cols), x)
    assert indices.dtype == np.int32
    for n, c, i, j in np.ndindex(*y.shape):
        plane = x[n, c][slice(*rows[i]), slice(*cols[j])]
        assert y[n, c, i, j] == plane.max()
        assert x[n, c].flat[indices[n, c, i, j]] == plane.max()
    check_gradients(MaxPool(rows, cols), x)


def test_max_pooling_takes_the_first_of_equals_and_any_nan():
    x = np.zeros((1, 1, 2, 4))
    x[0, 0, 1, 3] = NAN
    whole = ((0, 2, 1),)
    halves = ((0, 2, 1), (2, 4, 1))
    y = apply(MaxPool(whole, halves), x)
    assert y[0, 0, 0, 0] == 0
    assert np.isnan(y[0, 0, 0, 1])
    assert apply(MaxPoolIndices(whole, halves), x).ravel().tolist() == [0, 7]
    dx = apply(MaxPoolGrad(whole, halves), x, np.array([[[[5.0, 7.0]]]]))
    assert dx[0, 0].tolist() == [[5, 0, 0, 0], [0, 0, 0, 7]]
    x[...] = -INF
    assert apply(MaxPoolIndices(whole, halves), x).ravel().tolist() == [0, 2]


def test_an_empty_window_gives_minus_infinity_and_no_gradient():
    rows, cols = ((0, 0, 1), (0, 1, 1)), ((0, 1, 1),)
    x = np.ones((1, 1, 1, 1))
    assert apply(MaxPool(rows, cols), x).ravel().tolist() == [-INF, 1]
    assert apply(MaxPoolIndices(rows, cols), x).ravel().tolist() == [-1, 0]
    assert apply(MaxPoolGrad(rows, cols), x, np.full((1, 1, 2, 1), 3.0)).ravel().tolist() == [3]


def test_overlapping_windows_add_their_gradients():
    rows, cols = windows(3, 2, 1, (0, 0)), ((0, 1, 1),)
    dx = apply(MaxPoolGrad(rows, cols), np.array([[[[1.0], [9.0], [1.0]]]]), np.ones((1, 1, 2, 1)))
    assert dx.ravel().tolist() == [0, 2, 0]


def test_windows_outside_the_image_are_refused():
    with pytest.raises(ShapeError, match="outside"):
        apply(MaxPool(((0, 3, 1),), ((0, 2, 1),)), np.ones((1, 1, 2, 2)))


def test_channel_statistics():
    x = rng().normal(3, 2, (3, 2, 4, 5))
    mean, var = apply(ChannelStats(), x)
    np.testing.assert_allclose(mean.ravel(), x.mean((0, 2, 3)))
    np.testing.assert_allclose(var.ravel(), x.var((0, 2, 3)))
    check_gradients(lambda v: ChannelStats().apply(v), x[:2, :, :2, :2])


def test_statistics_far_from_zero_are_accurate_in_float32():
    x = (1e4 + rng().normal(0, 1, (4, 2, 8, 8))).astype(np.float32)
    _, var = apply(ChannelStats(), x, dtype=np.float32)
    np.testing.assert_allclose(var.ravel(), x.astype(np.float64).var((0, 2, 3)), rtol=1e-6)


def test_batch_norm_its_gradient_and_its_expansion():
    x, w, b = rng(0).normal(3, 2, (2, 3, 2, 2)), rng(1).uniform(0.5, 2, 3), rng(2).normal(size=3)
    y, mean, var = apply(BatchNorm(1e-3), x, w, b)
    column = (1, 3, 1, 1)
    m, v = x.mean((0, 2, 3)), x.var((0, 2, 3))
    normal = (x - m.reshape(column)) / np.sqrt(v.reshape(column) + 1e-3)
    np.testing.assert_allclose(y, normal * w.reshape(column) + b.reshape(column))
    np.testing.assert_allclose((mean, var), (m, v))
    # The outputs are weighted by position, so the gradients through mean and var are in it too.
    check_gradients(lambda *v: BatchNorm(1e-3).apply(*v), x, w, b, atol=1e-6)
    check_gradients(lambda *v: BatchNorm(1e-3).apply(*v)[0], x, w, b, atol=1e-6)
    check_gradients(lambda *v: BatchNorm(1e-3).apply(*v)[1:], x, w, b, wrt=(0,), atol=1e-6)
    with Trace() as trace:
        inputs = [trace.input(n, a.shape) for n, a in (("x", x), ("w", w), ("b", b))]
        op = BatchNorm(1e-3)
        outputs = op.expand(op.apply(*inputs)[0].node)
    graph = typecheck(trace.graph(*outputs))
    for dtype, tolerance in ((np.float64, 1e-12), (np.float32, 1e-5)):
        for ours, expected in zip(evaluate(graph, [x, w, b], dtype), (y, mean, var), strict=True):
            np.testing.assert_allclose(ours, expected, rtol=tolerance, atol=tolerance)


def test_one_value_per_channel_is_refused():
    for op, more in ((ChannelStats(), ()), (BatchNorm(), (np.ones(3), np.ones(3)))):
        with pytest.raises(ShapeError, match="more than 1 value per channel"):
            apply(op, np.ones((1, 3, 1, 1)), *more)


def test_one_hot():
    labels = np.array([[2, 0], [-100, 3]], np.int32)
    y = apply(OneHot(3), labels)
    assert y.shape == (2, 3, 2)
    for n, i in np.ndindex(2, 2):
        assert y[n, :, i].tolist() == [float(labels[n, i] == c) for c in range(3)]


def mix(h):
    """MurmurHash3's 32-bit finaliser in Python integers."""
    h ^= h >> 16
    h = h * 0x85EBCA6B % 2**32
    h ^= h >> 13
    h = h * 0xC2B2AE35 % 2**32
    return h ^ h >> 16


def test_random_numbers_are_the_documented_hash():
    key = np.array([-5, 123456789], np.int32)
    u = apply(RandomUniform((2, 3, 4)), key)
    k0 = mix((int(key[0]) + 0x9E3779B9) % 2**32)
    k1 = mix((int(key[1]) % 2**32) ^ k0)
    expected = [(mix(mix((i + k0) % 2**32) ^ k1) >> 8) / 2**24 for i in range(24)]
    assert u.ravel().tolist() == expected


def test_random_numbers_are_uniform_and_differ_by_key():
    a, b, c = (
        apply(RandomUniform((100, 100)), np.array(key, np.int32))
        for key in ([1, 1], [1, 2], [2, 1])
    )
    for u in (a, b, c):
        assert u.min() >= 0
        assert u.max() < 1
        counts, _ = np.histogram(u, 20, (0, 1))
        chi = np.sum((counts - 500) ** 2) / 500
        assert chi < 43.8  # 0.1 % of a chi-square with 19 degrees of freedom
    for u, v in ((a, b), (a, c), (b, c), (a[:, 1:], a[:, :-1])):
        assert abs(np.corrcoef(u.ravel(), v.ravel())[0, 1]) < 0.04


def test_keys_and_labels_of_wrong_types_are_refused():
    with pytest.raises(DTypeError):
        apply(RandomUniform((2,)), np.ones(2))
    with pytest.raises(DTypeError):
        apply(OneHot(3), np.ones(2))
