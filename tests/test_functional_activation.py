"""Activations and softmax against PyTorch: values, gradients, kinks, NaN and infinities."""

import numpy as np
import pytest

import striate.functional as F
from striate.errors import ArgumentError, ShapeError
from tests.symbols import loss_weights, run

torch = pytest.importorskip("torch")
T = torch.nn.functional

RNG = np.random.default_rng(0)
NAN, INF = np.nan, np.inf
KINKS = np.array([-6, -3, -1, -1e-6, -0.0, 0, 1e-6, 1, 3, 6, 20, -20, 80, -80], np.float32)

ACTIVATIONS = {
    "relu": (F.relu, T.relu),
    "relu6": (F.relu6, T.relu6),
    "hardtanh": (F.hardtanh, T.hardtanh),
    "hardtanh 0 2": (lambda x: F.hardtanh(x, 0.0, 2.0), lambda x: T.hardtanh(x, 0.0, 2.0)),
    "leaky_relu": (F.leaky_relu, T.leaky_relu),
    "leaky_relu 0.2": (lambda x: F.leaky_relu(x, 0.2), lambda x: T.leaky_relu(x, 0.2)),
    "sigmoid": (F.sigmoid, T.sigmoid),
    "silu": (F.silu, T.silu),
    "hardsigmoid": (F.hardsigmoid, T.hardsigmoid),
    "hardswish": (F.hardswish, T.hardswish),
    "tanh": (F.tanh, T.tanh),
    "gelu": (F.gelu, T.gelu),
    "gelu tanh": (
        lambda x: F.gelu(x, approximate="tanh"),
        lambda x: T.gelu(x, approximate="tanh"),
    ),
    "elu": (F.elu, T.elu),
    "elu 0.5": (lambda x: F.elu(x, 0.5), lambda x: T.elu(x, 0.5)),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_values_and_gradients(name):
    ours, theirs = ACTIVATIONS[name]
    random = RNG.normal(0, 3, (2, 3, 5, 7)).astype(np.float32)
    for x in (random, KINKS, random[0, 0, 0, 0]):
        tx = torch.tensor(x, requires_grad=True)
        expected = theirs(tx)
        np.testing.assert_allclose(ours(x), expected.detach(), rtol=1e-5, atol=1e-6)
        _, (dx,) = run(ours, x, wrt=(0,))
        (weights,) = loss_weights([x.shape])
        (reference,) = torch.autograd.grad(expected, tx, torch.tensor(weights, dtype=torch.float32))
        np.testing.assert_allclose(dx, reference, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_nan_and_infinities(name):
    ours, theirs = ACTIVATIONS[name]
    x = np.array([NAN, INF, -INF, 0.5], np.float32)
    y, expected = ours(x), theirs(torch.tensor(x)).numpy()
    assert np.isnan(y[0])
    if name.startswith("gelu"):  # PyTorch's vector code gives NaN for +inf, its scalar code +inf
        expected[1] = INF
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


def test_elu_keeps_small_numbers_accurate():
    x = -np.logspace(-7, -1, 20, dtype=np.float32)
    np.testing.assert_allclose(F.elu(x), np.expm1(x.astype(float)), rtol=1e-5)


@pytest.mark.parametrize("weights", [1, 3])
def test_prelu(weights):
    for shape in ((2, 3, 4, 5), (4, 3)):
        x = RNG.normal(0, 1, shape).astype(np.float32)
        x.flat[0] = 0
        w = RNG.normal(0, 1, weights).astype(np.float32)
        tx, tw = torch.tensor(x, requires_grad=True), torch.tensor(w, requires_grad=True)
        expected = T.prelu(tx, tw)
        np.testing.assert_allclose(F.prelu(x, w), expected.detach(), rtol=1e-6)
        _, grads = run(F.prelu, x, w, wrt=(0, 1))
        (seed,) = loss_weights([shape])
        references = torch.autograd.grad(expected, (tx, tw), torch.tensor(seed).float())
        for ours, reference in zip(grads, references, strict=True):
            np.testing.assert_allclose(ours, reference, rtol=1e-4, atol=1e-5)
    assert np.isnan(F.prelu(np.full((1, 1), NAN), [0.5])).all()


SHAPES = [((4, 10), None), ((4, 10), 1), ((4, 10), 0), ((2, 3, 4, 5), 1), ((2, 3, 4, 5), -1)]
SHAPES += [((2, 3, 4, 5), None), ((3, 4, 5), None), ((7,), None)]


@pytest.mark.parametrize(("shape", "dim"), SHAPES)
def test_softmax_and_log_softmax(shape, dim):
    x = RNG.normal(0, 5, shape).astype(np.float32)
    axis = dim if dim is not None else (0 if len(shape) in (1, 3) else 1)
    (weights,) = loss_weights([shape])
    for ours, theirs in ((F.softmax, T.softmax), (F.log_softmax, T.log_softmax)):
        tx = torch.tensor(x, requires_grad=True)
        expected = theirs(tx, axis)
        np.testing.assert_allclose(ours(x, dim), expected.detach(), rtol=1e-4, atol=1e-5)
        _, (dx,) = run(lambda v, f=ours: f(v, dim), x, wrt=(0,))
        (reference,) = torch.autograd.grad(expected, tx, torch.tensor(weights).float())
        np.testing.assert_allclose(dx, reference, rtol=1e-4, atol=1e-5)


def test_softmax_of_large_scores_does_not_overflow():
    x = np.array([[1e4, 0, -1e4], [-1e4, -1e4, -1e4]], np.float32)
    np.testing.assert_allclose(F.softmax(x, 1), [[1, 0, 0], [1 / 3] * 3], atol=1e-6)
    np.testing.assert_allclose(F.log_softmax(x, 1)[0], [0, -1e4, -2e4])
    y = F.softmax(np.array([[NAN, 1.0], [0.0, 0.0]]), 1)
    np.testing.assert_array_equal(np.isnan(y), [[True, True], [False, False]])


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: F.gelu(1.0, approximate="fast"), ArgumentError),
        (lambda: F.softmax(np.ones((2, 3)), 2), ArgumentError),
        (lambda: F.softmax(1.0), ArgumentError),
        (lambda: F.prelu(np.ones((2, 3)), np.ones(2)), ShapeError),
    ],
)
def test_wrong_arguments_are_refused(call, error):
    with pytest.raises(error):
        call()


def test_hardtanh_needs_an_interval():
    with pytest.raises(ArgumentError, match=r"hardtanh: min_val=1 must be below max_val=1"):
        F.hardtanh(np.zeros(3), 1, 1)
