"""Memory orders: images in NHWC inside, plain outside, weights as their kernel reads them."""

import numpy as np
import pytest
from hypothesis import given, settings

from striate.arith.layout import NHWC, PLAIN, Nhwc, PackedWeights
from striate.arith.pool import windows
from striate.engine.choice import Chooser
from striate.engine.expand import expand
from striate.engine.fuse import fuse
from striate.engine.layout import Reorder, place, same_memory
from striate.engine.layouts_numpy import to_memory
from striate.graph import Trace, evaluate, gradients, typecheck
from striate.graph.ops.conv import Conv2d
from striate.graph.ops.eltwise import m
from striate.graph.ops.fused import FusedConv
from striate.graph.ops.pool import MaxPool
from striate.graph.value import Param
from striate.jit import target
from tests.random_graphs import graphs, inputs

SAME = Conv2d((1, 1), ((1, 1), (1, 1)))
MACHINE = target.reference_machine("avx2")


def param(name, *shape):
    return Param(name, np.random.default_rng(0).standard_normal(shape, np.float32))


def placed(graph):
    result = place(fuse(expand(graph)), MACHINE, Chooser(MACHINE))
    typecheck(result.graph)
    return result


def moves(result):
    """The reorders that move bytes, as (from, to)."""
    found = []
    for node in result.graph.nodes():
        if isinstance(node.op, Reorder):
            source = node.inputs[0]
            before = result.layouts.get(source, PLAIN)
            if not same_memory(source.shape, before, node.op.layout):
                found.append((str(before), str(node.op.layout)))
    return found


def net(x):
    """conv, ReLU, pool, conv, bias, and a dense layer on the flattened image."""
    w1, w2, bias = param("1", 4, 3, 3, 3), param("2", 5, 4, 3, 3), param("b", 5)
    y = m("relu", SAME(x, w1))
    halves = windows(8, 2, 2, (0, 0))
    y = MaxPool(halves, halves)(y)
    y = SAME(y, w2) + bias.as_value().reshape(1, 5, 1, 1)
    dense = param("dense", 10, 80).as_value().reshape(10, 80, 1, 1)
    return Conv2d()(y.reshape(-1, 80, 1, 1), dense).reshape(-1, 10)


def test_images_move_only_at_the_borders():
    with Trace() as trace:
        graph = trace.graph(net(trace.input("x", (2, 3, 8, 8))))
    result = placed(graph)
    images = [move for move in moves(result) if "packed" not in move[1]]
    assert images == [("plain", "nhwc"), ("nhwc", "plain")]  # the picture in, the flattening
    assert sum("packed" in to for _, to in moves(result)) == 3


def test_outputs_and_assigned_values_are_plain():
    state = param("state", 2, 4, 8, 8)
    with Trace() as trace:
        y = SAME(trace.input("x", (2, 3, 8, 8)), param("w", 4, 3, 3, 3))
        trace.assign(state, y)
        graph = trace.graph(y, m("relu", y))
    result = placed(graph)
    values = [*result.graph.outputs, *(v for _, v in result.graph.assigns)]
    assert all(result.layouts[v] == PLAIN for v in values)
    assert moves(result).count(("nhwc", "plain")) == 2  # y once, and its map


def test_a_value_is_moved_once_for_all_its_readers():
    with Trace() as trace:
        x = trace.input("x", (2, 3, 8, 8))
        w = param("w", 3, 3, 3, 3)
        graph = trace.graph(SAME(x, w) + SAME(x, param("v", 3, 3, 3, 3)) + SAME(-x, w))
    result = placed(graph)
    assert moves(result).count(("plain", "nhwc")) == 2  # x, and -x
    assert sum("packed" in to for _, to in moves(result)) == 2


def test_one_channel_and_one_pixel_do_not_move():
    for shape in ((2, 1, 8, 8), (2, 5, 1, 1)):
        with Trace() as trace:
            x = trace.input("x", shape)
            graph = trace.graph(SAME(x, param("w", shape[1], shape[1], 3, 3)))
        assert [to for _, to in moves(placed(graph)) if "packed" not in to] == []


@pytest.mark.parametrize(
    "shape", [(2, 3, 4, 5), (2, 1, 4, 5), (2, 3, 1, 1), (1, 3, 1, 2), (1, 1, 1, 1), (7,), (2, 3)]
)
def test_same_memory_is_what_numpy_says(shape):
    x = np.arange(np.prod(shape)).reshape(shape)
    alike = len(shape) != 4 or (to_memory(NHWC, x) == to_memory(PLAIN, x)).all()
    assert same_memory(shape, PLAIN, NHWC) == same_memory(shape, NHWC, PLAIN) == alike
    assert same_memory(shape, NHWC, NHWC)
    packed = PackedWeights(8, 1, (((0, 0),),), False)
    assert not same_memory(shape, PLAIN, packed)


def test_weights_of_the_input_gradient_are_packed_by_phase():
    w = param("w", 6, 3, 3, 3)
    with Trace() as trace:
        x = trace.input("x", (2, 3, 8, 8))
        y = Conv2d((2, 2), ((1, 1), (1, 1)))(x, w)
        graph = trace.graph(*gradients((y * y).sum(), [x]))
    layouts = {v for v in placed(graph).layouts.values() if isinstance(v, PackedWeights)}
    forward, backward = sorted(layouts, key=lambda layout: layout.swap)
    assert [len(p) for p in forward.phases] == [9]
    assert sorted(len(p) for p in backward.phases) == [1, 2, 2, 4]


def test_operands_of_an_epilogue_come_in_the_images_order():
    with Trace() as trace:
        x, z = trace.input("x", (2, 3, 8, 8)), trace.input("z", (2, 3, 8, 8))
        graph = trace.graph(SAME(x, param("w", 3, 3, 3, 3)) + z)
    result = placed(graph)
    (node,) = [n for n in result.graph.nodes() if isinstance(n.op, FusedConv)]
    assert all(isinstance(result.layouts[node.inputs[i]], Nhwc) for i in (0, 2))
    assert isinstance(result.layouts[node.inputs[1]], PackedWeights)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(graphs(most=12))
def test_orders_do_not_change_what_a_graph_means(graph):
    result = placed(graph)
    reorders = [n for n in result.graph.nodes() if isinstance(n.op, Reorder)]
    assert len({(n.inputs, n.op.layout) for n in reorders}) == len(reorders)
    params = graph.params()
    before = [np.array(p.data) for p in params]
    want = evaluate(graph, inputs(), np.float64)
    for p, array in zip(params, before, strict=True):
        p.assign(array)
    for a, b in zip(evaluate(result.graph, inputs(), np.float64), want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)
