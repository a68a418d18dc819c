from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from striate.arith.expr import Expr
from striate.arith.layout import PackedWeights
from striate.engine import build
from striate.engine.layouts_numpy import pack_numpy
from striate.engine.lower.context import SCRATCH_FILL, Lowering
from striate.engine.lower.conv import is_matrix_product, lower_conv
from striate.engine.lower.gemm import choose_panel
from striate.engine.program import SCRATCH, Step
from striate.graph import Trace
from striate.graph.ops.conv import Conv2d, ConvInputGrad
from striate.jit import target
from striate.kernels.epilogue import NONE, Epilogue
from striate.kernels.gemm import STREAMS, Gemm, near
from striate.kernels.prologue import Prologue
from tests.conv_oracle import assert_sums, integers, run_steps
from tests.kernel_call import assembly, calls, isa  # noqa: F401
from tests.machine_code import fmas, functions, inner_loops, on_stack, steps_of_a_round

X, W, Y, OPERANDS = 1, 2, 3, 4
# 512 inputs a row are 2 KiB: such panels are copied to rows of another pitch
UNPACKED, PACKED = 20, 512
BIAS_RELU = Epilogue(Expr(2, (("add", 0, 1), ("relu", 2)), (3,)), ("channel",))


def packed(w, *, swap=False):
    """(co, ci) weights as the kernel reads them; with `swap` for the product with wᵀ."""
    block = target.machine().block(w.shape[1] if swap else w.shape[0])
    return pack_numpy(PackedWeights(block, 1, (((0, 0),),), swap), w[..., None, None])


def product(spec, x, w, panel, chunks=1, w_offset=0, operands=()):
    """Run the kernel by itself: x (m, ci) · wᵀ (ci, co), then the epilogue."""
    scratch = panel * spec.pitch if spec.packed else 0
    before = np.full(w_offset, np.nan, np.float32)
    memory = {
        X: x,
        W: np.concatenate([before, packed(w)]),
        Y: np.empty((len(x), spec.co), np.float32),
        **{OPERANDS + i: operand for i, operand in enumerate(operands)},
    }
    slots = (X, W, Y, SCRATCH, *range(OPERANDS, OPERANDS + len(operands)))
    step = Step(spec, slots, (len(x), panel, chunks, w_offset, scratch), (), (Y,), "", scratch)
    return run_steps([step], memory)[Y]


def run_planned(op, image, w, threads=3):
    """The step that the engine plans for a 1×1 convolution; images and results are (m, c)."""
    with Trace() as trace:
        inputs = [trace.input("x", (*a.shape, 1, 1)) for a in (image, w)]
        value = op(*inputs)
    low = Lowering({}, target.machine(), threads)
    ids = [low.make("arena", v.type) for v in (*inputs, value)]
    lower_conv(low, value.node, ids[:-1], ids[-1:])
    steps = low.take_steps()
    assert [type(step.spec) for step in steps] == [Gemm]
    y = np.empty(value.shape[:2], np.float32)
    swap = isinstance(op, ConvInputGrad)
    return run_steps(steps, dict(zip(ids, [image, packed(w, swap=swap), y], strict=True)))[ids[-1]]


# -- the kernel by itself --------------------------------------------------------------------------


@pytest.mark.parametrize("co", [1, 3, 10, 16, 17, 32, 33, 48, 72])
@pytest.mark.parametrize("ci", [UNPACKED, PACKED])
def test_every_tile_and_tail(isa, ci, co):
    """Row counts 1 … 30 go through the body of every tile length, co through every mask."""
    rng = np.random.default_rng(co)
    spec = Gemm(ci, co, NONE)
    assert spec.packed == (ci == PACKED)
    w = integers(rng, co, ci)
    for m in range(1, 31, 1 if ci == UNPACKED else 4):
        x = integers(rng, m, ci)
        got = product(spec, x, w, panel=max(1, m - m % 3), chunks=1 + m % 2)
        np.testing.assert_array_equal(got, x.astype(np.float64) @ w.T.astype(np.float64))


@pytest.mark.parametrize("ci", [1, 2, 7])
def test_few_inputs(isa, ci):
    rng = np.random.default_rng(ci)
    x, w = integers(rng, 19, ci), integers(rng, 10, ci)
    np.testing.assert_array_equal(product(Gemm(ci, 10, NONE), x, w, 8, w_offset=48), x @ w.T)


