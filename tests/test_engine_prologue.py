"""Which maps become the prologue of a 1×1 convolution or a pooling, and mean the same."""

import numpy as np
import pytest

from striate.arith.pool import windows
from striate.engine.expand import expand
from striate.engine.fuse import fuse
from striate.graph import Trace, evaluate, typecheck
from striate.graph.ops.conv import Conv2d
from striate.graph.ops.eltwise import Fused, m
from striate.graph.ops.fused import FusedConv, FusedPool
from striate.graph.ops.pool import MaxPool, MaxPoolGrad
from striate.graph.ops.shape import Concat
from tests.small_nets import param, picture

SHAPE = (2, 6, 5, 4)
SCALE, SHIFT = (param(name, 1, 6, 1, 1, seed=i).as_value() for i, name in enumerate("st"))
W = param("w", 7, 6, 1, 1).as_value()
W3 = param("w3", 7, 6, 3, 3).as_value()


def norm_relu(x):
    return m("relu", x * SCALE + SHIFT)


def fused(build, shape=SHAPE):
    with Trace() as trace:
        made = build(trace.input("x", shape))
        graph = trace.graph(*(made if isinstance(made, tuple) else (made,)))
    after = typecheck(fuse(expand(graph)))
    x = picture(*shape)
    for a, b in zip(
        evaluate(after, [x], np.float64), evaluate(graph, [x], np.float64), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)
    return after


def prologues(graph):
    ops = [node.op for node in graph.nodes()]
    return [op.before_operands for op in ops if isinstance(op, FusedConv) and op.before]


def maps(graph):
    return [n for n in graph.nodes() if isinstance(n.op, Fused) and n.types[0].shape == SHAPE]


def test_norm_and_relu_become_a_prologue():
    graph = fused(lambda x: Conv2d()(norm_relu(x), W))
    assert prologues(graph) == [("channel", "channel")]
    assert not maps(graph)


def test_with_an_epilogue():
    graph = fused(lambda x: m("relu", Conv2d()(norm_relu(x), W) + 3.0))
    (node,) = [n for n in graph.nodes() if isinstance(n.op, FusedConv)]
    assert node.op.before_operands == ("channel", "channel")
    assert [code[0] for code in node.op.expr.code] == ["const", "add", "relu"]


def test_operands_of_both():
    bias, factor = param("b", 1, 7, 1, 1).as_value(), param("f", 1).as_value()
    graph = fused(lambda x: Conv2d()(factor - x * SCALE, W) * bias + factor)
    assert sorted(prologues(graph)[0]) == ["channel", "scalar"]


def test_one_image_is_fused_as_many_are():
    """Of one image of one pixel, a factor for each channel has the shape of the image."""
    for shape in ((1, 6, 5, 4), (1, 6, 1, 1), (3, 6, 1, 1)):
        assert prologues(fused(lambda x: Conv2d()(norm_relu(x), W), shape)) == [("channel",) * 2]


def gated(x):
    """Factors for each channel that depend on the image, as in squeeze and excitation."""
    return Conv2d()(x * x.mean((2, 3), keepdims=True), W)


def two_readers(x):
    y = norm_relu(x)
    return Conv2d()(y, W), Concat(1)(y, y)


def is_output(x):
    y = norm_relu(x)
    return Conv2d()(y, W), y


LEFT = {
    "3x3": lambda x: Conv2d(padding=((1, 1), (1, 1)))(norm_relu(x), W3),
    "stride": lambda x: Conv2d((2, 2))(norm_relu(x), W),
    "two large operands": lambda x: Conv2d()(x * 2.0 + Concat(1)(x[:, 3:], x[:, :3]), W),
    "costly": lambda x: Conv2d()(m("tanh", x), W),
    "two readers": two_readers,
    "output": is_output,
    "read as weights": lambda x: Conv2d()(x, m("relu", W)),
}


@pytest.mark.parametrize("case", LEFT)
def test_left_as_they_are(case):
    assert prologues(fused(LEFT[case])) == []


def test_factors_of_the_image_are_left():
    """Or one image would need another kernel than two."""
    for n in (1, 2):
        assert prologues(fused(gated, (n, *SHAPE[1:]))) == []


def test_what_an_earlier_convolution_takes_is_its_epilogue():
    w = param("v", 6, 6, 3, 3).as_value()
    graph = fused(lambda x: Conv2d()(norm_relu(Conv2d(padding=((1, 1), (1, 1)))(x, w)), W))
    assert prologues(graph) == []
    assert not maps(graph)


# -- pooling --------------------------------------------------------------------------------------


def tables(kernel, stride, size=SHAPE[2:]):
    return tuple(windows(extent, kernel, stride, (0, 0)) for extent in size)


def poolings(graph):
    return [n.op for n in graph.nodes() if isinstance(n.op, FusedPool)]


@pytest.mark.parametrize(("kernel", "stride"), [(2, 2), (2, 1), (1, 2)])
def test_pooling_and_its_gradient(kernel, stride):
    rows, cols = tables(kernel, stride)
    dy = param("dy", 2, 6, len(rows), len(cols)).as_value()

    def both(x):
        # Read twice, norm_relu would be stored: each has maps of its own.
        return MaxPool(rows, cols)(norm_relu(x)), MaxPoolGrad(rows, cols)(norm_relu(x * 2.0), dy)

    graph = fused(both)
    drawn = poolings(graph)
    assert {type(op.pool) for op in drawn} == {MaxPool, MaxPoolGrad}
    assert all(set(op.before_operands) == {"channel"} for op in drawn)
    assert not maps(graph)


def test_pooling_of_factors_that_depend_on_the_images():
    """As batch norm's do in training."""
    rows, cols = tables(2, 2)
    graph = fused(lambda x: MaxPool(rows, cols)(x - x.mean((0, 2, 3), keepdims=True)))
    assert [op.before_operands for op in poolings(graph)] == [("channel",)]


def test_windows_that_overlap_much_are_left():
    """3×3 pixels a step of one: each pixel of 9×9 is read 5.4 times, of 5×4 2.7 times."""
    for size, drawn in ((SHAPE[2:], 1), ((9, 9), 0)):
        rows, cols = tables(3, 1, size)
        graph = fused(lambda x, w=(rows, cols): MaxPool(*w)(norm_relu(x)), (*SHAPE[:2], *size))
        assert len(poolings(graph)) == drawn


POOLS_LEFT = {
    "costly": lambda x: m("tanh", x),
    "two images": lambda x: x * 2.0 + Concat(1)(x[:, 3:], x[:, :3]),
    "factors of each image": lambda x: x * x.mean((2, 3), keepdims=True),
}


@pytest.mark.parametrize("case", POOLS_LEFT)
def test_poolings_left_as_they_are(case):
    rows, cols = tables(2, 2)
    assert poolings(fused(lambda x: MaxPool(rows, cols)(POOLS_LEFT[case](x)))) == []
