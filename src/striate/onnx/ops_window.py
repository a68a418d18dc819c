"""Parts and repetitions: slices, splits, padding, tiles, blocks of pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

import striate.functional as F
from striate.errors import ShapeError
from striate.graph import Value
from striate.graph.ops.axismap import Pad1d
from striate.graph.ops.shape import Broadcast, normalise_axis, pad_axis, slice_axis
from striate.onnx.axes import along
from striate.onnx.handling import Call, Ints, handler

PAD_MODES = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}


@handler("Slice", known=(1, 2, 3, 4))
def slices(call: Call) -> Any:
    """Every `step`-th element from `start` up to `end` (or down to it) along the axes named."""
    shape = call.shape(0)
    if call.opset < 10:
        starts, ends = call.integers("starts"), call.integers("ends")
        axes, steps = call.integers("axes", tuple(range(len(starts)))), (1,) * len(starts)
    else:
        starts, ends = call.numbers(1), call.numbers(2)
        axes = call.numbers(3) if call.given(3) else tuple(range(len(starts)))
        steps = call.numbers(4) if call.given(4) else (1,) * len(starts)
    index = [slice(None)] * len(shape)
    for axis, *wanted in zip(axes, starts, ends, steps, strict=True):
        at = normalise_axis(axis, len(shape))
        first, last, step = slice(*wanted).indices(shape[at])
        index[at] = slice(first, None if last < 0 else last, step)
    return _taken(call, tuple(index))


def _taken(call: Call, index: tuple[slice, ...]) -> Any:
    """Part of input 0; where nothing is left, that is known."""
    shape = call.shape(0)
    counts = tuple(len(range(*i.indices(n))) for i, n in zip(index, shape, strict=True))
    if call.known(0):
        return call.array(0)[index]
    if 0 in counts:
        return np.zeros(counts, call.dtype(0))
    return call.like(call.source()[index])


@handler("Split", known=(1,))
def split(call: Call) -> Any:
    """Along `axis`, into parts of the sizes given or nearly equal ones."""
    shape = call.shape(0)
    axis = normalise_axis(call.integer("axis", 0), len(shape))
    size = shape[axis]
    if call.opset >= 13 and call.given(1):
        sizes = call.numbers(1)
    elif call.opset < 13 and call.has("split"):
        sizes = call.integers("split")
    else:
        count = call.integer("num_outputs", len(call.node.outputs))
        most = -(-size // count)
        sizes = tuple(min(most, max(0, size - i * most)) for i in range(count))
    if sum(sizes) != size:
        raise ShapeError(f"Split: parts of {sizes} do not make up axis {axis} of shape {shape}")
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    parts = [
        _taken(
            call,
            (slice(None),) * axis + (slice(a, a + n),) + (slice(None),) * (len(shape) - axis - 1),
        )
        for a, n in zip(starts, sizes, strict=True)
    ]
    return tuple(parts)


@handler("Expand", known=(1,))
def expand(call: Call) -> Any:
    """Repeated along axes of size 1, by NumPy's rule in both directions."""
    shape = np.broadcast_shapes(call.shape(0), call.numbers(1))
    if call.known(0):
        return np.broadcast_to(call.array(0), shape)
    x = call.source()
    return call.like(x if x.shape == shape else Broadcast(shape)(x))


@handler("Tile", since=6, known=(1,))
def tile(call: Call) -> Any:
    """The whole repeated along every axis."""
    repeats, shape = call.numbers(1), call.shape(0)
    if call.known(0):
        return np.tile(call.array(0), repeats)
    y = call.source()
    for axis, (repeat, size) in enumerate(zip(repeats, shape, strict=True)):
        before, after = math.prod(y.shape[:axis]), math.prod(y.shape[axis + 1 :])
        whole = (*y.shape[:axis], repeat * size, *y.shape[axis + 1 :])
        if repeat != 1:
            apart = y.reshape(before, 1, size, after)
            y = Broadcast((before, repeat, size, after))(apart).reshape(whole)
    return call.like(y)


