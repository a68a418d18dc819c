"""What fusion makes of typical patterns, and that it never changes what a graph means."""

import numpy as np
import pytest
from hypothesis import given, settings

import striate.functional as F
from striate.engine.expand import expand
from striate.engine.fuse import fuse
from striate.graph import Trace, evaluate, gradients, typecheck
from striate.graph.ops.conv import Conv2d
from striate.graph.ops.eltwise import Fused, Map, m
from striate.graph.ops.fused import FusedConv, FusedReduce
from striate.graph.ops.norm import BatchNorm, ChannelStats
from striate.graph.ops.reduce import Reduce
from striate.graph.value import Param
from tests.random_graphs import graphs, inputs

IMAGE = (4, 6, 8, 8)
SAME = Conv2d((1, 1), ((1, 1), (1, 1)))


def param(name, *shape, seed=0):
    return Param(name, np.random.default_rng(seed).uniform(0.5, 1.5, shape).astype(np.float32))


def fused(graph):
    return typecheck(fuse(typecheck(expand(graph))))


def same_numbers(graph, arrays):
    """Fusion changes no result and no assignment, in float64."""
    params = graph.params()
    before = [np.array(p.data) for p in params]
    want = evaluate(graph, arrays, np.float64)
    assigned = [np.array(p.data) for p in params]
    for p, array in zip(params, before, strict=True):
        p.assign(array)
    got = evaluate(fused(graph), arrays, np.float64)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)
    for p, array in zip(params, assigned, strict=True):
        np.testing.assert_allclose(p.data, array, rtol=1e-6, atol=1e-6)


def nodes(graph, kind):
    return [n for n in graph.nodes() if isinstance(n.op, kind)]


def full_size(graph, kind, shape=IMAGE):
    """Nodes of this kind that walk through a whole image."""
    return [
        n for n in nodes(graph, kind) if shape in (n.types[0].shape, *(v.shape for v in n.inputs))
    ]


def counted(graph, kind):
    """How often an instruction stands in the expressions of a graph."""
    exprs = [n.op.expr for n in nodes(graph, (Fused, FusedConv, FusedReduce))]
    return sum(code[0] == kind for expr in exprs for code in expr.code)


def check_work(graph):
    """Every instruction works on all of its node's space: nothing is done in a larger one."""
    for node in nodes(graph, (Fused, FusedReduce)):
        shapes = [v.shape for v in node.inputs]
        space = np.broadcast_shapes(*shapes)
        known = list(shapes)
        for kind, *operands in node.op.expr.code:
            reads = [] if kind == "const" else [known[i] for i in operands]
            known.append(np.broadcast_shapes(*reads))
            assert kind == "const" or known[-1] == space, (node, kind)


def x_and(rule, shape=IMAGE):
    with Trace() as trace:
        outputs = rule(trace.input("x", shape))
        return trace.graph(*(outputs if isinstance(outputs, tuple) else (outputs,)))


def numbers(shape=IMAGE, seed=1):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


# -- patterns --------------------------------------------------------------------------------------


def test_convolution_bias_relu_is_one_node():
    w, bias = param("w", 6, 6, 3, 3), param("b", 6)
    graph = x_and(lambda x: m("relu", SAME(x, w) + bias.as_value().reshape(1, 6, 1, 1)))
    after = fused(graph)
    (node,) = nodes(after, FusedConv)
    assert node.op.operands == ("channel",)
    assert [code[0] for code in node.op.expr.code] == ["add", "relu"]
    assert not nodes(after, (Fused, Map, Conv2d))
    same_numbers(graph, [numbers()])


def test_dense_bias_relu_is_one_node():
    w, bias = param("w", 10, 6, 1, 1), param("b", 10)
    graph = x_and(
        lambda x: m("relu", Conv2d()(x.reshape(4, 6, 1, 1), w).reshape(4, 10) + bias), (4, 6)
    )
    after = fused(graph)
    (node,) = nodes(after, FusedConv)
    assert node.op.operands == ("channel",)
    assert not nodes(after, (Fused, Map))
    same_numbers(graph, [numbers((4, 6))])


