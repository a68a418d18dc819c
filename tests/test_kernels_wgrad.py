import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from striate.arith.conv import ConvShape
from striate.engine.lower.context import SCRATCH_FILL, Lowering
from striate.engine.lower.weight_gradient import MOST_CHUNKS, lower_weight_gradient
from striate.engine.program import SCRATCH, Step
from striate.graph import Trace
from striate.graph.ops.conv import ConvWeightGrad
from striate.jit import target
from striate.kernels.wgrad import WeightGrad
from tests.conv_oracle import assert_sums, integers, nhwc, run_steps, weight_gradient
from tests.kernel_call import assembly, calls, isa  # noqa: F401
from tests.machine_code import fmas, functions, inner_loops, on_stack, steps_of_a_round

X, DY, DW = 1, 2, 3


def oihw(dw, spec):
    """[group][kh][kw][ci][co] of one chunk as (groups · co, ci, kh, kw)."""
    shape = (spec.groups, *spec.kernel, spec.ci, spec.co)
    moved = dw.reshape(shape).transpose(0, 4, 3, 1, 2)
    return moved.reshape(spec.groups * spec.co, spec.ci, *spec.kernel)


def scratch_for(spec, images, row_block, cols):
    """Elements of the bordered copies of a block of pixels."""
    if not spec.bordered:
        return 0
    height, width = (
        (count - 1) * stride + (kernel - 1) * dilation + 1
        for count, stride, kernel, dilation in zip(
            (row_block, cols), spec.stride, spec.kernel, spec.dilation, strict=True
        )
    )
    return images * height * width * spec.ci


def partial_sums(spec, x, dy, begin=(0, 0), images=1, row_block=0, chunk=1, co_chunks=1):
    """Run the kernel by itself; returns the sum of each chunk, (chunks, co, ci, kh, kw)."""
    n, _, h, w = x.shape
    rows, cols = dy.shape[2:]
    row_block = row_block or rows
    assert images == 1 or row_block >= rows
    chunks = math.ceil(math.ceil(n / images) * math.ceil(rows / row_block) / chunk)
    scratch = scratch_for(spec, images, row_block, cols)
    sizes = (n, h, w, rows, cols, *begin, images, row_block, chunk, co_chunks, scratch)
    taps = spec.kernel[0] * spec.kernel[1]
    size = chunks * spec.groups * taps * spec.ci * spec.co
    memory = {X: nhwc(x), DY: nhwc(dy), DW: np.empty(size, np.float32)}
    step = Step(spec, (X, DY, DW, SCRATCH), sizes, (), (DW,), "", scratch)
    dw = run_steps([step], memory)[DW].reshape(chunks, -1)
    return np.stack([oihw(part, spec) for part in dw])


def planned(op, x_shape, dy_shape, threads=3):
    """The steps that the engine plans, its buffers, and the ids of x, dy and dw."""
    with Trace() as trace:
        inputs = [trace.input("x", s) for s in (x_shape, dy_shape)]
        value = op(*inputs)
    low = Lowering({}, target.machine(), threads)
    ids = [low.make("arena", v.type) for v in (*inputs, value)]
    lower_weight_gradient(low, value.node, ids[:-1], ids[-1:])
    return low.take_steps(), low.buffers, ids


def run_planned(op, x, dy, threads=3):
    """The whole weight gradient as planned: partial sums, their sum, and OIHW order."""
    steps, buffers, ids = planned(op, x.shape, dy.shape, threads)
    memory = {i: np.empty(b.elements, np.float32) for i, b in buffers.items() if b.kind == "arena"}
    memory[ids[0]], memory[ids[1]] = nhwc(x), nhwc(dy)
    return run_steps(steps, memory)[ids[2]].reshape(buffers[ids[2]].shape)


def facts_of(spec, begin):
    return spec.kernel, spec.stride, begin, spec.dilation, spec.groups


# -- the kernel by itself --------------------------------------------------------------------------

