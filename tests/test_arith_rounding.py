import numpy as np
import pytest

from striate.arith.cook_toom import transforms
from striate.arith.rounding import (
    gradient_amplification,
    output_amplification,
    partial_sums,
    relative_error,
)


def test_the_error_grows_with_the_root_of_the_products():
    assert relative_error(4 * 576) == pytest.approx(2 * relative_error(576))
    assert relative_error(576, 3.0) == pytest.approx(3 * relative_error(576))
    assert relative_error(0) == 0


@pytest.mark.parametrize("products", [63, 64, 100, 128, 512])
def test_partial_sums_err_as_random_roundings_do(products):
    """Each addition errs by its result's size, the root of the products in it."""
    sums = partial_sums(products)
    assert sums == {63: 1, 64: 2, 100: 2, 128: 2, 512: 8}[products]
    inner = np.diff(np.arange(sums + 1) * products // sums)
    variance = sum(np.arange(1, n + 1).sum() for n in inner)
    variance += inner.cumsum()[1:].sum()
    expected = (variance / products**2) ** 0.5 * products**0.5
    assert relative_error(products, 1.0, sums) / relative_error(2) == pytest.approx(
        expected, rel=0.05
    )


def noise(left, right, result, rng):
    """Worst RMS of `result` E `result`ᵀ, E as large as the products of both sides at each point."""
    a = np.einsum("ia,nab,jb->nij", left, rng.standard_normal((20_000, *left.shape[1:] * 2)), left)
    b = np.einsum(
        "ia,nab,jb->nij", right, rng.standard_normal((20_000, *right.shape[1:] * 2)), right
    )
    size = np.sqrt((a**2).mean(0) * (b**2).mean(0))
    errors = rng.standard_normal(a.shape) * size
    return np.sqrt((np.einsum("ia,nab,jb->nij", result, errors, result) ** 2).mean(0)).max()


@pytest.mark.parametrize("m", [2, 4])
def test_amplifications_are_what_random_errors_become(m):
    """Relative to the error of the direct sum of r · r (gradient: m · m) products of size 1."""
    rng = np.random.default_rng(0)
    t = transforms(m)
    a, g, b = (np.array(matrix, np.float64) for matrix in (t.a, t.g, t.b))
    assert noise(g, b, a, rng) / 3 == pytest.approx(output_amplification(m), rel=0.05)
    assert noise(a.T, b, g.T, rng) / m == pytest.approx(gradient_amplification(m), rel=0.05)
