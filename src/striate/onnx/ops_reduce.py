"""Reductions over axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from striate.graph import Value
from striate.graph.ops.shape import normalise_axis
from striate.onnx.handling import Call, Ints, handler
from striate.onnx.value import Array


class Meaning(NamedTuple):
    """Of a reduction, on known arrays and on float symbols; both take (x, axes, keepdims).

    `since` is the opset from which on the axes are an input.
    """

    arrays: Callable[[Array, Ints, bool], Array]
    symbols: Callable[[Value, Ints, bool], Value]
    since: int = 18


MEANINGS = {
    "ReduceMean": Meaning(
        lambda x, axes, keep: np.mean(x, axes, keepdims=keep).astype(x.dtype),
        lambda x, axes, keep: x.mean(axes, keep),
    ),
}


@handler(*MEANINGS, known=(1,))
def reduce(call: Call) -> Any:
    """Over the axes given, or all; without any, `noop_with_empty_axes` gives the input itself."""
    meaning = MEANINGS[call.node.op]
    keep = bool(call.integer("keepdims", 1))
    ndim = len(call.shape(0))
    if call.opset < meaning.since:
        axes = call.integers("axes", ())
    else:
        axes = call.numbers(1) if call.given(1) else ()
    if not axes and call.integer("noop_with_empty_axes", 0):
        return call.item(0)
    axes = tuple(sorted(normalise_axis(a, ndim) for a in axes)) or tuple(range(ndim))
    if call.known(0):
        return np.asarray(meaning.arrays(call.array(0), axes, keep))
    return meaning.symbols(call.symbol(0), axes, keep)
