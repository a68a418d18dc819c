"""Where results go: outputs, assignments and constants of a planned program."""

import gc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from striate import engine
from striate.engine import build
from striate.engine.plan import plan
from striate.graph import Trace, evaluate
from striate.graph.ops.conv import Conv2d
from striate.graph.ops.eltwise import m
from striate.graph.ops.shape import Broadcast, Concat
from striate.graph.value import Param
from striate.jit.target import machine
from striate.kernels.pack import PackWeights
from tests.conv_oracle import integers


def ints(shape, seed=0):
    return integers(np.random.default_rng(seed), *shape)


def check(graph, *inputs, runs=2):
    """The program gives what `evaluate` gives, for outputs and parameters, several times over."""
    params = graph.params()
    start = [np.array(p.data) for p in params]
    wanted = []
    for _ in range(runs):
        outputs = evaluate(graph, inputs)
        wanted.append((outputs, [np.array(p.data) for p in params]))
    for param, array in zip(params, start, strict=True):
        param.assign(array)
    executable = build(graph)
    for outputs, after in wanted:
        got = executable(*inputs)
        for a, b in zip(got, outputs, strict=True):
            np.testing.assert_array_equal(a, b)
        for param, array in zip(params, after, strict=True):
            np.testing.assert_array_equal(param.data, array, err_msg=param.name)
    return executable


# -- assignments -----------------------------------------------------------------------------------


def updates(rule, count=3, shape=(5,)):
    """A graph of `rule(trace, x, *params)`, which gives the outputs."""
    params = [Param(f"p{i}", ints(shape, i + 1)) for i in range(count)]
    with Trace() as trace:
        x = trace.input("x", shape)
        outputs = rule(trace, x, *params)
        return trace.graph(*outputs)


def swap(trace, x, a, b, c):
    trace.assign(a, b)
    trace.assign(b, a)
    return (x,)


def rotate(trace, x, a, b, c):
    trace.assign(a, b)
    trace.assign(b, c)
    trace.assign(c, a)
    return (a.as_value(), x)


def swap_views(trace, x, a, b, c):
    trace.assign(a, b.as_value().reshape(1, 5).reshape(5))
    trace.assign(b, a.as_value().reshape(5, 1).reshape(5))
    return ()


def copied_before_it_changes(trace, x, a, b, c):
    trace.assign(a, b)
    trace.assign(b, b + x)
    return ()


def changed_before_it_is_copied(trace, x, a, b, c):
    trace.assign(a, a + x)
    trace.assign(b, a)
    return ()


def read_after_it_could_be_written(trace, x, a, b, c):
    """a's new value is made early; the reduction that reads a later needs the old one."""
    trace.assign(a, a + x)
    total = Broadcast((5,))(((a + x) * (a + x)).sum(0, keepdims=True))
    trace.assign(b, a * total)
    return (a * 2.0,)


def momentum(trace, x, a, b, c):
    velocity = a * 2.0 + x
    trace.assign(a, velocity)
    trace.assign(b, b - velocity * 3.0)
    return ()


def momentum_computed_twice(trace, x, a, b, c):
    trace.assign(a, a * 2.0 + x)
    trace.assign(b, b + (a * 2.0 + x))
    return ()


def each_other(trace, x, a, b, c):
    trace.assign(a, b + 1.0)
    trace.assign(b, a + 2.0)
    return (a + b,)


def the_same_value_twice(trace, x, a, b, c):
    y = a + x
    trace.assign(a, y)
    trace.assign(b, y)
    trace.assign(c, y)
    return (y, y)


def the_same_value_late_and_in_place(trace, x, a, b, c):
    """a's old value is still needed when y is made, c's is not."""
    y = x + x
    trace.assign(a, y)
    trace.assign(b, x + a)
    trace.assign(c, y)
    return ()


def itself(trace, x, a, b, c):
    trace.assign(a, a)
    trace.assign(b, a)
    trace.assign(c, c)
    return (a.as_value(), b.as_value())


def an_input(trace, x, a, b, c):
    trace.assign(a, x)
    return (a.as_value(), x)


def a_reduction(trace, x, a, b, c):
    trace.assign(a, Broadcast((5,))((a * x).sum(0, keepdims=True)))
    trace.assign(b, a * a.as_value().max(0, keepdims=True))
    return ()


def broadcast_of_itself(trace, x, a, b, c):
    """Every element of the new value needs the first element of the old one."""
    trace.assign(a, a + a.as_value()[0:1])
    return (a.as_value()[0:1],)