@pytest.mark.parametrize("ci", [UNPACKED, PACKED])
def test_blocking_does_not_change_the_bits(isa, ci):
    rng = np.random.default_rng(1)
    spec = Gemm(ci, 72, NONE)
    x, w = rng.standard_normal((37, ci), np.float32), rng.standard_normal((72, ci), np.float32)
    want = product(spec, x, w, 37)
    assert_sums(want, x.astype(np.float64) @ w.T, abs(x).astype(np.float64) @ abs(w).T, ci)
    for panel in (1, 6, 13, 14, 36, 40):
        for chunks in (1, 2, 3, 7, 32):
            np.testing.assert_array_equal(product(spec, x, w, panel, chunks), want)
    for m in (1, 5, 15):
        np.testing.assert_array_equal(product(spec, x[:m], w, 14), want[:m])


@pytest.mark.parametrize(("ci", "co"), [(UNPACKED, 17), (PACKED, 33)])
def test_epilogue(isa, ci, co):
    rng = np.random.default_rng(2)
    expr = Expr(4, (("mul", 0, 1), ("add", 4, 2), ("relu", 5), ("mul", 6, 3)), (7,))
    spec = Gemm(ci, co, Epilogue(expr, ("channel", "full", "scalar")))
    x, w, a = integers(rng, 16, ci), integers(rng, co, ci), integers(rng, co)
    b, c = integers(rng, 16, co), np.array(0.5, np.float32)
    got = product(spec, x, w, 7, 2, operands=[a, b, c])
    np.testing.assert_array_equal(got, np.maximum((x @ w.T) * a + b, 0) * 0.5)


@pytest.mark.parametrize(("ci", "co"), [(UNPACKED, 17), (PACKED, 33), (496, 8), (3, 40)])
def test_prologue_and_pitches(isa, ci, co):
    """relu(x·a + b) is what is multiplied; rows of x and y lie further apart than they are long."""
    rng = np.random.default_rng(5)
    relu = Expr(3, (("mul", 0, 1), ("add", 3, 2), ("relu", 4)), (5,))
    for m, fill in ((1, 5), (4, 16), (19, 3)):
        prologue = Prologue(relu, ("channel", "scalar"), ci + fill)
        spec = Gemm(ci, co, replace(BIAS_RELU, pitch=co + fill), prologue)
        x, w, bias = integers(rng, m, ci), integers(rng, co, ci), integers(rng, co)
        a, b = integers(rng, ci), np.array(2, np.float32)
        before, wanted = (np.full((m, c + fill), np.nan, np.float32) for c in (ci, co))
        before[:, :ci] = x
        wanted[:, :co] = np.maximum(np.maximum(x * a + b, 0) @ w.T.astype(np.float64) + bias, 0)
        assert spec.packed
        step = Step(
            spec,
            (X, W, Y, SCRATCH, *range(OPERANDS, OPERANDS + 3)),
            (m, 7, 2, 0, 7 * spec.pitch),
            (),
            (Y,),
            "",
            7 * spec.pitch,
        )
        y = np.empty(wanted.size - fill, np.float32)  # nothing follows the last row
        memory = dict(enumerate([before.reshape(-1)[:-fill], packed(w), y, bias, a, b], X))
        np.testing.assert_array_equal(run_steps([step], memory)[Y], wanted.reshape(-1)[:-fill])


@pytest.mark.parametrize("more", [0, 9])
def test_one_row_of_far_weights_has_the_bits_of_many(isa, more):
    """It reads several output blocks side by side; what is left of a chunk comes one by one."""
    rng = np.random.default_rng(8)
    co = target.machine().l2_bytes // (8 * PACKED) + STREAMS * 32 + more
    x, w = rng.standard_normal((9, PACKED), np.float32), rng.standard_normal((co, PACKED))
    w, bias = w.astype(np.float32), rng.standard_normal(co).astype(np.float32)
    spec = Gemm(PACKED, co, BIAS_RELU)
    assert not near(PACKED, co, target.machine())
    want = product(spec, x, w, 9, operands=[bias])
    exact = np.maximum(x.astype(np.float64) @ w.T + bias, 0)
    np.testing.assert_allclose(want, exact, atol=1e-3)
    for chunks in (1, 3, 4):
        got = product(spec, x[:1], w, 1, chunks, w_offset=48, operands=[bias])
        np.testing.assert_array_equal(got, want[:1])
    np.testing.assert_array_equal(product(spec, x, w, 4, 2, operands=[bias]), want)


def test_rows_further_apart_need_no_copy(isa):
    rng = np.random.default_rng(6)
    x, w = integers(rng, 19, 30), integers(rng, 10, 20)
    spec = Gemm(20, 10, NONE, Prologue(pitch=30))
    assert not spec.packed
    np.testing.assert_array_equal(product(spec, x, w, 8), x[:, :20] @ w.T)


# -- as the engine plans it ------------------------------------------------------------------------

