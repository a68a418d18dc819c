"""Batch norm against PyTorch and NumPy; dropout by its statistics and its keys."""

import numpy as np
import pytest

import striate.functional as F
from striate.engine import build
from striate.errors import ArgumentError, ShapeError, TraceError
from striate.graph import Param, Trace

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def close(ours, expected, tolerance=1e-4):
    np.testing.assert_allclose(ours, np.asarray(expected), rtol=tolerance, atol=tolerance / 10)


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("shape", [(4, 3, 5, 6), (8, 3)])
@pytest.mark.parametrize("momentum", [0.1, 0.0, 1.0])
def test_batch_norm_against_torch(affine, shape, momentum):
    torch = pytest.importorskip("torch")
    x = normal(*shape) * 3 + 2
    w, b = (normal(3), normal(3)) if affine else (None, None)
    mean, var = normal(3), np.abs(normal(3)) + 0.5
    for training in (False, True):
        ours_mean, ours_var = mean.copy(), var.copy()
        t = [None if a is None else torch.tensor(a) for a in (x, mean, var, w, b)]
        expected = torch.nn.functional.batch_norm(*t, training, momentum, 1e-3)
        y = F.batch_norm(x, ours_mean, ours_var, w, b, training, momentum, 1e-3)
        close(y, expected)
        close(ours_mean, t[1])
        close(ours_var, t[2])
        if not training:
            np.testing.assert_array_equal(ours_mean, mean)


def test_batch_norm_without_running_statistics():
    x = normal(4, 3, 5, 5) * 2 + 1
    y = F.batch_norm(x, None, None, training=True)
    np.testing.assert_allclose(y.mean((0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(y.var((0, 2, 3)), 1, rtol=1e-3)


def test_running_statistics_keep_their_dtype_and_identity():
    mean, var = np.zeros(2, np.float64), np.ones((2, 2))[:, 0]
    F.batch_norm(normal(3, 2, 4, 4) + 5, mean, var, training=True)
    assert mean.dtype == np.float64
    assert (mean > 0.3).all()


def test_batch_norm_grad_against_torch():
    torch = pytest.importorskip("torch")
    x, w, dy = normal(4, 3, 5, 6) * 2 + 1, normal(3), normal(4, 3, 5, 6)
    tx, tw = torch.tensor(x, requires_grad=True), torch.tensor(w, requires_grad=True)
    tb = torch.zeros(3, requires_grad=True)
    y = torch.nn.functional.batch_norm(tx, None, None, tw, tb, True, 0.1, 1e-3)
    expected = torch.autograd.grad(y, (tx, tw, tb), torch.tensor(dy))
    for ours, reference in zip(F.batch_norm_grad(x, w, dy, eps=1e-3), expected, strict=True):
        close(ours, reference)


def test_batch_norm_lets_nan_through_its_channel():
    x = normal(2, 2, 3, 3)
    x[0, 0, 0, 0] = np.nan
    y = F.batch_norm(x, np.zeros(2), np.ones(2), training=True)
    assert np.isnan(y[:, 0]).all()
    assert not np.isnan(y[:, 1]).any()
    y = F.batch_norm(x, np.zeros(2), np.ones(2))
    assert np.isnan(y).sum() == 1


def test_batch_norm_inside_forward_assigns_the_parameters():
    x = normal(4, 3, 5, 5) + 1
    mean, var = Param("mean", np.zeros(3), False), Param("var", np.ones(3), False)
    arrays = np.zeros(3, np.float32), np.ones(3, np.float32)
    with Trace() as trace:
        y = F.batch_norm(trace.input("x", x.shape), mean, var, training=True, momentum=0.3)
    program = build(trace.graph(y))
    for _ in range(2):
        (ours,) = program(x)
        close(ours, F.batch_norm(x, *arrays, training=True, momentum=0.3))
    close(mean.data, arrays[0])
    close(var.data, arrays[1])
    with Trace() as trace, pytest.raises(TraceError, match="running_mean must be"):
        F.batch_norm(trace.input("x", x.shape), *arrays, training=True)


ONES = np.ones(3)
IMAGES = np.ones((2, 3, 4, 4))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: F.batch_norm(IMAGES[0], ONES, ONES), ShapeError, r"x\[None\]"),
        (lambda: F.batch_norm(IMAGES, np.ones(2), ONES), ShapeError, "running_mean"),
        (lambda: F.batch_norm(IMAGES, ONES, ONES, np.ones(2)), ShapeError, "weight|broadcast"),
        (lambda: F.batch_norm(IMAGES, None, None), ArgumentError, "needed"),
        (lambda: F.batch_norm(IMAGES, ONES, None), ArgumentError, "both"),
        (lambda: F.batch_norm(IMAGES, [0] * 3, [1] * 3, training=True), ArgumentError, "writable"),
        (lambda: F.batch_norm(IMAGES, None, None, training=True, eps=0), ArgumentError, "eps"),
        (
            lambda: F.batch_norm(IMAGES[:1, :, :1, :1], None, None, training=True),
            ShapeError,
            "more than 1 value per channel",
        ),
        (lambda: F.batch_norm_grad(IMAGES, ONES, ONES), ShapeError, "dy"),
        (lambda: F.dropout(IMAGES, 1.5), ArgumentError, "between 0 and 1"),
        (lambda: F.dropout(IMAGES, -0.1), ArgumentError, "between 0 and 1"),
    ],
)
def test_wrong_arguments_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_dropout_keeps_the_mean_and_scales_what_it_keeps():
    x = np.ones((100, 100), np.float32)
    y = F.dropout(x, 0.3, key=[1, 2])
    kept = y != 0
    assert abs(kept.mean() - 0.7) < 0.02
    np.testing.assert_allclose(y[kept], 1 / 0.7, rtol=1e-6)
    np.testing.assert_array_equal(F.dropout(x, 0.3, key=[1, 2]), y)
    assert np.any(F.dropout(x, 0.3, key=[1, 3]) != y)
    assert np.any(F.dropout(x, 0.3) != F.dropout(x, 0.3))


def test_dropout_that_drops_nothing_or_everything():
    x = normal(5, 6)
    for y in (F.dropout(x, 0.0), F.dropout(x, 0.5, training=False)):
        np.testing.assert_array_equal(y, x)
        assert y is not x
    np.testing.assert_array_equal(F.dropout(x, 1.0), 0)


def test_dropout_inside_forward_draws_anew_at_each_run():
    key = Param("key", [7, 2**31 - 1], trainable=False)
    with Trace() as trace:
        y = F.dropout(trace.input("x", (50, 50)), 0.5, key=key)
    program = build(trace.graph(y))
    x = np.ones((50, 50), np.float32)
    first, second = program(x)[0], program(x)[0]
    assert np.any(first != second)
    assert key.data.tolist() == [7, -(2**31) + 1]
    np.testing.assert_array_equal(second, F.dropout(x, 0.5, key=key.data))
    with Trace() as trace, pytest.raises(ArgumentError, match="key must be"):
        F.dropout(trace.input("x", (2,)), key=np.array([1, 2]))
