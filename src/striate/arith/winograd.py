"""Which way of computing a 3×3 convolution takes the least work: a cost model in multiply-adds.

With P = (m+2)² points and T = images · ⌈rows/m⌉ · ⌈cols/m⌉ tiles, F(m×m, 3×3) costs

    work   = P · T · (ci·co + TRANSFORM · (ci + co))         products and transforms
    stream = FMAS_A_BYTE · 4 · P · ci · co                   weights, where L2 does not hold them

and takes the larger of the two, for the weights are fetched while products are computed. The
direct convolution has m = 1, P = 9 and no transforms.
"""

from __future__ import annotations

from dataclasses import dataclass

from striate.arith.machine import Machine

# Fewer channels leave the products too short to pay for the transforms.
LEAST_CHANNELS = 16
# A transform takes some 8 instructions a vector of a point.
TRANSFORM = 8
# Memory gives a core about 26 GB/s while it does 58 · 10⁹ multiply-adds a second.
FMAS_A_BYTE = 2
DIRECT = 0
TILES = (4, 2)


@dataclass(frozen=True)
class Candidate:
    """One way: `tile` is m, or `DIRECT`; `cost` in multiply-adds of one core."""

    tile: int
    cost: int

    def __str__(self) -> str:
        name = f"winograd F({self.tile}×{self.tile})" if self.tile else "direct"
        return f"{name} {self.cost / 1e6:.3g} M"


def candidates(
    images: int, out: tuple[int, int], ci: int, co: int, machine: Machine
) -> list[Candidate]:
    """All ways to compute a 3×3 convolution of stride 1, the cheapest first."""

    def cost(tile: int) -> int:
        side, points = (tile, (tile + 2) ** 2) if tile else (1, 9)
        tiles = images * -(-out[0] // side) * -(-out[1] // side)
        work = points * tiles * (ci * co + (TRANSFORM * (ci + co) if tile else 0))
        weights = 4 * points * ci * co
        return max(work, FMAS_A_BYTE * weights if weights > machine.l2_bytes // 2 else 0)

    ways = [Candidate(DIRECT, cost(DIRECT))]
    if min(ci, co) >= LEAST_CHANNELS:
        ways += [Candidate(tile, cost(tile)) for tile in TILES]
    return sorted(ways, key=lambda way: way.cost)
