"""Elementwise operations: one table that says what every kind means and how it differentiates.

NaN goes through every kind that computes with it, as in PyTorch; comparisons with a NaN do not
hold (but "ne" does). Gradients choose with `select` instead of multiplying by a 0/1 mask, so an
infinity on the branch not taken never becomes 0 · ∞ = NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np

from striate.arith.expr import ARITY, Expr
from striate.errors import DTypeError, ShapeError, UnsupportedError
from striate.graph.ops.leaf import Const
from striate.graph.value import Array, Node, Op, Operand, TensorType, Value

Gradients: TypeAlias = tuple["Value | None", ...]
GradRule: TypeAlias = Callable[[tuple[Value, ...], Value, Value], Gradients]


class Kind(NamedTuple):
    """Meaning of a kind, and its gradient rule (inputs, output, g) -> gradient of each input."""

    numpy: Callable[..., Array]
    grad: GradRule

    @staticmethod
    def flat(numpy: Callable[..., Array], arity: int) -> Kind:
        """A kind whose gradient is zero wherever it exists."""
        return Kind(numpy, lambda x, y, g: (None,) * arity)


def m(kind: str, *operands: Operand) -> Value:
    """A node of `kind`."""
    return Map(kind)(*operands)


def select(condition: Operand, a: Operand, b: Operand) -> Value:
    """`a` where the condition is not 0, else `b`."""
    return m("select", condition, a, b)


def _compare(ufunc: Callable[..., Array]) -> Callable[..., Array]:
    return lambda a, b: ufunc(a, b).astype(np.result_type(a, b))


def _select(c: Array, a: Array, b: Array) -> Array:
    return np.where(c != 0, a, b)


def _sigmoid(x: Array) -> Array:
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e)).astype(x.dtype)


def _erf(x: Array) -> Array:
    return np.asarray(np.vectorize(math.erf, otypes=[np.float64])(x)).astype(x.dtype)


def _pow_grad(x: tuple[Value, ...], y: Value, g: Value) -> Gradients:
    base, exponent = x
    if not isinstance(exponent.node.op, Const):
        raise UnsupportedError("pow has a gradient only for a constant exponent")
    n = exponent.node.op.value
    return (None if n == 0 else g * (n * m("pow", base, n - 1)), None)


def _extremum_grad(loses: str) -> GradRule:
    # As PyTorch: equal operands share the gradient; a NaN compares with nothing, so both get it.
    def rule(x: tuple[Value, ...], y: Value, g: Value) -> Gradients:
        a, b = x
        shared = select(m("eq", a, b), g * 0.5, g)
        return select(m(loses, a, b), 0.0, shared), select(m(loses, b, a), 0.0, shared)

    return rule


KINDS: dict[str, Kind] = {
    "add": Kind(np.add, lambda x, y, g: (g, g)),
    "sub": Kind(np.subtract, lambda x, y, g: (g, -g)),
    "mul": Kind(np.multiply, lambda x, y, g: (g * x[1], g * x[0])),
    "div": Kind(np.divide, lambda x, y, g: (g / x[1], -(g * y / x[1]))),
    "pow": Kind(np.power, _pow_grad),
    "min": Kind(np.minimum, _extremum_grad("gt")),
    "max": Kind(np.maximum, _extremum_grad("lt")),
    "gt": Kind.flat(_compare(np.greater), 2),
    "ge": Kind.flat(_compare(np.greater_equal), 2),
    "lt": Kind.flat(_compare(np.less), 2),
    "le": Kind.flat(_compare(np.less_equal), 2),
    "eq": Kind.flat(_compare(np.equal), 2),
    "ne": Kind.flat(_compare(np.not_equal), 2),
    "select": Kind(
        _select,
        lambda x, y, g: (None, select(x[0], g, 0.0), select(x[0], 0.0, g)),
    ),
    "neg": Kind(np.negative, lambda x, y, g: (-g,)),
    "abs": Kind(np.abs, lambda x, y, g: (select(x[0] > 0, g, select(x[0] < 0, -g, 0.0)),)),
    "sign": Kind.flat(np.sign, 1),
    "floor": Kind.flat(np.floor, 1),
    "relu": Kind(
        lambda x: np.maximum(x, x.dtype.type(0)), lambda x, y, g: (select(y <= 0, 0.0, g),)
    ),
    "sqrt": Kind(np.sqrt, lambda x, y, g: (g * 0.5 / y,)),
    "rsqrt": Kind(lambda x: 1 / np.sqrt(x), lambda x, y, g: (g * (y * y * y * -0.5),)),
    "reciprocal": Kind(lambda x: 1 / x, lambda x, y, g: (-(g * (y * y)),)),
    "exp": Kind(np.exp, lambda x, y, g: (g * y,)),
    "log": Kind(np.log, lambda x, y, g: (g / x[0],)),
    "log1p": Kind(np.log1p, lambda x, y, g: (g / (x[0] + 1.0),)),
    "tanh": Kind(np.tanh, lambda x, y, g: (g * (1.0 - y * y),)),
    "sigmoid": Kind(_sigmoid, lambda x, y, g: (g * (y * (1.0 - y)),)),
    "erf": Kind(_erf, lambda x, y, g: (g * (m("exp", -(x[0] * x[0])) * (2 / math.sqrt(math.pi))),)),
}
assert KINDS.keys() == ARITY.keys()


def broadcast(name: str, *inputs: TensorType) -> tuple[int, ...]:
    """The common shape of f32 inputs by NumPy's rule. Raises ShapeError or DTypeError."""
    for t in inputs:
        if t.dtype != "f32":
            raise DTypeError(f"{name} takes f32, got {t}")
    try:
        return np.broadcast_shapes(*(t.shape for t in inputs))
    except ValueError:
        shapes = " and ".join(str(t.shape) for t in inputs)
        raise ShapeError(f"{name}: the shapes {shapes} do not broadcast together") from None


