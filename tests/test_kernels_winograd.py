import numpy as np
import pytest

from striate.arith.cook_toom import Filtering
from striate.arith.expr import Expr
from striate.arith.layout import PackedWeights, WinogradWeights
from striate.engine import build
from striate.engine.layouts_numpy import pack_numpy, to_memory
from striate.graph import Trace
from striate.graph.ops.conv import Conv2d, ConvInputGrad
from striate.jit import target
from striate.kernels.epilogue import NONE, Epilogue
from striate.kernels.winograd import Winograd, scratch_elements
from striate.kernels.winograd_weights import TransformWeights
from tests.conv_oracle import convolution, nchw, nhwc
from tests.guard import guarded, guarded_front, outcome
from tests.kernel_call import assembly, call, calls, isa  # noqa: F401

ALL_OPERANDS = Epilogue(
    Expr(4, (("mul", 0, 1), ("add", 4, 2), ("relu", 5), ("mul", 6, 3)), (7,)),
    ("channel", "full", "scalar"),
)


def transformed(w, filtering):
    """Weights as the kernel reads them: transformed by the kernel that does it, and packed."""
    co, ci, kernel, _ = w.shape
    taps = tuple((a, b) for a in range(kernel) for b in range(kernel))
    block = target.machine().block(co)
    layout = PackedWeights(block, 1, (taps,), swap=False)
    packed = pack_numpy(layout, w)
    u = np.empty(WinogradWeights(layout, filtering).elements(w.shape), np.float32)
    sizes = (-(-co // block), ci)
    u = outcome(TransformWeights(block, filtering), [packed, u], sizes, 1, parts=(1, 3))
    np.testing.assert_allclose(u, to_memory(WinogradWeights(layout, filtering), w), atol=1e-5)
    return u, packed.astype(np.float32)


def winograd(
    x,
    w,
    padding=((1, 1), (1, 1)),
    block=5,
    chunks=1,
    epilogue=NONE,
    operands=(),
    tile=4,
    stride=1,
    dilation=1,
):
    n, ci, h, width = x.shape
    co, _, kernel, _ = w.shape
    filtering = Filtering(tile, kernel, stride, dilation)
    rows, cols = (
        (size + sum(sides) - (kernel - 1) * dilation - 1) // stride + 1
        for size, sides in zip((h, width), padding, strict=True)
    )
    y = np.empty((n, rows, cols, co), np.float32)
    spec = Winograd(ci, co, filtering, epilogue)
    results = []
    for packed, weights in enumerate(transformed(w, filtering)[: 2 if stride == 1 else 1]):
        scratch = scratch_elements(
            ci, co, filtering, block, target.machine(), packed=packed > 0, group=1 + packed
        )
        begin = (padding[0][0], padding[1][0])
        sizes = (n, h, width, rows, cols, *begin, block, chunks, scratch, packed, 1 + packed)
        memory = [nhwc(x), weights, y, *operands]
        for parts, place in ((1, guarded), (2, guarded_front), (3, guarded), (7, guarded_front)):
            y[...] = np.nan
            x_there, there, out, *rest = map(place, memory)
            room = place(np.full(parts * scratch, np.nan, np.float32))
            call(spec, [x_there, there, out, room, *rest], sizes, parts)
            results.append(out.copy())
    assert all(r.tobytes() == results[0].tobytes() for r in results)
    return nchw(results[0])


def arrays(n, ci, h, w, co, kernel=3):
    rng = np.random.default_rng(ci * 100 + co)
    x = rng.standard_normal((n, ci, h, w)).astype(np.float32)
    weights = rng.standard_normal((co, ci, kernel, kernel)) / (kernel**2 * ci) ** 0.5
    return x, weights.astype(np.float32)


def definition(y, x, w, padding=((1, 1), (1, 1)), stride=1, dilation=1):
    begin = (padding[0][0], padding[1][0])
    return convolution(x, w, y.shape[2:], (stride, stride), begin, (dilation, dilation))


def assert_close(y, x, w, padding=((1, 1), (1, 1)), stride=1, dilation=1):
    expected = definition(y, x, w, padding, stride, dilation)
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


@pytest.mark.parametrize("tile", [2, 4])
@pytest.mark.parametrize(("dilation", "padding"), [(2, 2), (3, 1), (6, 6)])
@pytest.mark.parametrize(("ci", "co", "size"), [(16, 32, (14, 14)), (20, 40, (13, 27))])
def test_dilated_kernels(isa, dilation, padding, ci, co, size, tile):
    x, w = arrays(2, ci, *size, co)
    sides = ((padding, padding), (padding, padding + 1))
    y = winograd(x, w, sides, tile=tile, dilation=dilation)
    assert_close(y, x, w, sides, dilation=dilation)


@pytest.mark.parametrize("algorithm", ["winograd-f2", "winograd-f4"])
@pytest.mark.parametrize("op", ["forward", "input gradient"])
def test_a_program_computes_dilated_layers_so(algorithm, op):
    rng = np.random.default_rng(5)
    a, w = rng.standard_normal((3, 16, 11, 17)), rng.standard_normal((16, 16, 3, 3)) / 12
    common = {"padding": ((2, 2), (2, 2)), "dilation": (2, 2)}
    conv = Conv2d(**common) if op == "forward" else ConvInputGrad(**common, in_h=11, in_w=17)
    with Trace() as trace:
        y = conv(trace.input("a", a.shape), trace.input("w", w.shape))
        executable = build(trace.graph(y), algorithm=algorithm)
    assert any("dilation 2" in step.label for step in executable.program.steps)
    (expected,) = conv.numpy(a, w)
    found = executable(a.astype(np.float32), w.astype(np.float32))[0]
    assert np.abs(found - expected).max() < 5e-5 * expected.std()


KERNELS = [(7, 2, 4), (7, 2, 2), (3, 2, 4), (3, 2, 2), (5, 1, 3), (5, 1, 2), (5, 2, 4), (11, 4, 4)]


@pytest.mark.parametrize(("kernel", "stride", "tile"), KERNELS)
@pytest.mark.parametrize(("ci", "co"), [(1, 7), (2, 32), (3, 64), (4, 20), (16, 40), (21, 17)])
def test_other_kernels_and_strides(isa, kernel, stride, tile, ci, co):
    x, w = arrays(2, ci, 23, 14, co, kernel)
    padding = ((kernel // 2, kernel // 2), (kernel // 2, kernel // 2 + 1))
    y = winograd(x, w, padding, tile=tile, stride=stride)
    assert_close(y, x, w, padding, stride)


@pytest.mark.parametrize("padding", [((0, 0), (0, 0)), ((3, 3), (3, 3)), ((5, 0), (1, 6))])
@pytest.mark.parametrize("size", [(7, 7), (8, 15), (40, 9), (31, 44)])
def test_a_stem_takes_any_size_and_padding(isa, size, padding):
    x, w = arrays(3, 3, *size, 64, 7)
    y = winograd(x, w, padding, stride=2)
    assert_close(y, x, w, padding, 2)
    one = winograd(x[1:2], w, padding, block=3, chunks=2, stride=2)
    assert one.tobytes() == y[1:2].tobytes()


def test_the_epilogue_of_a_stem(isa):
    x, w = arrays(2, 3, 21, 18, 40, 7)
    rng = np.random.default_rng(1)
    factor = rng.standard_normal(40).astype(np.float32)
    summand = rng.standard_normal((2, 11, 9, 40)).astype(np.float32)
    operands = [factor, summand, np.array([1.5], np.float32)]
    padding = ((3, 3), (3, 3))
    y = winograd(x, w, padding, epilogue=ALL_OPERANDS, operands=operands, stride=2)
    plain = winograd(x, w, padding, stride=2)
    expected = np.maximum(plain * factor[:, None, None] + nchw(summand), 0) * np.float32(1.5)
    np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "kernel", "stride", "tile", "bound"),
    [
        ((1, 3, 224, 224, 64), 7, 2, 4, 2e-5),
        ((1, 64, 28, 28, 64), 5, 1, 3, 3e-5),
        ((2, 256, 14, 14, 256), 3, 2, 4, 3e-5),
    ],
)
def test_the_error_of_other_kernels(shape, kernel, stride, tile, bound):
    x, w = arrays(*shape, kernel)
    padding = ((kernel // 2,) * 2,) * 2
    y = winograd(x, w, padding, block=14, tile=tile, stride=stride)
    expected = definition(y, x, w, padding, stride)
    assert np.abs(y - expected).max() < bound * expected.std()


@pytest.mark.parametrize("filtering", [Filtering(4), Filtering(4, 7, 2)])
def test_other_machines_get_code_without_calls(filtering):
    for isa_ in ("avx512", "avx2", "neon"):
        found = calls(assembly(Winograd(64, 64, filtering, NONE), isa_))
        assert not [c for c in found if "@PLT" in c]
