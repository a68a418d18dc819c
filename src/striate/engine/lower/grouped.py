"""Convolutions in small groups, of one channel (depthwise) or a few."""

from __future__ import annotations

from collections.abc import Sequence

from striate.arith.conv import ConvShape
from striate.arith.layout import GroupedWeights, groups_of_a_vector
from striate.engine.lower.context import GOOD_BALANCE, Lowering, balanced
from striate.kernels.epilogue import Epilogue
from striate.kernels.grouped import Grouped
from striate.kernels.grouped_gradient import GroupedGradient
from striate.kernels.reorder import Transpose2d

MOST_CHUNKS = 8
ROWS_OF_A_CHUNK = 32


def grouped(
    low: Lowering,
    slots: list[int],
    shape: ConvShape,
    epilogue: Epilogue,
    weights: GroupedWeights,
    *,
    forward: bool,
) -> None:
    """The forward pass, or the input gradient: one step for each phase."""
    groups, kernel = shape.groups, (shape.kh, shape.kw)
    ci, co = shape.ci // groups, shape.co // groups
    image, out = (shape.h, shape.w), (shape.out_h, shape.out_w)
    if forward:
        spec = Grouped(groups, ci, co, kernel, shape.stride, shape.dilation, (1, 1), epilogue)
        padding = (shape.padding[0][0], shape.padding[1][0])
        _step(low, slots, spec, shape.n, (*image, *out, *padding, *out, 0, 0, 0))
        return
    offset = 0
    sizes = weights.phase_elements((shape.co, ci, *kernel))
    for phase, elements in zip(shape.phases(), sizes, strict=True):
        taps = (phase.kh_taps, phase.kw_taps) if phase.taps else (0, 0)
        spec = Grouped(groups, co, ci, taps, (1, 1), phase.dilation, phase.out_stride, epilogue)
        if all(phase.out_size):
            where = (*phase.out_size, *phase.padding_begin, *image, *phase.out_offset, offset)
            _step(low, slots, spec, shape.n, (*out, *where))
        offset += elements


def _step(low: Lowering, slots: list[int], spec: Grouped, n: int, where: tuple[int, ...]) -> None:
    shares = _shares(low, n * where[2], spec.groups, spec.co)
    label = f"{_name(spec.groups, spec.ci, spec.co)} {spec.kernel[0]}×{spec.kernel[1]}"
    low.step(spec, slots, (n, *where, shares), writes=[slots[2]], label=label)


def _name(groups: int, ci: int, co: int) -> str:
    return f"depthwise {groups}" if ci == co == 1 else f"grouped {groups}·({ci}→{co})"


def _shares(low: Lowering, units: int, groups: int, co: int) -> int:
    """Shares of the vectors that keep all threads busy."""
    vectors = -(-groups // groups_of_a_vector(co, low.machine.lanes))
    shares = (s for s in range(1, vectors + 1) if balanced(units * s, low.threads) >= GOOD_BALANCE)
    return next(shares, vectors)


def grouped_gradient(
    low: Lowering, inputs: Sequence[int], shape: ConvShape
) -> tuple[int, int, int]:
    """(sums of chunks [chunk][input channel][tap][output channel], chunks, elements of a chunk)."""
    groups, ci, co = shape.groups, shape.ci // shape.groups, shape.co // shape.groups
    row_bytes = 4 * max(1, shape.w) * shape.ci * shape.stride[0]
    row_block = min(max(1, low.machine.l2_bytes // 4 // row_bytes), shape.out_h)
    blocks = shape.n * -(-shape.out_h // row_block)
    wanted = max(1, min(blocks, MOST_CHUNKS, shape.n * shape.out_h // ROWS_OF_A_CHUNK))
    chunk = max(1, -(-blocks // wanted))
    chunks = max(1, -(-blocks // chunk))
    elements = shape.kh * shape.kw * ci * shape.co
    partial = low.temporary(chunks * elements)
    sizes = (
        *(shape.n, shape.h, shape.w, shape.out_h, shape.out_w),
        *(shape.padding[0][0], shape.padding[1][0], row_block, chunk),
        _shares(low, chunks, groups, co),
    )
    spec = GroupedGradient(groups, ci, co, (shape.kh, shape.kw), shape.stride, shape.dilation)
    label = f"{_name(groups, ci, co)} weight gradient {shape.kh}×{shape.kw}"
    low.step(spec, [*inputs, partial], sizes, writes=[partial], label=label)
    return partial, chunks, elements


def to_oihw(low: Lowering, sums: int, output: int, shape: ConvShape) -> None:
    """[input channel][tap][output channel] → (co, ci / groups, kh, kw)."""
    sizes = (1, shape.ci // shape.groups * shape.kh * shape.kw, shape.co)
    spec = Transpose2d.to_nchw(shape.co)
    low.step(spec, [sums, output], sizes, writes=[output], label="unpack to OIHW")
