"""Receptive fields of every value of a graph, also through branches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

from striate.arith.padding import Pair
from striate.arith.pool import Window
from striate.arith.receptive_field import ReceptiveField, merge
from striate.graph import Graph, Node, Value
from striate.graph.ops.axismap import AdaptiveAverage1d, AveragePool1d, AxisMap, Pad1d, Slice1d
from striate.graph.ops.conv import Conv2d
from striate.graph.ops.eltwise import Map
from striate.graph.ops.leaf import Input
from striate.graph.ops.pool import MaxPool
from striate.graph.ops.reduce import Reduce
from striate.graph.ops.resize import Resize1d
from striate.graph.ops.shape import Broadcast, Concat, Reshape, Slice
from striate.graph.ops.transpose import ShuffleChannels

# None: the value depends on the image, but by no one rule of size, stride and offset.
Fields: TypeAlias = "dict[Value, ReceptiveField | None]"


def receptive_fields(graph: Graph) -> Fields:
    """The field of every value that depends on the first input, a batch of images."""
    image = graph.inputs[0]
    fields: Fields = {}
    for node in graph.nodes():
        if node is image.node:
            fields[image] = ReceptiveField()
        elif not isinstance(node.op, Input) and any(v in fields for v in node.inputs):
            for value in node.outputs():
                fields[value] = _field(node, value, fields, _spatial(image))
    return fields


def _spatial(value: Value) -> Pair:
    """Height and width; (1, 1) of what has none."""
    return (value.shape[2], value.shape[3]) if value.ndim == 4 else (1, 1)


def _field(node: Node, out: Value, fields: Fields, image: Pair) -> ReceptiveField | None:
    op = node.op
    if isinstance(op, (Map, Concat)):
        return _merged(node, out, fields)
    x = node.inputs[0]
    if sum(v in fields for v in node.inputs) != 1 or x not in fields:
        return None  # such as a convolution whose weights depend on the image
    field = fields[x]
    if field is None:
        return None
    if isinstance(op, Conv2d):
        kernel = node.inputs[1].shape[2:]
        begin = (op.padding[0][0], op.padding[1][0])
        return field.then((kernel[0], kernel[1]), op.stride, begin, op.dilation)
    if isinstance(op, MaxPool):
        rows = _pooled(field, 0, op.windows_h, x.shape[2])
        return rows and _pooled(rows, 1, op.windows_w, x.shape[3])
    if isinstance(op, AxisMap):
        return _mapped(field, op, image)
    if isinstance(op, Reduce):
        return _reduced(field, op, x, image)
    if isinstance(op, Reshape):
        kept = x.ndim < 4 or _spatial(x) == (1, 1) or x.shape[-2:] == out.shape[-2:]
        return field if kept else ReceptiveField.whole(*image)
    if isinstance(op, Slice):
        return _along(field, op.axis - 2, 1, op.step, -op.start) if op.axis > 1 else field
    if isinstance(op, Broadcast):
        return _spread(field, x, out)
    if isinstance(op, ShuffleChannels):
        return field
    return None


def _merged(node: Node, out: Value, fields: Fields) -> ReceptiveField | None:
    """A sum, product … or a concatenation of what depends on the image."""
    if isinstance(node.op, Concat) and node.op.axis > 1:
        return None
    branches = []
    for value in node.inputs:
        if value in fields:
            field = fields[value]
            if field is None:
                return None
            branches.append(_spread(field, value, out))
    return merge(branches)


def _spread(field: ReceptiveField, x: Value, out: Value) -> ReceptiveField:
    """One value for a whole row or column: it sees the same from everywhere."""
    rows, cols = (
        0 if a == 1 and b > 1 else s
        for a, b, s in zip(_spatial(x), _spatial(out), field.stride, strict=True)
    )
    return replace(field, stride=(rows, cols))


def _along(
    field: ReceptiveField, axis: int, kernel: int, stride: int, begin: int
) -> ReceptiveField:
    """Windows of `kernel` along one axis, `stride` apart, the first at −begin."""

    def both(value: int, other: int) -> Pair:
        return (value, other) if axis == 0 else (other, value)

    return field.then(both(kernel, 1), both(stride, 1), both(begin, 0))


def _pooled(
    field: ReceptiveField, axis: int, windows: Sequence[Window], size: int
) -> ReceptiveField | None:
    """Windows that are clipped to 0 … size; None unless they have one length and distance."""
    extent = max(stop - start for start, stop, _ in windows)
    # Where a window would begin if it were not clipped: known unless it touches both borders.
    begins = {
        i: stop - extent if stop < size else start
        for i, (start, stop, _) in enumerate(windows)
        if stop < size or start > 0 or stop - start == extent
    }
    indices = sorted(begins)
    if len(indices) > 1:
        first, last = indices[0], indices[-1]
        stride = (begins[last] - begins[first]) // (last - first)
    else:
        stride = extent  # of a single window any distance is true
    offset = begins[indices[0]] - indices[0] * stride if indices else 0
    for i, begin in begins.items():
        if begin != offset + i * stride:
            return None
    return _along(field, axis, extent, stride, -offset)


def _mapped(field: ReceptiveField, op: AxisMap, image: Pair) -> ReceptiveField | None:
    axis, rule = op.axis - 2, op.rule
    if isinstance(rule, Pad1d):
        return _along(field, axis, 1, 1, rule.begin)
    if isinstance(rule, Slice1d):
        return _along(field, axis, 1, rule.step, -rule.start)
    if isinstance(rule, AveragePool1d):
        return _along(field, axis, rule.kernel, rule.stride, rule.padding[0])
    if isinstance(rule, AdaptiveAverage1d):
        if rule.outputs == 1:
            return _whole_along(field, axis, image)
        if rule.in_size % rule.outputs == 0:
            window = rule.in_size // rule.outputs
            return _along(field, axis, window, window, 0)
    if isinstance(rule, Resize1d) and rule.in_size == rule.outputs:
        return field
    return None


def _reduced(field: ReceptiveField, op: Reduce, x: Value, image: Pair) -> ReceptiveField:
    for axis in (0, 1):
        if axis + 2 in op.axes and x.ndim == 4:
            field = _whole_along(field, axis, image)
    return field


def _whole_along(field: ReceptiveField, axis: int, image: Pair) -> ReceptiveField:
    """All of the image along one axis, seen from everywhere."""

    def changed(pair: Pair, value: int) -> Pair:
        return (value, pair[1]) if axis == 0 else (pair[0], value)

    return ReceptiveField(
        changed(field.size, image[axis]), changed(field.stride, 0), changed(field.offset, 0)
    )
