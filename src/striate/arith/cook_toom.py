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
less than the usual 0, ±1, ±2, ∞ at 256 channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

Matrix = tuple[tuple[Fraction, ...], ...]

POINTS: dict[int, tuple[Fraction, ...]] = {
    2: (Fraction(0), Fraction(1), Fraction(-1)),
    4: (Fraction(0), Fraction(3, 4), Fraction(-3, 4), Fraction(3, 2), Fraction(-3, 2)),
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


@lru_cache(maxsize=8)
def transforms(m: int, r: int = 3) -> Transforms:
    """F(m, r) with the points of POINTS[m]."""
    points = POINTS[m]
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