def test_a_residual_block_in_inference():
    """conv, folded batch norm, shortcut and ReLU: one node; the factors are made per channel."""
    w = param("w", 6, 6, 3, 3)
    mean, var, gamma, beta = (param(n, 1, 6, 1, 1, seed=i) for i, n in enumerate("mvgb"))

    def block(x):
        scale = gamma * m("rsqrt", var + 1e-5)
        return m("relu", (SAME(x, w) - mean) * scale + beta + x)

    graph = x_and(block)
    after = fused(graph)
    (node,) = nodes(after, FusedConv)
    assert sorted(node.op.operands) == ["channel", "channel", "channel", "full"]
    (factors,) = nodes(after, Fused)
    assert factors.types[0].shape == (1, 6, 1, 1)
    assert counted(after, "rsqrt") == 1
    check_work(after)
    same_numbers(graph, [numbers()])


def block_in_training(x, w, gamma, beta, shortcut):
    y, mean, var = BatchNorm(1e-5).apply(SAME(x, w), gamma, beta)
    return m("relu", y + shortcut), mean, var


def test_batch_norm_relu_add_in_training_is_one_pass():
    w, gamma, beta = param("w", 6, 6, 3, 3), param("g", 6), param("b", 6)
    graph = x_and(lambda x: block_in_training(x, w, gamma, beta, x))
    after = fused(graph)
    assert len(full_size(after, Fused)) == 1
    assert len(nodes(after, ChannelStats)) == 1
    assert not nodes(after, (FusedConv, BatchNorm))
    check_work(after)
    same_numbers(graph, [numbers()])


def training_graph():
    w, gamma, beta = param("w", 6, 6, 3, 3), param("g", 6), param("b", 6)
    with Trace() as trace:
        x = trace.input("x", IMAGE)
        y, mean, var = block_in_training(x, w, gamma, beta, x)
        loss = (y * y).mean()
        found = gradients(loss, [x, w, gamma, beta])
        trace.assign(gamma, gamma - found[2] * 0.1)
        return trace.graph(loss, mean, var, *found)


def test_the_sums_of_batch_norms_backward_share_a_pass():
    graph = training_graph()
    after = fused(graph)
    sums = [n for n in full_size(after, FusedReduce) if n.op.axes == (0, 2, 3)]
    (node,) = sums
    assert len(node.op.expr.outputs) == 2
    check_work(after)
    same_numbers(graph, [numbers()])


def test_softmax_computes_each_exponential_once():
    def softmax(x):
        e = m("exp", x - Reduce("max", (1,))(x))
        return e / Reduce("sum", (1,))(e)

    graph = x_and(softmax, (5, 10))
    after = fused(graph)
    assert counted(after, "exp") == 1
    assert len(nodes(after, FusedReduce)) == 2
    same_numbers(graph, [numbers((5, 10))])


def test_cheap_maps_are_computed_again_rather_than_stored():
    with Trace() as trace:
        x = trace.input("x", IMAGE)
        y = m("relu", x)
        graph = trace.graph(Reduce("sum", (0, 2, 3))(y), y * 2.0)
    after = fused(graph)
    assert counted(after, "relu") == 2
    assert len(full_size(after, Fused)) == 1
    same_numbers(graph, [numbers()])


def test_an_output_that_is_consumed_is_stored_by_its_consumer():
    with Trace() as trace:
        y = trace.input("x", IMAGE) + 1.0
        graph = trace.graph(y, m("tanh", y))
    after = fused(graph)
    (node,) = nodes(after, Fused)
    assert len(node.types) == 2
    same_numbers(graph, [numbers()])


def test_an_output_that_a_reduction_reads():
    with Trace() as trace:
        y = trace.input("x", IMAGE) + 1.0
        graph = trace.graph(y, Reduce("sum", (2, 3))(y))
    after = fused(graph)
    assert len(nodes(after, Fused)) == len(nodes(after, FusedReduce)) == 1
    same_numbers(graph, [numbers()])