ONE, SAME = (1, 1), (1, 1)
SPECS = {
    # short runs: several rows of taps share a tile
    "lenet conv1": (WeightGrad(1, 6, 1, (5, 5), ONE, ONE, True), (2, 2)),
    "one channel 3x3": (WeightGrad(1, 33, 1, (3, 3), ONE, ONE, True), SAME),
    "rgb 3x3": (WeightGrad(3, 48, 1, (3, 3), ONE, ONE, True), SAME),
    "rgb, in place": (WeightGrad(3, 16, 1, (3, 3), (1, 2), ONE, False), (0, 0)),
    "one tap": (WeightGrad(9, 72, 1, (1, 1), ONE, ONE, False), (0, 0)),
    "resnet downsample": (WeightGrad(17, 32, 1, (1, 1), (2, 2), ONE, False), (0, 0)),
    "strides 3 and 2": (WeightGrad(5, 17, 1, (4, 3), (3, 2), ONE, True), (2, 0)),
    "dilated 2 and 3": (WeightGrad(4, 10, 1, (3, 2), ONE, (2, 3), True), (2, 1)),
    "dilated, few channels": (WeightGrad(1, 3, 1, (3, 3), (2, 1), (1, 2), True), (1, 2)),
    "groups": (WeightGrad(2, 5, 3, (3, 3), (2, 1), ONE, True), SAME),
    "depthwise": (WeightGrad(1, 1, 6, (3, 3), ONE, ONE, True), SAME),
}
# blocks of pixels: images, rows of one image, blocks in a chunk
BLOCKS = [(1, 0, 1), (2, 0, 1), (3, 0, 2), (1, 1, 2), (1, 2, 100), (5, 0, 1)]


@pytest.mark.parametrize("case", SPECS.values(), ids=SPECS)
def test_partial_sums(isa, case):
    spec, begin = case
    rng = np.random.default_rng(1)
    for least, out in [((7, 9), (3, 4)), ((9, 20), (3, 6)), ((9, 5), (3, 1))]:
        reach = [0, 0]
        if not spec.bordered:  # no window may leave the image
            reach = [
                (count - 1) * stride + kernel
                for count, stride, kernel in zip(out, spec.stride, spec.kernel, strict=True)
            ]
        size = map(max, least, reach)
        x = integers(rng, 4, spec.ci * spec.groups, *size)
        dy = integers(rng, 4, spec.co * spec.groups, *out)
        want = weight_gradient(x, dy, *facts_of(spec, begin))
        for images, row_block, chunk in BLOCKS:
            got = partial_sums(spec, x, dy, begin, images, row_block, chunk, co_chunks=2)
            np.testing.assert_array_equal(got.sum(0), want)


@pytest.mark.parametrize("co", [1, 3, 16, 17, 32, 33, 48, 64, 72])
def test_tails_of_output_channels(isa, co):
    rng = np.random.default_rng(co)
    spec = WeightGrad(2, co, 1, (2, 2), ONE, ONE, True)
    x, dy = integers(rng, 3, 2, 5, 6), integers(rng, 3, co, 5, 6)
    want = weight_gradient(x, dy, *facts_of(spec, (1, 0)))
    for co_chunks in (1, 2, 3):
        got = partial_sums(spec, x, dy, (1, 0), images=2, co_chunks=co_chunks)
        np.testing.assert_array_equal(got.sum(0), want)


@pytest.mark.parametrize("ci", range(1, 16))
def test_every_tile_length(isa, ci):
    rng = np.random.default_rng(ci)
    spec = WeightGrad(ci, 4, 1, (3, 1), ONE, ONE, True)
    x, dy = integers(rng, 2, ci, 4, 5), integers(rng, 2, 4, 4, 5)
    want = weight_gradient(x, dy, *facts_of(spec, (1, 0)))
    np.testing.assert_array_equal(partial_sums(spec, x, dy, (1, 0)).sum(0), want)


def test_a_chunk_sums_its_own_blocks_in_order(isa):
    rng = np.random.default_rng(2)
    spec, begin = SPECS["rgb 3x3"]
    x = rng.standard_normal((5, 3, 6, 7), np.float32)
    dy = rng.standard_normal((5, 48, 6, 7), np.float32)
    parts = partial_sums(spec, x, dy, begin, images=1, chunk=2)
    assert len(parts) == 3
    for i, part in enumerate(parts):
        some = slice(2 * i, 2 * i + 2)
        facts = facts_of(spec, begin)
        want = weight_gradient(x[some], dy[some], *facts)
        magnitudes = weight_gradient(abs(x[some]), abs(dy[some]), *facts)
        assert_sums(part, want, magnitudes, 2 * 6 * 7)
        # The same pixels in other blocks are added in the same order.
        for images, row_block in [(2, 0), (1, 2), (1, 1)]:
            again = partial_sums(spec, x[some], dy[some], begin, images, row_block, chunk=100)
            np.testing.assert_array_equal(again[0], part)


# -- as the engine plans it ------------------------------------------------------------------------

PAD_1, PAD_2, PAD_3 = (((p, p), (p, p)) for p in (1, 2, 3))
NETWORKS = {
    "lenet conv1": ((8, 1, 28, 28), 6, (5, 5), ConvWeightGrad(ONE, PAD_2, kh=5, kw=5)),
    "resnet stem": ((2, 3, 37, 41), 64, (7, 7), ConvWeightGrad((2, 2), PAD_3, kh=7, kw=7)),
    "vgg conv": ((3, 64, 9, 14), 64, (3, 3), ConvWeightGrad(ONE, PAD_1, kh=3, kw=3)),
    "resnet downsample": ((2, 64, 9, 9), 128, (1, 1), ConvWeightGrad((2, 2), kh=1, kw=1)),
    "dense": ((30, 400, 1, 1), 120, (1, 1), ConvWeightGrad(kh=1, kw=1)),
    "resnext group": ((2, 32, 8, 8), 32, (3, 3), ConvWeightGrad(ONE, PAD_1, ONE, 8, 3, 3)),
}


