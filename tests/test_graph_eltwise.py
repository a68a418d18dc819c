"""Elementwise kinds: meaning, NaN and infinities, and gradients by finite differences."""

import math

import numpy as np
import pytest

from striate.arith.expr import ARITY, Expr
from striate.errors import DTypeError, ShapeError, UnsupportedError
from striate.graph import Trace, evaluate, gradients
from striate.graph.ops.conv import Conv2d
from striate.graph.ops.eltwise import KINDS, Fused, Map
from striate.graph.ops.norm import ChannelStats
from striate.graph.ops.reduce import Reduce
from tests.symbols import apply, check_gradients, rng

INF, NAN = np.inf, np.nan


SMOOTH = {
    "sqrt": (0.5, 2),
    "rsqrt": (0.5, 2),
    "reciprocal": (0.5, 2),
    "log": (0.5, 2),
    "log1p": (-0.5, 2),
}


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_of_every_kind(kind):
    low, high = SMOOTH.get(kind, (-2, 2))
    if kind == "pow":
        check_gradients(lambda x: x**2.5, rng().uniform(0.5, 2, (2, 3)))
        check_gradients(lambda x: x**-1 + x**3, rng().uniform(0.5, 2, (2, 3)))
        return
    shapes = [(2, 1, 3), (4, 3), (1, 4, 1)][: ARITY[kind]]
    arrays = [rng(i).uniform(low, high, s) for i, s in enumerate(shapes)]
    if kind in ("gt", "ge", "lt", "le", "eq", "ne", "sign", "floor"):
        with Trace() as trace:
            inputs = [trace.input(f"x{i}", a.shape) for i, a in enumerate(arrays)]
            y = Map(kind)(*inputs)
            assert gradients(y.sum(), inputs) == [None] * len(inputs)
        return
    if kind == "select":
        check_gradients(lambda c, a, b: Map("select")(c > 0, a, b), *arrays, wrt=(1, 2))
        return
    check_gradients(Map(kind), *arrays)


def test_every_kind_keeps_float64_and_float32():
    for kind, arity in ARITY.items():
        arrays = [rng(i).uniform(0.5, 2, (3,)) for i in range(arity)]
        for dtype in (np.float32, np.float64):
            (y,) = Map(kind).numpy(*(a.astype(dtype) for a in arrays))
            assert y.dtype == dtype, kind


MEANINGS = {
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "erf": math.erf,
    "relu": lambda x: max(x, 0.0),
    "rsqrt": lambda x: 1 / math.sqrt(x) if x > 0 else INF if x == 0 else NAN,
    "reciprocal": lambda x: 1 / x if x else INF,
    "log1p": lambda x: math.log1p(x) if x > -1 else NAN,
    "tanh": math.tanh,
    "sign": lambda x: (x > 0) - (x < 0),
    "floor": math.floor,
}


@pytest.mark.parametrize("kind", MEANINGS)
def test_unary_kinds_against_the_standard_library(kind):
    x = np.array([-30.0, -1.5, -0.3, 0.0, 0.3, 1.0, 2.5, 30.0])
    expected = [MEANINGS[kind](v) for v in x.tolist()]
    np.testing.assert_allclose(apply(Map(kind), x), expected, rtol=1e-14)


def test_nan_and_infinities_by_kind():
    x = np.array([NAN, 1.0, NAN, -INF, INF])
    y = np.array([1.0, NAN, NAN, 0.0, INF])
    for kind in ("add", "sub", "mul", "div", "max", "min"):
        assert np.isnan(apply(Map(kind), x, y)[:3]).all(), kind
    for kind in ("gt", "ge", "lt", "le", "eq"):
        assert (apply(Map(kind), x, y)[:3] == 0).all(), kind
    assert (apply(Map("ne"), x, y)[:3] == 1).all()
    for kind in ("neg", "abs", "relu", "sqrt", "exp", "log", "tanh", "sigmoid", "erf", "floor"):
        assert np.isnan(apply(Map(kind), x)[0]), kind
    # A NaN is not 0, so select takes the first branch.
    assert apply(
        Map("select"), np.array([NAN, 0.0, -0.0, 2.0]), 5 * np.ones(4), np.ones(4)
    ).tolist() == [5, 1, 1, 5]
    np.testing.assert_array_equal(apply(Map("sigmoid"), x)[3:], [0, 1])


def test_gradients_choose_and_never_multiply_zero_by_infinity():
    x = np.array([-INF, -1.0, 0.0, 1.0, INF])
    for function in (
        Map("relu"),
        abs,
        lambda v: Map("max")(v, 0.0),
        lambda v: Map("min")(v, 0.0),
        lambda v: Map("select")(v > 0, v, 0.0),
    ):
        with Trace() as trace:
            v = trace.input("x", x.shape)
            (g,) = gradients((function(v) * 3.0).sum(), [v])
        (result,) = evaluate(trace.graph(g), [x])
        assert np.isfinite(result).all()


def test_equal_operands_of_max_and_min_share_the_gradient():
    for kind in ("max", "min"):
        with Trace() as trace:
            a, b = trace.input("a", (3,)), trace.input("b", (3,))
            ga, gb = gradients(Map(kind)(a, b).sum(), [a, b])
        ga, gb = evaluate(trace.graph(ga, gb), [[1.0, 2.0, 3.0], [2.0, 2.0, 2.0]])
        np.testing.assert_array_equal(ga + gb, [1, 1, 1])
        assert ga[1] == 0.5


@pytest.mark.parametrize("shapes", [((2, 3), (4,)), ((2, 3), (3, 2))])
def test_shapes_that_do_not_broadcast_are_refused(shapes):
    with pytest.raises(ShapeError, match="do not broadcast"):
        apply(Map("add"), *(np.ones(s) for s in shapes))


def test_integers_are_refused():
    for op in (Map("neg"), Reduce("sum", (0,)), ChannelStats(), Conv2d()):
        with pytest.raises(DTypeError):
            apply(op, *[np.ones((2, 2, 2, 2), np.int32)] * (2 if isinstance(op, Conv2d) else 1))


def test_fused_expression_equals_its_maps():
    # (a · b + 0.5, relu(a) / c), and an output that is an input
    code = (("mul", 0, 1), ("const", 0.5), ("add", 3, 4), ("relu", 0), ("div", 6, 2))
    op = Fused(Expr(3, code, (5, 7, 1)))
    a, b, c = rng(0).normal(size=(2, 3, 4)), rng(1).normal(size=(3, 1)), rng(2).uniform(1, 2, (4,))
    first, second, third = apply(op, a, b, c)
    np.testing.assert_allclose(first, a * b + 0.5)
    np.testing.assert_allclose(second, np.maximum(a, 0) / c)
    np.testing.assert_array_equal(third, np.broadcast_to(b, (2, 3, 4)))
    assert apply(op, a, b, c, dtype=np.float32)[0].dtype == np.float32
    with Trace() as trace:
        x = trace.input("x", (1,))
        y = Fused(Expr.single("neg"))(x).sum()
    with pytest.raises(UnsupportedError):
        gradients(y, [x])
