"""Pooling against PyTorch: every option, gradients, ties and NaN."""

from itertools import product

import numpy as np
import pytest

import striate.functional as F
from striate.errors import ArgumentError, ShapeError
from tests.symbols import run

torch = pytest.importorskip("torch")
T = torch.nn.functional

RNG = np.random.default_rng(0)
NAN, INF = np.nan, np.inf


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def close(ours, expected):
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, np.asarray(expected), rtol=1e-4, atol=1e-5)


def torch_grad(function, x, dy):
    tx = torch.tensor(x, requires_grad=True)
    return torch.autograd.grad(function(tx), tx, torch.tensor(dy))[0]


GRID = [
    (kernel, stride, padding, ceil_mode)
    for kernel, stride, padding, ceil_mode in product(
        [2, 3, (3, 2)], [None, 1, 2, (3, 2)], [0, 1], [False, True]
    )
]


@pytest.mark.parametrize(("kernel", "stride", "padding", "ceil_mode"), GRID)
def test_max_pool2d_and_its_gradient(kernel, stride, padding, ceil_mode):
    x = normal(2, 3, 7, 8)
    for dilation in (1, 2):
        args = (kernel, stride, padding, dilation, ceil_mode)
        y, indices = F.max_pool2d(x, *args, return_indices=True)
        expected, places = T.max_pool2d(torch.tensor(x), *args, return_indices=True)
        np.testing.assert_array_equal(y, expected)
        np.testing.assert_array_equal(indices, places)
        assert indices.dtype == np.int32
        dy = normal(*y.shape)
        ours = F.max_pool2d_grad(x, dy, *args)
        close(ours, torch_grad(lambda v, a=args: T.max_pool2d(v, *a), x, dy))


@pytest.mark.parametrize(("kernel", "stride", "padding", "ceil_mode"), GRID)
def test_avg_pool2d_and_its_gradient(kernel, stride, padding, ceil_mode):
    x = normal(2, 3, 7, 8)
    for include, divisor in product((True, False), (None, 3)):
        args = (kernel, stride, padding, ceil_mode, include, divisor)
        y = F.avg_pool2d(x, *args)
        close(y, T.avg_pool2d(torch.tensor(x), *args))
        dy = normal(*y.shape)
        ours = F.avg_pool2d_grad(x, dy, *args)
        close(ours, torch_grad(lambda v, a=args: T.avg_pool2d(v, *a), x, dy))


def test_asymmetric_padding_is_pooling_of_the_padded_image():
    x = normal(1, 2, 6, 7)
    for t, b, left, r in product((0, 1), (0, 2), (0, 2), (0, 1)):
        sides = ((0, 0), (0, 0), (t, b), (left, r))
        for stride in (1, 2, 3):
            padding = ((t, b), (left, r))
            low = np.pad(x, sides, constant_values=-INF)
            close(F.max_pool2d(x, 3, stride, padding), F.max_pool2d(low, 3, stride))
            zero, ones = np.pad(x, sides), np.pad(np.ones_like(x), sides)
            total = F.avg_pool2d(zero, 3, stride)
            close(F.avg_pool2d(x, 3, stride, padding), total)
            share = F.avg_pool2d(ones, 3, stride)
            close(F.avg_pool2d(x, 3, stride, padding, count_include_pad=False), total / share)


def test_ceil_mode_drops_the_window_that_starts_in_the_end_padding_of_its_side():
    x = normal(1, 1, 5, 5)
    # Rows: 5 + 1, windows of 3 at 0 and 3 (1 row lacking): the third would start at 6, outside.
    assert F.max_pool2d(x, 3, 3, ((0, 1), (0, 0)), ceil_mode=True).shape == (1, 1, 2, 2)
    # Columns: 5 + 2, windows of 2 at 0, 2, 4; the one at 6 would start in the padding of 2.
    y = F.avg_pool2d(x, 2, 2, ((0, 0), (0, 1)), ceil_mode=True)
    assert y.shape == (1, 1, 3, 3)
    # The last column window holds one pixel and one padding, the last row window one pixel only.
    close(y[0, 0, 2, 2], x[0, 0, 4, 4] / 2)


def test_same_padding_gives_ceil_sizes():
    x = normal(1, 1, 7, 8)
    assert F.max_pool2d(x, 3, 2, "same").shape == (1, 1, 4, 4)
    assert F.avg_pool2d(x, 2, 3, "same").shape == (1, 1, 3, 3)


