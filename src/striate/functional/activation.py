"""Activations. Each takes any shape, gives the same shape, and lets NaN through.

Arrays of other dtypes (float16, float64, integers) are converted to float32.
"""

from __future__ import annotations

import math

from striate.errors import ArgumentError, ShapeError
from striate.functional._dispatch import Tensor, functional
from striate.functional._images import choice
from striate.graph import Value
from striate.graph.ops.eltwise import m, select
from striate.graph.ops.reduce import reduce
from striate.graph.ops.shape import normalise_axis


@functional("x")
def relu(x: Tensor) -> Tensor:
    """max(x, 0). The gradient at 0 is 0."""
    return m("relu", x)


@functional("x")
def relu6(x: Tensor) -> Tensor:
    """min(max(x, 0), 6). The gradient at 0 and 6 is 0."""
    return select(x <= 0, 0.0, select(x >= 6, 6.0, x))


@functional("x")
def hardtanh(x: Tensor, min_val: float = -1.0, max_val: float = 1.0) -> Tensor:
    """min(max(x, min_val), max_val). The gradient at the bounds is 0.

    Raises ArgumentError unless min_val < max_val.
    """
    if not min_val < max_val:
        raise ArgumentError(f"hardtanh: min_val={min_val} must be below max_val={max_val}")
    return select(x <= min_val, min_val, select(x >= max_val, max_val, x))


@functional("x")
def leaky_relu(x: Tensor, negative_slope: float = 0.01) -> Tensor:
    """x where x > 0, else negative_slope · x."""
    return select(x > 0, x, x * negative_slope)


@functional("x", "weight")
def prelu(x: Tensor, weight: Tensor) -> Tensor:
    """x where x > 0, else weight · x, with `weight` of shape (1,) or (C,), C being x's axis 1.

    Raises ShapeError for another number of weights.
    """
    channels = x.shape[1] if x.ndim > 1 else 1
    if weight.ndim != 1 or weight.size not in (1, channels):
        raise ShapeError(
            f"prelu: weight must have shape (1,) or ({channels},) for x of shape {x.shape}, "
            f"got {weight.shape}"
        )
    slope = weight.reshape(1, -1, *(1,) * (x.ndim - 2)) if x.ndim > 1 else weight
    return select(x > 0, x, slope * select(x > 0, 0.0, x))


@functional("x")
def elu(x: Tensor, alpha: float = 1.0) -> Tensor:
    """x where x > 0, else alpha · (exp(x) - 1)."""
    # exp(x) - 1 = 2t / (1 - t) with t = tanh(x / 2): exact for small x, where exp(x) - 1 is not.
    t = m("tanh", select(x > 0, 0.0, x) * 0.5)
    return select(x > 0, x, t * (2 * alpha) / (1.0 - t))


@functional("x")
def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + exp(-x))."""
    return m("sigmoid", x)


@functional("x")
def tanh(x: Tensor) -> Tensor:
    """Hyperbolic tangent."""
    return m("tanh", x)


@functional("x")
def silu(x: Tensor) -> Tensor:
    """x · sigmoid(x), also known as swish."""
    return x * m("sigmoid", x)


@functional("x")
def gelu(x: Tensor, approximate: str = "none") -> Tensor:
    """x · Φ(x) with the normal distribution Φ, or its tanh approximation.

    approximate="none":  x/2 · (1 + erf(x / √2))
    approximate="tanh":  x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³)))
    """
    choice("gelu", "approximate", approximate, ("none", "tanh"))
    if approximate == "none":
        inner = m("erf", x * math.sqrt(0.5))
    else:
        inner = m("tanh", (x + x * x * x * 0.044715) * math.sqrt(2 / math.pi))
    return x * 0.5 * (inner + 1.0)


@functional("x")
def softplus(x: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """log(1 + exp(beta · x)) / beta, and x itself where beta · x > threshold.

    Raises ArgumentError for beta 0.
    """
    if beta == 0:
        raise ArgumentError("softplus: beta must not be 0")
    # log(1 + e^t) = max(t, 0) + log(1 + e^-|t|), where nothing overflows
    t = x * beta
    falling = select(t > 0, -t, t)
    y = (m("relu", t) + m("log1p", m("exp", falling))) * (1 / beta)
    return select(t > threshold, x, y)


@functional("x")
def mish(x: Tensor) -> Tensor:
    """x · tanh(log(1 + exp(x)))."""
    # tanh(log(1 + e)) = ((1 + e)² - 1) / ((1 + e)² + 1) = n / (n + 2) with n = e · (e + 2);
    # from x = 20 on it is 1 in float32
    e = m("exp", select(x > 20, 20.0, x))
    n = e * (e + 2.0)
    return x * (n / (n + 2.0))


@functional("x")
def hardsigmoid(x: Tensor) -> Tensor:
    """relu6(x + 3) / 6."""
    return relu6(x + 3.0) * (1 / 6)


@functional("x")
def hardswish(x: Tensor) -> Tensor:
    """x · relu6(x + 3) / 6."""
    return x * relu6(x + 3.0) * (1 / 6)


@functional("x")
def softmax(x: Tensor, dim: int | None = None) -> Tensor:
    """exp(x) / Σ exp(x) along `dim`, shifted by the maximum so that nothing overflows.

    Without `dim`, PyTorch's choice: axis 0 for 0, 1 and 3 axes, else axis 1.
    """
    axis = _softmax_axis(x, dim)
    e = m("exp", x - reduce("max", x, axis, keepdims=True, detached=True))
    return e / reduce("sum", e, axis, keepdims=True)


@functional("x")
def log_softmax(x: Tensor, dim: int | None = None) -> Tensor:
    """x - log Σ exp(x) along `dim`, shifted by the maximum; `dim` as in softmax."""
    axis = _softmax_axis(x, dim)
    shifted = x - reduce("max", x, axis, keepdims=True, detached=True)
    total = reduce("sum", m("exp", shifted), axis, keepdims=True)
    return shifted - m("log", total)


def _softmax_axis(x: Value, dim: int | None) -> int:
    if x.ndim == 0:
        raise ArgumentError("softmax needs at least one axis")
    if dim is None:
        return 0 if x.ndim in (1, 3) else 1
    return normalise_axis(dim, x.ndim)
