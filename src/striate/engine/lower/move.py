"""Data movement: memory orders, packing, concatenation, slices, labels, pixels, random numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from striate.arith.layout import (
    GroupedWeights,
    Nhwc,
    NhwcSlice,
    PackedWeights,
    Plain,
    WinogradWeights,
    pitch_of,
)
from striate.engine.layout import Reorder
from striate.engine.lower.context import Lowering
from striate.engine.lower.dims import in_memory
from striate.errors import UnsupportedError
from striate.graph.ops.labels import OneHot as OneHotOp
from striate.graph.ops.pixels import NormalisePixels
from striate.graph.ops.random import RandomUniform as RandomUniformOp
from striate.graph.ops.shape import Concat, Flip, Slice
from striate.graph.ops.transpose import ShuffleChannels, Transpose
from striate.graph.value import Node
from striate.kernels.grouped import PackGrouped
from striate.kernels.move import CopyStrided
from striate.kernels.onehot import OneHot
from striate.kernels.pack import PackWeights
from striate.kernels.pixels import LookUpPixels
from striate.kernels.random import RandomUniform
from striate.kernels.reorder import Transpose2d
from striate.kernels.winograd_weights import TransformWeights


def lower_reorder(low: Lowering, node: Node, inputs: Sequence[int], outputs: Sequence[int]) -> None:
    """NCHW ↔ NHWC, or weights into their kernel's order."""
    assert isinstance(node.op, Reorder)
    source, target = low.layout(node.inputs[0]), node.op.layout
    shape = node.types[0].shape
    if isinstance(target, PackedWeights) and isinstance(source, Plain):
        _pack(low, target, shape, inputs, outputs)
        return
    if isinstance(target, WinogradWeights) and isinstance(source, Plain):
        _transform_weights(low, target, shape, inputs, outputs)
        return
    if isinstance(target, GroupedWeights) and isinstance(source, Plain):
        co, ci = target.channels(shape)
        taps, total = target.order(shape), shape[2] * shape[3]
        packing = PackGrouped(target.groups, ci, co, taps, total, target.swap)
        label = f"pack {'×'.join(map(str, shape))}"
        low.step(packing, [*inputs, *outputs], (), writes=outputs, label=label)
        return
    n, channels, pixels = shape[0], shape[1], shape[2] * shape[3]
    if isinstance(source, Plain) and isinstance(target, Nhwc):
        spec, plane, label = Transpose2d.to_nhwc(channels), (channels, pixels), "NCHW→NHWC"
    elif isinstance(source, Nhwc) and isinstance(target, Plain):
        spec, plane, label = Transpose2d.to_nchw(channels), (pixels, channels), "NHWC→NCHW"
    else:
        raise UnsupportedError(f"no kernel reorders {source} to {target}")
    low.step(spec, [*inputs, *outputs], (n, *plane), writes=outputs, label=label)


def _pack(
    low: Lowering,
    target: PackedWeights,
    shape: Sequence[int],
    inputs: Sequence[int],
    outputs: Sequence[int],
) -> None:
    co_g, ci_g = shape[0] // target.groups, shape[1]
    spec = PackWeights.for_channels(
        target.block, (shape[2], shape[3]), target.phases, target.swap, co_g, ci_g
    )
    sizes = (target.groups, co_g, ci_g)
    name = "×".join(map(str, shape))
    low.step(spec, [*inputs, *outputs], sizes, writes=outputs, label=f"pack {name}")