@handler("Pad", since=2, known=(1, 2, 3))
def pad(call: Call) -> Any:
    """More elements at both ends of the axes named, by `mode`; negative numbers crop."""
    ndim, mode = len(call.shape(0)), call.text("mode", "constant")
    pads = call.integers("pads") if call.opset < 11 else call.numbers(1)
    axes: Sequence[int] = range(ndim)
    if call.opset >= 11 and call.given(3):
        axes = [normalise_axis(a, ndim) for a in call.numbers(3)]
    sides = dict(zip(axes, zip(pads[: len(axes)], pads[len(axes) :], strict=True), strict=True))
    if mode not in ("constant", *PAD_MODES):
        raise call.unsupported(f"mode {mode!r}", "constant, edge, reflect, wrap")
    value: Any = 0.0
    if call.opset < 11:
        value = call.real("value", 0.0)
    elif call.given(2):
        value = call.array(2).reshape(())
    if call.known(0):
        return _padded_array(call, [sides.get(a, (0, 0)) for a in range(ndim)], mode, value)
    return call.like(_padded(call.source(), sides, mode, float(value)))


def _padded_array(call: Call, sides: list[tuple[int, int]], mode: str, value: Any) -> Any:
    x = call.array(0)
    x = x[
        tuple(slice(max(0, -a), n - max(0, -b)) for (a, b), n in zip(sides, x.shape, strict=True))
    ]
    more = [(max(0, a), max(0, b)) for a, b in sides]
    if mode == "constant":
        return np.pad(x, more, constant_values=value)
    return np.pad(x, more, mode=mode)  # type: ignore[call-overload]


def _padded(x: Value, sides: dict[int, tuple[int, int]], mode: str, value: float) -> Value:
    image = x.ndim == 4 and x.dtype == "f32"
    if mode == "constant" and image and all(a > 1 or s == (0, 0) for a, s in sides.items()):
        rows, cols = sides.get(2, (0, 0)), sides.get(3, (0, 0))
        y: Value = F.pad(x, (*cols, *rows), value=value)
        return y
    for axis, (begin, end) in sides.items():
        if (begin, end) == (0, 0):
            continue
        if mode == "constant":
            x = slice_axis(x, axis, max(0, -begin), x.shape[axis] - max(0, -end))
            x = pad_axis(x, axis, max(0, begin), max(0, end), value)
        else:
            x = along(x, axis, Pad1d(x.shape[axis], begin, end, PAD_MODES[mode]))
    return x


@handler("DepthToSpace")
def depth_to_space(call: Call) -> Any:
    """Channels become blocks of pixels: (n, c·b², h, w) → (n, c, h·b, w·b)."""
    n, c, h, w = _image(call)
    b = call.integer("blocksize")
    if c % (b * b):
        raise ShapeError(f"DepthToSpace: {c} channels are no blocks of {b}×{b}")
    if call.text("mode", "DCR") == "DCR":
        first, axes = (n, b, b, c // b**2, h, w), (0, 3, 4, 1, 5, 2)
    else:
        first, axes = (n, c // b**2, b, b, h, w), (0, 1, 4, 2, 5, 3)
    return _regrouped(call, first, axes, (n, c // b**2, h * b, w * b))


@handler("SpaceToDepth")
def space_to_depth(call: Call) -> Any:
    """Blocks of pixels become channels: (n, c, h·b, w·b) → (n, b²·c, h, w)."""
    n, c, h, w = _image(call)
    b = call.integer("blocksize")
    if h % b or w % b:
        raise ShapeError(f"SpaceToDepth: images {(h, w)} do not divide into blocks of {b}×{b}")
    first = (n, c, h // b, b, w // b, b)
    axes = (0, 3, 5, 1, 2, 4) if call.text("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    return _regrouped(call, first, axes, (n, c * b * b, h // b, w // b))


def _image(call: Call) -> Ints:
    shape = call.shape(0)
    if len(shape) != 4:
        raise ShapeError(f"{call.node.op} takes images (N, C, H, W), got shape {shape}")
    return shape


def _regrouped(call: Call, first: Ints, axes: Ints, last: Ints) -> Any:
    if call.known(0):
        return call.array(0).reshape(first).transpose(axes).reshape(last)
    return call.like(call.source().reshape(first).transpose(axes).reshape(last))


@handler("Range", known=(0, 1, 2))
def interval(call: Call) -> Any:
    """Known numbers from the first input up to the second, by steps of the third."""
    start, limit, delta = (call.array(i).reshape(()) for i in range(3))
    count = max(0, math.ceil((limit - start) / delta))
    return (start + np.arange(count) * delta).astype(start.dtype)
