"""Data movement: nothing is computed, elements only change places."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from striate.errors import ArgumentError, ShapeError, TraceError
from striate.graph.ops.leaf import Const
from striate.graph.value import Array, Node, Op, TensorType, Value


def normalise_axis(axis: int, ndim: int) -> int:
    """An axis counted from the start. Raises ArgumentError when out of range."""
    if not -ndim <= axis < ndim:
        raise ArgumentError(f"axis {axis} is out of range for {ndim} axes")
    return axis % ndim


@dataclass(frozen=True)
class Reshape(Op):
    """The same elements in logical (row-major NCHW) order in another shape."""

    shape: tuple[int, ...]

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        """`shape`."""
        (x,) = inputs
        if math.prod(self.shape) != x.size or min(self.shape, default=0) < 0:
            raise ShapeError(f"cannot reshape {x.shape} ({x.size} elements) to {self.shape}")
        return (TensorType(self.shape, x.dtype),)

    def numpy(self, *arrays: Array) -> tuple[Array, ...]:
        """NumPy's reshape in C order."""
        return (arrays[0].reshape(self.shape),)

    def grad(self, node: Node, *g: Value | None) -> tuple[Value | None, ...]:
        """Back to the old shape."""
        return (None if g[0] is None else g[0].reshape(node.inputs[0].shape),)


@dataclass(frozen=True)
class Broadcast(Op):
    """Repeat along axes of size 1 or missing in front, by NumPy's rule."""

    shape: tuple[int, ...]

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        """`shape`."""
        (x,) = inputs
        try:
            fits = np.broadcast_shapes(x.shape, self.shape) == self.shape
        except ValueError:
            fits = False
        if not fits:
            raise ShapeError(f"cannot broadcast {x.shape} to {self.shape}")
        return (TensorType(self.shape, x.dtype),)

    def numpy(self, *arrays: Array) -> tuple[Array, ...]:
        """NumPy's broadcast_to, read-only."""
        return (np.broadcast_to(arrays[0], self.shape),)

    def grad(self, node: Node, *g: Value | None) -> tuple[Value | None, ...]:
        """Sum over the repeated axes."""
        from striate.graph.ops.eltwise import sum_to

        return (None if g[0] is None else sum_to(g[0], node.inputs[0].shape),)


@dataclass(frozen=True)
class Concat(Op):
    """Join along `axis`."""

    axis: int

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        """Sizes add up along the axis and must agree elsewhere."""
        first = inputs[0]
        total = 0
        for x in inputs:
            rest = (*x.shape[: self.axis], *x.shape[self.axis + 1 :])
            if (
                len(x.shape) != len(first.shape)
                or rest != (*first.shape[: self.axis], *first.shape[self.axis + 1 :])
                or x.dtype != first.dtype
            ):
                types = ", ".join(str(t) for t in inputs)
                raise ShapeError(f"cannot concatenate {types} along axis {self.axis}")
            total += x.shape[self.axis]
        shape = (*first.shape[: self.axis], total, *first.shape[self.axis + 1 :])
        return (TensorType(shape, first.dtype),)

    def numpy(self, *arrays: Array) -> tuple[Array, ...]:
        """NumPy's concatenate."""
        return (np.concatenate(arrays, self.axis),)

    def grad(self, node: Node, *g: Value | None) -> tuple[Value | None, ...]:
        """Each input its slice."""
        if g[0] is None:
            return (None,) * len(node.inputs)
        result, start = [], 0
        for x in node.inputs:
            stop = start + x.shape[self.axis]
            result.append(slice_axis(g[0], self.axis, start, stop))
            start = stop
        return tuple(result)


@dataclass(frozen=True)
class Slice(Op):
    """Elements start, start + step, … below stop along `axis`; step >= 1, nothing out of range."""

    axis: int
    start: int
    stop: int
    step: int = 1

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        """The number of elements taken, at `axis`."""
        (x,) = inputs
        count = len(range(self.start, self.stop, self.step))
        if not 0 <= self.start < self.stop <= x.shape[self.axis]:
            raise ShapeError(
                f"slice {self.start}:{self.stop}:{self.step} of axis {self.axis} is empty or out "
                f"of range for shape {x.shape}"
            )
        return (TensorType((*x.shape[: self.axis], count, *x.shape[self.axis + 1 :]), x.dtype),)

    def numpy(self, *arrays: Array) -> tuple[Array, ...]:
        """NumPy's basic slicing."""
        index = (slice(None),) * self.axis + (slice(self.start, self.stop, self.step),)
        return (arrays[0][index],)

    def grad(self, node: Node, *g: Value | None) -> tuple[Value | None, ...]:
        """Zeros around g, and between its elements when step > 1."""
        (x,) = node.inputs
        if g[0] is None:
            return (None,)
        dy, axis, size = g[0], self.axis, x.shape[self.axis]
        dy = spread_axis(dy, axis, self.step)
        return (pad_axis(dy, axis, self.start, size - self.start - dy.shape[axis]),)


@dataclass(frozen=True)
class Flip(Op):
    """Reverse the order along `axes`."""

    axes: tuple[int, ...]

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        """The input's type."""
        return inputs

    def numpy(self, *arrays: Array) -> tuple[Array, ...]:
        """NumPy's flip."""
        return (np.flip(arrays[0], self.axes),)

    def grad(self, node: Node, *g: Value | None) -> tuple[Value | None, ...]:
        """Flip back."""
        return (None if g[0] is None else self(g[0]),)


