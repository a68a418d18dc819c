"""Winograd's method: the blocks of tiles that cost the busiest thread least."""

from __future__ import annotations

from striate.arith.conv import ConvShape
from striate.arith.cook_toom import Filtering
from striate.arith.machine import Machine
from striate.arith.winograd import (
    FMAS_A_BYTE,
    L3_OF_L2,
    MOST_ROWS_OF_TILES,
    TRANSFORM,
    TRANSFORM_WEIGHTS,
)
from striate.engine.lower.context import POOLED, Lowering
from striate.kernels.epilogue import Epilogue
from striate.kernels.patches import Sums, step_of
from striate.kernels.winograd import Winograd
from striate.kernels.winograd import scratch_elements as winograd_scratch
from striate.kernels.winograd_products import room_for_weights


def winograd(
    low: Lowering,
    slots: list[int],
    shape: ConvShape,
    epilogue: Epilogue,
    filtering: Filtering,
    *,
    forward: bool,
    packed: bool,
) -> None:
    """The input gradient is the convolution of dy with the turned kernels."""
    ci, co, image, out = shape.ci, shape.co, (shape.h, shape.w), (shape.out_h, shape.out_w)
    padding = (shape.padding[0][0], shape.padding[1][0])
    if not forward:
        ci, co, image, out = co, ci, out, image
        reach = filtering.dilation * (filtering.kernel - 1)
        padding = (reach - padding[0], reach - padding[1])
    used = [size - size % 2 if epilogue.pool else size for size in out]
    tiles = shape.n * filtering.across(used[0]) * filtering.across(used[1])
    block, chunks = choose_tiles(tiles, ci, co, filtering, low.machine, low.threads, packed)
    group = choose_group(
        block, -(-co // low.machine.block(co)) // chunks, ci, co, filtering, low.machine, packed
    )
    scratch = winograd_scratch(ci, co, filtering, block, low.machine, packed=packed, group=group)
    spec = Winograd(ci, co, filtering, epilogue)
    sizes = (shape.n, *image, *out, *padding, block, chunks, scratch, int(packed), group)
    label = f"winograd {filtering} {ci}→{co}" + POOLED * epilogue.pool
    low.step(spec, slots, sizes, writes=[slots[2]], label=label, scratch=scratch)


def choose_group(
    tiles: int,
    blocks: int,
    ci: int,
    co: int,
    filtering: Filtering,
    machine: Machine,
    packed: bool,
) -> int:
    """Output blocks whose M stays in L2 with V of a partial sum, which is read once for them.

    Given weights are read in their order, so that each output block is computed by itself.
    """
    sums = Sums.of(ci, filtering)
    if not packed or sums.count == 1:
        return 1
    width = machine.block(co)
    v = sums.room(tiles, machine.lanes, filtering) // sums.count
    room = machine.l2_bytes // 4 - v - room_for_weights(ci, width, filtering)
    return max(1, min(blocks, room // (filtering.points * step_of(tiles, width))))


def choose_tiles(
    tiles: int,
    ci: int,
    co: int,
    filtering: Filtering,
    machine: Machine,
    threads: int,
    packed: bool = False,
) -> tuple[int, int]:
    """(tiles of a block, chunks of output blocks): those that cost the busiest thread least.

    A block costs its products and transforms, and, where L3 does not hold the weights, fetching
    them, of which the products hide about half. Each chunk of output blocks transforms the
    patches again. V and M that L2 does not hold cost a tenth for each size of L2 beyond. `packed`
    weights are transformed for each block.
    """
    rows, blocks, p = machine.rows, -(-co // machine.block(co)), filtering.points
    depth = filtering.phases * ci
    weights = 4 * (filtering.kernel**2 if packed else p) * depth * co
    transform = TRANSFORM_WEIGHTS * p * depth * co if packed else 0
    fetched = FMAS_A_BYTE * weights if weights > L3_OF_L2 * machine.l2_bytes else 0

    def cost(block: int, chunks: int) -> float:
        units = max(1, -(-tiles // block)) * chunks
        work = p * block * (depth * co / chunks + TRANSFORM * (depth + co / chunks))
        scratch = winograd_scratch(ci, co, filtering, block, machine, packed=packed)
        beyond = 4 * scratch / machine.l2_bytes - 1
        time = -(-units // threads) * (work + (transform + fetched / 2) / chunks)
        return time * (1 + max(0, beyond) / 10)

    most = min(MOST_ROWS_OF_TILES, -(-max(1, tiles) // rows))
    counts = {-(-tiles // max(1, -(-tiles // (rows * t)))) for t in range(1, most + 1)}
    sizes = sorted(counts, reverse=True) if tiles else [rows]
    ways = [(block, chunks) for chunks in (1, 2, 4, 8, 16) if chunks <= blocks for block in sizes]
    return min(ways, key=lambda way: cost(*way))
