"""Where NaN and infinity come from."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from striate import engine
from striate.graph import Graph, Trace
from striate.graph.symbol import Symbol
from striate.nn.module import Module
from striate.nn.tracing import as_input, symbolic_call
from striate.train.step import Inputs


def explain_non_finite(net: Module, x: Inputs, y: npt.ArrayLike) -> str:
    """One sentence on where a loss that is not finite began, found by running the net again.

    In this order: the batch itself, a weight or statistic, the first layer whose output has a NaN
    or infinity; if all are finite, the loss.
    """
    inputs = [as_input(a) for a in (x if isinstance(x, tuple) else (x,))]
    if not all(np.isfinite(a).all() for a in inputs):
        return "the batch itself holds NaN or infinity"
    if not np.isfinite(np.asarray(y)).all():
        return "the targets of the batch hold NaN or infinity"
    for name, param in [*net.named_parameters(), *net.named_buffers()]:
        if not np.isfinite(param.data).all():
            return f"{name} holds NaN or infinity: an earlier step has overflowed (lower lr?)"
    for name, output in _layer_outputs(net, inputs):
        if not np.isfinite(output).all():
            return f"the first layer whose output is not finite is {name!r}"
    return "every layer's output is finite: the loss itself overflows"


def _layer_outputs(
    net: Module, inputs: list[np.ndarray[Any, Any]]
) -> list[tuple[str, np.ndarray[Any, Any]]]:
    """Output of every layer in training mode, in the order in which they run."""
    with Trace() as trace:
        _, calls = symbolic_call(net, trace, [a.shape for a in inputs], training=True)
        values = {
            call.path or type(net).__name__: call.output.as_value()
            for call in calls
            if isinstance(call.output, Symbol)
        }
        graph = Graph(tuple(trace.inputs), tuple(values.values()))
    outputs = engine.build(graph, training=True)(*inputs)
    return list(zip(values, outputs, strict=True))
