import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from striate.arith.conv import ConvShape
from striate.arith.expr import Expr
from striate.arith.layout import PackedWeights
from striate.engine.layout import conv_shape, weight_layout
from striate.engine.layouts_numpy import pack_numpy
from striate.engine.lower.context import SCRATCH_FILL, Lowering
from striate.engine.lower.conv import lower_conv
from striate.engine.program import SCRATCH, Step
from striate.graph import Trace
from striate.graph.ops.conv import Conv2d, ConvInputGrad
from striate.graph.ops.fused import FusedConv
from striate.jit import target
from striate.kernels.direct import DirectConv
from striate.kernels.epilogue import NONE, Epilogue
from striate.kernels.taps import IN_FLIGHT, LONG_ROW
from tests.conv_oracle import (
    assert_sums,
    convolution,
    input_gradient,
    integers,
    nchw,
    nhwc,
    run_steps,
)
from tests.kernel_call import assembly, calls, isa  # noqa: F401
from tests.machine_code import fmas, functions, inner_loops, on_stack, steps_of_a_round

X, W, Y, OPERANDS = 1, 2, 3, 4
# relu(y · a + b) · c with a factor a channel, a summand an element and one number
ALL_OPERANDS = Epilogue(
    Expr(4, (("mul", 0, 1), ("add", 4, 2), ("relu", 5), ("mul", 6, 3)), (7,)),
    ("channel", "full", "scalar"),
)


