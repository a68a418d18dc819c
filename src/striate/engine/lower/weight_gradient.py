"""Weight gradients: which kernel, which chunks and blocks."""

from __future__ import annotations

from collections.abc import Sequence

from striate.arith.conv import ConvShape
from striate.engine.layout import conv_shape
from striate.engine.lower.context import GOOD_BALANCE, SCRATCH_FILL, Lowering, balanced
from striate.engine.lower.eltwise import CHUNK_SUM, add_reduction
from striate.engine.lower.grouped import grouped_gradient, to_oihw
from striate.engine.program import SCRATCH
from striate.graph.ops.conv import ConvWeightGrad
from striate.graph.value import Node
from striate.kernels.pack import UnpackHwio
from striate.kernels.wgrad import WeightGrad
from striate.kernels.winograd_gradient import POINTS, TILE, KernelGradient, WinogradGradient
from striate.kernels.winograd_gradient import scratch_elements as gradient_scratch

MOST_CHUNKS = 8
PARTIAL_BYTES = 4 * 2**20
PIXELS_OF_A_BLOCK = 256
PIXELS_OF_A_CHUNK = 512
TILES_OF_A_BLOCK = 64


def lower_weight_gradient(
    low: Lowering, node: Node, inputs: Sequence[int], outputs: Sequence[int]
) -> None:
    """Sums in chunks that depend on the shape only, added in order, then OIHW."""
    assert isinstance(node.op, ConvWeightGrad)
    shape = conv_shape(node.op, node)
    if shape.has_small_groups(low.machine.lanes):
        sums = _sum_chunks(low, *grouped_gradient(low, inputs, shape))
        to_oihw(low, sums, outputs[0], shape)
        return
    co, ci = shape.co // shape.groups, shape.ci // shape.groups
    if low.tile(node):
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
