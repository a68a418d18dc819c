"""Winograd's method: the blocks of tiles that cost the busiest thread least."""

from __future__ import annotations

from striate.arith.conv import ConvShape
from striate.arith.cook_toom import Filtering
from striate.arith.machine import Machine
from striate.arith.winograd import FMAS_A_BYTE, TRANSFORM
from striate.engine.lower.context import POOLED, Lowering
from striate.kernels.epilogue import Epilogue
from striate.kernels.winograd import Winograd
from striate.kernels.winograd import scratch_elements as winograd_scratch

# A core's share of L3 in sizes of its L2, and the largest block of Winograd tiles.
L3_OF_L2 = 8
MOST_ROWS_OF_TILES = 4


def winograd(
    low: Lowering,
    slots: list[int],
    shape: ConvShape,
    epilogue: Epilogue,
    filtering: Filtering,
    *,
    forward: bool,
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
    block, chunks = choose_tiles(tiles, ci, co, filtering, low.machine, low.threads)
    scratch = winograd_scratch(ci, co, filtering, block, low.machine)
    spec = Winograd(ci, co, filtering, epilogue)
    sizes = (shape.n, *image, *out, *padding, block, chunks, scratch)
    label = f"winograd {filtering} {ci}→{co}" + POOLED * epilogue.pool
    low.step(spec, slots, sizes, writes=[slots[2]], label=label, scratch=scratch)


def choose_tiles(
    tiles: int, ci: int, co: int, filtering: Filtering, machine: Machine, threads: int
) -> tuple[int, int]:
    """(tiles of a block, chunks of output blocks): those that cost the busiest thread least.

    A block costs its products and transforms, and, where L3 does not hold the weights, fetching
    them, of which the products hide about half. Each chunk of output blocks transforms the
    patches again. V and M that L2 does not hold cost a tenth for each size of L2 beyond.
    """
    rows, blocks, p = machine.rows, -(-co // machine.block(co)), filtering.points
    depth = filtering.phases * ci
    weights = 4 * p * depth * co
    fetched = FMAS_A_BYTE * weights if weights > L3_OF_L2 * machine.l2_bytes else 0

    def cost(block: int, chunks: int) -> float:
        units = max(1, -(-tiles // block)) * chunks
        work = p * block * (depth * co / chunks + TRANSFORM * (depth + co / chunks))
        beyond = 4 * winograd_scratch(ci, co, filtering, block, machine) / machine.l2_bytes - 1
        time = -(-units // threads) * (work + fetched / chunks / 2)
        return time * (1 + max(0, beyond) / 10)

    most = min(MOST_ROWS_OF_TILES, -(-max(1, tiles) // rows))
    counts = {-(-tiles // max(1, -(-tiles // (rows * t)))) for t in range(1, most + 1)}
    sizes = sorted(counts, reverse=True) if tiles else [rows]
    ways = [(block, chunks) for chunks in (1, 2, 4, 8, 16) if chunks <= blocks for block in sizes]
    return min(ways, key=lambda way: cost(*way))