def packed(w, groups=1):
    """Weights as the kernel reads them, all taps in order."""
    taps = tuple(np.ndindex(w.shape[2:]))
    block = target.machine().block(w.shape[0] // groups)
    return pack_numpy(PackedWeights(block, groups, (taps,), swap=False), w)


def scratch_for(spec, row_block, cols):
    """Elements of the bordered copy that a unit of work needs, and the fill the engine adds."""
    if spec.cuts:
        return 0
    height, width = (
        (count - 1) * stride + (kernel - 1) * dilation + 1
        for count, stride, kernel, dilation in zip(
            (row_block, cols), spec.stride, spec.kernel, spec.dilation, strict=True
        )
    )
    return height * width * spec.ci + SCRATCH_FILL


def direct(spec, x, w, out, begin=(0, 0), row_block=0, chunks=1, operands=()):
    """Run the kernel by itself; returns y (n, co, out_h, out_w)."""
    n, _, h, width = x.shape
    row_block = row_block or out[0]
    scratch = scratch_for(spec, row_block, out[1])
    sizes = (n, h, width, *out, *begin, *out, 0, 0, row_block, chunks, 0, scratch)
    memory = {
        X: nhwc(x),
        W: packed(w, spec.groups),
        Y: np.empty((n, *out, spec.co * spec.groups), np.float32),
        **{OPERANDS + i: operand for i, operand in enumerate(operands)},
    }
    slots = (X, W, Y, SCRATCH, *range(OPERANDS, OPERANDS + len(operands)))
    step = Step(spec, slots, sizes, (), (Y,), "", scratch)
    return nchw(run_steps([step], memory)[Y])


def lowered(op, shapes, epilogue=NONE, operands=(), threads=3):
    """The steps that the engine plans for one convolution, the ids of its buffers and its node."""
    with Trace() as trace:
        inputs = [trace.input(f"x{i}", shape) for i, shape in enumerate(shapes)]
        if epilogue is not NONE:
            extra = [trace.input("operand", a.shape) for a in operands]
            value = FusedConv(op, epilogue.expr, epilogue.operands)(*inputs, *extra)
        else:
            value = op(*inputs)
    low = Lowering({}, target.machine(), threads)
    ids = [low.make("arena", v.type) for v in (*value.node.inputs, value)]
    lower_conv(low, value.node, ids[:-1], ids[-1:])
    return low.take_steps(), ids, value


def run_lowered(op, image, w, epilogue=NONE, operands=()):
    """Both convolutions as the engine plans them, its scratch sizes included."""
    steps, ids, value = lowered(op, [image.shape, w.shape], epilogue, operands)
    layout = weight_layout(op, conv_shape(op, value.node), target.machine())
    arrays = [nhwc(image), pack_numpy(layout, w), *operands]
    n, c, h, width = value.shape
    memory = dict(zip(ids, [*arrays, np.empty((n, h, width, c), np.float32)], strict=True))
    return nchw(run_steps(steps, memory)[ids[-1]])


# -- the kernel by itself --------------------------------------------------------------------------


@pytest.mark.parametrize("co", [1, 3, 10, 16, 17, 32, 33, 48, 72])
def test_every_tile_and_tail(isa, co):
    """Widths 1 … 30 go through the body of every tile length, co through every mask."""
    rng = np.random.default_rng(co)
    spec = DirectConv(3, co, 1, (3, 3), (1, 1), (1, 1), (1, 1), NONE)
    w = integers(rng, co, 3, 3, 3)
    for width in range(1, 31):
        x = integers(rng, 1, 3, 3, width)
        got = direct(spec, x, w, (3, width), (1, 1), chunks=1 + width % 2)
        np.testing.assert_array_equal(got, convolution(x, w, (3, width), begin=(1, 1)))


GEOMETRIES = {
    "stride 2 and 1": DirectConv(5, 20, 1, (3, 3), (2, 1), (1, 1), (1, 1), NONE),
    "stride 1 and 3": DirectConv(4, 8, 1, (2, 5), (1, 3), (1, 1), (1, 1), NONE),
    "stride 3 and 2, dilated": DirectConv(3, 17, 1, (3, 2), (3, 2), (2, 1), (1, 1), NONE),
    "dilated 2 and 3": DirectConv(3, 6, 1, (3, 3), (1, 1), (2, 3), (1, 1), NONE),
    "groups, stride 2": DirectConv(2, 5, 3, (3, 3), (2, 2), (1, 1), (1, 1), NONE),
    "wide groups": DirectConv(7, 33, 2, (1, 2), (1, 2), (1, 1), (1, 1), NONE),
    "depthwise, dilated": DirectConv(1, 1, 6, (3, 3), (1, 1), (1, 2), (1, 1), NONE),
    "one row of taps": DirectConv(1, 40, 1, (1, 7), (1, 1), (1, 1), (1, 1), NONE),
    "one column of taps": DirectConv(3, 9, 1, (4, 1), (2, 1), (3, 1), (1, 1), NONE),
    "one row of taps, dilated": DirectConv(5, 24, 1, (1, 3), (2, 2), (1, 3), (1, 1), NONE),
    "one column of taps, dilated": DirectConv(2, 7, 1, (3, 1), (1, 2), (2, 2), (1, 1), NONE),
    "a single tap": DirectConv(6, 48, 1, (1, 1), (2, 2), (1, 1), (1, 1), NONE),
    "a single tap, dilated": DirectConv(6, 48, 1, (1, 1), (1, 2), (2, 3), (1, 1), NONE),
    "dilated further than images reach": DirectConv(3, 33, 1, (3, 4), (1, 1), (5, 6), (1, 1), NONE),
    "long rows": DirectConv(LONG_ROW // 3 + 1, 18, 1, (3, 3), (1, 1), (1, 1), (1, 1), NONE),
    "long rows, dilated": DirectConv(LONG_ROW // 2, 7, 1, (3, 2), (2, 1), (2, 3), (1, 1), NONE),
    "one long row": DirectConv(LONG_ROW // 3 + 1, 8, 1, (1, 3), (1, 1), (1, 1), (1, 1), NONE),
    "long rows of groups": DirectConv(LONG_ROW // 2, 3, 2, (2, 2), (1, 1), (3, 2), (1, 1), NONE),
}
# (image, output, padding at the top and left): also negative, and wider than the image
PLACES = [
    ((7, 9), (3, 4), (0, 0)),
    ((7, 9), (4, 5), (1, 2)),
    ((8, 9), (3, 3), (-1, -2)),
    ((6, 5), (4, 3), (3, -1)),
    ((1, 1), (3, 2), (1, 1)),
    ((3, 2), (5, 16), (9, 4)),
    ((4, 20), (1, 6), (0, 0)),
    ((2, 2), (2, 2), (1, 1)),
    ((3, 3), (9, 8), (6, 12)),
    ((5, 4), (5, 30), (-7, 13)),
]


@pytest.mark.parametrize("spec", GEOMETRIES.values(), ids=GEOMETRIES)
def test_geometry(isa, spec):
    rng = np.random.default_rng(1)
    w = integers(rng, spec.co * spec.groups, spec.ci, *spec.kernel)
    for i, (size, out, begin) in enumerate(PLACES):
        x = integers(rng, 1 + i % 2, spec.ci * spec.groups, *size)
        want = convolution(x, w, out, spec.stride, begin, spec.dilation, spec.groups)
        for row_block, chunks in [(0, 1), (2, 2)]:
            got = direct(spec, x, w, out, begin, row_block, chunks)
            np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(("size", "out"), [((7, 9), (4, 9)), ((1, 1), (1, 1)), ((4, 20), (2, 20))])
def test_groups_in_place(isa, size, out):
    """Read between the pixels of the other groups, whatever the units of work."""
    spec = DirectConv(5, 20, 3, (1, 1), (2, 1), (1, 1), (1, 1), NONE, in_place=True)
    rng = np.random.default_rng(2)
    x, w = integers(rng, 2, 15, *size), integers(rng, 60, 5, 1, 1)
    want = convolution(x, w, out, spec.stride, (0, 0), spec.dilation, spec.groups)
    for row_block, chunks in [(0, 1), (2, 2)]:
        np.testing.assert_array_equal(direct(spec, x, w, out, (0, 0), row_block, chunks), want)


@pytest.mark.parametrize("ci", [12, LONG_ROW])
@pytest.mark.parametrize("dilation", [1, 2])
def test_taps_outside_the_image_are_not_computed(isa, ci, dilation):
    """Their weights are infinite, so a product with a zero would show."""
    rng = np.random.default_rng(9)
    spec = DirectConv(ci, 17, 1, (3, 3), (1, 1), (dilation, dilation), (1, 1), NONE)
    x, w = integers(rng, 1, ci, 1, 1 if dilation > 1 else 4), integers(rng, 17, ci, 3, 3)
    out, begin = x.shape[2:], (dilation, dilation)
    want = convolution(x, w, out, begin=begin, dilation=(dilation, dilation))
    w[:, :, [0, 2]] = np.inf
    if dilation > 1:
        w[:, :, :, [0, 2]] = np.inf
    np.testing.assert_array_equal(direct(spec, x, w, out, begin), want)


def test_epilogue_where_no_tap_meets_the_image(isa):
    rng = np.random.default_rng(10)
    for dilation in ((1, 1), (2, 2)):
        spec = DirectConv(2, 17, 1, (3, 3), (1, 1), dilation, (1, 1), ALL_OPERANDS)
        x, w = integers(rng, 1, 2, 2, 3), integers(rng, 17, 2, 3, 3)
        a, b = integers(rng, 17), integers(rng, 1, 17, 12, 14)
        c = np.array(0.5, np.float32)
        got = direct(spec, x, w, (12, 14), (6, 7), operands=[a, nhwc(b), c])
        y = convolution(x, w, (12, 14), begin=(6, 7), dilation=dilation)
        assert not y[:, :, 0].any()
        np.testing.assert_array_equal(got, np.maximum(y * a[:, None, None] + b, 0) * 0.5)


def test_blocking_does_not_change_the_bits(isa):
    rng = np.random.default_rng(2)
    w = rng.standard_normal((72, 3, 3, 3), np.float32)
    for dilation in (1, 2):
        spec = DirectConv(3, 72, 1, (3, 3), (1, 1), (dilation, dilation), (1, 1), NONE)
        x, place = rng.standard_normal((2, 3, 7, 17), np.float32), ((7, 17), (dilation, dilation))
        want = direct(spec, x, w, *place)
        for row_block in range(1, 9):
            for chunks in (1, 2, 3, 5, 16):
                got = direct(spec, x, w, *place, row_block, chunks)
                np.testing.assert_array_equal(got, want)
        for image, alone in zip(x, want, strict=True):
            np.testing.assert_array_equal(direct(spec, image[None], w, *place)[0], alone)


@pytest.mark.parametrize("dilation", [1, 2])
def test_a_pixel_has_the_same_bits_in_any_tile(isa, dilation):
    """Also where a tile is so small that it takes two long kernel rows at a time."""
    rng = np.random.default_rng(11)
    spec = DirectConv(LONG_ROW // 3 + 1, 17, 1, (3, 3), (1, 1), (dilation, dilation), (1, 1), NONE)
    x = rng.standard_normal((1, spec.ci, 3 + 2 * dilation, 16 + 2 * dilation), np.float32)
    w = rng.standard_normal((17, spec.ci, 3, 3), np.float32)
    whole = direct(spec, x, w, (3, 16))
    for width in range(1, 16):
        part = direct(spec, x[..., : width + 2 * dilation], w, (3, width))
        np.testing.assert_array_equal(part, whole[..., :width])


@pytest.mark.parametrize(("co", "groups"), [(17, 1), (64, 1), (3, 4)])
def test_epilogue(isa, co, groups):
    rng = np.random.default_rng(3)
    spec = DirectConv(2, co, groups, (3, 3), (1, 1), (1, 1), (1, 1), ALL_OPERANDS)
    x, w = integers(rng, 2, 2 * groups, 5, 16), integers(rng, co * groups, 2, 3, 3)
    a, b = integers(rng, co * groups), integers(rng, 2, co * groups, 5, 16)
    c = np.array(0.5, np.float32)
    got = direct(spec, x, w, (5, 16), (1, 1), operands=[a, nhwc(b), c])
    y = convolution(x, w, (5, 16), begin=(1, 1), groups=groups)
    np.testing.assert_array_equal(got, np.maximum(y * a[:, None, None] + b, 0) * 0.5)


def test_epilogue_without_operands(isa):
    rng = np.random.default_rng(4)
    leaky = Epilogue(Expr(1, (("const", 0.25), ("mul", 0, 1), ("max", 0, 2)), (3,)))
    spec = DirectConv(2, 10, 1, (2, 2), (1, 1), (1, 1), (1, 1), leaky)
    x, w = integers(rng, 1, 2, 4, 6), integers(rng, 10, 2, 2, 2)
    y = convolution(x, w, (3, 5))
    np.testing.assert_array_equal(direct(spec, x, w, (3, 5)), np.where(y > 0, y, y / 4))


def test_not_a_number_and_infinity_go_through(isa):
    spec = DirectConv(3, 10, 1, (3, 3), (1, 1), (1, 1), (1, 1), NONE)
    x, w = np.ones((1, 3, 5, 5), np.float32), np.ones((10, 3, 3, 3), np.float32)
    x[0, 1, 0, 0], x[0, 2, 4, 4] = np.nan, np.inf
    got = direct(spec, x, w, (5, 5), (1, 1))
    assert np.isnan(got[:, :, :2, :2]).all()
    assert (got[:, :, 3:, 3:] == np.inf).all()
    assert np.isfinite(got).sum() == 10 * (25 - 8)


# -- as the engine plans them ----------------------------------------------------------------------

FORWARD = {
    "lenet conv1": ((2, 1, 28, 28), (6, 1, 5, 5), Conv2d((1, 1), ((2, 2), (2, 2)))),
    "resnet stem": ((1, 3, 41, 37), (64, 3, 7, 7), Conv2d((2, 2), ((3, 3), (3, 3)))),
    "resnet downsample": ((2, 64, 9, 9), (128, 64, 1, 1), Conv2d((2, 2))),
    "vgg conv": ((1, 64, 12, 30), (64, 64, 3, 3), Conv2d((1, 1), ((1, 1), (1, 1)))),
    "resnext group": ((1, 32, 8, 8), (32, 4, 3, 3), Conv2d((1, 1), ((1, 1), (1, 1)), groups=8)),
    "keras same, stride 2": ((2, 3, 16, 16), (17, 3, 3, 3), Conv2d((2, 2), ((0, 1), (0, 1)))),
    "resnet's last map": ((2, 256, 2, 2), (40, 256, 3, 3), Conv2d((1, 1), ((1, 1), (1, 1)))),
    "deeplab, rate 6": ((1, 20, 9, 28), (33, 20, 3, 3), Conv2d((1, 1), ((6, 6), (6, 6)), (6, 6))),
    "dilated, stride 2": ((2, 9, 11, 14), (8, 9, 3, 3), Conv2d((2, 2), ((4, 3), (1, 5)), (4, 3))),
}


@pytest.mark.parametrize("case", FORWARD.values(), ids=FORWARD)
def test_forward_as_planned(isa, case):
    x_shape, w_shape, op = case
    rng = np.random.default_rng(5)
    x = rng.standard_normal(x_shape, np.float32)
    w = rng.standard_normal(w_shape, np.float32)
    shape = ConvShape(
        *x_shape, w_shape[0], *w_shape[2:], op.stride, op.padding, op.dilation, op.groups
    )
    facts = ((shape.out_h, shape.out_w), op.stride, (op.padding[0][0], op.padding[1][0]),
             op.dilation, op.groups)  # fmt: skip
    want, magnitudes = convolution(x, w, *facts), convolution(abs(x), abs(w), *facts)
    assert_sums(run_lowered(op, x, w), want, magnitudes, np.prod(w_shape[1:]))


GRADIENTS = {
    "vgg conv": ((2, 8, 5, 17), (16, 8, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    "resnet downsample": ((1, 20, 7, 8), (9, 20, 1, 1), (2, 2), ((0, 0), (0, 0)), (1, 1), 1),
    "resnet stride": ((2, 17, 9, 6), (5, 17, 3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), 1),
    "strides 3 and 2": ((1, 3, 11, 8), (4, 3, 4, 3), (3, 2), ((2, 1), (0, 3)), (1, 1), 1),
    "dilation divides stride": ((1, 4, 10, 9), (3, 4, 2, 3), (2, 3), ((1, 0), (2, 1)), (2, 2), 1),
    "groups": ((1, 6, 7, 7), (9, 2, 3, 2), (2, 1), ((1, 2), (1, 0)), (1, 2), 3),
    "kernel below stride": ((1, 2, 10, 7), (3, 2, 1, 2), (3, 3), ((0, 0), (1, 1)), (1, 1), 1),
}


@pytest.mark.parametrize("case", GRADIENTS.values(), ids=GRADIENTS)
def test_input_gradient_as_planned(isa, case):
    x_shape, w_shape, stride, padding, dilation, groups = case
    rng = np.random.default_rng(6)
    shape = ConvShape(*x_shape, w_shape[0], *w_shape[2:], stride, padding, dilation, groups)
    op = ConvInputGrad(stride, padding, dilation, groups, *x_shape[2:])
    dy = integers(rng, x_shape[0], w_shape[0], shape.out_h, shape.out_w)
    w = integers(rng, *w_shape)
    begin = (padding[0][0], padding[1][0])
    want = input_gradient(dy, w, x_shape[2:], stride, begin, dilation, groups)
    np.testing.assert_array_equal(run_lowered(op, dy, w), want)


def test_epilogue_of_an_input_gradient(isa):
    """Phases without taps still get their epilogue: there dx is relu(0 · a + b) · c."""
    rng = np.random.default_rng(7)
    op = ConvInputGrad((2, 2), ((0, 0), (0, 0)), (1, 1), 1, 8, 6)
    dy, w = integers(rng, 2, 9, 4, 3), integers(rng, 9, 20, 1, 1)
    a, b = integers(rng, 20), integers(rng, 2, 20, 8, 6)
    c = np.array(0.5, np.float32)
    with Trace() as trace:
        shapes = [dy.shape, w.shape, a.shape, b.shape, ()]
        inputs = [trace.input("x", s) for s in shapes]
        value = FusedConv(op, ALL_OPERANDS.expr, ALL_OPERANDS.operands)(*inputs)
    low = Lowering({}, target.machine(), 2)
    ids = [low.make("arena", v.type) for v in (*inputs, value)]
    lower_conv(low, value.node, ids[:-1], ids[-1:])
    layout = weight_layout(op, conv_shape(op, value.node), target.machine())
    arrays = [nhwc(dy), pack_numpy(layout, w), a, nhwc(b), c, np.empty((2, 8, 6, 20), np.float32)]
    got = run_steps(low.take_steps(), dict(zip(ids, arrays, strict=True)))[ids[-1]]
    dx = input_gradient(dy, w, (8, 6), (2, 2))
    np.testing.assert_array_equal(nchw(got), np.maximum(dx * a[:, None, None] + b, 0) * 0.5)


AXIS = st.tuples(
    st.integers(1, 12), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3),
    st.integers(0, 3), st.integers(0, 3),
)  # fmt: skip


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    st.integers(1, 2), st.integers(1, 5), st.integers(1, 20), st.sampled_from([1, 1, 2, 3]),
    AXIS, AXIS, st.booleans(),
)  # fmt: skip
def test_random_convolutions(n, ci, co, groups, vertical, horizontal, backward):
    (h, kh, sh, dh, top, bottom), (w, kw, sw, dw, left, right) = vertical, horizontal
    h, w = h + (kh - 1) * dh, w + (kw - 1) * dw
    stride, padding, dilation = (sh, sw), ((top, bottom), (left, right)), (dh, dw)
    shape = ConvShape(n, ci * groups, h, w, co * groups, kh, kw, stride, padding, dilation, groups)
    rng = np.random.default_rng(8)
    x, weights = integers(rng, n, ci * groups, h, w), integers(rng, co * groups, ci, kh, kw)
    dy = integers(rng, n, co * groups, shape.out_h, shape.out_w)
    facts = (stride, (top, left), dilation, groups)
    if backward:
        op = ConvInputGrad(stride, padding, dilation, groups, h, w)
        want = input_gradient(dy, weights, (h, w), *facts)
        np.testing.assert_array_equal(run_lowered(op, dy, weights), want)
    else:
        want = convolution(x, weights, dy.shape[2:], *facts)
        got = run_lowered(Conv2d(stride, padding, dilation, groups), x, weights)
        np.testing.assert_array_equal(got, want)


# -- the code --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["avx512", "avx2", "sse2", "neon"])
@pytest.mark.parametrize("ci", [64, LONG_ROW])
@pytest.mark.parametrize("dilation", [1, 2])
def test_inner_loop_is_the_tile_and_nothing_spills(name, ci, dilation):
    machine = target.reference_machine(name)
    spec = DirectConv(ci, 64, 1, (3, 3), (1, 1), (dilation, dilation), (1, 1), NONE)
    text = assembly(spec, name)
    assert set(calls(text)) <= functions(text)
    for rows in range(1, machine.rows + 1):
        products = rows * machine.cols
        one = products * steps_of_a_round(machine, rows)
        loops = inner_loops(text, f"tile{rows}")
        few = ci == LONG_ROW and products < IN_FLIGHT
        assert [fmas(loop) for loop in loops] == ([2 * one, one] if few else [one])
        for loop in loops:
            assert on_stack(loop) == []
            assert not {"call", "callq", "bl", "blr"} & {line.split()[0] for line in loop}


def test_planned_scratch_is_what_the_kernel_needs():
    for dilation in ((2, 1), (1, 2)):
        op = Conv2d((2, 1), ((3, 1), (2, 2)), dilation)
        steps, _, value = lowered(op, [(2, 3, 40, 30), (8, 3, 5, 3)])
        (step,) = steps
        row_block = step.sizes[11]
        assert step.scratch == step.sizes[-1] == scratch_for(step.spec, row_block, value.shape[3])
