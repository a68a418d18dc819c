"""Batch normalisation and dropout."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from striate.errors import ArgumentError, ShapeError, TraceError
from striate.functional._dispatch import (
    Tensor,
    functional,
    is_symbolic,
    note,
    run,
    to_array,
    to_value,
)
from striate.functional._images import image, vector
from striate.graph import Param, Value, current_trace
from striate.graph.grad import pullback
from striate.graph.ops.eltwise import m, select
from striate.graph.ops.leaf import Const, SizeConst
from striate.graph.ops.norm import BatchNorm
from striate.graph.ops.random import RandomUniform
from striate.graph.ops.shape import Broadcast
from striate.graph.value import Array


def batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: Any = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """(x - mean) / sqrt(var + eps) · weight + bias per channel of images x (N, C, H, W).

    In training, mean and (biased) variance are those of x, and the running statistics move
    towards them, in place, the variance towards the unbiased one:

        running ← (1 - momentum) · running + momentum · new

    Otherwise mean and variance are the running statistics.

    Args:
        x: (N, C, H, W) or (N, C); other dtypes than float32 are converted to it.
        running_mean: (C,), or None in training. In training it is changed: a writable NumPy
            array, and inside `forward` a parameter.
        running_var: (C,), alike.
        weight: (C,), or None for 1.
        bias: (C,), or None for 0.
        training: normalise by x's own statistics.
        momentum: share of the new statistics, a number (inside `forward` also a symbol).
        eps: added to the variance; greater than 0 in training.

    Raises ShapeError (also for one value per channel in training), ArgumentError, DTypeError.
    """
    operands = {
        "x": x,
        "running_mean": running_mean,
        "running_var": running_var,
        "weight": weight,
        "bias": bias,
    }
    if (running_mean is None) != (running_var is None):
        raise ArgumentError("batch_norm: give both running_mean and running_var, or neither")
    if not training and running_mean is None:
        raise ArgumentError("batch_norm: running_mean and running_var are needed when not training")
    if is_symbolic(*operands.values()):
        values: dict[str, Any] = {name: to_value(v) for name, v in operands.items()}
        results = _batch_norm(**values, training=training, momentum=momentum, eps=eps)
        note("batch_norm", values, {"training": training, "eps": eps}, results[0])
        if len(results) > 1:
            _assign((running_mean, running_var), results[1:])
        return results[0]
    arrays = {n: to_array("batch_norm", n, v) for n, v in operands.items() if v is not None}
    running = _writable(running_mean, running_var) if training and running_mean is not None else []
    options = {"training": bool(training), "momentum": float(momentum), "eps": float(eps)}
    results = run(_batch_norm, arrays, options)
    for array, new in zip(running, results[1:], strict=True):
        array[...] = new
    return results[0]


def _writable(*running: Tensor | None) -> list[Any]:
    """The running statistics, if they are arrays that can be updated."""
    if not all(isinstance(a, np.ndarray) and a.flags.writeable for a in running):
        raise ArgumentError(
            "batch_norm: in training the running statistics must be writable NumPy arrays, "
            "for they are updated"
        )
    return list(running)


def _batch_norm(
    x: Value,
    running_mean: Value | None = None,
    running_var: Value | None = None,
    weight: Value | None = None,
    bias: Value | None = None,
    *,
    training: bool,
    momentum: float | Value,
    eps: float,
) -> tuple[Value, ...]:
    """The result, and in training the new running statistics if there are any."""
    shape = x.shape
    if x.ndim == 2:
        x = x.reshape(*shape, 1, 1)
    image("batch_norm", x)
    c = shape[1]
    for name, v in (("running_mean", running_mean), ("running_var", running_var)):
        if v is not None and v.shape != (c,):
            raise ShapeError(f"batch_norm: {name} must have shape ({c},), got {v.shape}")
    if not training:
        assert running_mean is not None
        assert running_var is not None
        scale = m("rsqrt", running_var + eps)
        scale = scale if weight is None else scale * weight
        shift = -(running_mean * scale)
        shift = shift if bias is None else shift + bias
        y = x * vector("batch_norm", "weight", scale, c) + vector("batch_norm", "bias", shift, c)
        return (y.reshape(shape),)
    if eps <= 0:
        raise ArgumentError(f"batch_norm: eps must be greater than 0 in training, got {eps}")
    weight = _filled(1.0, c) if weight is None else weight
    bias = _filled(0.0, c) if bias is None else bias
    y, mean, var = BatchNorm(float(eps)).apply(x, weight, bias)
    y = y.reshape(shape)
    if running_mean is None or running_var is None:
        return (y,)
    count = x.size // c
    unbiased = var * SizeConst(count / (count - 1))()
    keep = 1.0 - momentum
    return (
        y,
        running_mean * keep + mean * momentum,
        running_var * keep + unbiased * momentum,
    )


def _filled(value: float, channels: int) -> Value:
    return Broadcast((channels,))(Const(value)())


def _assign(params: tuple[Tensor, Tensor], values: tuple[Value, ...]) -> None:
    trace = current_trace()
    for name, param, value in zip(("running_mean", "running_var"), params, values, strict=True):
        if trace is None or not isinstance(param, Param):
            raise TraceError(
                f"batch_norm: in training inside forward, {name} must be a striate parameter of "
                "the module (an array cannot be updated by a compiled network)"
            )
        trace.assign(param, value)


@functional("x", "weight", "dy")
def batch_norm_grad(
    x: Tensor, weight: Tensor, dy: Tensor, eps: float = 1e-5
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients (dx, dw, db) of `batch_norm` in training from dy, the gradient of its result.

    Shapes: as x, (C,) and (C,). Raises ShapeError, ArgumentError, DTypeError.
    """
    if dy.shape != x.shape:
        raise ShapeError(f"batch_norm_grad: dy must have the shape of x, {x.shape}, got {dy.shape}")
    bias = _filled(0.0, weight.size)
    (y,) = _batch_norm(x, weight=weight, bias=bias, training=True, momentum=0.0, eps=eps)
    dx, dw, db = pullback([y], [dy], [x, weight, bias])
    assert dx is not None
    assert dw is not None
    assert db is not None
    return dx, dw, db


