"""Concatenations whose inputs are computed in place, and maps drawn into 1×1 convolutions."""

import numpy as np
import pytest

from striate import engine, models
from striate.arith.layout import NhwcSlice
from striate.arith.pool import windows
from striate.engine.plan import plan
from striate.engine.program import SCRATCH
from striate.engine.reference import DTYPES
from striate.graph import Trace, evaluate
from striate.graph.ops.axismap import AveragePool1d, AxisMap
from striate.graph.ops.conv import Conv2d, ConvInputGrad
from striate.graph.ops.eltwise import m
from striate.graph.ops.pool import MaxPool
from striate.graph.ops.shape import Concat
from striate.jit.target import machine
from striate.models.densenet import DenseBlock, DenseNet
from tests.guard import PARTS, guarded, guarded_front
from tests.kernel_call import call
from tests.small_nets import inference, param, picture
from tests.test_engine_reference import compare

SAME = ((1, 1), (1, 1))
SIZE = 6
JOIN = Concat(1)


def conv(x, co, kernel=1, seed=0, **how):
    ci = x.shape[1] // how.get("groups", 1)
    w = param(f"w{seed}", co, ci, kernel, kernel, seed=seed)
    padding = ((kernel // 2,) * 2,) * 2
    return Conv2d(padding=padding, **how)(x, w.as_value())


def per_channel(x, seed):
    return param(f"c{seed}", 1, x.shape[1], 1, 1, seed=seed).as_value()


def relu_of_norm(x, seed):
    """relu(x·s + t), as folded batch norm and ReLU."""
    return m("relu", x * per_channel(x, seed) + per_channel(x, seed + 1))


def chain(x, layers=3, growth=5):
    """A dense block of pre-activated 3×3 and 1×1 layers; what is read between is a prefix."""
    x = conv(x, 18, 3)
    for i in range(layers):
        y = conv(relu_of_norm(x, 10 * i), 16 + i, seed=i)
        x = JOIN(x, conv(m("relu", y), growth + i, 3, seed=i + 20))
    return conv(relu_of_norm(x, 90), 9)


def pool(x):
    table = windows(SIZE, 3, 1, (1, 1))
    return MaxPool(table, table)(x)


def average(x):
    rule = AveragePool1d(SIZE, 3, 1, (1, 1), True)
    return AxisMap(3, rule)(AxisMap(2, rule)(x))


def two_readers(x, kernel):
    y = conv(x, 7, 3)
    return JOIN(y, conv(y, 4, kernel, seed=1))


def in_two(x):
    y = conv(x, 7)
    return conv(JOIN(y, conv(x, 4, seed=1)), 3) + conv(JOIN(conv(x, 5, seed=2), y), 3, seed=3)


def fire(x):
    x = m("relu", conv(x, 4))
    return JOIN(m("relu", conv(x, 17, seed=1)), m("relu", conv(x, 20, 3, seed=2)))


# what is built of x (2, 16, 6, 6) → inputs of concatenations that are still copied
CASES = {
    "winograd and gemm": (lambda x: conv(JOIN(conv(x, 20, 3), conv(x, 7)), 5), 0),
    "fire": (lambda x: conv(fire(x), 5), 0),
    "the result is the output": (fire, 0),
    "direct, depthwise, max pool": (
        lambda x: JOIN(conv(x, 3, 3), conv(x, 16, 3, groups=16), pool(x)),
        0,
    ),
    "grouped, average pool": (lambda x: JOIN(conv(x, 6, 3, groups=2), average(x)), 0),
    "input gradient": (
        lambda x: JOIN(
            ConvInputGrad((2, 2), SAME, in_h=12, in_w=12)(x, param("t", 16, 5, 3, 3).as_value()),
            ConvInputGrad((2, 2), SAME, in_h=12, in_w=12)(x, param("u", 16, 2, 3, 3).as_value()),
        ),
        0,
    ),
    "stride 2": (
        lambda x: JOIN(conv(x, 5, 3, stride=(2, 2)), conv(x, 3, 3, 1, stride=(2, 2))),
        0,
    ),
    "nested left": (lambda x: JOIN(JOIN(conv(x, 3), conv(x, 5, 3)), conv(x, 2, seed=1)), 0),
    "nested right": (lambda x: JOIN(conv(x, 3), JOIN(conv(x, 5, 3), conv(x, 2, seed=1))), 0),
    "chain": (chain, 0),
    "read by a 1×1 convolution too": (lambda x: two_readers(x, 1), 0),
    "read by a 3×3 convolution too": (lambda x: two_readers(x, 3), 1),
    "the net's input": (lambda x: JOIN(x, conv(x, 5)), 1),
    "the same twice": (lambda x: conv(JOIN(*[conv(x, 5)] * 2), 3), 1),
    "in two concatenations": (in_two, 1),
    "a full operand": (lambda x: JOIN(conv(x, 16, 3) + x, conv(x, 3)), 1),
    "a map": (lambda x: JOIN(m("tanh", conv(x, 5)), conv(x, 3)), 1),
    "a parameter": (lambda x: JOIN(conv(x, 5), param("p", 2, 3, SIZE, SIZE).as_value()), 1),
    "only one": (lambda x: JOIN(conv(x, 5)), 0),
}


def graph_of(build, shape=(2, 16, SIZE, SIZE)):
    with Trace() as trace:
        return trace.graph(build(trace.input("x", shape)))


def concat_copies(program):
    return sum(step.label == "concat" for step in program.steps)


def run_guarded(program, x, place, parts):
    """The program with every buffer between unreadable pages; a slice is a part of its home."""
    memory = {}
    for b in program.buffers.values():
        if b.param is not None:
            memory[b.id] = place(b.param.data.reshape(-1))
        elif b.kind == "table":
            memory[b.id] = place(np.frombuffer(b.table, DTYPES[b.dtype]))
        elif b.kind == "input":
            memory[b.id] = place(x.reshape(-1))
        elif b.home is None:
            memory[b.id] = place(np.full(b.elements, np.nan, np.float32))
    for b in program.buffers.values():
        if isinstance(b.layout, NhwcSlice):
            memory[b.id] = memory[b.home][b.layout.start :]
    for step in (*program.constant_steps, *program.steps):
        memory[SCRATCH] = place(np.full(step.scratch * parts, np.nan, np.float32))
        call(step.spec, [memory[b] for b in step.buffers], step.sizes, parts)
    (output,) = program.outputs
    return memory[output].reshape(program.buffers[output].shape)


@pytest.mark.parametrize("case", CASES)
def test_in_place(case):
    """Against the definition in float64, on guard pages, with every number of parts."""
    build, copies = CASES[case]
    graph, x = graph_of(build), picture(2, 16, SIZE, SIZE)
    program = plan(graph, machine(), 2)
    assert concat_copies(program) == copies
    want = evaluate(graph, [x], np.float64)[0]
    first = run_guarded(program, x, guarded, 1)
    np.testing.assert_allclose(first, want, rtol=0, atol=3e-5 * np.abs(want).max())
    for place in (guarded, guarded_front):
        for parts in PARTS:
            assert run_guarded(program, x, place, parts).tobytes() == first.tobytes()


@pytest.mark.parametrize("case", CASES)
def test_step_by_step(case):
    compare(graph_of(CASES[case][0]), picture(2, 16, SIZE, SIZE))


@pytest.mark.parametrize("case", ["fire", "chain", "nested right"])
def test_an_image_has_the_same_bits_in_every_batch(case):
    x = picture(3, 16, SIZE, SIZE)
    (together,) = engine.build(graph_of(CASES[case][0], x.shape))(x)
    alone = engine.build(graph_of(CASES[case][0], (1, *x.shape[1:])))
    for i in range(3):
        np.testing.assert_array_equal(alone(x[i : i + 1])[0], together[i : i + 1])


def test_images_of_one_pixel():
    graph, x = graph_of(fire, (3, 16, 1, 1)), picture(3, 16, 1, 1)
    (y,) = engine.build(graph)(x)
    np.testing.assert_allclose(y, evaluate(graph, [x], np.float64)[0], rtol=0, atol=1e-4)


def test_slices_lie_in_their_home_and_live_as_long():
    program = plan(graph_of(chain), machine(), 2)
    slices = [b for b in program.buffers.values() if b.home is not None]
    assert len(slices) == 6  # the first convolution, two prefixes, three results
    assert len({b.home for b in slices}) == 1
    for b in slices:
        assert program.offsets[b.id] - program.offsets[b.home] == 4 * b.layout.start
        assert b.layout.pitch == program.buffers[b.home].shape[1]


@pytest.mark.parametrize("name", ["densenet121", "squeezenet1_1"])
def test_networks_copy_nothing(name):
    program = plan(inference(models.create(name), (1, 3, 64, 64)), machine(), 2)
    assert concat_copies(program) == 0
    maps = [step.label for step in program.steps if type(step.spec).__name__ == "Eltwise"]
    assert maps == ["mul"]  # the mean over the image, of its sum


def test_training_copies_as_before():
    net = DenseBlock(2, 8, 4)
    graph = inference(net, (2, 8, SIZE, SIZE))
    program = plan(graph, machine(), 2, training=True)
    assert concat_copies(program) == 4
    assert not any(b.home for b in program.buffers.values())


@pytest.mark.parametrize("batch", [1, 3])
def test_densenet(batch):
    net = DenseNet((2, 3, 2, 2), growth=6, num_classes=7)
    x = picture(batch, 3, 40, 36)
    graph = inference(net, x.shape)
    program = compare(graph, x)
    assert concat_copies(program) == 0
    (y,) = engine.build(graph)(x)
    want = evaluate(graph, [x], np.float64)[0]
    np.testing.assert_allclose(y, want, rtol=0, atol=2e-5 * np.abs(want).max())