def _transform_weights(
    low: Lowering,
    target: WinogradWeights,
    shape: tuple[int, ...],
    inputs: Sequence[int],
    outputs: Sequence[int],
) -> None:
    packed = low.temporary(target.packed.elements(shape))
    _pack(low, target.packed, shape, inputs, [packed])
    co, ci = target.packed.channels(shape)
    block = target.packed.block
    spec = TransformWeights(block, replace(target.filtering, dilation=1))
    low.step(
        spec,
        [packed, *outputs],
        (-(-co // block), ci),
        writes=outputs,
        label=f"transform weights {ci}→{co}",
    )


def _strides(sizes: Sequence[int]) -> list[int]:
    return [math.prod(sizes[i + 1 :]) for i in range(len(sizes))]


def _memory_axis(axis: int, ndim: int, nhwc: bool) -> int:
    """Where a logical axis stands in memory order."""
    return (0, 3, 1, 2)[axis] if nhwc and ndim == 4 else axis


def lower_concat(low: Lowering, node: Node, inputs: Sequence[int], outputs: Sequence[int]) -> None:
    """One strided copy for each input: [outer][run] → the same runs, further apart.

    What was computed where it belongs is not copied.
    """
    assert isinstance(node.op, Concat)
    value = node.outputs()[0]
    layout, ndim = low.layout(value), len(value.shape)
    axis = _memory_axis(node.op.axis, ndim, isinstance(layout, Nhwc))
    whole = in_memory(value.shape, layout, ndim)
    outer, stride = math.prod(whole[:axis]), pitch_of(layout) or math.prod(whole[axis:])
    offset, begin = 0, layout.start if isinstance(layout, NhwcSlice) else 0
    home = _home(low, outputs[0])
    for source, buffer in zip(node.inputs, inputs, strict=True):
        run = math.prod(in_memory(source.shape, layout, ndim)[axis:])
        lies = low.layout(source)
        if lies != NhwcSlice(stride, begin + offset) or _home(low, buffer) != home:
            spec = CopyStrided(2)
            sizes = spec.sizes((outer, run), (pitch_of(lies) or run, 1), (stride, 1), 0, offset)
            low.step(spec, [buffer, outputs[0]], sizes, writes=outputs, label="concat")
        offset += run


def _home(low: Lowering, buffer: int) -> int:
    """The buffer that this is a slice of, or itself."""
    home = low.buffers[buffer].home
    return buffer if home is None else home


def lower_take(low: Lowering, node: Node, inputs: Sequence[int], outputs: Sequence[int]) -> None:
    """Slice and Flip: a copy with other source strides."""
    op, value = node.op, node.outputs()[0]
    layout, ndim = low.layout(value), len(value.shape)
    nhwc = isinstance(layout, Nhwc)
    source = in_memory(node.inputs[0].shape, layout, ndim)
    target = in_memory(value.shape, layout, ndim)
    from_strides, offset = _strides(source), 0
    if isinstance(op, Slice):
        axis = _memory_axis(op.axis, ndim, nhwc)
        offset = op.start * from_strides[axis]
        from_strides[axis] *= op.step
    else:
        assert isinstance(op, Flip)
        for logical in op.axes:
            axis = _memory_axis(logical, ndim, nhwc)
            offset += (source[axis] - 1) * from_strides[axis]
            from_strides[axis] *= -1
    spec = CopyStrided(ndim)
    low.step(
        spec,
        [*inputs, *outputs],
        spec.sizes(target, from_strides, _strides(target), offset),
        writes=outputs,
        label=type(op).__name__.lower(),
    )


def lower_transpose(
    low: Lowering, node: Node, inputs: Sequence[int], outputs: Sequence[int]
) -> None:
    """Two neighbouring runs of axes that change places are matrices; all else is a strided copy."""
    assert isinstance(node.op, Transpose)
    slots, shape = [*inputs, *outputs], node.inputs[0].shape
    sizes, order = _merged_axes(shape, node.op.axes)
    if order in ([1, 0], [0, 2, 1]):
        plane = (1, *sizes) if len(sizes) == 2 else sizes
        low.step(Transpose2d(), slots, plane, writes=outputs, label="transpose")
        return
    spec, strides = CopyStrided(len(order)), _strides(sizes)
    target = [sizes[a] for a in order]
    table = spec.sizes(target, [strides[a] for a in order], _strides(target))
    low.step(spec, slots, table, writes=outputs, label="transpose")


def _merged_axes(shape: Sequence[int], axes: Sequence[int]) -> tuple[list[int], list[int]]:
    """A transpose of fewer axes that moves alike: axes of size 1 go, neighbours that stay so join.

    Gives the sizes in the old order, and their new order.
    """
    runs: list[list[int]] = []
    for axis in axes:
        if shape[axis] == 1:
            continue
        between = range(runs[-1][-1] + 1, axis) if runs else range(0)
        if runs and runs[-1][-1] < axis and all(shape[a] == 1 for a in between):
            runs[-1].append(axis)
        else:
            runs.append([axis])
    runs = runs or [[0]]
    ranked = sorted(runs)
    return [math.prod(shape[a] for a in run) for run in ranked], [ranked.index(r) for r in runs]


def lower_shuffle(low: Lowering, node: Node, inputs: Sequence[int], outputs: Sequence[int]) -> None:
    """In every pixel the matrix (groups, c / groups) is transposed; outside, it has planes."""
    assert isinstance(node.op, ShuffleChannels)
    (n, c, h, w), groups = node.types[0].shape, node.op.groups
    each, slots = c // groups, [*inputs, *outputs]
    if isinstance(low.layout(node.outputs()[0]), Nhwc):
        plane = (n * h * w, groups, each)
        low.step(Transpose2d.to_nhwc(groups), slots, plane, writes=outputs, label="shuffle")
        return
    spec = CopyStrided(4)
    strides = (c * h * w, h * w, each * h * w, 1)
    target = (n, each, groups, h * w)
    low.step(
        spec,
        slots,
        spec.sizes(target, strides, _strides(target)),
        writes=outputs,
        label="shuffle",
    )


def lower_one_hot(low: Lowering, node: Node, inputs: Sequence[int], outputs: Sequence[int]) -> None:
    """Labels → rows of zeros with a one."""
    assert isinstance(node.op, OneHotOp)
    shape = node.inputs[0].shape
    low.step(
        OneHot(),
        [*inputs, *outputs],
        (shape[0], node.op.classes, math.prod(shape[1:])),
        writes=outputs,
        label="one-hot",
    )


def lower_pixels(low: Lowering, node: Node, inputs: Sequence[int], outputs: Sequence[int]) -> None:
    """Bytes → what the table of their channel says; both are NHWC."""
    assert isinstance(node.op, NormalisePixels)
    n, h, w, channels = node.inputs[0].shape
    table = low.table(node.op.levels().ravel().tolist(), "f32")
    low.step(
        LookUpPixels(channels),
        [*inputs, *outputs, table],
        (n * h * w,),
        writes=outputs,
        label="normalise pixels",
    )


def lower_random(low: Lowering, node: Node, inputs: Sequence[int], outputs: Sequence[int]) -> None:
    """Numbers that depend on the key and the logical place only."""
    assert isinstance(node.op, RandomUniformOp)
    shape = node.types[0].shape
    sizes = shape if len(shape) == 4 else (1, 1, 1, math.prod(shape))
    low.step(RandomUniform(), [*inputs, *outputs], sizes, writes=outputs, label="random numbers")