def test_a_convolution_that_is_read_twice_keeps_its_own_result():
    w = param("w", 6, 6, 3, 3)
    with Trace() as trace:
        y = SAME(trace.input("x", IMAGE), w)
        graph = trace.graph(m("relu", y), SAME(y, w))
    after = fused(graph)
    assert len(nodes(after, Conv2d)) == 2
    assert not nodes(after, FusedConv)
    same_numbers(graph, [numbers()])


def test_a_convolution_that_is_an_output_keeps_its_own_result():
    w = param("w", 6, 6, 3, 3)
    with Trace() as trace:
        y = SAME(trace.input("x", IMAGE), w)
        graph = trace.graph(y, m("relu", y))
    assert len(nodes(fused(graph), Conv2d)) == 1
    same_numbers(graph, [numbers()])


def test_of_two_convolutions_one_takes_the_sum():
    w = param("w", 6, 6, 3, 3)
    graph = x_and(lambda x: m("relu", SAME(x, w) + SAME(-x, w)))
    after = fused(graph)
    (node,) = nodes(after, FusedConv)
    assert node.op.operands == ("full",)
    assert len(nodes(after, Conv2d)) == 1
    same_numbers(graph, [numbers()])


@pytest.mark.parametrize("activation", [F.relu6, F.hardtanh, F.hardswish, F.leaky_relu])
def test_what_is_written_in_functional_becomes_an_epilogue(activation):
    w = param("w", 6, 6, 3, 3)
    with Trace() as trace:
        y = activation(SAME(trace.input("x", IMAGE), w))
        graph = trace.graph(y)
    (node,) = [n for n in fused(graph).nodes() if n.inputs]
    assert isinstance(node.op, FusedConv)
    same_numbers(graph, [np.random.default_rng(0).normal(0, 1, IMAGE)])


def test_costly_maps_stay_out_of_epilogues():
    w = param("w", 6, 6, 3, 3)
    graph = x_and(lambda x: m("sigmoid", SAME(x, w)) * 2.0)
    after = fused(graph)
    assert not nodes(after, FusedConv)
    assert len(nodes(after, Fused)) == 1
    same_numbers(graph, [numbers()])


def test_a_row_of_numbers_along_the_width_is_no_epilogue():
    w, row = param("w", 6, 6, 3, 3), param("row", 8)
    graph = x_and(lambda x: SAME(x, w) + row)
    assert not nodes(fused(graph), FusedConv)
    same_numbers(graph, [numbers()])


def test_numbers_that_follow_from_the_size_are_no_code():
    """Else another batch size would be another kernel."""
    exprs = []
    for n in (4, 7):
        with Trace() as trace:
            x = trace.input("x", (n, 6, 8, 8))
            graph = trace.graph(x - x.mean((0, 2, 3), keepdims=True))
        exprs.append([node.op.expr for node in nodes(fused(graph), (Fused, FusedReduce))])
    assert exprs[0] == exprs[1]


def test_reductions_that_wait_for_each_other_crosswise():
    """sum → max and max → sum of one image: both sums cannot share a pass and both maxima, too."""
    with Trace() as trace:
        x = trace.input("x", IMAGE)
        first_sum, first_max = (Reduce(kind, (0, 2, 3))(x) for kind in ("sum", "max"))
        graph = trace.graph(
            Reduce("max", (0, 2, 3))(x * first_sum), Reduce("sum", (0, 2, 3))(x * first_max)
        )
    same_numbers(graph, [numbers()])


# -- any graph -------------------------------------------------------------------------------------


@settings(max_examples=250, deadline=None, derandomize=True)
@given(graphs(most=16))
def test_random_graphs_mean_the_same(graph):
    same_numbers(graph, inputs())
    after = fused(graph)
    check_work(after)
    assert not nodes(after, Map)
    before = [n for n in graph.nodes() if isinstance(n.op, Map) and n.op.kind == "tanh"]
    assert counted(after, "tanh") <= len(before)


@pytest.mark.parametrize("rule", [lambda x: x, lambda x: (x, x), lambda x: x.reshape(-1)])
def test_graphs_without_anything_to_fuse(rule):
    same_numbers(x_and(rule), [numbers()])
