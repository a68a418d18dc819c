"""Ways of computing a convolution, what each costs and how far it errs.

The cost model counts multiply-adds. With P = (m+r−1)² points, T = images · ⌈rows/m⌉ · ⌈cols/m⌉
tiles and the channels of all phases of the stride, K = stride² · ci, F(m×m, r×r) costs

    work   = P · T · (K·co + TRANSFORM · (K + co))           products and transforms
    stream = FMAS_A_BYTE · 4 · P · K · co                    weights, where L2 does not hold them

and takes the larger of the two, for the weights are fetched while products are computed. Where the
kernel transforms packed weights itself (stride 1), that adds TRANSFORM_WEIGHTS · P · ci · co to
the work for each block of tiles, and only r² of P numbers are fetched. The direct convolution has
m = 1, P = kernel², K = ci and no transforms; it leaves out taps that do not meet the image, and its
work counts DIRECT_SHARE. Transforms compute whole vectors of channels. The errors are those of
`arith.rounding`.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from striate.arith.cook_toom import Filtering
from striate.arith.machine import Machine
from striate.arith.rounding import (
    gradient_amplification,
    output_amplification,
    partial_sums,
    relative_error,
)

# Fewer channels leave the products too short to pay for the transforms.
LEAST_CHANNELS = 12
# A transform takes some 8 instructions a vector of a point.
TRANSFORM = 8
# Of a weight at a point: a vector of 36 of them takes some 65 cycles, the time of 130 FMAs.
TRANSFORM_WEIGHTS = 4
# Memory gives a core about 26 GB/s while it does 58 · 10⁹ multiply-adds a second.
FMAS_A_BYTE = 2
# With all cores at work, or on older machines, a byte takes the time of half as many again or more.
FMAS_A_SHARED_BYTE = 3
# A core's share of L3 in sizes of its L2, and the largest block of Winograd tiles in register
# tiles.
L3_OF_L2 = 8
MOST_ROWS_OF_TILES = 4
# The direct convolution keeps its sums in registers, where Winograd's method stores each product:
# it does six multiply-adds in the time of five.
DIRECT_SHARE = Fraction(5, 6)
DIRECT = 0
# Larger tiles, and larger patches (tile + taps − 1 rows), lose too much accuracy.
MOST_TILE, MOST_SIDE = 4, 7
# With more taps there would be no tile but of one output.
MOST_TAPS = MOST_SIDE - 2
GRADIENT_TILE = 4
# What `algorithm` may be, and the largest tile of Winograd's method that it asks for.
ALGORITHMS = {"auto": None, "direct": DIRECT, **{f"winograd-f{m}": m for m in (2, 3, 4)}}
NAMES = {tile: name for name, tile in ALGORITHMS.items()}


@dataclass(frozen=True)
class Candidate:
    """One way: `tile` is m, or `DIRECT`; `work` and `stream` in multiply-adds of one core.

    `error` is the largest to be expected, relative to the RMS of the results. `inside` is what it
    costs with weights that the kernel transforms itself; None if it cannot.
    """

    tile: int
    work: int
    stream: int
    error: float
    inside: int | None = None

    @property
    def cost(self) -> int:
        """What bounds the time: reading the weights, or computing with them."""
        outside = max(self.work, self.stream)
        return outside if self.inside is None else min(outside, self.inside)

    @property
    def name(self) -> str:
        """As `algorithm` calls it."""
        return str(NAMES[self.tile])

    def __str__(self) -> str:
        return f"{self.name} {self.cost / 1e6:.3g} M, error {self.error:.1e}"


def tiles(kernel: int, stride: int) -> tuple[int, ...]:
    """Tiles that a kernel is computed with, the largest first."""
    return min(MOST_TILE, MOST_SIDE + 1 - -(-kernel // stride)), 2


def candidates(
    images: int,
    out: tuple[int, int],
    ci: int,
    co: int,
    machine: Machine,
    kernel: int = 3,
    stride: int = 1,
    dilation: int = 1,
    met: int | None = None,
) -> list[Candidate]:
    """All ways to compute a convolution of a square kernel, the cheapest first.

    `met` counts the pairs of an output pixel and a tap that the direct convolution computes for
    an image; without it, all of them.
    """
    depth = stride**2 * ci
    direct = relative_error(kernel**2 * ci)
    costs = _direct_cost(images, out, ci, co, machine, kernel, met)
    ways = [Candidate(DIRECT, *costs, direct)]
    if min(depth, co) >= LEAST_CHANNELS:
        for tile in tiles(kernel, stride):
            filtering = Filtering(tile, kernel, stride, dilation)
            work, stream = _winograd_cost(filtering, images, out, ci, co, machine)
            amplification = output_amplification(filtering.tile, filtering.taps)
            error = relative_error(depth, amplification, partial_sums(depth))
            inside = None
            if takes_packed_weights(filtering):
                blocks = _blocks(_tiles(filtering, images, out), machine)
                transform = TRANSFORM_WEIGHTS * filtering.points * ci * co
                inside = max(work + blocks * transform, _stream(kernel**2 * ci * co, machine))
            ways.append(Candidate(filtering.tile, work, stream, error, inside))
    return sorted(ways, key=lambda way: way.cost)


def gradient_candidates(
    images: int, out: tuple[int, int], ci: int, co: int, machine: Machine
) -> list[Candidate]:
    """The same for the gradient of the weights; its errors are estimated from above.

    Sums are taken in chunks, which err less than one long sum.
    """
    pixels, filtering = images * out[0] * out[1], Filtering(GRADIENT_TILE)
    costs = _direct_cost(images, out, ci, co, machine, filtering.kernel)
    ways = [Candidate(DIRECT, *costs, relative_error(pixels))]
    if min(ci, co) >= LEAST_CHANNELS:
        costs = _winograd_cost(filtering, images, out, ci, co, machine)
        amplification = gradient_amplification(GRADIENT_TILE)
        error = relative_error(_tiles(filtering, images, out), amplification)
        ways.append(Candidate(GRADIENT_TILE, *costs, error))
    return sorted(ways, key=lambda way: way.cost)


def takes_packed_weights(filtering: Filtering) -> bool:
    """Whether the kernel can transform weights itself: for strides it wants U."""
    return filtering.stride == 1


def transforms_inside(
    f: Filtering,
    images: int,
    out: tuple[int, int],
    ci: int,
    co: int,
    machine: Machine,
    *,
    changing: bool,
    cold: bool,
) -> bool:
    """Whether a convolution transforms its weights itself, instead of reading U: the bits agree.

    U is made once for all, or at each run if weights are `changing`; then it is written first. It
    is fetched from memory by each block of tiles if it exceeds half of L3, else by the first if
    other weights lie there by then (`cold`). Of what is fetched the products hide about half.
    """
    if not takes_packed_weights(f):
        return False
    pairs, blocks = ci * co, _blocks(_tiles(f, images, out), machine)
    transform, u = TRANSFORM_WEIGHTS * f.points * pairs, 4 * f.points * pairs
    stays = u <= machine.l3_bytes // 2
    fetched = FMAS_A_SHARED_BYTE * u if cold or not stays else 0
    outside = (1 if stays else blocks) * fetched // 2 + (transform + fetched if changing else 0)
    return blocks * transform + fetched // 2 * f.kernel**2 // f.points <= outside


def _blocks(tiles: int, machine: Machine) -> int:
    return max(1, -(-tiles // (MOST_ROWS_OF_TILES * machine.rows)))


def _tiles(f: Filtering, images: int, out: tuple[int, int]) -> int:
    return images * f.across(out[0]) * f.across(out[1])


def _direct_cost(
    images: int,
    out: tuple[int, int],
    ci: int,
    co: int,
    machine: Machine,
    kernel: int,
    met: int | None = None,
) -> tuple[int, int]:
    """(work, stream)."""
    taps = kernel**2 * out[0] * out[1] if met is None else met
    work = int(DIRECT_SHARE * images * taps * ci * co)
    return work, _stream(kernel**2 * ci * co, machine)


def _winograd_cost(
    f: Filtering, images: int, out: tuple[int, int], ci: int, co: int, machine: Machine
) -> tuple[int, int]:
    """(work, stream)."""
    depth = f.phases * ci
    vectors = -(-depth // machine.lanes) + -(-co // machine.lanes)
    products = depth * co + TRANSFORM * machine.lanes * vectors
    work = f.points * _tiles(f, images, out) * products
    return work, _stream(f.points * depth * co, machine)


def _stream(weights: int, machine: Machine) -> int:
    """What reading so many weights costs where L2 does not hold them."""
    return FMAS_A_BYTE * 4 * weights if 4 * weights > machine.l2_bytes // 2 else 0
