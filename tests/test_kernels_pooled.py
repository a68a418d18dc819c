"""Convolutions that store the maxima of 2×2 windows: as the engine plans them, on guard pages."""

from itertools import product

import numpy as np
import pytest

from striate.arith.cook_toom import Filtering
from striate.arith.expr import Expr
from striate.arith.layout import WinogradWeights
from striate.arith.winograd import Candidate
from striate.engine.choice import Choice
from striate.engine.layout import conv_shape, weight_layout
from striate.engine.layouts_numpy import to_memory
from striate.engine.lower.context import POOLED, Lowering
from striate.engine.lower.conv import lower_conv
from striate.graph import Trace
from striate.graph.ops.conv import Conv2d
from striate.graph.ops.fused import FusedConv, pool_of
from striate.graph.value import TensorType
from striate.jit import target
from striate.kernels.direct import DirectConv
from striate.kernels.epilogue import Epilogue
from striate.kernels.gemm import Gemm
from striate.kernels.winograd import Winograd
from tests.conv_oracle import nchw, nhwc, run_steps
from tests.kernel_call import assembly, calls, isa, same_bits  # noqa: F401
from tests.machine_code import fmas, functions, inner_loops, on_stack, steps_of_a_round

SAME = Conv2d(padding=((1, 1), (1, 1)))
PLAIN = (Expr.identity(), ())
# relu(y · a + b) · c with a factor a channel, a summand an element and one number
ALL_OPERANDS = (
    Expr(4, (("mul", 0, 1), ("add", 4, 2), ("relu", 5), ("mul", 6, 3)), (7,)),
    ("channel", "full", "scalar"),
)
SMALL = list(product(range(2, 10), repeat=2))


def run(op, x, w, tile, pool, epilogue=PLAIN, operands=()):
    """The result (n, co, rows, cols) by tiles of Winograd's method, or by the direct kernel (0)."""
    with Trace() as trace:
        inputs = [trace.input(f"x{i}", a.shape) for i, a in enumerate((x, w, *operands))]
        value = FusedConv(op, *epilogue, pool=pool)(*inputs)
    node = value.node
    layout = weight_layout(op, conv_shape(op, node), target.machine())
    if tile:
        layout = WinogradWeights(layout, Filtering(tile, w.shape[2], op.stride[0]))
    choice = Choice("", "", Candidate(tile, 0, 0, 0.0), (), "")
    low = Lowering({node.inputs[1]: layout}, target.machine(), 3, {node: choice})
    ids = [low.make("arena", v.type, low.layout(v)) for v in (*node.inputs, value)]
    lower_conv(low, node, ids[:-1], ids[-1:])
    (step,) = low.take_steps()
    assert isinstance(step.spec, Winograd if tile else DirectConv)
    assert step.label.endswith(POOLED) == pool
    arrays = [nhwc(x), to_memory(layout, w).astype(np.float32)]
    arrays += [nhwc(a) if a.ndim == 4 else a for a in operands]
    n, c, h, width = value.shape
    memory = dict(zip(ids, [*arrays, np.empty((n, h, width, c), np.float32)], strict=True))
    return nchw(run_steps([step], memory)[ids[-1]])


def arrays(n, ci, size, co, kernel=3):
    rng = np.random.default_rng(ci * 100 + co + 10 * size[0] + size[1])
    x = rng.standard_normal((n, ci, *size)).astype(np.float32)
    w = rng.standard_normal((co, ci, kernel, kernel)) / (kernel**2 * ci) ** 0.5
    return x, w.astype(np.float32)


def pooled(y):
    return pool_of(TensorType(y.shape)).numpy(y)[0]


def assert_pools(op, x, w, tile, epilogue=PLAIN, operands=()):
    """The bits of the unpooled kernel and then the maxima, and near the definition in float64."""
    y = run(op, x, w, tile, True, epilogue, operands)
    assert same_bits(y, pooled(run(op, x, w, tile, False, epilogue, operands)))
    wide = [np.asarray(a, np.float64) for a in (x, w, *operands)]
    (expected,) = FusedConv(op, *epilogue, pool=True).numpy(*wide)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("tile", [0, 2, 4])
