"""Elementwise operators of several inputs: one table of what each means on arrays and on symbols.

Known numbers are computed by NumPy in their own dtype: so are all integers, for float32 does not
hold all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any, NamedTuple

import numpy as np

from striate.graph import Value
from striate.graph.ops.eltwise import m, select
from striate.graph.ops.shape import normalise_axis
from striate.onnx.handling import Call, handler
from striate.onnx.value import BOOL, Array, Tensor, is_real


class Meaning(NamedTuple):
    """Of an operator: on known arrays of one dtype, and on float symbols."""

    arrays: Callable[..., Any]
    symbols: Callable[..., Value]


def _divide(a: Array, b: Array) -> Array:
    """Integers are divided towards zero."""
    if is_real(a.dtype):
        return np.asarray(np.divide(a, b))
    quotient = np.floor_divide(a, b)
    return np.asarray(quotient + ((quotient < 0) & (quotient * b != a)).astype(a.dtype))


def _power(a: Array, b: Array) -> Array:
    """In the dtype of the base."""
    return np.asarray(np.power(a, b)).astype(a.dtype)


def _round(x: Value) -> Value:
    """To the nearest integer, of two the even one."""
    near = m("floor", x + 0.5)
    odd = m("ne", m("floor", near * 0.5) * 2.0, near)
    return near - odd * m("eq", near - x, 0.5)


BINARY = {
    "Add": Meaning(np.add, lambda a, b: m("add", a, b)),
    "Sub": Meaning(np.subtract, lambda a, b: m("sub", a, b)),
    "Mul": Meaning(np.multiply, lambda a, b: m("mul", a, b)),
    "Div": Meaning(_divide, lambda a, b: m("div", a, b)),
    "Pow": Meaning(_power, lambda a, b: m("pow", a, b)),
}
COMPARISONS = {
    "Equal": Meaning(np.equal, lambda a, b: m("eq", a, b)),
    "Greater": Meaning(np.greater, lambda a, b: m("gt", a, b)),
    "GreaterOrEqual": Meaning(np.greater_equal, lambda a, b: m("ge", a, b)),
    "Less": Meaning(np.less, lambda a, b: m("lt", a, b)),
    "LessOrEqual": Meaning(np.less_equal, lambda a, b: m("le", a, b)),
}
LOGIC = {
    "And": Meaning(np.logical_and, lambda a, b: m("mul", a, b)),
    "Or": Meaning(np.logical_or, lambda a, b: m("max", a, b)),
    "Xor": Meaning(np.logical_xor, lambda a, b: m("ne", a, b)),
}
VARIADIC = {
    "Sum": Meaning(np.add, lambda a, b: m("add", a, b)),
    "Mean": Meaning(np.add, lambda a, b: m("add", a, b)),
    "Max": Meaning(np.maximum, lambda a, b: m("max", a, b)),
    "Min": Meaning(np.minimum, lambda a, b: m("min", a, b)),
}
UNARY = {
    "Abs": Meaning(np.abs, lambda x: m("abs", x)),
    "Neg": Meaning(np.negative, lambda x: m("neg", x)),
    "Sign": Meaning(np.sign, lambda x: m("sign", x)),
    "Floor": Meaning(np.floor, lambda x: m("floor", x)),
    "Ceil": Meaning(np.ceil, lambda x: -m("floor", -x)),
    "Round": Meaning(np.round, _round),
    "Sqrt": Meaning(np.sqrt, lambda x: m("sqrt", x)),
    "Reciprocal": Meaning(np.reciprocal, lambda x: m("reciprocal", x)),
    "Exp": Meaning(np.exp, lambda x: m("exp", x)),
    "Log": Meaning(np.log, lambda x: m("log", x)),
}


@handler(*BINARY)
def binary(call: Call) -> Any:
    """Two inputs that broadcast together; the result has the dtype of the first."""
    meaning = BINARY[call.node.op]
    call = _aligned(call)
    if call.all_known or not is_real(call.dtype(0)):
        with np.errstate(all="ignore"):
            return np.asarray(meaning.arrays(call.array(0), call.array(1)))
    ndim = max(len(call.shape(0)), len(call.shape(1)))
    if call.node.op == "Pow" and not is_real(call.dtype(1)):
        return _whole_powers(call.symbol(0), call.array(1))
    if call.node.op == "Pow" and call.known(1) and call.array(1).size == 1:
        return call.symbol(0) ** float(call.array(1).reshape(()))
    return meaning.symbols(call.operand(0, ndim), call.operand(1, ndim))


def _whole_powers(x: Value, exponents: Array) -> Value:
    """x to known integers."""
    if exponents.size == 1:
        return x ** float(exponents.reshape(()))
    return m("pow", x, exponents.astype(np.float32))


@handler("Mod", known=(0, 1))
def modulo(call: Call) -> Any:
    """The remainder, with the sign of the divisor, or of the dividend if `fmod` is set."""
    remainder = np.fmod if call.integer("fmod", 0) else np.mod
    with np.errstate(all="ignore"):
        return np.asarray(remainder(call.array(0), call.array(1)))


@handler(*COMPARISONS, *LOGIC)
def compare(call: Call) -> Any:
    """Truth of each pair."""
    meaning = (COMPARISONS | LOGIC)[call.node.op]
    call = _aligned(call)
    if call.all_known:
        return np.asarray(meaning.arrays(call.array(0), call.array(1)))
    a, b = (call.symbol(i, integers=True) for i in (0, 1))
    return Tensor(meaning.symbols(a, b), BOOL)


@handler("Not")
def negation(call: Call) -> Any:
    """True where the input is False."""
    if call.known(0):
        return np.logical_not(call.array(0))
    return Tensor(m("eq", call.symbol(0, integers=True), 0.0), BOOL)


@handler(*VARIADIC)
def several(call: Call) -> Any:
    """Any number of inputs that broadcast together."""
    meaning, count = VARIADIC[call.node.op], len(call.inputs)
    if call.all_known or not is_real(call.dtype(0)):
        total = reduce(meaning.arrays, (call.array(i) for i in range(count)))
        return np.asarray(total / count if call.node.op == "Mean" else total).astype(call.dtype(0))
    y = reduce(meaning.symbols, (call.symbol(i) for i in range(count)))
    return y * (1 / count) if call.node.op == "Mean" else y


@handler(*UNARY)
def unary(call: Call) -> Any:
    """One function of each element."""
    meaning = UNARY[call.node.op]
    if call.known(0) or not is_real(call.dtype(0)):
        with np.errstate(all="ignore"):
            return np.asarray(meaning.arrays(call.array(0)))
    return meaning.symbols(call.symbol(0))


@handler("Erf")
def error_function(call: Call) -> Any:
    """The Gauss error function."""
    return m("erf", call.symbol(0))


@handler("Where")
def where(call: Call) -> Any:
    """The second input where the first is True, else the third."""
    if call.all_known:
        return np.where(call.array(0), call.array(1), call.array(2))
    condition = call.symbol(0, integers=True)
    y = select(condition, call.symbol(1, integers=True), call.symbol(2, integers=True))
    exact = all(not isinstance(x, Tensor) or x.exact for x in call.inputs[1:])
    return Tensor(y, call.dtype(1), exact)


def _aligned(call: Call) -> Call:
    """Before opset 7 the second input lines up with the first from `axis` on."""
    if call.opset >= 7 or not call.integer("broadcast", 0) or not call.has("axis"):
        return call
    a, b = call.item(0), call.item(1)
    axis = normalise_axis(call.integer("axis"), a.ndim)
    shape = (*b.shape, *(1,) * (a.ndim - axis - b.ndim))
    moved: Tensor | Array = b.reshape(shape) if not isinstance(b, Tensor) else (
        Tensor(b.value.reshape(shape), b.dtype, b.exact)
    )  # fmt: skip
    return Call(call.node, call.opset, (a, moved), call.training)
