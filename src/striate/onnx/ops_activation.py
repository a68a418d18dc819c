"""Activations, softmax."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import striate.functional as F
from striate.graph import Value
from striate.graph.ops.eltwise import m, select
from striate.graph.ops.shape import normalise_axis
from striate.onnx.handling import Call, handler
from striate.onnx.value import is_real


@handler("Relu")
def relu(call: Call) -> Any:
    """max(x, 0), of integers too."""
    if call.all_known and not is_real(call.dtype(0)):
        return np.maximum(call.array(0), 0)
    return F.relu(call.symbol(0, integers=True))


@handler("LeakyRelu")
def leaky_relu(call: Call) -> Any:
    """x where x ≥ 0, else alpha · x."""
    return F.leaky_relu(call.symbol(0), call.real("alpha", 0.01))


@handler("PRelu")
def prelu(call: Call) -> Any:
    """x where x ≥ 0, else slope · x; slope broadcasts to x (before opset 7: one a channel)."""
    x, slope = call.symbol(0), call.operand(1, len(call.shape(0)))
    if call.opset < 7 and slope.size > 1:
        slope = slope.reshape(-1, *(1,) * (x.ndim - 2))
    return select(x > 0, x, slope * select(x > 0, 0.0, x))


@handler("Sigmoid")
def sigmoid(call: Call) -> Any:
    """1 / (1 + exp(-x))."""
    return F.sigmoid(call.symbol(0))


@handler("Tanh")
def tanh(call: Call) -> Any:
    """Hyperbolic tangent."""
    return F.tanh(call.symbol(0))


@handler("Elu")
def elu(call: Call) -> Any:
    """x where x ≥ 0, else alpha · (exp(x) - 1)."""
    return F.elu(call.symbol(0), call.real("alpha", 1.0))


@handler("HardSigmoid")
def hard_sigmoid(call: Call) -> Any:
    """alpha · x + beta, between 0 and 1."""
    alpha, beta = call.real("alpha", 0.2), call.real("beta", 0.5)
    return F.hardtanh(call.symbol(0) * alpha + beta, 0.0, 1.0)


@handler("HardSwish")
def hard_swish(call: Call) -> Any:
    """x · max(0, min(1, x / 6 + 1/2))."""
    return F.hardswish(call.symbol(0))


@handler("Swish")
def swish(call: Call) -> Any:
    """x · sigmoid(alpha · x)."""
    x, alpha = call.symbol(0), call.real("alpha", 1.0)
    return x * F.sigmoid(x if alpha == 1 else x * alpha)


@handler("Gelu")
def gelu(call: Call) -> Any:
    """x · Φ(x)."""
    return F.gelu(call.symbol(0), call.text("approximate", "none"))


@handler("Clip", since=6, known=(1, 2))
def clip(call: Call) -> Any:
    """min(max(x, low), high); the bounds are attributes before opset 11, then known inputs."""
    low, high = (_bound(call, i, name) for i, name in ((1, "min"), (2, "max")))
    if call.known(0) and not is_real(call.dtype(0)):
        x = call.array(0)
        x = x if low is None else np.maximum(x, low)
        return x if high is None else np.minimum(x, high)
    y = call.symbol(0, integers=True)
    if low is not None:
        y = select(y <= float(low), float(low), y)
    return y if high is None else select(y >= float(high), float(high), y)


def _bound(call: Call, i: int, name: str) -> Any:
    """A bound in x's own dtype, or None."""
    if call.opset < 11:
        return call.real(name) if call.has(name) else None
    return call.array(i).reshape(()) if call.given(i) else None


@handler("Softmax")
def softmax(call: Call) -> Any:
    """exp(x) / Σ exp(x) along an axis (before opset 13: along all axes from that one on)."""
    return _along(call, F.softmax)


@handler("LogSoftmax")
def log_softmax(call: Call) -> Any:
    """x - log Σ exp(x), as Softmax."""
    return _along(call, F.log_softmax)


def _along(call: Call, function: Callable[[Value, int], Any]) -> Any:
    x = call.symbol(0)
    if call.opset >= 13:
        return function(x, normalise_axis(call.integer("axis", -1), x.ndim))
    axis = call.integer("axis", 1)
    axis = axis % x.ndim if axis < 0 else axis
    if axis == x.ndim - 1:
        return function(x, axis)
    rows = int(np.prod(x.shape[:axis]))
    return function(x.reshape(rows, x.size // rows), 1).reshape(x.shape)


@handler("Softplus")
def softplus(call: Call) -> Any:
    """log(1 + exp(x)), of which nothing overflows."""
    return F.softplus(call.symbol(0))


@handler("Mish")
def mish(call: Call) -> Any:
    """x · tanh(log(1 + exp(x)))."""
    return F.mish(call.symbol(0))


@handler("Softsign")
def softsign(call: Call) -> Any:
    """x / (1 + |x|)."""
    x = call.symbol(0)
    return x / (m("abs", x) + 1.0)


@handler("Selu")
def selu(call: Call) -> Any:
    """gamma · (x where x > 0, else alpha · (exp(x) - 1))."""
    alpha, gamma = call.real("alpha", 1.67326319217681), call.real("gamma", 1.05070102214813)
    return F.elu(call.symbol(0), alpha) * gamma


@handler("Celu")
def celu(call: Call) -> Any:
    """x where x > 0, else alpha · (exp(x / alpha) - 1)."""
    x, alpha = call.symbol(0), call.real("alpha", 1.0)
    return F.elu(x * (1 / alpha)) * alpha


@handler("ThresholdedRelu")
def thresholded_relu(call: Call) -> Any:
    """x where x > alpha, else 0."""
    x = call.symbol(0)
    return select(x > call.real("alpha", 1.0), x, 0.0)


@handler("Shrink")
def shrink(call: Call) -> Any:
    """x + bias below -lambd, x - bias above lambd, 0 between."""
    x, lambd, bias = call.symbol(0), call.real("lambd", 0.5), call.real("bias", 0.0)
    return select(x < -lambd, x + bias, select(x > lambd, x - bias, 0.0))
