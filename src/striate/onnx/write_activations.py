"""Activations and `flatten` as ONNX operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from striate.onnx.call import Call
from striate.onnx.writer import Piece

Rule: TypeAlias = Callable[[Call], "Piece | None"]


def _flatten(call: Call) -> Piece | None:
    if (call["start_dim"], call["end_dim"]) in ((1, -1), (1, call.x.ndim - 1)):
        return call.single("Flatten", axis=1)
    return None


def _clip(low: float | str, high: float | str) -> Callable[[Call], Piece]:
    def rule(call: Call) -> Piece:
        bounds = [call[b] if isinstance(b, str) else b for b in (low, high)]
        names = [call.w.constant(float(b)) for b in bounds]
        return Piece((call.x,), lambda x: call.w.node("Clip", x, *names))

    return rule


def _prelu(call: Call) -> Piece | None:
    param, axes = call.param("weight"), call.x.ndim
    if param is None:
        return None
    slope = (-1,) + (1,) * (axes - 2) if param.size > 1 else (1,)
    return Piece(
        (call.x,),
        lambda x: call.w.node(
            "PRelu", x, call.w.param(param, "column", lambda a: a.reshape(slope))
        ),
    )


def _silu(call: Call) -> Piece:
    w = call.w
    return Piece((call.x,), lambda x: w.node("Mul", x, w.node("Sigmoid", x)))


def _gelu(call: Call) -> Piece | None:
    if call["approximate"] != "none":
        return None
    w, root = call.w, float(np.sqrt(0.5))

    def write(x: str) -> str:
        phi = w.node("Erf", w.node("Mul", x, w.constant(root)))
        half = w.node("Mul", x, w.constant(0.5))
        return w.node("Mul", half, w.node("Add", phi, w.constant(1.0)))

    return Piece((call.x,), write)


def _softmax(kind: str) -> Callable[[Call], Piece]:
    def rule(call: Call) -> Piece:
        dim, ndim = call["dim"], call.x.ndim
        axis = (0 if ndim in (1, 3) else 1) if dim is None else int(dim)
        return call.single(kind, axis=axis)

    return rule


def _simple(kind: str, **attributes: str | float) -> Callable[[Call], Piece]:
    """A function with one operand; an attribute that is a text names the option it comes from."""

    def rule(call: Call) -> Piece:
        given = {k: call[a] if isinstance(a, str) else a for k, a in attributes.items()}
        return call.single(kind, **{k: float(v) for k, v in given.items()})

    return rule


ACTIVATIONS: dict[str, Rule] = {
    "flatten": _flatten,
    "relu": _simple("Relu"),
    "relu6": _clip(0.0, 6.0),
    "hardtanh": _clip("min_val", "max_val"),
    "leaky_relu": _simple("LeakyRelu", alpha="negative_slope"),
    "elu": _simple("Elu", alpha="alpha"),
    "prelu": _prelu,
    "sigmoid": _simple("Sigmoid"),
    "tanh": _simple("Tanh"),
    "silu": _silu,
    "gelu": _gelu,
    "hardsigmoid": _simple("HardSigmoid", alpha=1 / 6, beta=0.5),
    "hardswish": _simple("HardSwish"),
    "softmax": _softmax("Softmax"),
    "log_softmax": _softmax("LogSoftmax"),
}
