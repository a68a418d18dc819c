"""Depthwise convolutions: one channel in and out a group."""

from __future__ import annotations

from collections.abc import Sequence

from striate.arith.conv import ConvShape
from striate.engine.lower.context import GOOD_BALANCE, Lowering, balanced
from striate.kernels.depthwise import Depthwise
from striate.kernels.depthwise_gradient import DepthwiseGradient
from striate.kernels.epilogue import Epilogue
from striate.kernels.reorder import Transpose2d

MOST_CHUNKS = 8
ROWS_OF_A_CHUNK = 32


def depthwise(
    low: Lowering, slots: list[int], shape: ConvShape, epilogue: Epilogue, *, forward: bool
) -> None:
    """The forward pass, or the input gradient: one step for each phase."""
    channels, kernel = shape.ci, (shape.kh, shape.kw)
    image, out = (shape.h, shape.w), (shape.out_h, shape.out_w)
    if forward:
        spec = Depthwise(channels, kernel, shape.stride, shape.dilation, (1, 1), epilogue)
        padding = (shape.padding[0][0], shape.padding[1][0])
        _step(low, slots, spec, (shape.n, *image, *out, *padding, *out, 0, 0, 0))
        return
    offset = 0
    for phase in shape.phases():
        taps = (phase.kh_taps, phase.kw_taps) if phase.taps else (0, 0)
        spec = Depthwise(channels, taps, (1, 1), phase.dilation, phase.out_stride, epilogue)
        if all(phase.out_size):
            where = (*phase.out_size, *phase.padding_begin, *image, *phase.out_offset, offset)
            _step(low, slots, spec, (shape.n, *out, *where))
        offset += channels * len(phase.taps)


def _step(low: Lowering, slots: list[int], spec: Depthwise, sizes: tuple[int, ...]) -> None:
    label = f"depthwise {spec.kernel[0]}×{spec.kernel[1]} {spec.channels}"
    low.step(spec, slots, sizes, writes=[slots[2]], label=label)


def depthwise_gradient(
    low: Lowering, inputs: Sequence[int], shape: ConvShape
) -> tuple[int, int, int]:
    """(sums of chunks [chunk][tap][channel], chunks, elements of a chunk)."""
    rows = max(1, low.machine.l2_bytes // 4 // (4 * max(1, shape.w) * shape.ci * shape.stride[0]))
    row_block = min(rows, shape.out_h)
    blocks = shape.n * -(-shape.out_h // row_block)
    wanted = max(1, min(blocks, MOST_CHUNKS, shape.n * shape.out_h // ROWS_OF_A_CHUNK))
    chunk = max(1, -(-blocks // wanted))
    chunks = max(1, -(-blocks // chunk))
    vectors = -(-shape.ci // low.machine.lanes)
    shares = (c for c in range(1, vectors + 1) if balanced(chunks * c, low.threads) >= GOOD_BALANCE)
    kernel, elements = (shape.kh, shape.kw), shape.kh * shape.kw * shape.ci
    partial = low.temporary(chunks * elements)
    sizes = (
        *(shape.n, shape.h, shape.w, shape.out_h, shape.out_w),
        *(shape.padding[0][0], shape.padding[1][0], row_block, chunk, next(shares, vectors)),
    )
    spec = DepthwiseGradient(shape.ci, kernel, shape.stride, shape.dilation)
    label = f"depthwise weight gradient {shape.kh}×{shape.kw} {shape.ci}"
    low.step(spec, [*inputs, partial], sizes, writes=[partial], label=label)
    return partial, chunks, elements


def to_oihw(low: Lowering, sums: int, output: int, shape: ConvShape) -> None:
    """[tap][channel] → (channel, 1, kh, kw)."""
    sizes = (1, shape.kh * shape.kw, shape.ci)
    spec = Transpose2d.to_nchw(shape.ci)
    low.step(spec, [sums, output], sizes, writes=[output], label="unpack to OIHW")