def sum_to(g: Value, shape: tuple[int, ...]) -> Value:
    """Sum a gradient back over the axes along which an operand was broadcast."""
    from striate.graph.ops.reduce import Reduce

    if g.shape == shape:
        return g
    extra = g.ndim - len(shape)
    padded = (1,) * extra + shape
    axes = tuple(i for i, (a, b) in enumerate(zip(g.shape, padded, strict=True)) if a != b)
    summed = Reduce("sum", axes)(g) if axes else g
    return summed if summed.shape == shape else summed.reshape(shape)


@dataclass(frozen=True)
class Map(Op):
    """One kind of the table over broadcast f32 operands."""

    kind: str

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        """The broadcast shape."""
        if len(inputs) != ARITY[self.kind]:
            raise ShapeError(f"{self.kind} takes {ARITY[self.kind]} operands, got {len(inputs)}")
        return (TensorType(broadcast(self.kind, *inputs)),)

    def numpy(self, *arrays: Array) -> tuple[Array, ...]:
        """The table's meaning; infinities and NaN arise without warnings."""
        with np.errstate(all="ignore"):
            return (np.asarray(KINDS[self.kind].numpy(*arrays)),)

    def grad(self, node: Node, *g: Value | None) -> tuple[Value | None, ...]:
        """The table's rule, summed back to the shape of each operand."""
        (dy,) = g
        if dy is None:
            return (None,) * len(node.inputs)
        grads = KINDS[self.kind].grad(node.inputs, Value(node), dy)
        return tuple(
            None if dx is None or isinstance(x.node.op, Const) else sum_to(dx, x.shape)
            for x, dx in zip(node.inputs, grads, strict=True)
        )

    def __str__(self) -> str:
        return self.kind


@dataclass(frozen=True)
class Fused(Op):
    """An expression over broadcast f32 operands; every output has the broadcast shape.

    Made by fusion after gradients are taken, so it has no gradient of its own.
    """

    expr: Expr

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        """The broadcast shape, once for each output."""
        if len(inputs) != self.expr.arity:
            raise ShapeError(f"expression takes {self.expr.arity} operands, got {len(inputs)}")
        return (TensorType(broadcast("expression", *inputs)),) * len(self.expr.outputs)

    def numpy(self, *arrays: Array) -> tuple[Array, ...]:
        """Every instruction by the table."""
        dtype = np.result_type(np.float32, *arrays)
        shape = np.broadcast_shapes(*(a.shape for a in arrays))
        with np.errstate(all="ignore"):
            outputs = self.expr.run(
                arrays,
                lambda kind, operands: np.asarray(KINDS[kind].numpy(*operands)),
                lambda value: np.array(value, dtype),
            )
        return tuple(np.broadcast_to(y, shape).astype(dtype) for y in outputs)

    def __str__(self) -> str:
        return f"Fused{self.expr}"
