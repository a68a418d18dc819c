"""The native program against its slow twin, task by task, on the memory plan as it is."""

import numpy as np
import pytest
from hypothesis import given, settings

import striate.functional as F
from striate import nn
from striate.engine import arena
from striate.engine.layouts_numpy import elements_in
from striate.engine.options import Options
from striate.engine.plan import plan
from striate.engine.program import SCRATCH
from striate.engine.reference import DTYPES, run_tasks
from striate.graph import Trace, gradients
from striate.graph.ops.eltwise import m
from striate.graph.ops.pixels import NormalisePixels
from striate.jit.target import machine
from striate.nn.tracing import Raw, symbolic_call
from tests.kernel_call import call
from tests.random_graphs import graphs, inputs

PARTS = 3


class Native:
    """The buffers of a program in memory, and its tasks run by their kernels."""

    def __init__(self, program, arrays):
        self.block = arena.Block(max(64, program.arena_bytes))
        self.block.array(0, program.arena_bytes // 4, np.float32)[...] = np.nan
        self.memory = {}
        for b in program.buffers.values():
            dtype = DTYPES[b.dtype]
            if b.param is not None:
                self.memory[b.id] = b.param.buffer.reshape(-1).copy()
            elif b.kind == "table":
                self.memory[b.id] = np.frombuffer(b.table, dtype)
            elif b.kind == "input":
                self.memory[b.id] = np.ascontiguousarray(arrays[b.index], dtype).reshape(-1)
            elif b.id in program.offsets:
                place = self.block.array(program.offsets[b.id], b.elements, dtype)
                self.memory[b.id] = place
            else:
                self.memory[b.id] = np.full(b.elements, -77, dtype)

    def run(self, task):
        for step in task.steps:
            scratch = np.full(step.scratch * PARTS, np.nan, np.float32)
            arrays = [scratch if b == SCRATCH else self.memory[b] for b in step.buffers]
            call(step.spec, arrays, step.sizes, PARTS)


def compare(graph, *arrays, tolerance=2e-5, algorithm="auto", training=False):
    """After each task its buffers are alike; then both go on from the native numbers."""
    program = plan(graph, machine(), 2, training=training, options=Options(algorithm))
    native = Native(program, arrays)
    done = []

    def watch(task, number, flat):
        if not done or done[-1] is not task:
            native.run(task)
            done.append(task)
        buffer = program.buffers[number]
        got = elements_in(buffer.layout, native.memory[number], buffer.shape)
        if flat.dtype == np.int32:
            np.testing.assert_array_equal(got, flat)
        else:
            room = tolerance * max(1.0, np.abs(flat).max(initial=0))
            np.testing.assert_allclose(got, flat, rtol=0, atol=room, err_msg=str(task.node))
        flat[...] = got
        if (param := buffer.param) is not None:
            param.buffer.reshape(-1)[...] = got

    before = {p: np.array(p.data) for p in graph.params()}
    outputs = run_tasks(program, arrays, watch)
    assert len(done) == sum(bool(t.steps) for t in (*program.constants, *program.tasks))
    for number, output in zip(program.outputs, outputs, strict=True):
        np.testing.assert_array_equal(native.memory[number], output.reshape(-1))
    for param, array in before.items():
        param.assign(array)
    return program


class Net(nn.Module):
    """Every layer of a small residual net, with some that few nets have."""

    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, groups=2)
        self.bn2 = nn.BatchNorm2d(channels)
        self.down = nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.dropout = nn.Dropout(0.3)
        self.fc = nn.Linear(2 * channels, 5)

    def forward(self, x):
        x = m("relu", self.bn1(self.conv1(x)))
        x = m("relu", self.bn2(self.conv2(x)) + x)
        x = self.pool(self.down(x))
        return self.fc(self.dropout(x.mean((2, 3))))


def graph_of(net, kind, *, training):
    """`kind`: the shape of the images, or `Raw` for pictures of bytes."""
    with Trace() as trace:
        output, _ = symbolic_call(net, trace, [kind], training)
        if not training:
            return trace.graph(output)
        labels = trace.input("labels", output.shape[:1], "i32")
        loss = F.cross_entropy(output, labels)
        params = list(net.parameters())
        for param, slope in zip(params, gradients(loss, params), strict=True):
            trace.assign(param, param - slope * 0.1)
        return trace.graph(loss, output)


@pytest.mark.parametrize("algorithm", ["direct", "auto"])
@pytest.mark.parametrize("channels", [6, 24])
def test_inference(channels, algorithm):
    net = Net(channels)
    x = np.random.default_rng(0).standard_normal((2, 3, 12, 11), np.float32)
    compare(graph_of(net, x.shape, training=False), x, algorithm=algorithm)


@pytest.mark.parametrize("channels", [6, 24])
def test_training(channels):
    net = Net(channels)
    rng = np.random.default_rng(1)
    x, labels = rng.standard_normal((4, 3, 12, 11), np.float32), rng.integers(0, 5, 4)
    graph = graph_of(net, x.shape, training=True)
    assert graph.assigns
    program = compare(graph, x, labels, training=True)
    assert program.constants == ()


@pytest.mark.parametrize("training", [False, True])
def test_pictures_of_bytes(training):
    rng = np.random.default_rng(1)
    x, labels = rng.integers(0, 256, (4, 12, 11, 3), np.uint8), rng.integers(0, 5, 4)
    kind = Raw(x.shape, NormalisePixels((0.5, 0.4, 0.3), (0.2, 0.3, 0.1)))
    graph = graph_of(Net(6), kind, training=training)
    program = compare(graph, *([x, labels] if training else [x]), training=training)
    steps = {type(step.spec).__name__ for step in program.steps}
    assert "LookUpPixels" in steps
    assert training or "Transpose2d" not in steps


class Stem(nn.Module):
    """Kernels that Winograd's method computes by phases of a stride, and with more taps."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 7, stride=2, padding=3)
        self.conv2 = nn.Conv2d(16, 20, 5, padding=2)
        self.conv3 = nn.Conv2d(20, 16, 3, stride=2, padding=1)
        self.fc = nn.Linear(16, 5)

    def forward(self, x):
        x = m("relu", self.conv2(m("relu", self.conv1(x))))
        return self.fc(self.conv3(x).mean((2, 3)))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("algorithm", ["winograd-f2", "winograd-f4"])
def test_winograd_of_any_kernel(algorithm, training):
    rng = np.random.default_rng(1)
    x, labels = rng.standard_normal((3, 3, 33, 30), np.float32), rng.integers(0, 5, 3)
    graph = graph_of(Stem(), x.shape, training=training)
    arrays = (x, labels) if training else (x,)
    program = compare(graph, *arrays, training=training, algorithm=algorithm)
    specs = [s.spec for t in program.tasks for s in t.steps if type(s.spec).__name__ == "Winograd"]
    assert {(s.filtering.kernel, s.filtering.stride) for s in specs} == {(7, 2), (5, 1), (3, 2)}


@settings(max_examples=20, deadline=None, derandomize=True)
@given(graphs(most=10))
def test_random_graphs(graph):
    compare(graph, *inputs())
