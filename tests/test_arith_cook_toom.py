from fractions import Fraction

import pytest

from striate.arith.cook_toom import Filtering, transforms

SIZES = [(2, 3), (4, 3), (4, 4), (2, 4), (4, 2), (2, 2), (3, 5), (2, 5), (4, 5)]


def product(matrix, vector):
    return [sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix]


@pytest.mark.parametrize(("m", "r"), SIZES)
def test_the_matrices_compute_a_correlation_exactly(m, r):
    t = transforms(m, r)
    for taps in ([1] + [0] * (r - 1), [0] * (r - 1) + [1], [3, -5, 7, 2, -4][:r]):
        for at in range(m + r - 1):
            d = [Fraction(int(i == at)) for i in range(m + r - 1)]
            pairs = zip(product(t.g, taps), product(t.b, d), strict=True)
            y = product(t.a, [g * x for g, x in pairs])
            assert y == [sum(taps[i] * d[j + i] for i in range(r)) for j in range(m)]


@pytest.mark.parametrize(("m", "r"), SIZES)
def test_every_entry_is_a_float32(m, r):
    for matrix in (transforms(m, r).a, transforms(m, r).b):
        for row in matrix:
            assert all((c * 2**20).denominator == 1 and abs(c.numerator) < 2**24 for c in row)


@pytest.mark.parametrize(
    ("filtering", "taps", "phases", "points"),
    [
        (Filtering(4), 3, 1, 36),
        (Filtering(4, 7, 2), 4, 4, 49),
        (Filtering(4, 3, 2), 2, 4, 25),
        (Filtering(4, 11, 4), 3, 16, 36),
    ],
)
def test_a_stride_is_phases_of_fewer_taps(filtering, taps, phases, points):
    assert (filtering.taps, filtering.phases, filtering.points) == (taps, phases, points)
    present = [filtering.present(phase) for phase in range(filtering.stride)]
    assert sum(present) == filtering.kernel
    assert max(present) == taps