def zeros(shape: tuple[int, ...]) -> Value:
    """A value of zeros."""
    return Broadcast(shape)(Const(0.0)())


def slice_axis(x: Value, axis: int, start: int, stop: int) -> Value:
    """`x` from start to stop along one axis; `x` itself when that is everything."""
    if (start, stop) == (0, x.shape[axis]):
        return x
    return Slice(axis, start, stop)(x)


def spread_axis(x: Value, axis: int, step: int) -> Value:
    """`x` with `step` - 1 zeros between neighbours along one axis."""
    if step == 1:
        return x
    before, count, after = x.shape[:axis], x.shape[axis], x.shape[axis + 1 :]
    gaps = zeros((*before, count, step - 1, *after))
    wide = Concat(axis + 1)(x.reshape((*before, count, 1, *after)), gaps)
    wide = wide.reshape((*before, count * step, *after))
    return slice_axis(wide, axis, 0, (count - 1) * step + 1)


def pad_axis(x: Value, axis: int, begin: int, end: int, value: float = 0.0) -> Value:
    """`x` with `begin` and `end` elements of `value` before and after it along one axis."""
    parts = []
    for count in (begin, end):
        shape = (*x.shape[:axis], count, *x.shape[axis + 1 :])
        parts.append([Broadcast(shape)(Const(value)())] if count else [])
    before, after = parts
    return Concat(axis)(*before, x, *after) if before or after else x


def reshape(x: Value, shape: tuple[int, ...]) -> Value:
    """`x` in another shape, of which one size may be -1. Raises ShapeError."""
    if -1 in shape:
        rest = math.prod(s for s in shape if s != -1)
        if shape.count(-1) > 1 or rest <= 0 or x.size % rest:
            raise ShapeError(f"cannot reshape {x.shape} ({x.size} elements) to {shape}")
        shape = tuple(x.size // rest if s == -1 else s for s in shape)
    return x if shape == x.shape else Reshape(shape)(x)


def flatten(x: Value, start_dim: int, end_dim: int) -> Value:
    """Merge the axes start_dim … end_dim. Raises ArgumentError."""
    if x.ndim == 0:
        return x.reshape(1)
    start, end = normalise_axis(start_dim, x.ndim), normalise_axis(end_dim, x.ndim)
    if start > end:
        raise ArgumentError(f"flatten: start_dim {start_dim} lies after end_dim {end_dim}")
    return x.reshape((*x.shape[:start], math.prod(x.shape[start : end + 1]), *x.shape[end + 1 :]))


def concat(values: Sequence[Value], axis: int) -> Value:
    """Join values along an axis. Raises ShapeError or ArgumentError."""
    if not values:
        raise ArgumentError("concat needs at least one value")
    return Concat(normalise_axis(axis, values[0].ndim))(*values)


def getitem(x: Value, index: Any) -> Value:
    """Static indexing with ints, slices, `...` and None. Raises TraceError or ShapeError."""
    items = list(index) if isinstance(index, tuple) else [index]
    taken = sum(1 for item in items if item is not None and item is not Ellipsis)
    dots = [i for i, item in enumerate(items) if item is Ellipsis]
    if taken > x.ndim or len(dots) > 1:
        raise ShapeError(f"index {index!r:.80} has too many entries for shape {x.shape}")
    at = dots[0] if dots else len(items)
    items[at : at + 1] = [slice(None)] * (x.ndim - taken)
    shape: list[int] = []
    axis = 0
    for item in items:
        if item is None:
            shape.append(1)
            continue
        x = _take(x, axis, item)
        if isinstance(item, slice):
            shape.append(x.shape[axis])
        axis += 1
    return x.reshape(tuple(shape))


def _take(x: Value, axis: int, item: Any) -> Value:
    """One int (kept as size 1) or slice along one axis."""
    size = x.shape[axis]
    if isinstance(item, slice):
        if any(isinstance(part, Value) for part in (item.start, item.stop, item.step)):
            raise TraceError("a slice inside forward must have plain numbers as bounds")
        chosen = range(size)[item]
    else:
        if isinstance(item, (Value, np.ndarray, list, bool)) or not hasattr(item, "__index__"):
            raise TraceError(f"a symbol can be indexed with ints and slices only, got {item!r:.80}")
        i = operator.index(item)
        if not -size <= i < size:
            raise ShapeError(f"index {i} is out of range for axis {axis} of shape {x.shape}")
        chosen = range(i % size, i % size + 1)
    if not chosen:
        raise ShapeError(f"slice {item!r} of axis {axis} of shape {x.shape} is empty")
    low, high = min(chosen[0], chosen[-1]), max(chosen[0], chosen[-1])
    y = _slice(x, axis, low, high + 1, abs(chosen.step))
    return y if chosen.step > 0 or len(chosen) == 1 else Flip((axis,))(y)


def _slice(x: Value, axis: int, start: int, stop: int, step: int) -> Value:
    """Rows and columns of images go through AxisMap, everything else through Slice."""
    from striate.graph.ops.axismap import AxisMap, Slice1d

    if (start, stop, step) == (0, x.shape[axis], 1):
        return x
    if x.ndim == 4 and axis >= 2 and x.dtype == "f32":
        return AxisMap(axis, Slice1d(x.shape[axis], start, stop, step))(x)
    return Slice(axis, start, stop, step)(x)