@pytest.mark.parametrize(("ci", "co"), [(1, 32), (3, 7), (16, 33), (20, 72), (180, 17)])
def test_any_channel_count(isa, tile, ci, co):
    for size in ((2, 2), (5, 4), (9, 7), (15, 33)):
        assert_pools(SAME, *arrays(2, ci, size, co), tile)


@pytest.mark.parametrize("tile", [0, 2, 4])
def test_every_small_size(tile):
    """Rows and columns that no window has lie at the end of every other size."""
    for size in SMALL:
        assert_pools(SAME, *arrays(1, 12, size, 17), tile)


@pytest.mark.parametrize("tile", [0, 2, 4])
@pytest.mark.parametrize("size", [(7, 6), (4, 13), (8, 8)])
def test_the_epilogue_comes_first(isa, tile, size):
    x, w = arrays(2, 20, size, 40)
    rng = np.random.default_rng(1)
    operands = [
        rng.standard_normal(40).astype(np.float32),
        rng.standard_normal((2, 40, *size)).astype(np.float32),
        np.array([1.5], np.float32),
    ]
    assert_pools(SAME, x, w, tile, ALL_OPERANDS, operands)


@pytest.mark.parametrize(
    ("op", "kernel", "tile"),
    [
        (Conv2d((2, 2), ((3, 3), (3, 3))), 7, 4),
        (Conv2d((2, 2), ((3, 3), (3, 3))), 7, 0),
        (Conv2d((1, 1), ((0, 0), (0, 0))), 5, 2),
        (Conv2d((2, 1), ((1, 0), (0, 2)), (2, 1)), 3, 0),
        (Conv2d((1, 1), ((2, 2), (1, 1)), (2, 1), 2), 3, 0),
    ],
)
def test_other_kernels_and_strides(isa, op, kernel, tile):
    x, w = arrays(2, 12, (23, 30), 40, kernel)
    assert_pools(op, x, w[:, : 12 // op.groups], tile)


@pytest.mark.parametrize("tile", [0, 2, 4])
def test_a_window_with_nan_gives_nan(isa, tile):
    x, w = arrays(1, 16, (14, 12), 32)
    x[0, 3, 5, 4] = x[0, 7, 0, 0] = np.nan
    y = run(SAME, x, w, tile, True)
    unpooled = run(SAME, x, w, tile, False)
    assert np.isnan(y).any()
    assert not np.isnan(y).all()
    np.testing.assert_array_equal(y, pooled(unpooled))


@pytest.mark.parametrize("tile", [0, 2, 4])
def test_minus_infinity_is_a_maximum(tile):
    x, w = arrays(1, 16, (4, 4), 16)
    low = [np.full((1, 16, 4, 4), -np.inf, np.float32)]
    add = (Expr(2, (("add", 0, 1),), (2,)), ("full",))
    assert np.all(run(SAME, x, w, tile, True, add, low) == -np.inf)


@pytest.mark.parametrize("tile", [0, 2, 4])
def test_an_image_has_the_same_bits_in_any_batch(isa, tile):
    x, w = arrays(5, 20, (7, 10), 40)
    together = run(SAME, x, w, tile, True)
    for i in range(5):
        assert same_bits(run(SAME, x[i : i + 1], w, tile, True), together[i : i + 1])


@pytest.mark.parametrize("isa_", ["avx512", "avx2", "sse2", "neon"])
def test_code_for_every_machine(isa_):
    """No calls, and the sums of a row of windows stay in registers."""
    epilogue = Epilogue(*ALL_OPERANDS, pool=True)
    machine = target.reference_machine(isa_)
    direct = DirectConv(64, 64, 1, (3, 3), (1, 1), (1, 1), (1, 1), epilogue)
    for spec in (direct, Winograd(64, 64, Filtering(4), epilogue)):
        text = assembly(spec, isa_)
        assert set(calls(text)) <= functions(text)
        if spec is direct:
            loops = inner_loops(text, f"tile{machine.rows // 2}")
            products = machine.rows * machine.cols * steps_of_a_round(machine, machine.rows)
            assert [fmas(loop) for loop in loops] == [products] * 2
            assert all(on_stack(loop) == [] for loop in loops)


def test_a_kernel_that_does_not_pool_says_so():
    with pytest.raises(AssertionError, match="pools"):
        Gemm(16, 32, Epilogue(pool=True)).emit(target.machine())
