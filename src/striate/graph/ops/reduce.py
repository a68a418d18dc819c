"""Reductions over whole axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from striate.errors import ArgumentError, DTypeError
from striate.graph.ops.eltwise import select
from striate.graph.ops.leaf import SizeConst
from striate.graph.ops.shape import Broadcast, normalise_axis
from striate.graph.value import Array, Node, Op, TensorType, Value


@dataclass(frozen=True)
class Reduce(Op):
    """Sum or max ("sum", "max") over `axes`, which stay as size 1; a NaN wins a max.

    With `detached` no gradient flows (as for the shift inside log_softmax, which cancels).
    """

    kind: str
    axes: tuple[int, ...]
    detached: bool = False

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        """The input's shape with 1 for every reduced axis."""
        (x,) = inputs
        if x.dtype != "f32":
            raise DTypeError(f"{self.kind} takes f32, got {x}")
        return (TensorType(tuple(1 if i in self.axes else s for i, s in enumerate(x.shape))),)

    def numpy(self, *arrays: Array) -> tuple[Array, ...]:
        """Sums are accumulated in float64 and rounded once."""
        (x,) = arrays
        with np.errstate(all="ignore"):
            if self.kind == "max":
                return (x.max(axis=self.axes, keepdims=True),)
            return (x.sum(axis=self.axes, keepdims=True, dtype=np.float64).astype(x.dtype),)

    def grad(self, node: Node, *g: Value | None) -> tuple[Value | None, ...]:
        """Sum: g for every element. Max: g shared equally by the largest elements."""
        (x,) = node.inputs
        (dy,) = g
        if dy is None or self.detached:
            return (None,)
        if self.kind == "sum":
            return (Broadcast(x.shape)(dy),)
        from striate.graph.ops.eltwise import m

        largest = m("eq", x, Value(node))
        return (select(largest, dy / Reduce("sum", self.axes)(largest), 0.0),)

    def __str__(self) -> str:
        return f"Reduce({self.kind}, axes={self.axes})"


def reduce(
    kind: str,
    x: Value,
    axis: int | Sequence[int] | None = None,
    keepdims: bool = False,
    detached: bool = False,
) -> Value:
    """Reduce over `axis` (None: all axes), which is dropped unless `keepdims`."""
    axes = _axes(x, axis)
    y = Reduce(kind, axes, detached)(x) if axes else x
    if keepdims or not axes:
        return y
    return y.reshape(tuple(s for i, s in enumerate(x.shape) if i not in axes))


def mean(x: Value, axis: int | Sequence[int] | None = None, keepdims: bool = False) -> Value:
    """Sum divided by the number of elements."""
    count = math.prod(x.shape[i] for i in _axes(x, axis))
    return reduce("sum", x, axis, keepdims) * SizeConst(1 / count if count else math.nan)()


def _axes(x: Value, axis: int | Sequence[int] | None) -> tuple[int, ...]:
    if axis is None:
        return tuple(range(x.ndim))
    axes = (axis,) if isinstance(axis, int) else tuple(axis)
    result = tuple(sorted(normalise_axis(i, x.ndim) for i in axes))
    if len(set(result)) != len(result):
        raise ArgumentError(f"axis {axis!r} names an axis twice")
    return result
