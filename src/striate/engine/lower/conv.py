"""Convolutions and dense layers: which kernel, which blocking."""

from __future__ import annotations

from collections.abc import Sequence

from striate.arith.conv import ConvShape
from striate.arith.layout import DepthwiseWeights, WinogradWeights
from striate.arith.machine import Machine
from striate.arith.winograd import FMAS_A_BYTE, TRANSFORM
from striate.engine.layout import allows_winograd, conv_shape
from striate.engine.lower.context import Lowering, balanced
from striate.engine.lower.depthwise import depthwise, depthwise_gradient, to_oihw
from striate.engine.lower.eltwise import CHUNK_SUM, add_reduction
from striate.engine.program import SCRATCH
from striate.graph.ops.conv import Conv2d, ConvInputGrad, ConvWeightGrad
from striate.graph.ops.fused import FusedConv
from striate.graph.value import Node
from striate.kernels.direct import DirectConv
from striate.kernels.epilogue import NONE, Epilogue
from striate.kernels.gemm import Gemm
from striate.kernels.pack import UnpackHwio
from striate.kernels.patches import points
from striate.kernels.wgrad import WeightGrad
from striate.kernels.winograd import Winograd
from striate.kernels.winograd import scratch_elements as winograd_scratch
from striate.kernels.winograd_gradient import POINTS, TILE, KernelGradient, WinogradGradient
from striate.kernels.winograd_gradient import scratch_elements as gradient_scratch

# Kernels may read nothing past a row, but vectors are stored whole into scratch rows.
SCRATCH_FILL = 64
GOOD_BALANCE = 0.9
MOST_CHUNKS = 8
PARTIAL_BYTES = 4 * 2**20
PIXELS_OF_A_BLOCK = 256
PIXELS_OF_A_CHUNK = 512
TILES_OF_A_BLOCK = 64
# A core's share of L3 in sizes of its L2, and the largest block of Winograd tiles.
L3_OF_L2 = 8
MOST_ROWS_OF_TILES = 4


def is_matrix_product(shape: ConvShape) -> bool:
    """Whether a convolution is a product of a pixel matrix with a weight matrix."""
    return (
        (shape.kh, shape.kw) == (1, 1)
        and shape.stride == (1, 1)
        and shape.padding == ((0, 0), (0, 0))
        and shape.groups == 1
    )


def lower_conv(low: Lowering, node: Node, inputs: Sequence[int], outputs: Sequence[int]) -> None:
    """Conv2d and ConvInputGrad, bare or with an epilogue."""
    op, epilogue = node.op, NONE
    if isinstance(op, FusedConv):
        epilogue, op = Epilogue(op.expr, op.operands), op.conv
    assert isinstance(op, (Conv2d, ConvInputGrad))
    shape = conv_shape(op, node)
    forward = isinstance(op, Conv2d)
    slots = [inputs[0], inputs[1], outputs[0], SCRATCH, *inputs[2:]]
    weights = low.layout(node.inputs[1])
    if isinstance(weights, WinogradWeights):
        _winograd(low, slots, shape, epilogue, weights.tile, forward=forward)
    elif isinstance(weights, DepthwiseWeights):
        depthwise(low, slots, shape, epilogue, forward=forward)
    elif is_matrix_product(shape):
        m = shape.n * shape.h * shape.w
        ci, co = (shape.ci, shape.co) if forward else (shape.co, shape.ci)
        _gemm(low, slots, m, ci, co, epilogue)
    elif forward:
        _forward(low, slots, shape, epilogue)
    else:
        _input_gradient(low, slots, shape, epilogue)


