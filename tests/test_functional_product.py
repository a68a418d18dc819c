"""Matrix products against NumPy in float64."""

import numpy as np
import pytest

import striate.functional as F
from striate.errors import ShapeError
from tests.symbols import loss_weights, run

RNG = np.random.default_rng(0)
SHAPES = [
    ((5, 7), (7, 3)),
    ((2, 5, 7), (7, 3)),
    ((4, 5, 7), (4, 7, 3)),
    ((4, 1, 5, 7), (3, 7, 17)),
    ((5, 7), (2, 7, 3)),
    ((2, 3, 1, 1), (2, 3, 1, 1)),
    ((7,), (7, 3)),
    ((5, 7), (7,)),
    ((7,), (7,)),
    ((2, 5, 7), (7,)),
    ((7,), (2, 7, 3)),
]


@pytest.mark.parametrize(("left", "right"), SHAPES, ids=str)
def test_matmul(left, right):
    a, b = RNG.standard_normal(left), RNG.standard_normal(right)
    expected = a @ b
    y = F.matmul(a, b)
    assert y.shape == expected.shape
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("left", "right"), SHAPES[:5], ids=str)
def test_gradients_of_matmul(left, right):
    a, b = RNG.standard_normal(left), RNG.standard_normal(right)
    (y,), (da, db) = run(F.matmul, a, b, wrt=(0, 1))
    (dy,) = loss_weights([y.shape])
    for gradient, operand, expected in (
        (da, a, dy @ b.swapaxes(-1, -2)),
        (db, b, a.swapaxes(-1, -2) @ dy),
    ):
        lacking = expected.ndim - operand.ndim
        whole = expected.sum(tuple(range(lacking)))
        repeated = tuple(i for i, n in enumerate(operand.shape) if n < whole.shape[i])
        whole = whole.sum(repeated, keepdims=True)
        np.testing.assert_allclose(gradient, whole, rtol=1e-4, atol=1e-4)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ShapeError, match="inner sizes"):
        F.matmul(np.ones((2, 3)), np.ones((2, 3)))
    with pytest.raises(ShapeError, match="leading axes"):
        F.matmul(np.ones((2, 2, 3)), np.ones((3, 3, 2)))
    with pytest.raises(ShapeError, match="scalars"):
        F.matmul(1.0, np.ones((3, 3)))
