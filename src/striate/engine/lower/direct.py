"""Direct convolutions: forward, and the input gradient phase by phase."""

from __future__ import annotations

from striate.arith.conv import ConvShape
from striate.engine.lower.context import GOOD_BALANCE, POOLED, SCRATCH_FILL, Lowering, balanced
from striate.kernels.direct import DirectConv
from striate.kernels.epilogue import Epilogue
from striate.kernels.gemm import ALIASING_BYTES


def forward(low: Lowering, slots: list[int], shape: ConvShape, epilogue: Epilogue) -> None:
    """The forward pass."""
    co, ci = shape.co // shape.groups, shape.ci // shape.groups
    spec = DirectConv(
        ci,
        co,
        shape.groups,
        (shape.kh, shape.kw),
        shape.stride,
        shape.dilation,
        (1, 1),
        epilogue,
        _in_place(shape, shape.ci),
    )
    out = (shape.out_h, shape.out_w)
    windows = (out[0] // 2, out[1] // 2)
    _direct(
        low,
        slots,
        spec,
        shape.n,
        (shape.h, shape.w),
        windows if epilogue.pool else out,
        (shape.padding[0][0], shape.padding[1][0]),
        out,
        (0, 0),
        0,
    )


def input_gradient(low: Lowering, slots: list[int], shape: ConvShape, epilogue: Epilogue) -> None:
    """One direct convolution for each phase: the rows and columns that share their taps."""
    co, ci = shape.co // shape.groups, shape.ci // shape.groups
    block = low.machine.block(ci)
    offset = 0
    for phase in shape.phases():
        taps = (phase.kh_taps, phase.kw_taps)
        spec = DirectConv(
            co,
            ci,
            shape.groups,
            taps if all(taps) else (0, 0),
            (1, 1),
            phase.dilation,
            phase.out_stride,
            epilogue,
            _in_place(shape, shape.co) and all(taps),
        )
        if all(phase.out_size):
            _direct(
                low,
                slots,
                spec,
                shape.n,
                (shape.out_h, shape.out_w),
                phase.out_size,
                phase.padding_begin,
                (shape.h, shape.w),
                phase.out_offset,
                offset,
            )
        offset += shape.groups * -(-ci // block) * block * len(phase.taps) * co


def _in_place(shape: ConvShape, channels: int) -> bool:
    """Whether groups read their inputs where they lie, in pixels of so many channels.

    Pixels that meet in few sets of L1 are better copied, as in `Gemm`.
    """
    bare = (shape.kh, shape.kw) == (1, 1) and shape.padding == ((0, 0), (0, 0))
    return bare and shape.groups > 1 and channels * 4 % ALIASING_BYTES != 0


def _direct(
    low: Lowering,
    slots: list[int],
    spec: DirectConv,
    n: int,
    image: tuple[int, int],
    rows: tuple[int, int],
    padding: tuple[int, int],
    whole: tuple[int, int],
    offset: tuple[int, int],
    weights: int,
) -> None:
    """`image`: size of the input; `rows`: size of what is computed; `whole`: of the output.

    With pooling `rows` counts windows, and `whole` is the size of what is pooled.
    """
    pixels = 2 if spec.epilogue.pool else 1

    def reach(count: int, axis: int) -> int:
        steps = (count * pixels - 1) * spec.stride[axis]
        return max(0, steps + (spec.kernel[axis] - 1) * spec.dilation[axis] + 1)

    def scratch_of(block: int) -> int:
        return reach(block, 0) * reach(rows[1], 1) * spec.ci + SCRATCH_FILL

    blocks = -(-spec.co // low.machine.block(spec.co))
    row_block, chunks = choose_rows(
        n * spec.groups,
        rows[0],
        blocks,
        low.threads,
        lambda block: scratch_of(block) * 4 <= low.machine.l2_bytes // 4,
    )
    scratch = scratch_of(row_block)
    sizes = (n, *image, *rows, *padding, *whole, *offset, row_block, chunks, weights, scratch)
    kernel = "×".join(map(str, spec.kernel))
    label = f"conv {kernel} {spec.ci}→{spec.co}" + (f" groups={spec.groups}" * (spec.groups > 1))
    label += POOLED * spec.epilogue.pool
    low.step(spec, slots, sizes, writes=[slots[2]], label=label, scratch=scratch)


def choose_rows(images: int, rows: int, blocks: int, threads: int, fits: object) -> tuple[int, int]:
    """(output rows of a unit, chunks of output blocks): as many rows as fit, work for everyone."""
    assert callable(fits)
    most = next((r for r in range(rows, 0, -1) if fits(r)), 1)
    best, best_score = (most, 1), -1.0
    for chunks in (c for c in (1, 2, 4, 8, 16, 32) if c <= blocks):
        for split in range(-(-rows // most), -(-rows // most) + 2 * threads):
            row_block = -(-rows // split)
            score = balanced(images * -(-rows // row_block) * chunks, threads)
            if score >= GOOD_BALANCE:
                return row_block, chunks
            if score > best_score:
                best, best_score = (row_block, chunks), score
            if row_block == 1:
                break
    return best
