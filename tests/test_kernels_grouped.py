import numpy as np
import pytest

from striate.arith.conv import ConvShape
from striate.arith.expr import Expr
from striate.arith.layout import GroupedWeights
from striate.engine.layout import conv_shape, weight_layout
from striate.engine.layouts_numpy import from_memory, to_memory
from striate.engine.lower.context import Lowering
from striate.engine.lower.conv import lower_conv
from striate.engine.lower.weight_gradient import lower_weight_gradient
from striate.graph import Trace
from striate.graph.ops.conv import Conv2d, ConvInputGrad, ConvWeightGrad
from striate.graph.ops.fused import FusedConv
from striate.jit import target
from striate.kernels.epilogue import NONE, Epilogue
from striate.kernels.grouped import Grouped, PackGrouped
from striate.kernels.grouped_gradient import GroupedGradient
from tests.conv_oracle import (
    assert_sums,
    convolution,
    input_gradient,
    integers,
    nchw,
    nhwc,
    run_steps,
    weight_gradient,
)
from tests.guard import outcome
from tests.kernel_call import assembly, calls, isa  # noqa: F401

# (n, ci, h, w), (groups, co), kernel, stride, padding ((top, bottom), (left, right)), dilation
CASES = [
    pytest.param((2, 33, 13, 9), (33, 33), 3, 1, ((1, 1), (1, 1)), 1, id="channel tail"),
    pytest.param((1, 32, 14, 15), (32, 32), 3, 2, ((1, 1), (1, 1)), 1, id="mobilenet stride 2"),
    pytest.param((1, 24, 11, 30), (24, 24), 5, 1, ((2, 2), (2, 2)), 1, id="5x5"),
    pytest.param((2, 16, 9, 12), (16, 16), 3, 1, ((2, 2), (2, 2)), 2, id="dilated"),
    pytest.param((2, 20, 3, 4), (20, 20), 7, 1, ((3, 3), (3, 3)), 1, id="larger than the image"),
    pytest.param((1, 5, 12, 12), (5, 5), 3, 3, ((0, 0), (0, 0)), 1, id="stride 3, no padding"),
    pytest.param((2, 18, 8, 7), (18, 18), 1, 2, ((0, 0), (0, 0)), 1, id="phases without taps"),
    pytest.param((1, 17, 6, 8), (17, 17), 3, 2, ((0, 1), (2, 0)), 1, id="asymmetric padding"),
    pytest.param((1, 18, 5, 21), (18, 18), 3, 1, ((4, 4), (5, 6)), 1, id="padding beyond kernels"),
    pytest.param((1, 18, 5, 9), (18, 18), 1, 1, ((1, 1), (1, 2)), 1, id="1x1 with padding"),
    pytest.param((1, 64, 9, 11), (16, 64), 3, 1, ((1, 1), (1, 1)), 1, id="resnext, groups of 4"),
    pytest.param((2, 32, 10, 9), (4, 32), 3, 2, ((1, 1), (1, 1)), 1, id="groups of 8, stride 2"),
    pytest.param((1, 34, 7, 10), (17, 34), 5, 1, ((2, 2), (2, 2)), 1, id="groups of 2, tail"),
    pytest.param((1, 21, 7, 8), (7, 21), 3, 1, ((1, 1), (1, 1)), 1, id="groups of 3"),
    pytest.param((1, 18, 8, 8), (18, 36), 3, 2, ((1, 1), (1, 1)), 1, id="depth multiplier 2"),
    pytest.param((1, 7, 6, 6), (7, 28), 3, 1, ((1, 1), (1, 1)), 1, id="depth multiplier 4"),
    pytest.param((2, 20, 6, 7), (10, 10), 3, 1, ((1, 1), (1, 1)), 2, id="two inputs, one output"),
    pytest.param(
        (1, 24, 6, 7), (4, 8), (3, 2), 1, ((1, 1), (1, 0)), 1, id="six inputs, two outputs"
    ),
    pytest.param((1, 12, 5, 6), (3, 15), 1, 1, ((0, 0), (0, 0)), 1, id="1x1, 4 to 5"),
]


