"""Ways of computing a 3×3 convolution, what each costs and how far it errs.

The cost model counts multiply-adds. With P = (m+2)² points and T = images · ⌈rows/m⌉ · ⌈cols/m⌉
tiles, F(m×m, 3×3) costs

    work   = P · T · (ci·co + TRANSFORM · (ci + co))         products and transforms
    stream = FMAS_A_BYTE · 4 · P · ci · co                   weights, where L2 does not hold them

and takes the larger of the two, for the weights are fetched while products are computed. The
direct convolution has m = 1, P = 9 and no transforms. The errors are those of `arith.rounding`.
"""

from __future__ import annotations

from dataclasses import dataclass

from striate.arith.machine import Machine
from striate.arith.rounding import gradient_amplification, output_amplification, relative_error

# Fewer channels leave the products too short to pay for the transforms.
LEAST_CHANNELS = 16
# A transform takes some 8 instructions a vector of a point.
TRANSFORM = 8
# Memory gives a core about 26 GB/s while it does 58 · 10⁹ multiply-adds a second.
FMAS_A_BYTE = 2
DIRECT = 0
TILES = (4, 2)
GRADIENT_TILE = 4
# What `algorithm` may be, and the tile of Winograd's method that it asks for.
ALGORITHMS = {"auto": None, "direct": DIRECT, "winograd-f2": 2, "winograd-f4": 4}
NAMES = {tile: name for name, tile in ALGORITHMS.items()}


@dataclass(frozen=True)
class Candidate:
    """One way: `tile` is m, or `DIRECT`; `cost` in multiply-adds of one core.

    `error` is the largest to be expected, relative to the RMS of the results.
    """

    tile: int
    cost: int
    error: float

    @property
    def name(self) -> str:
        """As `algorithm` calls it."""
        return str(NAMES[self.tile])

    def __str__(self) -> str:
        return f"{self.name} {self.cost / 1e6:.3g} M, error {self.error:.1e}"


def candidates(
    images: int, out: tuple[int, int], ci: int, co: int, machine: Machine
) -> list[Candidate]:
    """All ways to compute a 3×3 convolution of stride 1, the cheapest first."""
    ways = [Candidate(DIRECT, _cost(DIRECT, images, out, ci, co, machine), relative_error(9 * ci))]
    if min(ci, co) >= LEAST_CHANNELS:
        ways += [
            Candidate(
                tile,
                _cost(tile, images, out, ci, co, machine),
                relative_error(ci, output_amplification(tile)),
            )
            for tile in TILES
        ]
    return sorted(ways, key=lambda way: way.cost)


def gradient_candidates(
    images: int, out: tuple[int, int], ci: int, co: int, machine: Machine
) -> list[Candidate]:
    """The same for the gradient of the weights; its errors are estimated from above.

    Sums are taken in chunks, which err less than one long sum.
    """
    pixels, tiles = images * out[0] * out[1], _tiles(GRADIENT_TILE, images, out)
    errors = {
        DIRECT: relative_error(pixels),
        GRADIENT_TILE: relative_error(tiles, gradient_amplification(GRADIENT_TILE)),
    }
    ways = [
        Candidate(tile, _cost(tile, images, out, ci, co, machine), error)
        for tile, error in errors.items()
        if tile == DIRECT or min(ci, co) >= LEAST_CHANNELS
    ]
    return sorted(ways, key=lambda way: way.cost)


def _tiles(side: int, images: int, out: tuple[int, int]) -> int:
    return images * -(-out[0] // side) * -(-out[1] // side)


def _cost(tile: int, images: int, out: tuple[int, int], ci: int, co: int, machine: Machine) -> int:
    side, points = (tile, (tile + 2) ** 2) if tile else (1, 9)
    work = ci * co + (TRANSFORM * (ci + co) if tile else 0)
    weights = 4 * points * ci * co
    stream = FMAS_A_BYTE * weights if weights > machine.l2_bytes // 2 else 0
    return max(points * _tiles(side, images, out) * work, stream)