def never_read(trace, x, a, b, c):
    trace.assign(a, x * 3.0)
    return ()


RULES = [
    swap, rotate, swap_views, copied_before_it_changes, changed_before_it_is_copied,
    read_after_it_could_be_written, momentum, momentum_computed_twice, each_other,
    the_same_value_twice, the_same_value_late_and_in_place, itself, an_input, a_reduction,
    broadcast_of_itself, never_read,
]  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
def test_assignments_read_old_values(rule):
    check(updates(rule), ints((5,)), runs=3)


def test_an_update_that_can_be_made_in_place_is():
    program = plan(updates(momentum), machine(), 1)
    assert len(program.steps) == 1
    assert program.arena_bytes == 0


def test_param_versions_count_runs():
    graph = updates(momentum)
    executable = build(graph)
    before = [p.version for p in graph.params()]
    for _ in range(3):
        executable(ints((5,)))
    assert [p.version - v for p, v in zip(graph.params(), before, strict=True)] == [3, 3]


def test_an_image_is_assigned():
    """A value that is computed in NHWC reaches its parameter in plain order."""
    state, w = Param("state", ints((2, 3, 4, 5))), Param("w", ints((3, 3, 3, 3), 1))
    with Trace() as trace:
        y = Conv2d((1, 1), ((1, 1), (1, 1)))(state, w)
        trace.assign(state, m("min", y, 2.0))
        graph = trace.graph(y)
    check(graph)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.data())
def test_random_assignments(data):
    """Any assignments and outputs, of values that share parameters, views and each other."""
    shape = (2, 3)
    params = [Param(f"p{i}", ints(shape, i)) for i in range(3)]
    with Trace() as trace:
        values = [trace.input("x", shape), *(p.as_value() for p in params)]
        for _ in range(data.draw(st.integers(0, 5))):
            a, b = (data.draw(st.sampled_from(values)) for _ in range(2))
            made = {
                "add": lambda a=a, b=b: a + b,
                "relu": lambda a=a: m("relu", a),
                "view": lambda a=a: a.reshape(6).reshape(*shape),
                "sum": lambda a=a, b=b: b - a.sum(1, keepdims=True),
                "max": lambda a=a: Broadcast(shape)(a.max(0, keepdims=True)),
            }
            values.append(made[data.draw(st.sampled_from(sorted(made)))]())
        for param in data.draw(st.permutations(params)):
            if data.draw(st.booleans()):
                trace.assign(param, data.draw(st.sampled_from(values)))
        outputs = data.draw(st.lists(st.sampled_from(values), max_size=3))
        graph = trace.graph(*outputs)
    check(graph, ints(shape, 9))


# -- outputs ---------------------------------------------------------------------------------------


class Leaves:
    """What an output rule can use."""

    def __init__(self, trace):
        self.x = trace.input("x", (2, 3, 4, 5))
        self.w = Param("w", ints((3, 3, 1, 1), 1))
        self.constant = m("add", 1.0, 2.0)
        self.map = -self.x
        self.image = Conv2d()(self.x, self.w)


OUTPUTS = {
    "an input": lambda v: (v.x,),
    "an input twice": lambda v: (v.x, v.x),
    "a view of an input": lambda v: (v.x.reshape(6, 20), v.x),
    "a parameter": lambda v: (v.w.as_value(), v.w.as_value()),
    "a constant": lambda v: (v.constant, v.constant * 2.0),
    "a value twice": lambda v: (v.map, v.map),
    "a value and its view": lambda v: (v.map, v.map.reshape(-1), v.map.reshape(6, 20)),
    "a view that is read, too": lambda v: (v.map.reshape(-1) * 2.0, v.map.reshape(-1)),
    "an image and its maps": lambda v: (v.image, v.image + 1.0, m("relu", v.image)),
    "an image and its view": lambda v: (v.image.flatten(1), v.image),
    "nothing": lambda _: (),
}


@pytest.mark.parametrize("rule", OUTPUTS.values(), ids=OUTPUTS)
def test_outputs(rule):
    with Trace() as trace:
        graph = trace.graph(*rule(Leaves(trace)))
    check(graph, ints((2, 3, 4, 5)))


