"""How far a convolution in float32 strays from the exact one: the largest error to be expected.

A sum of n products of random signs grows as √k · σ, and each of its additions rounds by some
2⁻²⁴ of what has been summed so far; relative to the result's own size √n · σ that makes

    error = SPREAD · 2⁻²⁴ · √(n/2) · amplification

In s partial sums that are added in the end it is √((n/s + s)/2).

Winograd's method sums n products at each of its points and combines the points afterwards. What
a point holds may be larger than what the outputs keep of it: with the rows of Aᵀ, G and Bᵀ, and
inputs and weights of one variance, output j of F(m, r) has along each axis

    amplification_j = Σ_i Aᵀ[j][i]² · |G_i|² · |B_i|² / r            (1 for the direct sum)

times the variance of the direct sum's error; along two axes the roots of two of them are
multiplied, so that the worst output has the largest one. The weight gradient has the same sum with
the parts exchanged: Σ_i G[i][t]² · |B_i|² · |A_i|² / m.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache

from striate.arith.cook_toom import Transforms, transforms

# The one measured number here: the largest error of some 10⁴ to 10⁶ outputs in units of the
# formula's rest. Measured 2.4 (F(4×4)) to 4.4 (direct); see tests/test_engine_error.py.
SPREAD = 4.0
UNIT_ROUNDOFF = 2.0**-24
# Products of a partial sum in Winograd's method: with fewer, adding the sums costs time.
TERMS = 64


def partial_sums(products: int) -> int:
    """In how many partial sums Winograd's method adds so many products: two, where TERMS make one.

    64 products in two sums err 1.3 times less than in one, 512 in eight 2.6 times less.
    """
    return max(products // TERMS, 2 if products >= TERMS else 1)


def relative_error(products: int, amplification: float = 1.0, sums: int = 1) -> float:
    """Expected largest error relative to the RMS of the outputs, each a sum of `products`."""
    additions = (products / sums + sums) / 2 if sums > 1 else products / 2
    return SPREAD * UNIT_ROUNDOFF * math.sqrt(additions) * amplification


def _square(row: tuple[Fraction, ...]) -> Fraction:
    return sum((value * value for value in row), Fraction(0))


def _worst(outer: list[tuple[Fraction, ...]], weights: list[Fraction], count: int) -> float:
    sums = [sum(v * v * w for v, w in zip(row, weights, strict=True)) for row in outer]
    return float(max(sums) / count)


@lru_cache(maxsize=16)
def output_amplification(m: int, r: int = 3) -> float:
    """Of the worst output of F(m×m, r×r)."""
    t: Transforms = transforms(m, r)
    weights = [_square(g) * _square(b) for g, b in zip(t.g, t.b, strict=True)]
    return _worst(list(t.a), weights, len(t.g[0]))


@lru_cache(maxsize=8)
def gradient_amplification(m: int) -> float:
    """Of the worst tap of the weight gradient by tiles of m × m."""
    t = transforms(m)
    columns = list(zip(*t.a, strict=True))
    weights = [_square(a) * _square(b) for a, b in zip(columns, t.b, strict=True)]
    return _worst(list(zip(*t.g, strict=True)), weights, m)
