from fractions import Fraction

import pytest

from striate.arith.cook_toom import transforms


def product(matrix, vector):
    return [sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix]


@pytest.mark.parametrize("m", [2, 4])
def test_the_matrices_compute_a_correlation_exactly(m):
    t = transforms(m)
    for taps in ([1, 0, 0], [0, 1, 0], [0, 0, 1], [3, -5, 7]):
        for at in range(m + 2):
            d = [Fraction(int(i == at)) for i in range(m + 2)]
            pairs = zip(product(t.g, taps), product(t.b, d), strict=True)
            y = product(t.a, [g * x for g, x in pairs])
            assert y == [sum(taps[i] * d[j + i] for i in range(3)) for j in range(m)]


@pytest.mark.parametrize("m", [2, 4])
def test_every_entry_is_a_float32(m):
    for matrix in (transforms(m).a, transforms(m).b):
        for row in matrix:
            assert all((c * 2**20).denominator == 1 and abs(c.numerator) < 2**24 for c in row)