def grouped_weights(conv, node):
    """The layout of the grouped kernels; machines whose vectors are too short are skipped."""
    machine, shape = target.machine(), conv_shape(conv, node)
    packed = weight_layout(conv, shape, machine)
    if not shape.has_small_groups(machine.lanes, turned=packed.swap):
        pytest.skip("one group fills the vectors of this machine")
    return GroupedWeights(machine.lanes, packed.groups, packed.phases, packed.swap)


def lowered(rule, op, shapes, threads=3):
    with Trace() as trace:
        value = op(*(trace.input(f"x{i}", shape) for i, shape in enumerate(shapes)))
    conv = op.conv if isinstance(op, FusedConv) else op
    layouts = {}
    if not isinstance(conv, ConvWeightGrad):
        layouts[value.node.inputs[1]] = grouped_weights(conv, value.node)
    low = Lowering(layouts, target.machine(), threads)
    ids = [low.make("arena", v.type) for v in (*value.node.inputs, value)]
    rule(low, value.node, ids[:-1], ids[-1:])
    return low, low.take_steps(), ids, value


def run_conv(op, image, w, epilogue=NONE, operands=()):
    """Forward or input gradient, with the weights packed by our kernel."""
    wrapped = FusedConv(op, epilogue.expr, epilogue.operands) if epilogue.expr else op
    shapes = [image.shape, w.shape, *(a.shape for a in operands)]
    low, steps, ids, value = lowered(lower_conv, wrapped, shapes)
    layout = low.layout(value.node.inputs[1])
    packed = np.empty(layout.elements(w.shape), np.float32)
    co, ci = layout.channels(w.shape)
    taps, total = layout.order(w.shape), w.shape[2] * w.shape[3]
    pack = PackGrouped(layout.groups, ci, co, taps, total, layout.swap)
    packed = outcome(pack, [w, packed], (), 1)
    assert np.array_equal(packed, to_memory(layout, w))
    n, c, h, width = value.shape
    memory = {ids[0]: nhwc(image), ids[1]: packed, ids[-1]: np.empty((n, h, width, c), np.float32)}
    memory.update(
        (i, nhwc(a) if a.ndim == 4 else a) for i, a in zip(ids[2:-1], operands, strict=True)
    )
    return nchw(run_steps(steps, memory)[ids[-1]])


