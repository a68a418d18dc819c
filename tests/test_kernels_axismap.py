import numpy as np
import pytest

from striate.kernels.axismap import AxisMap
from tests.guard import outcome
from tests.kernel_call import assembly, calls, isa  # noqa: F401


def tables(rows):
    starts = np.cumsum([0, *(len(row) for row in rows)]).astype(np.int32)
    entries = [entry for row in rows for entry in row]
    index = np.array([i for i, _ in entries], np.int32)
    return starts, index, np.array([w for _, w in entries], np.float32)


def check(outer, axis_in, inner, rows, parts=(1, 2, 3, 7)):
    """Small integers times quarters: all sums are exact, so every order gives the same."""
    x = np.random.default_rng(0).integers(-9, 10, (outer, axis_in, inner)).astype(np.float32)
    want = np.zeros((outer, len(rows), inner))
    for j, row in enumerate(rows):
        for i, weight in row:
            want[:, j] += weight * x[:, i]
    y = np.empty(want.shape, np.float32)
    sizes = (outer, axis_in, len(rows), inner)
    got = outcome(AxisMap(), [x, y, *tables(rows)], sizes, 1, parts)
    np.testing.assert_array_equal(got, want)


def mean_pool(size, kernel, stride):
    return [[(i, 0.25) for i in range(j, j + kernel)] for j in range(0, size - kernel + 1, stride)]


@pytest.mark.parametrize(
    "inner", [1, 2, 3, 4, 5, 15, 16, 17, 31, 64, 65, 100, 1023, 1024, 1025, 2500]
)
def test_every_inner_size(isa, inner):
    check(2, 5, inner, [[(0, 1.0), (3, -0.5)], [], [(4, 0.25)], [(2, 1.0), (1, 2.0), (2, 0.75)]])


@pytest.mark.parametrize(
    ("outer", "axis_in", "inner", "rows"),
    [
        (3, 28, 28 * 6, mean_pool(28, 2, 2)),
        (3 * 14, 28, 6, mean_pool(28, 2, 2)),
        (2, 7, 7 * 64, mean_pool(7, 7, 7)),
        (2, 7, 64, mean_pool(7, 7, 7)),
        (2 * 9, 9, 3, [[(abs(j), 1.0)] for j in range(-3, 9)]),
        (1, 8, 8 * 20, [[(j // 2, 0.75), (min(j // 2 + 1, 7), 0.25)] for j in range(16)]),
    ],
    ids=["lenet H", "lenet W", "resnet head H", "resnet head W", "reflect RGB", "upsample"],
)
def test_networks(isa, outer, axis_in, inner, rows):
    check(outer, axis_in, inner, rows)


def test_no_entries_at_all(isa):
    check(2, 3, 20, [[], []])


def test_sum_runs_in_the_order_of_the_table(isa):
    rows = [[(0, 1.0), (1, 1.0), (2, 1.0)], [(0, 1.0), (2, 1.0), (1, 1.0)]]
    x = np.repeat(np.array([[1e8], [1.0], [-1e8]], np.float32), 20, axis=1)
    got = outcome(AxisMap(), [x, np.empty((2, 20), np.float32), *tables(rows)], (1, 3, 2, 20), 1)
    np.testing.assert_array_equal(got, np.repeat([[0.0], [1.0]], 20, axis=1))


def test_a_nan_stays_in_the_rows_that_name_it(isa):
    x = np.ones((1, 3, 5), np.float32)
    x[0, 1] = np.nan
    rows = [[(0, 1.0), (2, 1.0)], [(1, 1.0)]]
    got = outcome(AxisMap(), [x, np.empty((1, 2, 5), np.float32), *tables(rows)], (1, 3, 2, 5), 1)
    np.testing.assert_array_equal(got[0, 0], 2.0)
    assert np.isnan(got[0, 1]).all()


def test_rounding_is_that_of_one_fma_an_entry(isa):
    rng = np.random.default_rng(3)
    x = rng.standard_normal((4, 9, 50)).astype(np.float32)
    rows = [[(i, float(w)) for i, w in enumerate(rng.standard_normal(9))] for _ in range(6)]
    weight = tables(rows)[2].reshape(6, 9).astype(np.float64)
    want = np.einsum("jt,oti->oji", weight, x.astype(np.float64))
    bound = 9 * 2**-24 * np.einsum("jt,oti->oji", abs(weight), abs(x.astype(np.float64)))
    got = outcome(AxisMap(), [x, np.empty((4, 6, 50), np.float32), *tables(rows)], (4, 9, 6, 50), 1)
    assert (abs(got - want) <= 1.01 * bound).all()


@pytest.mark.parametrize("name", ["avx512", "avx2", "sse2", "neon"])
def test_code_for_every_machine_calls_nothing(name):
    assert calls(assembly(AxisMap(), name)) == []
