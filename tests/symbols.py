"""Run functions of symbols in tests: through the engine, or in float64 with finite differences."""

import math

import numpy as np

from striate.engine import build
from striate.graph import Trace, evaluate, gradients, typecheck


def trace(function, arrays, wrt=(), weights_seed=0):
    """Graph of function(*symbols): its outputs, then the gradients of Σ outputs · weights."""
    rng = np.random.default_rng(weights_seed)
    with Trace() as t:
        symbols = [
            t.input(f"x{i}", np.shape(a), "i32" if np.asarray(a).dtype.kind == "i" else "f32")
            for i, a in enumerate(arrays)
        ]
        result = function(*symbols)
        outputs = result if isinstance(result, tuple) else (result,)
        grads = []
        if wrt:
            weights = [rng.uniform(0.5, 1.5, y.shape) for y in outputs]
            total = sum(((y * w).sum() for y, w in zip(outputs, weights, strict=True)))
            grads = gradients(total, [symbols[i] for i in wrt])
            assert None not in grads, "no gradient flows"
    return typecheck(t.graph(*outputs, *grads)), len(outputs)


def run(function, *arrays, wrt=()):
    """(outputs, gradients) through the engine, in float32."""
    graph, count = trace(function, arrays, wrt)
    arrays = [
        np.asarray(a, np.int32 if np.asarray(a).dtype.kind == "i" else np.float32) for a in arrays
    ]
    results = build(graph)(*arrays)
    return results[:count], results[count:]


def loss_weights(shapes, seed=0):
    """The weights that `trace` gives to outputs of these shapes."""
    rng = np.random.default_rng(seed)
    return [rng.uniform(0.5, 1.5, shape) for shape in shapes]


def check_gradients(function, *arrays, wrt=None, step=1e-6, rtol=1e-6, atol=1e-7):
    """Gradients in float64 equal central differences of the outputs in float64."""
    wrt = tuple(range(len(arrays))) if wrt is None else wrt
    graph, count = trace(function, arrays, wrt)
    forward, _ = trace(function, arrays)
    results = evaluate(graph, arrays, np.float64)
    weights = loss_weights([y.shape for y in results[:count]])

    def loss(inputs):
        outputs = evaluate(forward, inputs, np.float64)
        return sum(float(np.sum(y * w)) for y, w in zip(outputs, weights, strict=True))

    for i, analytic in zip(wrt, results[count:], strict=True):
        numeric = np.zeros(np.shape(arrays[i]))
        for at in np.ndindex(*numeric.shape):
            shifted = [np.array(a, np.float64) if j == i else a for j, a in enumerate(arrays)]
            shifted[i][at] += step
            above = loss(shifted)
            shifted[i][at] -= 2 * step
            numeric[at] = (above - loss(shifted)) / (2 * step)
        np.testing.assert_allclose(analytic, numeric, rtol=rtol, atol=atol, err_msg=f"input {i}")


def rng(seed=0):
    return np.random.default_rng(seed)


def spread(shape, seed=0):
    """Distinct numbers at least 0.01 apart, so that no maximum changes under a small step."""
    size = math.prod(shape)
    return (rng(seed).permutation(size).reshape(shape) - size / 2) * 0.01 + 0.003


def apply(op, *arrays, dtype=np.float64):
    with Trace() as trace:
        inputs = [
            trace.input(f"x{i}", np.shape(a), "i32" if np.asarray(a).dtype.kind == "i" else "f32")
            for i, a in enumerate(arrays)
        ]
        outputs = op.apply(*inputs)
    results = evaluate(typecheck(trace.graph(*outputs)), arrays, dtype)
    return results if len(results) > 1 else results[0]
