import numpy as np
import pytest

from striate.jit import target
from striate.kernels.winograd_gradient import KernelGradient, WinogradGradient, scratch_elements
from tests.conv_oracle import nhwc, weight_gradient
from tests.guard import guarded, guarded_front, outcome
from tests.kernel_call import assembly, call, calls, isa  # noqa: F401

ONES = ((1, 1), (1, 1))


def gradient(x, dy, padding=ONES, block=5, chunk=2, shares=1):
    """dw (co, ci, 3, 3), the same bits on guard pages at either end and for any parts."""
    (n, ci, h, w), (co, rows, cols) = x.shape, dy.shape[1:]
    tiles = n * -(-rows // 4) * -(-cols // 4)
    blocks = -(-tiles // block)
    chunks = -(-blocks // chunk)
    scratch = scratch_elements(ci, co, block, target.machine())
    sizes = (n, h, w, rows, cols, padding[0][0], padding[1][0], block, chunk, shares, scratch)
    results = []
    for parts, place in ((1, guarded), (2, guarded_front), (3, guarded), (7, guarded)):
        sums = place(np.full((chunks, 36, ci, co), np.nan, np.float32))
        room = np.empty(parts * scratch, np.float32)
        memory = [place(nhwc(x)), place(nhwc(dy)), sums, place(room)]
        call(WinogradGradient(ci, co), memory, sizes, parts)
        results.append(sums.copy())
    assert all(r.tobytes() == results[0].tobytes() for r in results)
    total = results[0].sum(0)
    dw = np.empty((3, 3, ci, co), np.float32)
    return outcome(KernelGradient(ci, co), [total, dw], (), 1).transpose(3, 2, 0, 1)


def arrays(n, ci, h, w, co, padding=ONES):
    rng = np.random.default_rng(ci * 100 + co)
    rows, cols = h + sum(padding[0]) - 2, w + sum(padding[1]) - 2
    x = rng.standard_normal((n, ci, h, w)).astype(np.float32)
    return x, rng.standard_normal((n, co, rows, cols)).astype(np.float32)


def assert_close(dw, x, dy, padding=ONES):
    expected = weight_gradient(x, dy, (3, 3), begin=(padding[0][0], padding[1][0]))
    assert dw.shape == expected.shape
    assert np.abs(dw - expected).max() < 5e-5 * expected.std()


@pytest.mark.parametrize(("ci", "co"), [(3, 7), (16, 32), (20, 40)])
@pytest.mark.parametrize("size", [(1, 1), (3, 9), (4, 4), (8, 5), (14, 14)])
def test_any_image_size_and_channel_count(isa, ci, co, size):
    x, dy = arrays(3, ci, *size, co)
    assert_close(gradient(x, dy), x, dy)


@pytest.mark.parametrize("padding", [((0, 0), (0, 0)), ((2, 2), (2, 2)), ((1, 0), (0, 2))])
def test_any_padding(isa, padding):
    x, dy = arrays(2, 16, 9, 6, 32, padding)
    assert_close(gradient(x, dy, padding), x, dy, padding)


@pytest.mark.parametrize(("block", "chunk", "shares"), [(1, 1, 1), (14, 3, 2), (100, 1, 2)])
def test_any_blocking(isa, block, chunk, shares):
    x, dy = arrays(3, 20, 14, 14, 40)
    assert_close(gradient(x, dy, block=block, chunk=chunk, shares=shares), x, dy)


@pytest.mark.parametrize("co", [7, 40])
def test_vectors_wider_than_the_processor(monkeypatch, co):
    """LLVM splits them; half of one that has no lanes on must not be read from memory."""
    if not target.machine().fma:
        pytest.skip("no fused multiply-add here")
    monkeypatch.setenv("STRIATE_TARGET", "avx512-shape")
    monkeypatch.setenv("STRIATE_CACHE", "off")
    x, dy = arrays(3, 20, 8, 5, co)
    assert_close(gradient(x, dy), x, dy)


def test_shares_change_no_bit(isa):
    x, dy = arrays(2, 16, 9, 9, 72)
    results = {gradient(x, dy, shares=shares).tobytes() for shares in (1, 2, 3)}
    assert len(results) == 1


def test_other_machines_get_code_without_calls():
    for isa_ in ("avx512", "avx2", "neon"):
        text = assembly(WinogradGradient(64, 64), isa_)
        assert not [c for c in calls(text) if "@PLT" in c]