def dropout(
    x: Tensor, p: float = 0.5, training: bool = True, *, key: Tensor | None = None
) -> Tensor:
    """Set each element to 0 with probability p and scale the others by 1 / (1 - p).

    Args:
        x: any shape; other dtypes than float32 are converted to it.
        p: probability, 0 … 1.
        training: with False the result is x.
        key: two integers that determine the random numbers (see `RandomUniform`). Inside
            `forward` it is an int32 parameter of shape (2,), whose second number is raised by 1
            before each run. None takes a new key from the operating system's random numbers.

    Raises ArgumentError for p outside 0 … 1, or a key of another kind.
    """
    if not 0 <= p <= 1:
        raise ArgumentError(f"dropout: p must lie between 0 and 1, got {p}")
    if is_symbolic(x):
        value = to_value(x)
        assert value is not None
        return value if not training or p == 0 else _dropout(value, _key_param(key).as_value(), p)
    arrays = {"x": to_array("dropout", "x", x)}
    if not training or p == 0:
        return np.array(arrays["x"])
    arrays["key"] = to_array("dropout", "key", _new_key() if key is None else key, integers=True)
    return run(_dropout, arrays, {"p": float(p)})


def _dropout(x: Value, key: Value, p: float) -> Value:
    keeps = RandomUniform(x.shape)(key) >= p
    return x * select(keeps, 1 / (1 - p) if p < 1 else 0.0, 0.0)


def _new_key() -> Array:
    return np.random.default_rng().integers(-(2**31), 2**31, 2, np.int32)


def _key_param(key: Tensor | None) -> Param:
    """The parameter that holds the key, renewed before each run of the graph being traced."""
    param = Param("dropout.key", _new_key(), trainable=False) if key is None else key
    if not isinstance(param, Param) or param.shape != (2,) or param.dtype != "i32":
        raise ArgumentError(f"dropout: key must be an int32 parameter of shape (2,), got {key!r}")
    trace = current_trace()
    if trace is None:
        raise TraceError("dropout of a symbol needs a trace, whose program renews the key")
    trace.host_updates.append(_Renewal(param))
    return param


class _Renewal:
    """Raises the second number of a key by 1, modulo 2³²."""

    _lock = threading.Lock()

    def __init__(self, key: Param) -> None:
        self.key = key

    def __call__(self) -> None:
        with self._lock:
            first, second = (int(k) for k in self.key.data)
            self.key.assign([first, (second + 1 + 2**31) % 2**32 - 2**31])
