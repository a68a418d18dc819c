import numpy as np
import pytest

from striate.kernels.stats import ChannelStats, StatsFinish, chunk_rows, scratch_elements
from tests.guard import guarded, guarded_front
from tests.kernel_call import assembly, call, calls, isa, same_bits  # noqa: F401

EPS = 2.0**-24


def statistics(x, parts=1, place=guarded):
    rows, channels = x.shape
    sizes = (rows, channels, chunk_rows(rows))
    mean, var = (place(np.full(channels, 7.5, np.float32)) for _ in range(2))
    scratch = place(np.full(scratch_elements(sizes), np.nan, np.float32))
    call(ChannelStats(), [place(x), mean, var, scratch], sizes, parts)
    assert (mean == 7.5).all()
    assert (var == 7.5).all()
    call(StatsFinish(), [scratch, mean, var], sizes, parts)
    return mean, var


def pixels(rows, channels, offset=0.0, scale=1.0, seed=0):
    random = np.random.default_rng(seed)
    return (random.standard_normal((rows, channels)) * scale + offset).astype(np.float32)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("offset", [0.0, 3.0, -1e4, 1e6])
@pytest.mark.parametrize(
    ("rows", "channels"),
    [
        (32 * 14 * 14, 32),
        (64 * 7 * 7, 96),
        (2 * 4 * 4, 512),
        (5000, 3),
        (1025, 17),
        (129, 70),
        (127, 1),
        (2, 5),
    ],
)
def test_mean_and_variance(rows, channels, offset):
    x = pixels(rows, channels, offset)
    mean, var = statistics(x)
    exact = x.astype(np.float64)
    # The mean is right to its last bit; the variance does not notice the offset.
    np.testing.assert_allclose(mean, exact.mean(axis=0), rtol=2 * EPS, atol=2e-7)
    np.testing.assert_allclose(var, exact.var(axis=0), rtol=3e-6)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize(("rows", "channels"), [(3000, 33), (700, 130), (1, 3), (100_000, 2)])
def test_same_bits_for_any_number_of_parts(rows, channels):
    x = pixels(rows, channels, 2.0)
    first = statistics(x)
    for parts in (2, 3, 7):
        for place in (guarded, guarded_front):
            for a, b in zip(first, statistics(x, parts, place), strict=True):
                assert same_bits(a, b)


@pytest.mark.usefixtures("isa")
def test_constant_channels_have_no_variance():
    x = np.tile(np.array([0.0, 1.0, 0.1, -1e4, 1e15, 3.3e-5], np.float32), (2000, 1))
    mean, var = statistics(x)
    np.testing.assert_allclose(mean, x[0], rtol=2 * EPS)
    assert (var >= 0).all()
    assert (var[:2] == 0).all()
    assert (np.sqrt(var.astype(np.float64)) <= 1e-6 * np.abs(x[0].astype(np.float64))).all()


@pytest.mark.usefixtures("isa")
def test_channels_do_not_touch_one_another():
    x = pixels(1000, 20)
    x[500, 3], x[700, 4] = np.nan, np.inf
    mean, var = statistics(x)
    assert np.isnan(mean[3])
    assert np.isnan(var[3])
    assert not np.isfinite(mean[4])
    others = [i for i in range(20) if i not in {3, 4}]
    np.testing.assert_allclose(var[others], x[:, others].astype(np.float64).var(axis=0), rtol=3e-6)


@pytest.mark.usefixtures("isa")
def test_groups_of_rows_with_different_means():
    x = pixels(4096, 16) + np.repeat(np.arange(32, dtype=np.float32) * 100, 128)[:, None]
    mean, var = statistics(x)
    np.testing.assert_allclose(mean, x.astype(np.float64).mean(axis=0), rtol=4 * EPS)
    np.testing.assert_allclose(var, x.astype(np.float64).var(axis=0), rtol=3e-6)


def test_chunks_fit_the_cache():
    assert {chunk_rows(n) for n in range(1, 200_000, 37)} == {128, 256}
    assert scratch_elements((1000, 7, 128)) == 8 * 3 * 7


@pytest.mark.parametrize("target", ["avx512", "avx2", "sse2", "neon"])
def test_no_calls_out_of_the_kernel(target):
    assert calls(assembly(ChannelStats(), target)) == []
    assert calls(assembly(StatsFinish(), target)) == []
