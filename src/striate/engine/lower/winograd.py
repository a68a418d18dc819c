"""Winograd's method: the blocks of tiles that cost the busiest thread least."""

from __future__ import annotations

from striate.arith.conv import ConvShape
from striate.arith.machine import Machine
from striate.arith.winograd import FMAS_A_BYTE, TRANSFORM
from striate.engine.lower.context import Lowering
from striate.kernels.epilogue import Epilogue
from striate.kernels.patches import points
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
