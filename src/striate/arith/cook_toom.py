"""The matrices of Winograd's minimal filtering, generated from interpolation points.

A correlation of r taps at m places, y_j = Σ_t g_t · d_{j+t}, is computed with n = m + r − 1
products instead of m·r:

    y = Aᵀ [ (G g) ⊙ (Bᵀ d) ]

With points a_0 … a_{n−2} and ∞, and f_i = Π_{k≠i} (a_i − a_k) (Toom, Cook; S. Winograd, Arithmetic
Complexity of Computations, 1980; A. Lavin, S. Gray, Fast Algorithms for Convolutional Neural
Networks, 2016):

    Aᵀ[j][i] = a_i^j                       Aᵀ[m−1][∞] = 1
    G[i][t]  = a_i^t / f_i                 G[∞][r−1]  = 1
    Bᵀ[i]    = coefficients of Π_{k≠i} (x − a_k),   Bᵀ[∞] = coefficients of Π_k (x − a_k)

Rows of Bᵀ are scaled by powers of two towards 1, which changes no result, and those of G the
other way. The points decide how fast rounding errors grow: 0, ±3/4, ±3/2, ∞ lose 2.4 times
less than the usual 0, ±1, ±2, ∞ at 256 channels. Those of F(4, 2), F(4, 4) and F(4, 5) are the best
that a search among pairs of small eighths found; with 12 channels their largest errors, relative
to the deviation of the outputs, are 2e-6, 8e-6 and 2e-5.

A kernel of stride s is s² kernels of stride 1, one on each phase of the image (its every s-th row
and column), whose results are added: taps a = s·t + phase, so ⌈kernel / s⌉ of them an axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

Matrix = tuple[tuple[Fraction, ...], ...]


def _pairs(*points: Fraction) -> tuple[Fraction, ...]:
    return tuple(signed for p in points for signed in (p, -p))


# The finite points, for each number of them: m + r − 2.
POINTS: dict[int, tuple[Fraction, ...]] = {
    2: _pairs(Fraction(1)),
    3: (Fraction(0), *_pairs(Fraction(1))),
    4: _pairs(Fraction(3, 8), Fraction(5, 4)),
    5: (Fraction(0), *_pairs(Fraction(3, 4), Fraction(3, 2))),
    6: _pairs(Fraction(1, 4), Fraction(7, 8), Fraction(7, 4)),
    7: (Fraction(0), *_pairs(Fraction(1, 2), Fraction(1), Fraction(2))),
}


@dataclass(frozen=True)
class Transforms:
    """Aᵀ (m × n), G (n × r) and Bᵀ (n × n), exact."""

    a: Matrix
    g: Matrix
    b: Matrix


def _times_root(polynomial: list[Fraction], root: Fraction) -> list[Fraction]:
    """Coefficients (lowest first) of polynomial · (x − root)."""
    shifted = [Fraction(0), *polynomial]
    scaled = [c * root for c in polynomial] + [Fraction(0)]
    return [s - c for s, c in zip(shifted, scaled, strict=True)]


def _power_of_two(value: Fraction) -> Fraction:
    """The power of two nearest below or at |value|."""
    power = Fraction(1)
    while power * 2 <= abs(value):
        power *= 2
    while power > abs(value):
        power /= 2
    return power


@lru_cache(maxsize=16)
def transforms(m: int, r: int = 3) -> Transforms:
    """F(m, r) with the points of POINTS[m + r − 2]."""
    points = POINTS[m + r - 2]
    n = m + r - 1
    a = [[p**j for p in points] + [Fraction(int(j == m - 1))] for j in range(m)]
    g, b = [], []
    for i, p in enumerate(points):
        others = [q for k, q in enumerate(points) if k != i]
        f, row = Fraction(1), [Fraction(1)]
        for q in others:
            f *= p - q
            row = _times_root(row, q)
        row += [Fraction(0)] * (n - len(row))
        scale = _power_of_two(max(row, key=abs))
        b.append(tuple(c / scale for c in row))
        g.append(tuple(p**t / f * scale for t in range(r)))
    last = [Fraction(1)]
    for p in points:
        last = _times_root(last, p)
    b.append(tuple(last))
    g.append(tuple(Fraction(int(t == r - 1)) for t in range(r)))
    return Transforms(tuple(map(tuple, a)), tuple(g), tuple(b))


@dataclass(frozen=True)
class Filtering:
    """F(tile×tile, taps×taps) on the phases of a square kernel's stride.

    With a `dilation` d (and stride 1) on each of d² images of every d-th row and column.
    """

    tile: int
    kernel: int = 3
    stride: int = 1
    dilation: int = 1

    def __str__(self) -> str:
        stride = f"/{self.stride}" if self.stride > 1 else ""
        dilation = f" dilation {self.dilation}" if self.dilation > 1 else ""
        return f"F({self.tile}×{self.tile}, {self.kernel}×{self.kernel}{stride}{dilation})"

    def across(self, size: int) -> int:
        """Tiles along an axis of so many outputs."""
        return -(-size // (self.tile * self.dilation)) * self.dilation

    @property
    def taps(self) -> int:
        """Taps of a phase's kernel along an axis; the last may be missing."""
        return -(-self.kernel // self.stride)

    @property
    def phases(self) -> int:
        """Phases of the image: so many times its channels are multiplied."""
        return self.stride**2

    @property
    def side(self) -> int:
        """Rows of each phase, and as many columns, that a tile of outputs needs."""
        return self.tile + self.taps - 1

    @property
    def points(self) -> int:
        """Products a tile, pair of channels and phase."""
        return self.side**2

    @property
    def transforms(self) -> Transforms:
        """The matrices of one axis."""
        return transforms(self.tile, self.taps)

    def present(self, phase: int) -> int:
        """Taps along an axis that the kernel has in this phase."""
        return len(range(phase, self.kernel, self.stride))
