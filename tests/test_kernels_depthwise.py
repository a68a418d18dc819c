import numpy as np
import pytest

from striate.arith.expr import Expr
from striate.arith.layout import DepthwiseWeights
from striate.engine.layout import conv_shape, weight_layout
from striate.engine.layouts_numpy import from_memory, to_memory
from striate.engine.lower.context import Lowering
from striate.engine.lower.conv import lower_conv
from striate.engine.lower.weight_gradient import lower_weight_gradient
from striate.graph import Trace
from striate.graph.ops.conv import Conv2d, ConvInputGrad, ConvWeightGrad
from striate.graph.ops.fused import FusedConv
from striate.jit import target
from striate.kernels.depthwise import Depthwise, PackDepthwise
from striate.kernels.epilogue import NONE, Epilogue
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

# (n, c, h, w), kernel, stride, padding ((top, bottom), (left, right)), dilation
CASES = [
    pytest.param((2, 33, 13, 9), 3, 1, ((1, 1), (1, 1)), 1, id="channel tail"),
    pytest.param((1, 32, 14, 15), 3, 2, ((1, 1), (1, 1)), 1, id="mobilenet stride 2"),
    pytest.param((1, 24, 11, 30), 5, 1, ((2, 2), (2, 2)), 1, id="5x5"),
    pytest.param((2, 16, 9, 12), 3, 1, ((2, 2), (2, 2)), 2, id="dilated"),
    pytest.param((2, 20, 3, 4), 7, 1, ((3, 3), (3, 3)), 1, id="kernel larger than the image"),
    pytest.param((1, 5, 12, 12), 3, 3, ((0, 0), (0, 0)), 1, id="stride 3, no padding"),
    pytest.param((2, 18, 8, 7), 1, 2, ((0, 0), (0, 0)), 1, id="phases without taps"),
    pytest.param((1, 17, 6, 8), 3, 2, ((0, 1), (2, 0)), 1, id="asymmetric padding"),
]


def lowered(rule, op, shapes, threads=3):
    with Trace() as trace:
        value = op(*(trace.input(f"x{i}", shape) for i, shape in enumerate(shapes)))
    conv = op.conv if isinstance(op, FusedConv) else op
    layouts = {}
    if not isinstance(conv, ConvWeightGrad):
        shape = conv_shape(conv, value.node)
        phases = weight_layout(conv, shape, target.machine()).phases
        layouts[value.node.inputs[1]] = DepthwiseWeights(phases)
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
    pack = PackDepthwise(w.shape[0], layout.order(w.shape), w.shape[2] * w.shape[3])
    packed = outcome(pack, [w, packed], (), 1)
    assert np.array_equal(packed, to_memory(layout, w))
    n, c, h, width = value.shape
    memory = {ids[0]: nhwc(image), ids[1]: packed, ids[-1]: np.empty((n, h, width, c), np.float32)}
    memory.update(
        (i, nhwc(a) if a.ndim == 4 else a) for i, a in zip(ids[2:-1], operands, strict=True)
    )
    return nchw(run_steps(steps, memory)[ids[-1]])


def images(size, kernel, stride, padding, dilation):
    rng = np.random.default_rng(sum(size))
    op = Conv2d((stride,) * 2, padding, (dilation,) * 2, size[1])
    with Trace() as trace:
        w_shape = (size[1], 1, kernel, kernel)
        out = op(trace.input("x", size), trace.input("w", w_shape)).shape
    return op, integers(rng, *size), integers(rng, *w_shape), integers(rng, *out)


@pytest.mark.parametrize(("size", "kernel", "stride", "padding", "dilation"), CASES)
def test_forward(isa, size, kernel, stride, padding, dilation):
    op, x, w, dy = images(size, kernel, stride, padding, dilation)
    begin = (padding[0][0], padding[1][0])
    want = convolution(x, w, dy.shape[2:], op.stride, begin, op.dilation, size[1])
    assert np.array_equal(run_conv(op, x, w), want)


@pytest.mark.parametrize(("size", "kernel", "stride", "padding", "dilation"), CASES)
def test_input_gradient(isa, size, kernel, stride, padding, dilation):
    op, _, w, dy = images(size, kernel, stride, padding, dilation)
    back = ConvInputGrad(op.stride, padding, op.dilation, size[1], in_h=size[2], in_w=size[3])
    begin = (padding[0][0], padding[1][0])
    want = input_gradient(dy, w, size[2:], op.stride, begin, op.dilation, size[1])
    assert np.array_equal(run_conv(back, dy, w), want)


@pytest.mark.parametrize(("size", "kernel", "stride", "padding", "dilation"), CASES)
def test_weight_gradient(isa, size, kernel, stride, padding, dilation):
    op, x, w, dy = images(size, kernel, stride, padding, dilation)
    grad = ConvWeightGrad(op.stride, padding, op.dilation, size[1], kh=kernel, kw=kernel)
    low, steps, ids, _ = lowered(lower_weight_gradient, grad, (x.shape, dy.shape))
    memory = {b.id: np.empty(b.elements, np.float32) for b in low.buffers.values() if b.id}
    memory |= {ids[0]: nhwc(x), ids[1]: nhwc(dy)}
    used = {b for step in steps for b in step.buffers}
    got = run_steps(steps, {i: a for i, a in memory.items() if i in used})[ids[-1]]
    begin = (padding[0][0], padding[1][0])
    want = weight_gradient(x, dy, (kernel, kernel), op.stride, begin, op.dilation, size[1])
    assert np.array_equal(got.reshape(w.shape), want)


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
    w = np.arange(5 * 9, dtype=np.float32).reshape(5, 1, 3, 3)
    layout = DepthwiseWeights((((2, 2), (0, 1)), tuple(np.ndindex(3, 3))[:7]))
    kept = DepthwiseWeights((tuple(np.ndindex(3, 3)),))
    assert np.array_equal(from_memory(kept, to_memory(kept, w), w.shape), w)
    assert to_memory(layout, w).size == layout.elements(w.shape) == 45


def test_other_machines_get_code_without_calls():
    spec = Depthwise(96, (3, 3), (1, 1), (1, 1), (1, 1), NONE)
    for isa_ in ("avx2", "neon"):
        assert not [c for c in calls(assembly(spec, isa_)) if "@PLT" in c]
