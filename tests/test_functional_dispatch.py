"""One function for arrays, parameters and symbols."""

import numpy as np
import pytest

import striate.functional as F
from striate.engine import build
from striate.errors import ArgumentError, TraceError
from striate.graph import Param, Trace, Value, evaluate

RNG = np.random.default_rng(0)
X = RNG.standard_normal((1, 2, 5, 5)).astype(np.float32)
W = RNG.standard_normal((3, 2, 3, 3)).astype(np.float32)


def test_a_parameter_counts_as_its_array_outside_a_trace():
    w = Param("w", W)
    first = F.conv2d(X, w)
    np.testing.assert_array_equal(first, F.conv2d(X, W))
    w.assign(2 * W)
    np.testing.assert_allclose(F.conv2d(X, w), 2 * first, rtol=1e-6)


def test_a_parameter_counts_as_a_symbol_inside_a_trace():
    w = Param("w", W)
    with Trace() as trace:
        y = F.relu(w)
    assert isinstance(y, Value)
    graph = trace.graph(y)
    assert graph.params() == (w,)


def test_arrays_beside_a_symbol_become_fixed():
    with Trace() as trace:
        y = F.conv2d(trace.input("x", X.shape), W, [1.0, 2.0, 3.0], padding=1)
    graph = trace.graph(y)
    expected = F.conv2d(X, W, np.array([1.0, 2.0, 3.0]), padding=1)
    np.testing.assert_allclose(build(graph)(X)[0], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(evaluate(graph, [X])[0], expected, rtol=1e-5, atol=1e-5)
    assert not any(p.trainable for p in graph.params())


def test_arrays_are_computed_at_once_even_inside_a_trace():
    with Trace() as trace:
        y = F.relu(X)
    assert isinstance(y, np.ndarray)
    assert not trace.inputs


def test_options_of_numpy_and_lists_equal_those_of_python():
    expected = F.conv2d(X, W, stride=(2, 1), padding=((0, 1), (2, 0)), groups=1)
    ours = F.conv2d(
        X,
        W,
        stride=[np.int64(2), 1],
        padding=np.array([[0, 1], [2, 0]]),
        groups=np.int32(1),
    )
    np.testing.assert_array_equal(ours, expected)
    with pytest.raises(ArgumentError, match="stride cannot be"):
        F.conv2d(X, W, stride={1, 2})


def test_positional_and_keyword_operands_are_the_same():
    np.testing.assert_array_equal(F.conv2d(w=W, x=X), F.conv2d(X, W, None))
    np.testing.assert_array_equal(F.max_pool2d(X, stride=1, kernel_size=2), F.max_pool2d(X, 2, 1))


def test_what_is_no_operand_is_refused_inside_forward():
    with Trace() as trace:
        x = trace.input("x", X.shape)
        with pytest.raises(TraceError, match="cannot be an operand"):
            F.conv2d(x, "weights")


def test_errors_inside_forward_name_the_layer():
    with Trace() as trace:
        x = trace.input("x", X.shape)
        error = pytest.raises(ArgumentError, match=r"^block\.conv: padding")
        with error, trace.scope("block"), trace.scope("conv"):
            F.conv2d(x, W, padding=-1)