def _gemm(low: Lowering, slots: list[int], m: int, ci: int, co: int, epilogue: Epilogue) -> None:
    spec = Gemm(ci, co, epilogue)
    panel, chunks = choose_panel(m, -(-co // low.machine.block(co)), low.machine.rows, low.threads)
    scratch = panel * spec.pitch + SCRATCH_FILL if spec.packed else 0
    low.step(
        spec,
        slots,
        (m, panel, chunks, 0, scratch),
        writes=[slots[2]],
        label=f"gemm {ci}→{co}",
        scratch=scratch,
    )


def choose_panel(m: int, blocks: int, rows: int, threads: int) -> tuple[int, int]:
    """(rows of a panel, chunks of output blocks): large panels, but work for every thread."""
    best, best_score = (rows, 1), -1.0
    for tiles in (4, 2, 1):
        panels = max(1, -(-m // (tiles * rows)))
        for chunks in (c for c in (1, 2, 4, 8, 16, 32) if c <= blocks):
            score = balanced(panels * chunks, threads)
            if score > best_score:
                best, best_score = (max(1, -(-m // panels)), chunks), score
            if score >= GOOD_BALANCE:
                return best
    return best


def _forward(low: Lowering, slots: list[int], shape: ConvShape, epilogue: Epilogue) -> None:
    co, ci = shape.co // shape.groups, shape.ci // shape.groups
    spec = DirectConv(
        ci, co, shape.groups, (shape.kh, shape.kw), shape.stride, shape.dilation, (1, 1), epilogue
    )
    out = (shape.out_h, shape.out_w)
    _direct(
        low,
        slots,
        spec,
        shape.n,
        (shape.h, shape.w),
        out,
        (shape.padding[0][0], shape.padding[1][0]),
        out,
        (0, 0),
        0,
    )


def _input_gradient(low: Lowering, slots: list[int], shape: ConvShape, epilogue: Epilogue) -> None:
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
    """`image`: size of the input; `rows`: size of what is computed; `whole`: of the output."""
    width = (rows[1] - 1) * spec.stride[1] + (spec.kernel[1] - 1) * spec.dilation[1] + 1

    def scratch_of(block: int) -> int:
        height = (block - 1) * spec.stride[0] + (spec.kernel[0] - 1) * spec.dilation[0] + 1
        return max(0, height) * max(0, width) * spec.ci + SCRATCH_FILL

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
    low.step(spec, slots, sizes, writes=[slots[2]], label=label, scratch=scratch)


def _winograd(
    low: Lowering,
    slots: list[int],
    shape: ConvShape,
    epilogue: Epilogue,
    tile: int,
    *,
    forward: bool,
) -> None:
    """The input gradient is the convolution of dy with the turned kernels."""
    ci, co, image, out = shape.ci, shape.co, (shape.h, shape.w), (shape.out_h, shape.out_w)
    padding = (shape.padding[0][0], shape.padding[1][0])
    if not forward:
        ci, co, image, out = co, ci, out, image
        padding = (2 - padding[0], 2 - padding[1])
    tiles = shape.n * -(-out[0] // tile) * -(-out[1] // tile)
    block, chunks = choose_tiles(tiles, ci, co, tile, low.machine, low.threads)
    scratch = winograd_scratch(ci, co, tile, block, low.machine)
    spec = Winograd(ci, co, tile, epilogue)
    sizes = (shape.n, *image, *out, *padding, block, chunks, scratch)
    label = f"winograd F({tile}×{tile}) {ci}→{co}"
    low.step(spec, slots, sizes, writes=[slots[2]], label=label, scratch=scratch)


def choose_tiles(
    tiles: int, ci: int, co: int, tile: int, machine: Machine, threads: int
) -> tuple[int, int]:
    """(tiles of a block, chunks of output blocks): those that cost the busiest thread least.

    A block costs its products and transforms, and, where L3 does not hold the weights, fetching
    them; each chunk of output blocks transforms the patches again. Blocks whose V and M fit half
    of L2 come first: larger ones must gain a twentieth.
    """
    rows, blocks, p = machine.rows, -(-co // machine.block(co)), points(tile)
    weights = 4 * p * ci * co
    fetched = FMAS_A_BYTE * weights if weights > L3_OF_L2 * machine.l2_bytes else 0

    def cost(block: int, chunks: int) -> float:
        whole = max(1, -(-tiles // block))
        even = -(-tiles // whole)
        work = p * even * (ci * co / chunks + TRANSFORM * (ci + co / chunks))
        large = 4 * winograd_scratch(ci, co, tile, block, machine) > machine.l2_bytes // 2
        time = -(-whole * chunks // threads) * (work + fetched / chunks)
        return time * (1.05 if large and block > rows else 1.0)

    counts = range(min(MOST_ROWS_OF_TILES, -(-max(1, tiles) // rows)), 0, -1)
    ways = [(rows * t, chunks) for chunks in (1, 2, 4, 8, 16) if chunks <= blocks for t in counts]
    return min(ways, key=lambda way: cost(*way))


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


def lower_weight_gradient(
    low: Lowering, node: Node, inputs: Sequence[int], outputs: Sequence[int]
) -> None:
    """Sums in chunks that depend on the shape only, added in order, then OIHW."""
    assert isinstance(node.op, ConvWeightGrad)
    shape = conv_shape(node.op, node)
    if shape.is_depthwise:
        sums = _sum_chunks(low, *depthwise_gradient(low, inputs, shape))
        to_oihw(low, sums, outputs[0], shape)
        return
    co, ci = shape.co // shape.groups, shape.ci // shape.groups
    # A tile of 4×4 takes as many products as 2×2 outputs do directly.
    if low.algorithm != "direct" and allows_winograd(shape) and shape.out_h * shape.out_w > 4:
        hwio = _winograd_gradient(low, inputs, shape)
    else:
        hwio = _direct_gradient(low, inputs, shape, ci, co)
    unpack = UnpackHwio((shape.kh, shape.kw), shape.groups, co, ci)
    low.step(unpack, [hwio, outputs[0]], (), writes=[outputs[0]], label="unpack to OIHW")


def choose_chunks(blocks: int, elements: int, most: int) -> int:
    """Blocks of a chunk: up to `most` chunks, as long as their sums stay small together."""
    wanted = max(1, min(blocks, MOST_CHUNKS, PARTIAL_BYTES // (4 * elements), most))
    return max(1, -(-blocks // wanted))


def _shares(low: Lowering, units: int, co: int) -> int:
    """Shares of the output blocks that keep all threads busy."""
    blocks = -(-co // low.machine.block(co))
    shares = (c for c in range(1, blocks + 1) if balanced(units * c, low.threads) >= GOOD_BALANCE)
    return next(shares, blocks)


def _sum_chunks(low: Lowering, partial: int, chunks: int, elements: int) -> int:
    if chunks == 1:
        low.prepare(CHUNK_SUM)
        return partial
    summed = low.temporary(elements)
    add_reduction(low, partial, summed, chunks, elements)
    return summed


def _winograd_gradient(low: Lowering, inputs: Sequence[int], shape: ConvShape) -> int:
    ci, co = shape.ci, shape.co
    tiles = shape.n * -(-shape.out_h // TILE) * -(-shape.out_w // TILE)
    blocks, elements = -(-tiles // TILES_OF_A_BLOCK), POINTS * ci * co
    chunk = choose_chunks(blocks, elements, blocks)
    chunks = -(-blocks // chunk)
    scratch = gradient_scratch(ci, co, TILES_OF_A_BLOCK, low.machine)
    partial = low.temporary(chunks * elements)
    sizes = (
        *(shape.n, shape.h, shape.w, shape.out_h, shape.out_w),
        *(shape.padding[0][0], shape.padding[1][0]),
        *(TILES_OF_A_BLOCK, chunk, _shares(low, chunks, co), scratch),
    )
    label = f"winograd weight gradient 3×3 {ci}→{co}"
    slots = [*inputs, partial, SCRATCH]
    low.step(WinogradGradient(ci, co), slots, sizes, writes=[partial], label=label, scratch=scratch)
    summed = _sum_chunks(low, partial, chunks, elements)
    hwio = low.temporary(shape.kh * shape.kw * ci * co)
    low.step(KernelGradient(ci, co), [summed, hwio], (), writes=[hwio], label="transform gradient")
    return hwio


def _direct_gradient(
    low: Lowering, inputs: Sequence[int], shape: ConvShape, ci: int, co: int
) -> int:
    kernel = (shape.kh, shape.kw)
    bordered = shape.groups > 1 or any(any(side) for side in shape.padding)
    spec = WeightGrad(ci, co, shape.groups, kernel, shape.stride, shape.dilation, bordered)
    elements = shape.groups * shape.kh * shape.kw * ci * co
    # Gradients larger than L2 are read and written once for each block of pixels: larger blocks.
    large = not bordered or 4 * elements > low.machine.l2_bytes
    limit = low.machine.l2_bytes if large else low.machine.l2_bytes // 4
    images, row_block = _pixel_block(shape, ci, limit)
    blocks = -(-shape.n // images) * -(-shape.out_h // row_block)
    pixels = shape.n * shape.out_h * shape.out_w
    chunk = choose_chunks(blocks, elements, pixels // PIXELS_OF_A_CHUNK)
    chunks = -(-blocks // chunk)
    height, width = _window(shape, row_block)
    scratch = images * height * width * ci + SCRATCH_FILL if bordered else 0
    partial = low.temporary(chunks * elements)
    sizes = (
        *(shape.n, shape.h, shape.w, shape.out_h, shape.out_w),
        *(shape.padding[0][0], shape.padding[1][0]),
        *(images, row_block, chunk, _shares(low, chunks * shape.groups, co), scratch),
    )
    label = f"weight gradient {shape.kh}×{shape.kw} {ci}→{co}"
    slots = [*inputs, partial, SCRATCH]
    low.step(spec, slots, sizes, writes=[partial], label=label, scratch=scratch)
    return _sum_chunks(low, partial, chunks, elements)


def _window(shape: ConvShape, rows: int) -> tuple[int, int]:
    height = (rows - 1) * shape.stride[0] + (shape.kh - 1) * shape.dilation[0] + 1
    width = (shape.out_w - 1) * shape.stride[1] + (shape.kw - 1) * shape.dilation[1] + 1
    return height, width


def _pixel_block(shape: ConvShape, ci: int, limit: int) -> tuple[int, int]:
    """(images, rows of output) whose bordered inputs fit `limit` bytes together."""

    def size(rows: int) -> int:
        height, width = _window(shape, rows)
        return height * width * ci * 4

    whole = size(shape.out_h)
    if whole <= limit:
        pixels = shape.out_h * shape.out_w
        images = min(shape.n, -(-PIXELS_OF_A_BLOCK // pixels), limit // whole)
        return _even(shape.n, max(1, images)), shape.out_h
    rows = next((r for r in range(shape.out_h, 0, -1) if size(r) <= limit), 1)
    return 1, _even(shape.out_h, rows)


def _even(total: int, most: int) -> int:
    """Size of the blocks, at least 1, when `total` is cut into as few as possible, all alike."""
    return max(1, -(-total // max(1, -(-total // most))))
