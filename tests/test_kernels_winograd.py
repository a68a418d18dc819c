import numpy as np
import pytest

from striate.arith.expr import Expr
from striate.arith.layout import PackedWeights
from striate.engine.layouts_numpy import pack_numpy
from striate.jit import target
from striate.kernels.epilogue import NONE, Epilogue
from striate.kernels.winograd import TransformWeights, Winograd, scratch_elements
from tests.conv_oracle import convolution, nchw, nhwc
from tests.guard import outcome
from tests.kernel_call import assembly, call, calls, isa  # noqa: F401

ALL_OPERANDS = Epilogue(
    Expr(4, (("mul", 0, 1), ("add", 4, 2), ("relu", 5), ("mul", 6, 3)), (7,)),
    ("channel", "full", "scalar"),
)


def transformed(w, tile):
    """Weights as the kernel reads them, made by the kernel that makes them."""
    co, ci = w.shape[:2]
    taps = tuple((a, b) for a in range(3) for b in range(3))
    block = target.machine().block(co)
    packed = pack_numpy(PackedWeights(block, 1, (taps,), swap=False), w)
    u = np.empty(packed.size // 9 * (tile + 2) ** 2, np.float32)
    sizes = (-(-co // block), ci)
    return outcome(TransformWeights(block, tile), [packed, u], sizes, 1, parts=(1, 3))


def winograd(x, w, padding=((1, 1), (1, 1)), block=5, chunks=1, epilogue=NONE, operands=(), tile=4):
    n, ci, h, width = x.shape
    co = w.shape[0]
    rows, cols = h + sum(padding[0]) - 2, width + sum(padding[1]) - 2
    scratch = scratch_elements(ci, co, tile, block, target.machine())
    sizes = (n, h, width, rows, cols, padding[0][0], padding[1][0], block, chunks, scratch)
    y = np.empty((n, rows, cols, co), np.float32)
    spec = Winograd(ci, co, tile, epilogue)
    memory = [nhwc(x), transformed(w, tile), y, np.empty(7 * scratch, np.float32), *operands]
    results = []
    for parts in (1, 2, 3, 7):
        y[...] = np.nan
        call(spec, memory, sizes, parts)
        results.append(y.copy())
    assert all(r.tobytes() == results[0].tobytes() for r in results)
    return nchw(results[0])


def arrays(n, ci, h, w, co):
    rng = np.random.default_rng(ci * 100 + co)
    x = rng.standard_normal((n, ci, h, w)).astype(np.float32)
    return x, (rng.standard_normal((co, ci, 3, 3)) / (9 * ci) ** 0.5).astype(np.float32)


def definition(y, x, w, padding=((1, 1), (1, 1))):
    return convolution(x, w, y.shape[2:], begin=(padding[0][0], padding[1][0]))


def assert_close(y, x, w, padding=((1, 1), (1, 1))):
    expected = definition(y, x, w, padding)
    assert np.abs(y - expected).max() < 5e-5 * expected.std()


@pytest.mark.parametrize("tile", [2, 4])
@pytest.mark.parametrize(("ci", "co"), [(3, 7), (16, 32), (20, 40)])
@pytest.mark.parametrize("size", [(1, 1), (3, 9), (4, 4), (8, 5), (14, 14)])
def test_any_image_size_and_channel_count(isa, ci, co, size, tile):
    x, w = arrays(3, ci, *size, co)
    assert_close(winograd(x, w, tile=tile), x, w)


@pytest.mark.parametrize("tile", [2, 4])
@pytest.mark.parametrize("padding", [((0, 0), (0, 0)), ((2, 2), (2, 2)), ((1, 0), (0, 2))])
def test_any_padding(isa, padding, tile):
    x, w = arrays(2, 16, 9, 6, 32)
    assert_close(winograd(x, w, padding, tile=tile), x, w, padding)


@pytest.mark.parametrize(("block", "chunks"), [(1, 1), (14, 1), (28, 2), (100, 1)])
def test_blocking_changes_nothing(isa, block, chunks):
    x, w = arrays(3, 20, 14, 14, 40)
    y = winograd(x, w, block=block, chunks=chunks)
    assert y.tobytes() == winograd(x, w).tobytes()


def test_an_image_has_the_same_bits_in_any_batch(isa):
    x, w = arrays(5, 20, 7, 7, 40)
    together = winograd(x, w, block=6)
    for i in range(5):
        assert winograd(x[i : i + 1], w, block=6).tobytes() == together[i : i + 1].tobytes()


def test_the_epilogue_is_applied(isa):
    x, w = arrays(2, 20, 7, 6, 40)
    rng = np.random.default_rng(1)
    factor = rng.standard_normal(40).astype(np.float32)
    summand = rng.standard_normal((2, 7, 6, 40)).astype(np.float32)
    number = np.array([1.5], np.float32)
    y = winograd(x, w, epilogue=ALL_OPERANDS, operands=[factor, summand, number])
    plain = winograd(x, w)
    expected = np.maximum(plain * factor[:, None, None] + nchw(summand), 0) * number
    np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 64, 56, 56, 64), (2, 512, 7, 7, 512)])
def test_the_error_at_networks_layers(shape):
    x, w = arrays(*shape)
    y = winograd(x, w, block=14)
    expected = definition(y, x, w)
    assert np.abs(y - expected).max() < 5e-5 * expected.std()


def test_other_machines_get_code_without_calls():
    for isa_ in ("avx512", "avx2", "neon"):
        assert not [c for c in calls(assembly(Winograd(64, 64, 4, NONE), isa_)) if "@PLT" in c]
