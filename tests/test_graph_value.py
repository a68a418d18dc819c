"""Symbols, parameters, traces and graphs."""

import copy
import pickle
import threading

import numpy as np
import pytest

from striate.errors import ArgumentError, DTypeError, ShapeError, TraceError, UnsupportedError
from striate.graph import (
    Graph,
    Node,
    Param,
    TensorType,
    Trace,
    current_trace,
    evaluate,
    gradients,
    typecheck,
)
from striate.graph.ops.conv import Conv2d
from striate.graph.ops.eltwise import Map
from striate.graph.ops.leaf import Input

RNG = np.random.default_rng(0)


def call(function, *arrays):
    with Trace() as trace:
        result = function(*(trace.input(f"x{i}", a.shape) for i, a in enumerate(arrays)))
    return evaluate(typecheck(trace.graph(result)), arrays, np.float64)[0]


OPERATORS = [
    lambda x, y: x + y,
    lambda x, y: 2 - x * 3.5 + 0 * y,
    lambda x, y: 1 / x - y / 2,
    lambda x, y: -(x**2) + y**3 - abs(x) ** 0.5,
    lambda x, y: x**-1.5 + np.float32(2) * y,
    lambda x, y: (x > y) + (x >= 1) * 2 + (y > 0.5) * 4 + (x <= y) * 8,
    lambda x, y: x * np.array(3.0) + np.array([1.0, 2, 3]) * y,
    lambda x, y: x.sum() + y.mean(1, keepdims=True) - x.max((0, 1)),
    lambda x, y: x.mean((-1, 0)) + y.sum(0),
    lambda x, y: x.reshape(-1, 2) + y.reshape((3, -1)) * x.reshape([3, 2]),
]


@pytest.mark.parametrize("function", OPERATORS)
def test_operators_mean_what_numpy_means(function):
    x, y = RNG.uniform(0.5, 2, (2, 3)), RNG.uniform(0.5, 2, (2, 3))
    np.testing.assert_allclose(call(function, x, y), function(x, y))


INDICES = [
    np.s_[1],
    np.s_[-1, 1:],
    np.s_[:, ::2],
    np.s_[..., 1:4],
    np.s_[:, :, ::-1],
    np.s_[:, :, 4:0:-2, 1],
    np.s_[:, None, 0],
    np.s_[..., None, -1],
    np.s_[:, 1:2, 2:5:2, ::3],
    np.s_[0, 0, 0, 0],
    np.s_[...],
]


@pytest.mark.parametrize("index", INDICES)
def test_indexing_means_what_numpy_means(index):
    x = RNG.standard_normal((2, 3, 5, 6))
    np.testing.assert_array_equal(call(lambda v: v[index], x), x[index])


def test_indexing_works_for_any_number_of_axes():
    x = RNG.standard_normal((7, 4, 5))
    for index in (np.s_[::3], np.s_[5:1:-2, 1:, -1], np.s_[:, ::-1]):
        np.testing.assert_array_equal(call(lambda v, i=index: v[i], x), x[index])


@pytest.mark.parametrize(
    ("index", "error"),
    [
        (np.s_[9], ShapeError),
        (np.s_[2:2], ShapeError),
        (np.s_[0, 0, 0], ShapeError),
        (np.array([True, False]), TraceError),
        ([0, 1], TraceError),
        (1.5, TraceError),
    ],
)
def test_indexing_refuses_what_is_not_static(index, error):
    with pytest.raises(error):
        call(lambda v: v[index], np.ones((2, 3)))


def test_flatten_is_torchs():
    x = RNG.standard_normal((2, 3, 4, 5))
    assert call(lambda v: v.flatten(), x).shape == (120,)
    np.testing.assert_array_equal(call(lambda v: v.flatten(1), x), x.reshape(2, 60))
    np.testing.assert_array_equal(call(lambda v: v.flatten(1, -2), x), x.reshape(2, 12, 5))


@pytest.mark.parametrize(
    "use",
    [
        lambda x: 1 if x > 0 else 2,
        lambda x: not x,
        list,
        float,
        int,
        lambda x: [1, 2, 3][x],
        np.asarray,
        lambda x: x**x,
        lambda x: x + "1",
        lambda x: x.reshape(1)[x],
    ],
)
def test_data_dependent_python_is_refused_with_the_layers_path(use):
    with Trace() as trace:
        x = trace.input("x", ())
        error = pytest.raises(TraceError, match=r"^layer1\.conv: ")
        with error, trace.scope("layer1"), trace.scope("conv"):
            use(x)