def images(size, channels, kernel, stride, padding, dilation):
    rng = np.random.default_rng(sum(size))
    groups, co = channels
    kernel = kernel if isinstance(kernel, tuple) else (kernel, kernel)
    op = Conv2d((stride,) * 2, padding, (dilation,) * 2, groups)
    with Trace() as trace:
        w_shape = (co, size[1] // groups, *kernel)
        out = op(trace.input("x", size), trace.input("w", w_shape)).shape
    return op, integers(rng, *size), integers(rng, *w_shape), integers(rng, *out)


def where(op):
    """What the oracle wants to know after the size of its result."""
    return op.stride, (op.padding[0][0], op.padding[1][0]), op.dilation, op.groups


@pytest.mark.parametrize(("size", "channels", "kernel", "stride", "padding", "dilation"), CASES)
def test_forward(isa, size, channels, kernel, stride, padding, dilation):
    op, x, w, dy = images(size, channels, kernel, stride, padding, dilation)
    assert np.array_equal(run_conv(op, x, w), convolution(x, w, dy.shape[2:], *where(op)))


@pytest.mark.parametrize(("size", "channels", "kernel", "stride", "padding", "dilation"), CASES)
def test_input_gradient(isa, size, channels, kernel, stride, padding, dilation):
    op, x, w, dy = images(size, channels, kernel, stride, padding, dilation)
    back = ConvInputGrad(*fields(op), in_h=x.shape[2], in_w=x.shape[3])
    assert np.array_equal(run_conv(back, dy, w), input_gradient(dy, w, x.shape[2:], *where(op)))


@pytest.mark.parametrize(("size", "channels", "kernel", "stride", "padding", "dilation"), CASES)
def test_weight_gradient(isa, size, channels, kernel, stride, padding, dilation):
    op, x, w, dy = images(size, channels, kernel, stride, padding, dilation)
    grad = ConvWeightGrad(*fields(op), kh=w.shape[2], kw=w.shape[3])
    low, steps, ids, _ = lowered(lower_weight_gradient, grad, (x.shape, dy.shape))
    memory = {b.id: np.empty(b.elements, np.float32) for b in low.buffers.values() if b.id}
    memory |= {ids[0]: nhwc(x), ids[1]: nhwc(dy)}
    used = {b for step in steps for b in step.buffers}
    got = run_steps(steps, {i: a for i, a in memory.items() if i in used})[ids[-1]]
    want = weight_gradient(x, dy, w.shape[2:], *where(op))
    assert np.array_equal(got.reshape(w.shape), want)


def fields(op):
    return op.stride, op.padding, op.dilation, op.groups


def test_the_epilogue_is_applied(isa):
    op, x, w, dy = images(*CASES[0].values)
    rng = np.random.default_rng(1)
    factor, added = integers(rng, 33), integers(rng, *dy.shape)
    epilogue = Epilogue(
        Expr(3, (("mul", 0, 1), ("add", 3, 2), ("relu", 4)), (5,)), ("channel", "full")
    )
    y = convolution(x, w, dy.shape[2:], (1, 1), (1, 1), (1, 1), 33)
    want = np.maximum(y * factor[:, None, None] + added, 0)
    got = run_conv(op, x, w, epilogue, (factor.reshape(1, 33, 1, 1), added))
    assert np.array_equal(got, want)


def test_rounding_stays_within_the_bound_of_a_sum(isa):
    rng = np.random.default_rng(5)
    x, w = (rng.standard_normal(s).astype(np.float32) for s in ((1, 40, 9, 11), (40, 1, 5, 5)))
    op = Conv2d((1, 1), ((2, 2), (2, 2)), (1, 1), 40)
    where = ((9, 11), (1, 1), (2, 2), (1, 1), 40)
    sizes = convolution(np.abs(x), np.abs(w), *where)
    assert_sums(run_conv(op, x, w), convolution(x, w, *where), sizes, 25)


def test_the_layout_is_undone():
    w = np.arange(10 * 2 * 9, dtype=np.float32).reshape(10, 2, 3, 3)
    every = tuple(np.ndindex(3, 3))
    for swap in (False, True):
        layout = GroupedWeights(16, 5, (every[4:], every[:4]), swap)
        assert np.array_equal(from_memory(layout, to_memory(layout, w), w.shape), w)
        assert to_memory(layout, w).size == layout.elements(w.shape) == 9 * 2 * 16


@pytest.mark.parametrize(
    ("ci", "co", "groups", "turned", "grouped"),
    [
        (32, 32, 32, False, True),
        (256, 256, 32, False, True),  # 8 in, 8 out: two groups a vector
        (512, 512, 32, False, False),  # 16 outputs fill a vector
        (64, 64, 1, False, False),
        (16, 64, 16, True, True),  # the inputs of 16 groups lie in four vectors
        (16, 80, 16, True, False),
        (16, 80, 16, False, True),
    ],
)
def test_which_groups_share_vectors(ci, co, groups, turned, grouped):
    shape = ConvShape(1, ci, 8, 8, co, 3, 3, padding=((1, 1), (1, 1)), groups=groups)
    assert shape.has_small_groups(16, turned=turned) == grouped


@pytest.mark.parametrize("isa_", ["avx2", "neon"])
def test_other_machines_get_code_without_calls(isa_):
    shape = ((3, 3), (1, 1), (1, 1))
    for spec in (
        Grouped(96, 1, 1, *shape, (1, 1), NONE),
        Grouped(24, 2, 2, *shape, (1, 1), NONE),
        GroupedGradient(24, 2, 2, *shape),
    ):
        assert not [c for c in calls(assembly(spec, isa_)) if "@PLT" in c]