def test_integers_pass_through():
    with Trace() as trace:
        x = trace.input("x", (7,), "i32")
        graph = trace.graph(x, x.reshape(7, 1))
    keys = np.array([0, 1, -1, 2**31 - 1, -(2**31), 0x7FC00001, 5], np.int32)
    a, b = build(graph)(keys)
    assert a.dtype == b.dtype == np.int32
    np.testing.assert_array_equal(a, keys)
    np.testing.assert_array_equal(b[:, 0], keys)


# -- constants -------------------------------------------------------------------------------------


def chain_of_constants(a, b):
    """Values of which each needs the one before, and a concatenation, which takes several steps."""
    first = m("relu", a) + 1.0
    second = first.max(0, keepdims=True) - first.sum(1, keepdims=True)
    third = second.sum(0, keepdims=True) + b
    joined = Concat(1)(third, first, b.as_value())
    return first, second, third, joined, joined.sum(1, keepdims=True) * 2.0


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.sets(st.integers(0, 4)))
def test_constants_that_are_also_outputs(wanted):
    """An output is written at each run; what is computed from it once must not come before."""
    a, b = Param("a", ints((4, 4), 1)), Param("b", ints((4, 4), 2))
    with Trace() as trace:
        x = trace.input("x", (4, 1))
        values = chain_of_constants(a, b)
        graph = trace.graph(x * values[4], *(values[i] for i in sorted(wanted)))
    executable = check(graph, ints((4, 1)))
    a.assign(ints((4, 4), 3))
    for got, want in zip(executable(ints((4, 1))), evaluate(graph, [ints((4, 1))]), strict=True):
        np.testing.assert_array_equal(got, want)


def joined(first, second):
    with Trace() as trace:
        x = trace.input("x", (2, 6))
        return trace.graph(x + Concat(1)(first.as_value() * 2.0, second))


def test_concatenated_parameters_are_told_apart():
    """Both programs end in the same copy of `last` into a buffer of the same size."""
    a, b, last = (Param(name, ints((2, 3), i)) for i, name in enumerate(("a", "b", "last"), 1))
    x = ints((2, 6))
    programs = [build(joined(p, last)) for p in (a, b)]
    for _ in range(2):
        for p, program in zip((a, b), programs, strict=True):
            want = x + np.concatenate([p.data * 2, last.data], 1)
            np.testing.assert_array_equal(program(x)[0], want)
    a.assign(a.data + 1)
    np.testing.assert_array_equal(programs[0](x)[0][:, :3], x[:, :3] + 2 * a.data)


def test_nothing_is_constant_in_training():
    w = Param("w", ints((2, 3, 3, 3)))
    with Trace() as trace:
        x = trace.input("x", (1, 3, 5, 5))
        graph = trace.graph(Conv2d()(x, w))
    assert plan(graph, machine(), 1, training=True).constants == ()
    (task,) = plan(graph, machine(), 1).constants
    assert [type(step.spec) for step in task.steps] == [PackWeights]


def test_what_only_constants_read_has_memory_for_their_time_only():
    """Weights times a factor are packed; only the packed ones stay."""
    w, s = Param("w", ints((16, 8, 1, 1))), Param("s", ints((1, 16, 1, 1), 1))
    with Trace() as trace:
        x = trace.input("x", (1, 8, 5, 5))
        graph = trace.graph(Conv2d()(x, w) * s)
    program = plan(graph, machine(), 1)
    read = {b for step in program.steps for b in step.buffers}
    written = {b for step in program.constant_steps for b in step.writes}
    assert set(program.kept) == written & read
    assert program.constant_offsets.keys() == written - read
    assert program.constant_arena_bytes == 4 * w.size
    assert program.memory_bytes == max(program.arena_bytes, 4 * w.size)
    executable = check(graph, ints((1, 8, 5, 5), 2))
    s.assign(ints((1, 16, 1, 1), 3))
    x = ints((1, 8, 5, 5), 4)
    np.testing.assert_array_equal(executable(x)[0], evaluate(graph, [x])[0])


@pytest.mark.parametrize("enabled", [True, False])
def test_planning_leaves_the_collector_of_cycles_as_it_was(enabled, monkeypatch):
    w = Param("w", ints((2, 3)))
    with Trace() as trace:
        graph = trace.graph(trace.input("x", (2, 3)) + w)
    seen = []

    def spied(*args, **kwargs):
        seen.append(gc.isenabled())
        return plan(*args, **kwargs)

    monkeypatch.setattr(engine, "plan", spied)
    (gc.enable if enabled else gc.disable)()
    try:
        build(graph)
        assert gc.isenabled() == enabled
        assert seen == [False]
    finally:
        gc.enable()