def test_errors_name_the_innermost_layer_once():
    with Trace() as trace:
        x = trace.input("x", (2, 3))
        error = pytest.raises(ShapeError, match=r"^layer1\.0\.conv: add: the shapes \(2, 3\) and")
        with error, trace.scope("layer1"), trace.scope("0"), trace.scope("conv"):
            x + np.ones((4, 5))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x: x.reshape(7),
        lambda x: x.reshape(-1, -1),
        lambda x: x.reshape(4, -1),
    ],
)
def test_impossible_reshapes_are_refused(wrong):
    with pytest.raises(ShapeError, match="cannot reshape"):
        call(wrong, np.ones((2, 3)))


def test_axes_out_of_range_are_refused():
    for wrong in (lambda x: x.sum(2), lambda x: x.mean((0, -2)), lambda x: x.flatten(1, 0)):
        with pytest.raises(ArgumentError):
            call(wrong, np.ones((2, 3)))


# ------------------------------------------------------------------------------------- parameters


def test_a_parameter_copies_converts_and_stays_where_it_is():
    source = np.arange(6.0).reshape(2, 3)
    param = Param("w", source)
    source[:] = 0
    address = param.buffer.ctypes.data
    assert param.data.dtype == np.float32
    np.testing.assert_array_equal(param.data, np.arange(6).reshape(2, 3))
    with pytest.raises(ValueError, match="read-only"):
        param.data[0, 0] = 1
    view = param.data
    param.assign(np.ones((2, 3)))
    assert view[0, 0] == 1
    assert param.version == 1
    assert address == param.buffer.ctypes.data
    assert address % 64 == 0
    with pytest.raises(ShapeError, match=r"'w' has shape \(2, 3\), cannot take \(3,\)"):
        param.assign([1, 2, 3])


def test_weights_that_are_yet_to_come_are_zeros_until_then():
    blank = np.broadcast_to(np.float32(0), (3, 4))
    w = Param("w", blank)
    np.testing.assert_array_equal(w.data, np.zeros((3, 4)))
    assert w.buffer.flags.c_contiguous
    w.assign(blank)
    np.testing.assert_array_equal(w.data, np.zeros((3, 4)))
    w.buffer[...] = 7  # as a program does
    w.touch()
    w.assign(blank)
    np.testing.assert_array_equal(w.data, np.zeros((3, 4)))
    w.assign(np.full((3, 4), 2.0))
    w.assign(blank)
    np.testing.assert_array_equal(w.data, np.zeros((3, 4)))


@pytest.mark.parametrize("number", [-0.0, 3.0])
def test_one_number_that_stands_for_many_is_copied(number):
    w = Param("w", np.broadcast_to(np.float32(number), (3, 4)))
    np.testing.assert_array_equal(w.data, np.full((3, 4), number))
    assert np.signbit(w.data).all() == np.signbit(number)


def test_integer_parameters_are_int32_and_refuse_what_does_not_fit():
    assert Param("key", [1, 2]).dtype == "i32"
    assert Param("key", [1, 2], dtype="f32").data.dtype == np.float32
    for wrong in ([2**31], "text", [1j]):
        with pytest.raises(DTypeError):
            Param("key", wrong)


def test_copies_and_pickles_are_independent():
    param = Param("w", np.ones(3), trainable=False)
    for other in (copy.deepcopy(param), pickle.loads(pickle.dumps(param))):
        other.assign(np.zeros(3))
        assert (other.name, other.trainable, other.shape) == ("w", False, (3,))
        assert other.as_value() != param.as_value()
        assert param.data[0] == 1
        assert other.data.base is not None


def test_a_parameter_is_an_operand_and_one_leaf():
    param = Param("w", [1.0, 2.0])
    with Trace() as trace:
        x = trace.input("x", (2,))
        y = param * x + param
    graph = trace.graph(y)
    assert graph.params() == (param,)
    np.testing.assert_array_equal(evaluate(graph, [[3.0, 4.0]])[0], [4, 10])
    np.testing.assert_array_equal(np.asarray(param), [1, 2])


# ------------------------------------------------------------------------------- traces and graphs


def test_assignments_are_made_from_the_old_values():
    a, b = Param("a", [1.0]), Param("b", [2.0])
    with Trace() as trace:
        x = trace.input("x", (1,))
        trace.assign(a, b)
        trace.assign(b, a + x)
        y = a * 10
        with pytest.raises(TraceError, match="assigned twice"):
            trace.assign(a, x)
        with pytest.raises(ShapeError):
            trace.assign(Param("c", [1.0, 2.0]), x)
    (result,) = evaluate(trace.graph(y), [[5.0]])
    assert (result[0], a.data[0], b.data[0]) == (10, 2, 6)
    assert (a.version, b.version) == (1, 1)


