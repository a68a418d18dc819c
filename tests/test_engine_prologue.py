"""Which maps become the prologue of a 1×1 convolution, and that they mean the same."""

import numpy as np
import pytest

from striate.engine.expand import expand
from striate.engine.fuse import fuse
from striate.graph import Trace, evaluate, typecheck
from striate.graph.ops.conv import Conv2d
from striate.graph.ops.eltwise import Fused, m
from striate.graph.ops.fused import FusedConv
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
