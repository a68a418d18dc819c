"""Reductions over axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from striate.graph import Value
from striate.graph.ops.eltwise import m
from striate.graph.ops.shape import normalise_axis
from striate.onnx.handling import Call, Ints, handler
from striate.onnx.value import Array, is_real


class Meaning(NamedTuple):
    """Of a reduction, on known arrays and on float symbols; both take (x, axes, keepdims).

    `since` is the opset from which on the axes are an input.
    """

    arrays: Callable[[Array, Ints, bool], Any]
    symbols: Callable[[Value, Ints, bool], Value]
    since: int = 18


def _sum(x: Array, axes: Ints, keep: bool) -> Any:
    return np.sum(x, axes, keepdims=keep)


def _largest(x: Array, axes: Ints, keep: bool) -> Any:
    return np.max(x, axes, keepdims=keep, initial=_limit(x, low=True))


def _smallest(x: Array, axes: Ints, keep: bool) -> Any:
    return np.min(x, axes, keepdims=keep, initial=_limit(x, low=False))


def _limit(x: Array, *, low: bool) -> Any:
    """What no element is beyond: the result for no elements."""
    if is_real(x.dtype):
        return -np.inf if low else np.inf
    if x.dtype.kind == "b":
        return not low
    return np.iinfo(x.dtype).min if low else np.iinfo(x.dtype).max


def _log_sum_exp(x: Value, axes: Ints, keep: bool) -> Value:
    """log Σ exp(x), shifted by the maximum so that nothing overflows."""
    top = x.max(axes, keepdims=True)
    total = m("log", m("exp", x - top).sum(axes, keepdims=True)) + top
    return total if keep else total.sum(axes)


MEANINGS = {
    "ReduceSum": Meaning(_sum, lambda x, axes, keep: x.sum(axes, keep), since=13),
    "ReduceMean": Meaning(
        lambda x, axes, keep: np.mean(x, axes, keepdims=keep),
        lambda x, axes, keep: x.mean(axes, keep),
    ),
    "ReduceMax": Meaning(_largest, lambda x, axes, keep: x.max(axes, keep)),
    "ReduceMin": Meaning(_smallest, lambda x, axes, keep: -(-x).max(axes, keep)),
    "ReduceL1": Meaning(
        lambda x, axes, keep: _sum(np.abs(x), axes, keep),
        lambda x, axes, keep: m("abs", x).sum(axes, keep),
    ),
    "ReduceL2": Meaning(
        lambda x, axes, keep: np.sqrt(_sum(x * x, axes, keep)),
        lambda x, axes, keep: m("sqrt", (x * x).sum(axes, keep)),
    ),
    "ReduceSumSquare": Meaning(
        lambda x, axes, keep: _sum(x * x, axes, keep),
        lambda x, axes, keep: (x * x).sum(axes, keep),
    ),
    "ReduceLogSum": Meaning(
        lambda x, axes, keep: np.log(_sum(x, axes, keep)),
        lambda x, axes, keep: m("log", x.sum(axes, keep)),
    ),
    "ReduceLogSumExp": Meaning(
        lambda x, axes, keep: np.log(_sum(np.exp(x), axes, keep)),
        _log_sum_exp,
    ),
}


@handler(*MEANINGS, known=(1,))
def reduce(call: Call) -> Any:
    """Over the axes given, or all; with `noop_with_empty_axes` over none if none is given.

    Then only the sum is left out: what the operator does to each element remains.
    """
    meaning = MEANINGS[call.node.op]
    keep = bool(call.integer("keepdims", 1))
    ndim = len(call.shape(0))
    if call.opset < meaning.since:
        axes = call.integers("axes", ())
    else:
        axes = call.numbers(1) if call.given(1) else ()
    axes = tuple(sorted(normalise_axis(a, ndim) for a in axes))
    if not axes and not call.integer("noop_with_empty_axes", 0):
        axes = tuple(range(ndim))
    if call.known(0):
        with np.errstate(divide="ignore"):
            return np.asarray(meaning.arrays(call.array(0), axes, keep)).astype(call.dtype(0))
    return meaning.symbols(call.symbol(0), axes, keep)
