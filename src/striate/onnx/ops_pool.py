"""Pooling. A window that would start in the padding at the end is left out (`ceil_mode`)."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from striate.arith import pool
from striate.errors import FormatError, ShapeError
from striate.graph import Value
from striate.graph.ops.axismap import AveragePool1d, AxisMap, Take1d
from striate.graph.ops.eltwise import m
from striate.graph.ops.pool import MaxPool, MaxPoolGrad, MaxPoolIndices
from striate.onnx.axes import along
from striate.onnx.handling import Call, handler
from striate.onnx.value import INT64, Array, NeedsValue, Tensor
from striate.onnx.volumes import max_pool3d
from striate.onnx.windows import Window, as_plane, check_axes, from_plane, window


def _window(call: Call) -> Window:
    shape = call.shape(0)
    check_axes(call, shape)
    return window(call, shape[2:], call.integers("kernel_shape"))


# ---------------------------------------------------------------------------- maxima


@handler("MaxPool")
def max_pool(call: Call) -> Any:
    """The largest element of each window, and its index in X as one flat array over N, C, H, W."""
    shape, plain = call.shape(0), _window(call)
    ceil = bool(call.integer("ceil_mode", 0))
    if len(shape) == 5:
        if len(call.node.outputs) > 1:
            raise call.unsupported("indices of images with three axes", "the first output")
        ways, x = plain.of_volume(), call.symbol(0, integers=True)
        return max_pool3d(x, ways.kernel, ways.strides, plain.pads, ways.dilations, ceil)
    kernel, strides, pads, dilations = plain.of_plane()
    x = as_plane(call.symbol(0, integers=True))
    rows, cols = (
        pool.windows(x.shape[i + 2], kernel[i], strides[i], pads[i], dilations[i], ceil)
        for i in (0, 1)
    )
    y = call.like(from_plane(MaxPool(rows, cols)(x), len(shape)))
    if len(call.node.outputs) < 2:
        return y
    if call.integer("storage_order", 0) and len(shape) != 4:
        raise call.unsupported("storage_order=1 for images of one axis", "storage_order=0")
    indices = from_plane(MaxPoolIndices(rows, cols)(x), len(shape))
    finish = _flat(x.shape[2], x.shape[3], bool(call.integer("storage_order", 0)))
    return y, Tensor(indices, INT64, finish=finish)


def _flat(h: int, w: int, by_columns: bool) -> Callable[[Array], Array]:
    """From indices row · w + column in a plane to indices over all planes."""

    def finish(index: Array) -> Array:
        planes = np.arange(index.shape[0] * index.shape[1]).reshape(*index.shape[:2], 1, 1)
        planes = planes.reshape(*index.shape[:2], *(1,) * (index.ndim - 2))
        here = index.astype(np.int64)
        if by_columns:
            here = here % w * h + here // w
        return np.asarray(here + planes * (h * w))

    return finish


@handler("MaxUnpool", known=(2,))
def max_unpool(call: Call) -> Any:
    """Elements put back where a MaxPool has taken them from, zeros elsewhere."""
    shape = call.shape(0)
    win = _window(call)
    axes = zip(shape[2:], win.kernel, win.strides, win.pads, strict=True)
    usual = (*shape[:2], *((n - 1) * s + k - begin - end for n, k, s, (begin, end) in axes))
    wanted = call.numbers(2) if call.given(2) else usual
    x, indices = call.symbol(0), call.item(1)
    if isinstance(indices, Tensor):
        return _unpool_pooled(call, x, indices, wanted)
    # The indices count in the usual size; with output_shape the planes grow at their ends.
    total = int(np.prod(usual))
    places = np.full(total, -1)
    flat = indices.reshape(-1)
    if flat.size and not 0 <= flat.min() <= flat.max() < total:
        raise ShapeError(f"MaxUnpool: the indices lie outside the {total} elements of {usual}")
    places[flat] = np.arange(flat.size)
    if wanted != usual:
        grown = np.full(wanted, -1)
        grown[tuple(slice(0, n) for n in usual)] = places.reshape(usual)
        places = grown.reshape(-1)
    rule = Take1d(x.size, tuple(places.tolist()))
    return AxisMap(3, rule)(x.reshape(1, 1, 1, x.size)).reshape(wanted)


def _unpool_pooled(call: Call, x: Value, indices: Tensor, wanted: tuple[int, ...]) -> Value:
    """By the indices of a MaxPool of the same graph: dy of its gradient is what is put back."""
    node = indices.value.node
    if node.inputs and not isinstance(node.op, MaxPoolIndices):
        node = node.inputs[0].node  # of images with one axis: behind the reshape
    if not isinstance(node.op, MaxPoolIndices):
        raise NeedsValue(indices.value, f"node {call.node.name!r} (MaxUnpool) needs the indices")
    source = node.inputs[0]
    op = MaxPoolGrad(node.op.windows_h, node.op.windows_w)
    for windows in (op.windows_h, op.windows_w):
        if any(a[1] > b[0] for a, b in pairwise(windows)):
            raise call.unsupported("the indices of windows that overlap", "kernel ≤ stride")
    y = from_plane(op(source, as_plane(x)), x.ndim)
    if y.shape != wanted:
        raise call.unsupported(f"output_shape {wanted}", f"the shape that was pooled, {y.shape}")
    return y


# ---------------------------------------------------------------------------- means and norms


def _sums(call: Call, x: Value, win: Window, divisor: int | None, include: bool = True) -> Value:
    """Σ of each window, divided by `divisor`, or else by the elements that it has."""
    ceil = bool(call.integer("ceil_mode", 0))
    for i, size in enumerate(x.shape[2:]):
        rule = AveragePool1d(
            size,
            win.kernel[i],
            win.strides[i],
            win.pads[i],
            ceil,
            include,
            divisor,
            win.dilations[i],
        )
        x = along(x, i + 2, rule)
    return x


@handler("AveragePool")
def average_pool(call: Call) -> Any:
    """Mean of each window, of its elements inside the image or, if so asked, its padding too."""
    x, win = call.symbol(0), _window(call)
    return _sums(call, x, win, None, bool(call.integer("count_include_pad", 0)))


@handler("LpPool")
def lp_pool(call: Call) -> Any:
    """(Σ |x|^p)^(1/p) of each window."""
    x, win = call.symbol(0), _window(call)
    p = call.real("p", 2)
    return _root(_sums(call, _power(x, p), win, 1), p)


def _power(x: Value, p: float) -> Value:
    """|x|^p"""
    if p <= 0:
        raise FormatError(f"p must be greater than 0, got {p}")
    return x * x if p == 2 else m("abs", x) if p == 1 else m("abs", x) ** p


def _root(x: Value, p: float) -> Value:
    """x^(1/p)"""
    return m("sqrt", x) if p == 2 else x if p == 1 else x ** (1 / p)


@handler("GlobalAveragePool")
def global_average_pool(call: Call) -> Any:
    """Mean of each plane; all axes stay."""
    x = call.symbol(0)
    return x.mean(tuple(range(2, x.ndim)), keepdims=True)


@handler("GlobalMaxPool")
def global_max_pool(call: Call) -> Any:
    """Largest element of each plane; all axes stay."""
    x = call.symbol(0)
    return x.max(tuple(range(2, x.ndim)), keepdims=True)


@handler("GlobalLpPool")
def global_lp_pool(call: Call) -> Any:
    """(Σ |x|^p)^(1/p) of each plane; all axes stay."""
    x = call.symbol(0)
    p = call.real("p", 2)
    return _root(_power(x, p).sum(tuple(range(2, x.ndim)), keepdims=True), p)
