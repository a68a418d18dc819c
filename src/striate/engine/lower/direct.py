"""Direct convolutions: forward, and the input gradient phase by phase."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from striate.arith.conv import ConvShape
from striate.engine.lower.context import GOOD_BALANCE, POOLED, SCRATCH_FILL, Lowering
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
    first: int,
) -> None:
    """`image`: size of the input; `rows`: size of what is computed; `whole`: of the output.

    `first` is where in the weights those of this convolution begin. With pooling `rows` counts
    windows, and `whole` is the size of what is pooled.
    """
    pixels = 2 if spec.epilogue.pool else 1

    def reach(count: int, axis: int) -> int:
        steps = (count * pixels - 1) * spec.stride[axis]
        return max(0, steps + (spec.kernel[axis] - 1) * spec.dilation[axis] + 1)

    def copied(block: int) -> int:
        """Elements of the bordered copy for so many rows of results."""
        return reach(block, 0) * reach(rows[1], 1) * spec.ci + SCRATCH_FILL

    block = low.machine.block(spec.co)
    blocks = -(-spec.co // block)
    weights = spec.groups * blocks * block * spec.ci * spec.kernel[0] * spec.kernel[1]
    room = _room(4 * weights // (spec.groups * blocks), low.machine.l2_bytes)
    row_block, chunks = choose_rows(
        n * spec.groups,
        rows[0],
        blocks,
        low.threads,
        lambda block: 4 * copied(block) <= room,
        blocks_first=weights > n * image[0] * image[1] * spec.ci * spec.groups,
    )
    scratch = 0 if spec.cuts else copied(row_block)
    sizes = (n, *image, *rows, *padding, *whole, *offset, row_block, chunks, first, scratch)
    kernel = "×".join(map(str, spec.kernel))
    label = f"conv {kernel} {spec.ci}→{spec.co}" + (f" groups={spec.groups}" * (spec.groups > 1))
    label += POOLED * spec.epilogue.pool
    low.step(spec, slots, sizes, writes=[slots[2]], label=label, scratch=scratch)


def _room(weights: int, l2: int) -> int:
    """Bytes that the inputs of a unit may take, from those of the weights of an output block.

    A quarter of L2, so that the weights stay there while all rows meet them. Where these fill
    more than half of it by themselves, inputs come from further away whatever their number, and
    units of more rows read the weights of all blocks less often.
    """
    return l2 // 4 if weights <= l2 // 2 else max(l2 // 4, weights)


def choose_rows(
    images: int,
    rows: int,
    blocks: int,
    threads: int,
    fits: Callable[[int], bool],
    *,
    blocks_first: bool = False,
) -> tuple[int, int]:
    """(output rows of a unit, chunks of output blocks): as many rows as fit, work for everyone.

    Rows are split before output blocks; with `blocks_first`, where weights are more to read than
    inputs, output blocks before rows.
    """
    most = next((r for r in range(rows, 0, -1) if fits(r)), 1)
    splits = range(-(-rows // most), min(rows, -(-rows // most) + 2 * threads - 1) + 1)
    row_blocks = list(dict.fromkeys(-(-rows // split) for split in splits))
    counts = [c for c in (1, 2, 4, 8, 16, 32) if c <= blocks]
    ways = [(r, c) for c in counts for r in row_blocks]
    if blocks_first:
        ways = [(r, c) for r in row_blocks for c in counts]
    scores = [dealt(images, rows, blocks, *way, threads) for way in ways]
    good = (way for way, score in zip(ways, scores, strict=True) if score >= GOOD_BALANCE)
    return next(good, ways[scores.index(max(scores))])


def dealt(images: int, rows: int, blocks: int, row_block: int, chunks: int, threads: int) -> float:
    """Share of the threads' time that is used; a unit takes as long as it has rows · blocks.

    Units lie as the kernel counts them, and each thread takes a contiguous share of their number.
    An empty batch counts as well dealt out.
    """
    row_blocks = -(-rows // row_block)
    units = images * row_blocks * chunks

    def before(unit: int) -> int:
        """Work of all units before this one."""
        rest, chunk = divmod(unit, chunks)
        image, begun = rest // row_blocks, rest % row_blocks * row_block
        here = min(row_block, rows - begun) * (blocks * chunk // chunks)
        return (image * rows + begun) * blocks + here

    ends = [before(units * thread // threads) for thread in range(threads + 1)]
    longest = max(end - start for start, end in pairwise(ends))
    return ends[-1] / (threads * longest) if units else 1.0