@pytest.mark.parametrize("output", [1, 3, (2, 5), (None, 3), (7, None), 10])
def test_adaptive_pools(output):
    x = normal(2, 3, 7, 8)
    tx = torch.tensor(x)
    close(F.adaptive_avg_pool2d(x, output), T.adaptive_avg_pool2d(tx, output))
    y, indices = F.adaptive_max_pool2d(x, output, return_indices=True)
    expected, places = T.adaptive_max_pool2d(tx, output, return_indices=True)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(indices, places)
    np.testing.assert_array_equal(F.adaptive_max_pool2d(x, output), expected)


@pytest.mark.parametrize("p", [1, 2, 3, 1.5])
@pytest.mark.parametrize(("kernel", "stride", "ceil"), [(2, None, False), ((3, 2), 2, True)])
def test_lp_pool2d(p, kernel, stride, ceil):
    x = normal(2, 3, 7, 8)
    if p in (1.5, 3):
        x = np.abs(x)
    close(
        F.lp_pool2d(x, p, kernel, stride, ceil),
        T.lp_pool2d(torch.tensor(x), p, kernel, stride, ceil),
    )


def test_lp_pool2d_is_not_of_absolute_values_and_zero_windows_have_gradient_zero():
    x = np.full((1, 1, 2, 2), -1.0, np.float32)
    assert np.isnan(F.lp_pool2d(x, 3, 2)).all()
    assert np.isnan(T.lp_pool2d(torch.tensor(x), 3, 2).numpy()).all()
    (y,), (dx,) = run(lambda v: F.lp_pool2d(v, 2, 2), np.zeros((1, 1, 2, 2)), wrt=(0,))
    assert y.item() == 0
    np.testing.assert_array_equal(dx, 0)


def test_ties_nan_and_infinities_in_max_pooling():
    x = RNG.choice(
        np.array([0, 1, NAN, INF, -INF], np.float32), (4, 3, 8, 8), p=[0.4, 0.3, 0.1, 0.1, 0.1]
    )
    for args in ((2,), (3, 2, 1), (3, 1, 1, 2)):
        y, indices = F.max_pool2d(x, *args, return_indices=True)
        expected, places = T.max_pool2d(torch.tensor(x), *args, return_indices=True)
        np.testing.assert_array_equal(y, expected)
        np.testing.assert_array_equal(indices, places)
        dy = normal(*y.shape)
        close(
            F.max_pool2d_grad(x, dy, *args),
            torch_grad(lambda v, a=args: T.max_pool2d(v, *a), x, dy),
        )


def test_a_nan_reaches_only_the_windows_it_is_in():
    x = normal(1, 1, 6, 6)
    x[0, 0, 2, 3] = NAN
    for ours, theirs in (
        (F.avg_pool2d(x, 2), T.avg_pool2d(torch.tensor(x), 2)),
        (F.adaptive_avg_pool2d(x, 4), T.adaptive_avg_pool2d(torch.tensor(x), 4)),
        (F.max_pool2d(x, 2), T.max_pool2d(torch.tensor(x), 2)),
        (F.lp_pool2d(x, 2, 2), T.lp_pool2d(torch.tensor(x), 2, 2)),
    ):
        np.testing.assert_array_equal(np.isnan(ours), np.isnan(theirs.numpy()))
        assert np.isnan(ours).any()
        assert not np.isnan(ours).all()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: F.max_pool2d(x[0], 2), ShapeError, r"x\[None\]"),
        (lambda x: F.avg_pool2d(x, 9), ShapeError, "does not fit"),
        (lambda x: F.max_pool2d(x, 3, 1, 2), ArgumentError, "at most 1"),
        (lambda x: F.avg_pool2d(x, 3, 1, ((3, 0), (0, 0))), ArgumentError, "at most 2"),
        (lambda x: F.avg_pool2d(x, 2, divisor_override=0), ArgumentError, "divisor_override"),
        (lambda x: F.max_pool2d(x, (2, 2, 2)), ArgumentError, "kernel_size"),
        (lambda x: F.adaptive_avg_pool2d(x, 0), ArgumentError, "output_size"),
        (lambda x: F.adaptive_max_pool2d(x, (1, 2, 3)), ArgumentError, "output_size"),
        (lambda x: F.lp_pool2d(x, 0, 2), ArgumentError, "norm_type"),
        (lambda x: F.max_pool2d_grad(x, x, 2), ShapeError, r"\(1, 1, 2, 2\)"),
    ],
)
def test_wrong_arguments_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call(np.ones((1, 1, 4, 4)))