@pytest.mark.parametrize("case", NETWORKS.values(), ids=NETWORKS)
def test_networks(isa, case):
    x_shape, co, kernel, op = case
    shape = ConvShape(*x_shape, co, *kernel, op.stride, op.padding, op.dilation, op.groups)
    rng = np.random.default_rng(3)
    x = rng.standard_normal(x_shape, np.float32)
    dy = rng.standard_normal((x_shape[0], co, shape.out_h, shape.out_w), np.float32)
    facts = (kernel, op.stride, (op.padding[0][0], op.padding[1][0]), op.dilation, op.groups)
    want, magnitudes = weight_gradient(x, dy, *facts), weight_gradient(abs(x), abs(dy), *facts)
    got = run_planned(op, x, dy)
    assert_sums(got, want, magnitudes, x_shape[0] * shape.out_h * shape.out_w)
    for threads in (1, 2, 7):
        np.testing.assert_array_equal(run_planned(op, x, dy, threads), got)


def test_many_chunks_are_added_in_order(isa):
    rng = np.random.default_rng(4)
    op = ConvWeightGrad(ONE, ((1, 1), (1, 1)), ONE, 1, 3, 3)
    x, dy = integers(rng, 30, 2, 16, 16), integers(rng, 30, 3, 16, 16)
    steps, buffers, _ = planned(op, x.shape, dy.shape)
    chunks = buffers[steps[0].writes[0]].elements // (3 * 2 * 9)
    assert 1 < chunks <= MOST_CHUNKS
    want = weight_gradient(x, dy, (3, 3), begin=(1, 1))
    np.testing.assert_array_equal(run_planned(op, x, dy), want)


AXIS = st.tuples(
    st.integers(1, 9), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3),
    st.integers(0, 3), st.integers(0, 3),
)  # fmt: skip


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    st.integers(1, 5), st.integers(1, 5), st.integers(1, 20), st.sampled_from([1, 1, 2, 3]),
    AXIS, AXIS,
)  # fmt: skip
def test_random_gradients(n, ci, co, groups, vertical, horizontal):
    (h, kh, sh, dh, top, bottom), (w, kw, sw, dw, left, right) = vertical, horizontal
    h, w = h + (kh - 1) * dh, w + (kw - 1) * dw
    stride, padding, dilation = (sh, sw), ((top, bottom), (left, right)), (dh, dw)
    shape = ConvShape(n, ci * groups, h, w, co * groups, kh, kw, stride, padding, dilation, groups)
    rng = np.random.default_rng(5)
    x, dy = (
        integers(rng, n, c * groups, *size)
        for c, size in ((ci, (h, w)), (co, (shape.out_h, shape.out_w)))
    )
    op = ConvWeightGrad(stride, padding, dilation, groups, kh, kw)
    want = weight_gradient(x, dy, (kh, kw), stride, (top, left), dilation, groups)
    np.testing.assert_array_equal(run_planned(op, x, dy), want)


def test_planned_scratch_is_what_the_kernel_needs():
    op = ConvWeightGrad((2, 1), ((3, 1), (2, 2)), (1, 2), 1, 5, 3)
    steps, _, _ = planned(op, (20, 3, 12, 10), (20, 8, 6, 10))
    spec, sizes = steps[0].spec, steps[0].sizes
    images, row_block = sizes[7:9]
    assert images > 1
    wanted = scratch_for(spec, images, row_block, 10) + SCRATCH_FILL
    assert steps[0].scratch == sizes[-1] == wanted


@pytest.mark.parametrize("name", ["avx512", "avx2", "sse2", "neon"])
def test_inner_loop_is_the_tile_and_nothing_spills(name):
    machine = target.reference_machine(name)
    spec = WeightGrad(machine.rows, 64, 1, (3, 3), ONE, ONE, True)
    text = assembly(spec, name)
    assert set(calls(text)) <= functions(text)
    loops = inner_loops(text, f"tile1x{machine.rows}")
    together = {steps_of_a_round(machine, machine.rows), 1}
    sizes = [steps * machine.rows * machine.cols for steps in sorted(together, reverse=True)]
    assert [fmas(loop) for loop in loops] == sizes
    assert [on_stack(loop) for loop in loops] == [[]] * len(loops)
