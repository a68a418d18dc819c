"""Which rows and columns of the picture each element of a feature map depends on, exactly.

A receptive field of size, stride and offset says it for the middle of a map. Here every row and
column has its own first and last pixel, found by following the taps of each window that lie inside
the map below: exact at borders, through branches, resizing and transposed convolutions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from striate.graph import Graph, Node, Value
from striate.graph.ops.axismap import AxisMap
from striate.graph.ops.conv import Conv2d, ConvInputGrad
from striate.graph.ops.eltwise import Map
from striate.graph.ops.pool import MaxPool
from striate.graph.ops.reduce import Reduce
from striate.graph.ops.shape import Broadcast, Concat, Reshape, Slice
from striate.graph.ops.transpose import ShuffleChannels, Transpose

Axis = np.ndarray[Any, np.dtype[np.int64]]
NOTHING = (2**31, -1)  # a first pixel after the last one: neutral in a union


class Boxes(NamedTuple):
    """Rows (h, 2) and columns (w, 2): first pixel and the one after the last, by output index."""

    rows: Axis
    cols: Axis

    def at(self, i: int, j: int) -> tuple[int, int, int, int]:
        """(top, bottom, left, right) of output (i, j); bottom and right are the first outside."""
        (top, bottom), (left, right) = self.rows[i].tolist(), self.cols[j].tolist()
        return top, max(top, bottom), left, max(left, right)


def boxes(graph: Graph) -> dict[Value, Boxes]:
    """Of every value that depends on the first input, a batch of images."""
    image = graph.inputs[0]
    found: dict[Value, Boxes] = {image: Boxes(*(_each(size) for size in image.shape[2:]))}
    for node in graph.nodes():
        if node is not image.node and any(v in found for v in node.inputs):
            for value in node.outputs():
                found[value] = _boxes(node, value, found)
    return found


def _each(size: int) -> Axis:
    return np.stack([np.arange(size), np.arange(size) + 1], axis=1)


def _boxes(node: Node, out: Value, found: dict[Value, Boxes]) -> Boxes:
    op, x = node.op, node.inputs[0]
    inputs = [v for v in node.inputs if v in found]
    if isinstance(op, (Map, Broadcast)):
        return _union([_spread(found[v], v, out) for v in inputs], out)
    if isinstance(op, Concat):
        return _joined(op.axis - out.ndim + 2, [found[v] for v in inputs], out)
    if len(inputs) != 1 or x not in found:
        return _whole(inputs, found, out)
    below = found[x]
    if isinstance(op, (Conv2d, ConvInputGrad)):
        kernel = node.inputs[1].shape[2:]
        reads = [_taps(op, axis, kernel[axis], x.shape[axis + 2], out.shape[axis + 2])
                 for axis in (0, 1)]  # fmt: skip
        return Boxes(_through(below.rows, reads[0]), _through(below.cols, reads[1]))
    if isinstance(op, MaxPool):
        rows = _through(below.rows, [range(*window) for window in op.windows_h])
        return Boxes(rows, _through(below.cols, [range(*window) for window in op.windows_w]))
    if isinstance(op, AxisMap):
        taps = [[index for index, _ in row] for row in op.rule.rows()]
        return _along(below, op.axis - 2, taps)
    if isinstance(op, Slice) and op.axis >= x.ndim - 2:
        start, count = op.start, out.shape[op.axis]
        return _along(below, op.axis - x.ndim + 2, [[start + i * op.step] for i in range(count)])
    if isinstance(op, Reduce) and x.ndim >= 3:
        for axis in (0, 1):
            if axis + x.ndim - 2 in op.axes:
                below = _along(below, axis, [range(x.shape[axis + x.ndim - 2])])
        return below
    if isinstance(op, (Slice, ShuffleChannels)) or _keeps_places(node, out):
        return below
    return _whole(inputs, found, out)


def _keeps_places(node: Node, out: Value) -> bool:
    """Whether a change of shape or order leaves height and width where they are."""
    x = node.inputs[0]
    if isinstance(node.op, Reshape):
        return min(x.ndim, out.ndim) >= 3 and x.shape[-2:] == out.shape[-2:]
    if isinstance(node.op, Transpose):
        return x.ndim >= 3 and tuple(node.op.axes[-2:]) == (x.ndim - 2, x.ndim - 1)
    return False


def _taps(
    op: Conv2d | ConvInputGrad, axis: int, kernel: int, size: int, outputs: int
) -> list[list[int]]:
    """For each output the inputs inside the map that it reads.

    A convolution reads i·s − p + k·d; a transposed one o with i + p = o·s + k·d.
    """
    stride, begin, dilation = op.stride[axis], op.padding[axis][0], op.dilation[axis]
    offsets = [k * dilation for k in range(kernel)]
    if isinstance(op, Conv2d):
        every = ([i * stride - begin + k for k in offsets] for i in range(outputs))
    else:
        every = (
            [(i + begin - k) // stride for k in offsets if (i + begin - k) % stride == 0]
            for i in range(outputs)
        )
    return [[t for t in taps if 0 <= t < size] for taps in every]


def _through(axis: Axis, reads: Iterable[Sequence[int]]) -> Axis:
    """Union of what the elements that each output reads depend on."""
    rows = []
    for taps in reads:
        read = axis[list(taps)]
        rows.append((read[:, 0].min(), read[:, 1].max()) if len(read) else NOTHING)
    return np.array(rows, np.int64).reshape(-1, 2)


def _along(below: Boxes, axis: int, reads: Iterable[Sequence[int]]) -> Boxes:
    if axis == 0:
        return Boxes(_through(below.rows, reads), below.cols)
    return Boxes(below.rows, _through(below.cols, reads))


def _spatial(value: Value) -> tuple[int, int]:
    """Height and width; (1, 1) of what has none."""
    return (value.shape[-2], value.shape[-1]) if value.ndim >= 3 else (1, 1)


def _repeated(axis: Axis, count: int) -> Axis:
    return np.repeat(axis, count, axis=0) if len(axis) == 1 else axis


def _spread(box: Boxes, x: Value, out: Value) -> Boxes:
    """One value for a whole row or column: it sees the same from everywhere."""
    h, w = _spatial(out)
    if len(box.rows) not in {1, h} or len(box.cols) not in {1, w}:
        return _whole([x], {x: box}, out)
    return Boxes(_repeated(box.rows, h), _repeated(box.cols, w))


def _union(branches: Sequence[Boxes], out: Value) -> Boxes:
    h, w = _spatial(out)
    rows = _widest([_repeated(b.rows, h) for b in branches])
    return Boxes(rows, _widest([_repeated(b.cols, w) for b in branches]))


def _widest(axes: Sequence[Axis]) -> Axis:
    """From the first start to the last stop, of each output."""
    every = np.stack(axes)
    return np.stack([every[..., 0].min(0), every[..., 1].max(0)], axis=1)


def _joined(axis: int, branches: Sequence[Boxes], out: Value) -> Boxes:
    """Of a concatenation along the height (axis 0), the width (1) or anything else."""
    if out.ndim < 3 or axis < 0:
        return _union(branches, out)
    joined = np.concatenate([b[axis] for b in branches])
    if len(joined) != _spatial(out)[axis]:
        return _whole_of(branches, out)  # some part does not depend on the image
    other = _widest([b[1 - axis] for b in branches])
    return Boxes(joined, other) if axis == 0 else Boxes(other, joined)


def _whole(inputs: Sequence[Value], found: dict[Value, Boxes], out: Value) -> Boxes:
    """Everything that any element of the inputs sees, seen from everywhere."""
    return _whole_of([found[v] for v in inputs], out)


def _whole_of(branches: Sequence[Boxes], out: Value) -> Boxes:
    h, w = _spatial(out)
    rows = np.concatenate([b.rows for b in branches])
    cols = np.concatenate([b.cols for b in branches])
    return Boxes(
        np.array([[rows[:, 0].min(), rows[:, 1].max()]] * h, np.int64),
        np.array([[cols[:, 0].min(), cols[:, 1].max()]] * w, np.int64),
    )