LAYERS = {
    "lenet dense1": (3, 400, 120),
    "lenet-bn dense": (64, 3136, 128),
    "imagenet head, one image": (1, 512, 1000),
    "resnet 1x1": (100, 256, 64),
}


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_networks(isa, layer):
    m, ci, co = layer
    rng = np.random.default_rng(3)
    x, w = rng.standard_normal((m, ci), np.float32), rng.standard_normal((co, ci), np.float32)
    dy = rng.standard_normal((m, co), np.float32)
    wide = w.astype(np.float64)
    assert_sums(run_planned(Conv2d(), x, w), x @ wide.T, abs(x) @ abs(wide).T, ci)
    back = ConvInputGrad(in_h=1, in_w=1)
    assert_sums(run_planned(back, dy, w), dy @ wide, abs(dy) @ abs(wide), co)


@settings(max_examples=8, deadline=None, derandomize=True)
@given(st.integers(1, 60), st.integers(1, 40), st.integers(1, 40), st.integers(1, 9))
def test_random_products(m, ci, co, threads):
    rng = np.random.default_rng(4)
    x, w = integers(rng, m, ci), integers(rng, co, ci)
    np.testing.assert_array_equal(run_planned(Conv2d(), x, w, threads), x @ w.T)


@given(
    st.integers(1, 3000),
    st.integers(1, 40),
    st.sampled_from([6, 14]),
    st.integers(1, 16),
    st.integers(1, 16),
)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_panels_cover_all_rows_and_no_chunk_is_empty(m, blocks, rows, threads, most):
    panel, chunks = choose_panel(m, blocks, rows, threads, most)
    assert 1 <= panel <= most * rows
    assert 1 <= chunks <= blocks


def test_scratch_holds_a_panel():
    op = Conv2d()
    for ci in (UNPACKED, PACKED):
        with Trace() as trace:
            value = op(trace.input("x", (50, ci, 1, 1)), trace.input("w", (8, ci, 1, 1)))
        low = Lowering({}, target.machine(), 2)
        ids = [low.make("arena", v.type) for v in (*value.node.inputs, value)]
        lower_conv(low, value.node, ids[:-1], ids[-1:])
        (step,) = low.take_steps()
        panel = step.sizes[1]
        wanted = panel * (ci + 16) + SCRATCH_FILL if ci == PACKED else 0
        assert step.scratch == step.sizes[-1] == wanted


def test_what_is_a_matrix_product():
    from striate.arith.conv import ConvShape

    def shape(kernel=1, stride=(1, 1), padding=((0, 0), (0, 0)), groups=1):
        return ConvShape(1, 4, 5, 5, 4, 1, kernel, stride, padding, (1, 1), groups)

    assert is_matrix_product(shape(), forward=True)
    assert is_matrix_product(shape(), forward=False)
    assert is_matrix_product(shape(stride=(1, 2)), forward=True)
    assert not is_matrix_product(shape(stride=(1, 2)), forward=False)
    assert not is_matrix_product(shape(kernel=2), forward=True)
    assert not is_matrix_product(shape(padding=((0, 1), (0, 0))), forward=True)
    assert not is_matrix_product(shape(groups=2), forward=True)


@pytest.mark.parametrize("stride", [(2, 2), (1, 2), (3, 1)])
@pytest.mark.parametrize(
    "shape", [(2, 5, 7, 9, 11), (1, 64, 14, 13, 40), (3, 512, 5, 4, 33)], ids=str
)
def test_a_stride_picks_pixels(isa, stride, shape):
    n, ci, h, w, co = shape
    rng = np.random.default_rng(6)
    x, weights = rng.standard_normal((n, ci, h, w), np.float32), integers(rng, co, ci, 1, 1)
    with Trace() as trace:
        y = Conv2d(stride)(trace.input("x", x.shape), trace.input("w", weights.shape))
        executable = build(trace.graph(y))
    assert f"gemm {ci}→{co}" in [step.label for step in executable.program.steps]
    picked = x[:, :, :: stride[0], :: stride[1]].astype(np.float64)
    wide = weights[:, :, 0, 0].astype(np.float64)
    exact = np.einsum("nchw,oc->nohw", picked, wide)
    bound = np.einsum("nchw,oc->nohw", abs(picked), abs(wide))
    assert_sums(executable(x, weights)[0], exact, bound, ci)


@pytest.mark.parametrize("name", ["avx512", "avx2", "sse2", "neon"])
@pytest.mark.parametrize("epilogue", [NONE, BIAS_RELU], ids=["bare", "bias and relu"])
def test_inner_loop_is_the_tile_and_nothing_spills(name, epilogue):
    machine = target.reference_machine(name)
    text = assembly(Gemm(64, 64, epilogue), name)
    assert set(calls(text)) <= functions(text)
    (loop,) = inner_loops(text, f"tile{machine.rows}")
    steps = steps_of_a_round(machine, machine.rows)
    assert fmas(loop) == steps * machine.rows * machine.cols
    assert on_stack(loop) == []
