"""What is computed again in the backward pass: the same bits, less memory; and when nodes run."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings

import striate as st
from striate import nn
from striate.engine.expand import expand
from striate.engine.order import ordered
from striate.engine.plan import plan
from striate.engine.recompute import recompute
from striate.graph import Graph, Trace
from striate.graph.evaluate import evaluate
from striate.graph.ops.conv import Conv2d, ConvWeightGrad
from striate.graph.ops.leaf import ParamLeaf
from striate.graph.value import Param, typecheck
from striate.jit.target import machine
from striate.train.step import _Batch
from tests.random_graphs import graphs, inputs


class Block(nn.Module):
    """A residual block with a bottleneck and everything that has a state or a key of its own."""

    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.act = nn.SiLU()
        self.drop = nn.Dropout(0.25)
        self.conv2 = nn.Conv2d(8, channels, 1)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x):
        y = self.drop(self.act(self.bn1(self.conv1(x))))
        return st.functional.relu(self.bn2(self.conv2(y)) + x)


def deep():
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1, bias=False),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        *(Block(12) for _ in range(5)),
        nn.MaxPool2d(2),
        nn.Conv2d(12, 16, 3, stride=2),
        nn.GELU(),
        nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(64, 10),
        nn.Hardswish(),
        nn.Linear(10, 4),
    )


def trained(steps=4, **options):
    """Losses and state of a net after some steps."""
    st.manual_seed(3)
    net = deep()
    step = st.compile_step(net, optimizer=st.optim.Adam(0.01), ema=0.9, **options)
    rng = np.random.default_rng(0)
    losses = []
    for _ in range(steps):
        x = rng.standard_normal((6, 3, 12, 11), np.float32)
        losses.append(step(x, rng.integers(0, 4, 6)))
    return losses, {**net.state_dict(), **step.state_dict()[1]}


def same_bits(a, b):
    assert a[0] == b[0]
    assert a[1].keys() == b[1].keys()
    for key, value in a[1].items():
        np.testing.assert_array_equal(value, b[1][key], err_msg=key)


@pytest.fixture
def kept(monkeypatch):
    """The results of a step that computes nothing again."""
    with monkeypatch.context() as patch:
        module = sys.modules["striate.engine.plan"]  # the package has a function of that name
        patch.setattr(module, "recompute", lambda graph, **_: graph)
        return trained()


def test_the_same_bits_over_several_steps(kept):
    same_bits(trained(), kept)


def test_the_same_bits_with_checkpoint(kept):
    same_bits(trained(checkpoint=True), kept)


def graph_of(net, shape, **options):
    step = st.compile_step(net, optimizer=st.optim.SGD(0.1, momentum=0.9), **options)
    return step._trace(_Batch(np.zeros(shape, np.float32), np.zeros(shape[0], np.int64)))[0]


def again(graph):
    return [node for node in graph.nodes() if node.scope.startswith("again:")]


def test_checkpoint_needs_less_memory():
    """ResNet-18 on 32×32 pictures, 64 at a time: the bytes of activations and gradients."""
    graph = graph_of(st.models.create("resnet18", num_classes=10, stem="32"), (64, 3, 32, 32))
    usual, less = (
        plan(graph, machine(), 2, training=True, checkpoint=checkpoint).arena_bytes
        for checkpoint in (False, True)
    )
    assert less < 0.7 * usual


def test_nothing_but_cheap_maps_is_computed_again_by_itself():
    graph = recompute(expand(graph_of(deep(), (6, 3, 12, 11))))
    assert again(graph)
    assert all(type(node.op).__name__ == "Map" for node in again(graph))
    before = expand(graph_of(deep(), (6, 3, 12, 11)))
    for op in (Conv2d, ConvWeightGrad):
        counts = [sum(isinstance(n.op, op) for n in g.nodes()) for g in (before, graph)]
        assert counts[0] == counts[1]


def test_what_only_an_activation_leaves_behind_stays():
    """Without batch norm nobody keeps the convolution's result, so there is nothing to start at."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten())
    graph = recompute(expand(graph_of(net, (2, 3, 6, 6))))
    assert not [n for n in again(graph) if len(n.types[0].shape) == 4]


def test_random_numbers_and_statistics_are_not_computed_again():
    graph = recompute(expand(graph_of(deep(), (6, 3, 12, 11))), segments=True)
    kinds = {type(node.op).__name__ for node in again(graph)}
    assert "Conv2d" in kinds
    assert not kinds & {"RandomUniform", "ChannelStats", "Reduce", "Input"}


@pytest.mark.parametrize("segments", [False, True])
@settings(max_examples=100, deadline=None, derandomize=True)
@given(graph=graphs())
def test_random_graphs_mean_the_same(segments, graph):
    """Any of the values as the forward pass, the others assigned."""
    values = [v for n in graph.nodes() if n.inputs for v in n.outputs() if v.dtype == "f32"]
    assigned = [(Param(f"p{i}", np.zeros(v.shape)), v) for i, v in enumerate(values[::2])]
    before = Graph(graph.inputs, graph.outputs[:1], tuple(assigned))
    after = typecheck(recompute(before, segments=segments))
    assert after.inputs == before.inputs
    outputs = [Graph(g.inputs, (*g.outputs, *(v for _, v in g.assigns))) for g in (before, after)]
    arrays = inputs()
    for a, b in zip(*(evaluate(g, arrays) for g in outputs), strict=True):
        np.testing.assert_array_equal(a, b)


# -- when nodes run --------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None, derandomize=True)
@given(graph=graphs())
def test_every_node_runs_after_what_it_reads(graph):
    order = ordered(graph)
    assert set(order) == set(graph.nodes())
    place = {node: i for i, node in enumerate(order)}
    assert all(place[v.node] < place[node] for node in order for v in node.inputs)


def test_a_layer_is_updated_before_the_gradients_of_the_layer_below():
    net = nn.Sequential(*(nn.Conv2d(4, 4, 3, padding=1) for _ in range(6)), nn.Flatten())
    graph = graph_of(net, (2, 4, 4, 4))
    program = plan(graph, machine(), 1, training=True)
    written = {program.buffers[b].param: i for i, t in enumerate(program.tasks) for b in t.outputs}
    updates = [written[p] for p, _ in graph.assigns if p.name.endswith("weight")]
    gradients = [i for i, t in enumerate(program.tasks) if isinstance(t.node.op, ConvWeightGrad)]
    assert len(updates) == len(gradients) == 6
    for gradient, update in zip(gradients[2:], sorted(updates), strict=False):
        assert update < gradient
    assert not [s for s in program.steps if s.label == "copy"]


def test_readers_of_the_old_value_come_first():
    p, q = (Param(name, np.ones((3, 3), np.float32)) for name in "pq")
    with Trace() as trace:
        x = trace.input("x", (3, 3))
        trace.assign(p, x + 1.0)
        trace.assign(q, ((x * p) * 2.0).sum() + q)
        graph = trace.graph(x * x)
    order = ordered(graph)
    new = order.index(dict(graph.assigns)[p].node)
    readers = [
        i
        for i, node in enumerate(order)
        if any(isinstance(v.node.op, ParamLeaf) and v.node.op.param is p for v in node.inputs)
    ]
    assert readers
    assert max(readers) < new