def test_traces_nest_and_threads_have_their_own():
    assert current_trace() is None
    seen = []
    with Trace() as outer:
        with outer.scope("a"), Trace() as inner:
            assert current_trace() is inner
            assert (inner.input("x", (1,)) + 1).node.scope == ""
        assert current_trace() is outer
        thread = threading.Thread(target=lambda: seen.append(current_trace()))
        thread.start()
        thread.join()
    assert seen == [None]
    assert current_trace() is None


def test_nodes_are_listed_once_each_after_what_it_reads():
    with Trace() as trace:
        x = trace.input("x", (2,))
        unused = trace.input("unused", (3,))
        y = x
        for _ in range(5000):  # deeper than Python's recursion limit
            y = y + x
    graph = trace.graph(y)
    nodes = graph.nodes()
    place = {node: i for i, node in enumerate(nodes)}
    assert len(place) == len(nodes) == 5002
    assert nodes[:2] == (x.node, unused.node)
    assert all(place[v.node] < place[node] for node in nodes for v in node.inputs)
    np.testing.assert_array_equal(evaluate(graph, [[1.0, 2.0], [0.0] * 3])[0], [5001, 10002])


def test_a_graph_prints_its_nodes_scopes_and_assignments():
    w = Param("conv.weight", np.ones((1, 1, 2, 2)))
    with Trace() as trace:
        x = trace.input("x", (1, 1, 4, 4))
        with trace.scope("conv"):
            y = Conv2d()(x, w)
        trace.assign(w, w * 2)
    text = str(trace.graph(y))
    assert "%0: f32[1, 1, 4, 4] = Input('x')" in text
    assert "= Param('conv.weight')" in text
    assert "Conv2d(" in text
    assert "%0 %1  @ conv" in text
    assert text.endswith("assign conv.weight <- %4")


def test_macs_are_counted():
    with Trace() as trace:
        y = Conv2d()(trace.input("x", (2, 3, 8, 8)), Param("w", np.ones((4, 3, 3, 3))))
    assert trace.graph(y).macs() == 2 * 4 * 36 * 27


def test_typecheck_finds_what_a_pass_broke():
    x = Input("x", TensorType((2,)))()
    wrong = Node(Map("neg"), (x,), (TensorType((3,)),), "")
    with pytest.raises(TraceError, match=r"should have the types f32\[2\]"):
        typecheck(Graph((x,), wrong.outputs()))
    with pytest.raises(TraceError, match="not an input"):
        typecheck(Graph((), (-x,)))
    with pytest.raises(TraceError, match="cannot be assigned"):
        typecheck(Graph((x,), (x,), ((Param("p", [1.0]), x),)))


def test_evaluate_checks_its_inputs():
    x = Input("x", TensorType((2,)))()
    with pytest.raises(ShapeError, match="takes 1 inputs, got 0"):
        evaluate(Graph((x,), (x,)), [])
    with pytest.raises(ShapeError, match="expected"):
        evaluate(Graph((x,), (x,)), [np.ones(3)])


# --------------------------------------------------------------------------------------- gradients


def test_gradients_are_none_where_nothing_flows_and_add_up_where_much_does():
    with Trace() as trace:
        x, y = trace.input("x", (2,)), trace.input("y", (2,))
        loss = (x * x + x).sum()
        gx, gy, gloss = gradients(loss, [x, y, loss])
    assert gy is None
    assert (gx.shape, gloss.shape) == ((2,), ())
    np.testing.assert_array_equal(evaluate(trace.graph(gx), [[1.0, 2.0], [0.0, 0]])[0], [3, 5])


def test_gradients_need_one_number_and_differentiable_operations():
    with Trace() as trace:
        x = trace.input("x", (2,))
        with pytest.raises(ShapeError, match="one element"):
            gradients(x, [x])
        with pytest.raises(UnsupportedError, match="constant exponent"):
            gradients(Map("pow")(x, x).sum(), [x])


def test_backward_nodes_carry_the_layers_name():
    with Trace() as trace:
        x = trace.input("x", (2,))
        with trace.scope("act"):
            y = Map("exp")(x)
        (gx,) = gradients(y.sum(), [x])
    assert gx.node.scope == "grad:act"
    assert y.node.scope == "act"
