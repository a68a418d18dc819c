"""Elementwise operators of several inputs: one table of what each means on arrays and on symbols.

Known numbers are computed by NumPy in their own dtype: so are all integers, for float32 does not
hold all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from striate.graph import Value
from striate.graph.ops.eltwise import m
from striate.graph.ops.shape import normalise_axis
from striate.onnx.handling import Call, handler
from striate.onnx.value import Array, Tensor, is_real


class Meaning(NamedTuple):
    """Of an operator: on known arrays of one dtype, and on float symbols."""

    arrays: Callable[..., Array]
    symbols: Callable[..., Value]


def _divide(a: Array, b: Array) -> Array:
    """Integers are divided towards zero."""
    if is_real(a.dtype):
        return np.asarray(np.divide(a, b))
    quotient = np.floor_divide(a, b)
    return np.asarray(quotient + ((quotient < 0) & (quotient * b != a)).astype(a.dtype))


MEANINGS = {
    "Add": Meaning(np.add, lambda a, b: m("add", a, b)),
    "Sub": Meaning(np.subtract, lambda a, b: m("sub", a, b)),
    "Mul": Meaning(np.multiply, lambda a, b: m("mul", a, b)),
    "Div": Meaning(_divide, lambda a, b: m("div", a, b)),
}


@handler(*MEANINGS)
def binary(call: Call) -> Any:
    """Two inputs that broadcast together."""
    meaning = MEANINGS[call.node.op]
    call = _aligned(call)
    if call.all_known:
        with np.errstate(all="ignore"):
            return np.asarray(meaning.arrays(call.array(0), call.array(1)))
    ndim = max(len(call.shape(0)), len(call.shape(1)))
    return meaning.symbols(call.operand(0, ndim), call.operand(1, ndim))


def _aligned(call: Call) -> Call:
    """Before opset 7 the second input lines up with the first from `axis` on."""
    if call.opset >= 7 or not call.integer("broadcast", 0) or not call.has("axis"):
        return call
    a, b = call.item(0), call.item(1)
    axis = normalise_axis(call.integer("axis"), a.ndim)
    shape = (*b.shape, *(1,) * (a.ndim - axis - b.ndim))
    moved = Tensor(b.value.reshape(shape), b.dtype, b.exact) if isinstance(b, Tensor) else (
        b.reshape(shape)
    )  # fmt: skip
    return Call(call.node, call.opset, (a, moved), call.training)
