"""What an element gathers from the map below: the terms of its sum, or the window of its maximum.

Each kind gives a record for the page and the gathered numbers (maps, points) in float64. A
convolution of many channels lists those that contribute most to a map, by the sum of |w · x| over
its points, and the others together as one number, so that the terms always add up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from striate.graph import Node, Value
from striate.graph.ops.axismap import AxisMap
from striate.graph.ops.conv import Conv2d
from striate.graph.ops.pool import MaxPool
from striate.graph.ops.reduce import Reduce
from striate.graph.ops.shape import Concat
from striate.report.explain.pack import packed
from striate.report.explain.points import Array, Numbers, Where

Record: TypeAlias = "dict[str, Any]"

ALL_CHANNELS = 4  # so many input channels are listed in full
WINDOWED, PLAIN = 4, 12  # channels listed of a convolution with windows, and of a 1×1 or dense one
MOST_TAPS = 256  # of a window that is listed


def listed(node: Node) -> int:
    """How many input channels of a convolution are listed."""
    _, channels, kh, kw = node.inputs[1].shape
    most = PLAIN if kh * kw == 1 else WINDOWED
    return channels if channels <= max(ALL_CHANNELS, most) else most


def cost(value: Value) -> int:
    """Bytes for one point of one map, about; 0 if what gathers it is not listed."""
    node = value.node
    if isinstance(node.op, Conv2d):
        kernel = node.inputs[1].shape[2:]
        return 4 * listed(node) * int(np.prod(kernel)) + 8
    if isinstance(node.op, MaxPool):
        return 4 * _longest(node.op.windows_h) * _longest(node.op.windows_w)
    window = _window(value)
    if window is None:
        return 8
    _, rows, cols = window
    return 4 * max(map(len, rows)) * max(map(len, cols))


def gather(value: Value, where: Where, numbers: Numbers) -> tuple[Record, Array]:
    """The record of the points `where` of a value, and their numbers (maps, points)."""
    node = value.node
    if isinstance(node.op, Conv2d) and not numbers.traced.moving(node.inputs[1]):
        return _convolution(node, node.op, where, numbers)
    if isinstance(node.op, MaxPool):
        return _maximum(node, node.op, where, numbers)
    window = _window(value)
    if window is not None:
        return _weighted(*window, where, numbers)
    found = np.array(np.broadcast_to(numbers.at(value, where), _extent(where)))
    origin = _origins(value, where, numbers)
    return {"kind": "copy", "from": origin, "numbers": packed(found, "<f8")}, found


def _origins(value: Value, where: Where, numbers: Numbers) -> list[str]:
    """Where each map comes from as it is: of a concatenation, the branch."""
    node, traced = value.node, numbers.traced
    maps = np.broadcast_to(where[1], _extent(where))[:, 0].tolist() if len(where) > 1 else [0]
    if value == traced.image:
        return [f"channel {c} of the picture, normalised" for c in maps]
    if not isinstance(node.op, Concat) or node.op.axis != 1:
        return [f"a number of {type(node.op).__name__}, whose terms are not listed"] * len(maps)
    stops = np.cumsum([v.shape[1] for v in node.inputs])
    lines = []
    for c in maps:
        part = int(np.searchsorted(stops, c, side="right"))
        branch = node.inputs[part]
        lines.append(f"map {c - int(stops[part]) + branch.shape[1]} of {traced.name(branch)}")
    return lines


def source(value: Value) -> Value | None:
    """The map that a value is gathered from."""
    node = value.node
    if isinstance(node.op, (Conv2d, MaxPool)):
        return node.inputs[0]
    window = _window(value)
    return None if window is None else window[0]


def _extent(where: Where) -> tuple[int, ...]:
    return np.broadcast_shapes(*(index.shape for index in where))


# ---------------------------------------------------------------------------- convolution


def _convolution(node: Node, op: Conv2d, where: Where, numbers: Numbers) -> tuple[Record, Array]:
    """y[o, i, j] = Σ_c Σ_a Σ_b w[o, c, a, b] · x[c', i·sh − pt + a·dh, j·sw − pl + b·dw]"""
    x, w = (np.asarray(numbers.full(v), np.float64) for v in node.inputs)
    _, o, i, j = (np.broadcast_to(index, _extent(where)) for index in where)
    outputs, channels, kh, kw = w.shape
    padded = op.pad(x)[0]
    group = outputs // op.groups
    most = listed(node)
    parts, totals, chosen = [], [], []
    for k in range(len(o)):
        first = int(o[k, 0]) // group * channels
        rows = i[k, :, None] * op.stride[0] + np.arange(kh) * op.dilation[0]
        cols = j[k, :, None] * op.stride[1] + np.arange(kw) * op.dilation[1]
        own = padded[first : first + channels]
        windows = own[:, rows[:, :, None], cols[:, None, :]]  # (channels, points, kh, kw)
        products = np.einsum("cpab,cab->pc", windows, w[o[k, 0]])
        order = np.argsort(-np.abs(products).sum(0), kind="stable")[:most]
        if most == channels:
            order = np.arange(channels)
        rest = np.delete(products, order, axis=1).sum(1)
        parts.append((windows[order].swapaxes(0, 1), w[o[k, 0], order], rest))
        totals.append(products.sum(1))
        chosen.append((order + first).tolist())
    inputs, weights, rests = (np.stack(part) for part in zip(*parts, strict=True))
    record = {
        "kind": "conv",
        "kernel": [kh, kw],
        "stride": list(op.stride),
        "begin": [op.padding[0][0], op.padding[1][0]],
        "dilation": list(op.dilation),
        "size": list(x.shape[2:]),
        "channels": chosen,
        "others": channels - most,
        "inputs": packed(inputs, "<f4"),
        "weights": packed(weights, "<f4"),
        "rest": packed(rests, "<f8"),
    }
    return record, np.stack(totals)


# ---------------------------------------------------------------------------- windows


def _longest(windows: Sequence[tuple[int, int, int]]) -> int:
    return max(len(range(*window)) for window in windows)


def _maximum(node: Node, op: MaxPool, where: Where, numbers: Numbers) -> tuple[Record, Array]:
    """The window of a max pool; NaN stands where it is cut off by the border."""
    x = np.asarray(numbers.full(node.inputs[0]), np.float64)[0]
    _, c, i, j = (np.broadcast_to(index, _extent(where)) for index in where)
    extent = (_longest(op.windows_h), _longest(op.windows_w))
    values = np.full((*c.shape, *extent), np.nan)
    for k, p in np.ndindex(*c.shape):
        rows, cols = range(*op.windows_h[i[k, p]]), range(*op.windows_w[j[k, p]])
        values[k, p, : len(rows), : len(cols)] = x[c[k, p]][np.ix_(rows, cols)]
    first = [[op.windows_h[a][0], op.windows_w[b][0]] for a, b in zip(i[0], j[0], strict=True)]
    step = [op.windows_h[0][2], op.windows_w[0][2]]
    record = {
        "kind": "max",
        "window": list(extent),
        "first": first,
        "step": step,
        "inputs": packed(values, "<f4"),
    }
    return record, np.nanmax(values, axis=(2, 3))


Taps: TypeAlias = "list[list[tuple[int, float]]]"


def _window(value: Value) -> tuple[Value, Taps, Taps] | None:
    """A weighted sum over a window of one channel: the map below, and taps for rows and columns.

    It may be two operations, one for each axis.
    """
    taps: dict[int, Taps] = {}
    while isinstance(value.node.op, AxisMap) and value.node.op.axis not in taps:
        taps[value.node.op.axis] = [list(row) for row in value.node.op.rule.rows()]
        value = value.node.inputs[0]
    op = value.node.op
    if not taps and isinstance(op, Reduce) and op.kind == "sum" and value.ndim == 4:
        if not set(op.axes) <= {2, 3}:
            return None
        value = value.node.inputs[0]
        taps = {axis: [[(i, 1.0) for i in range(value.shape[axis])]] for axis in op.axes}
    if not taps:
        return None
    rows, cols = (taps.get(axis, [[(i, 1.0)] for i in range(value.shape[axis])]) for axis in (2, 3))
    return (value, rows, cols) if max(map(len, rows)) * max(map(len, cols)) <= MOST_TAPS else None


def _weighted(
    below: Value, rows: Taps, cols: Taps, where: Where, numbers: Numbers
) -> tuple[Record, Array]:
    """y[i, j] = Σ_a Σ_b u[i, a] · v[j, b] · x[row(i, a), column(j, b)]"""
    x = np.asarray(numbers.full(below), np.float64)[0]
    _, c, i, j = (np.broadcast_to(index, _extent(where)) for index in where)
    kh, kw = max(map(len, rows)), max(map(len, cols))
    values = np.full((*c.shape, kh, kw), np.nan)
    weights = np.zeros((c.shape[1], kh, kw))
    first, totals = [], np.zeros(c.shape)
    for p in range(c.shape[1]):
        down, across = rows[i[0, p]], cols[j[0, p]]
        index = np.ix_([r for r, _ in down], [q for q, _ in across])
        factors = np.outer([u for _, u in down], [v for _, v in across])
        weights[p, : len(down), : len(across)] = factors
        first.append([down[0][0] if down else 0, across[0][0] if across else 0])
        for k in range(c.shape[0]):
            window = x[c[k, p]][index]
            values[k, p, : len(down), : len(across)] = window
            totals[k, p] = (window * factors).sum()
    record = {
        "kind": "mean",
        "window": [kh, kw],
        "first": first,
        "step": [1, 1],
        "inputs": packed(values, "<f4"),
        "factors": packed(weights, "<f8"),
    }
    return record, totals
