"""The slow twin: run a graph node by node with NumPy. It is the definition of every program."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from striate.errors import ShapeError
from striate.graph.ops.leaf import Input, Leaf
from striate.graph.value import NUMPY_DTYPES, Array, Graph, Value


def evaluate(
    graph: Graph, inputs: Sequence[npt.ArrayLike], dtype: npt.DTypeLike | None = None
) -> tuple[Array, ...]:
    """The outputs of `graph` for `inputs`; then the assignments are made.

    Everything is computed in `dtype` (default float32); with np.float64 the parameters are
    widened, and what is assigned is rounded. i32 values stay i32, and u8 inputs u8. Host updates
    are the executor's business and are not run.

    Raises ShapeError for wrong inputs.
    """
    real = np.dtype(np.float32 if dtype is None else dtype)
    if len(inputs) != len(graph.inputs):
        raise ShapeError(f"the graph takes {len(graph.inputs)} inputs, got {len(inputs)}")
    values: dict[Value, Array] = {}
    for value, array in zip(graph.inputs, inputs, strict=True):
        if np.shape(array) != value.shape:
            raise ShapeError(f"{value.node.op}: expected {value.type}, got {np.shape(array)}")
        values[value] = np.asarray(array, _dtype(value, real))
    for node in graph.nodes():
        if isinstance(node.op, Input):
            continue
        results = node.op.numpy(*(values[v] for v in node.inputs))
        for value, result in zip(node.outputs(), results, strict=True):
            if result.shape != value.shape:
                raise ShapeError(f"{node!r} gave an array of shape {result.shape}")
            # Only leaves, labels and pictures come in another dtype than the run's.
            target = _dtype(value, real)
            values[value] = result if result.dtype == target else result.astype(target)
            if isinstance(node.op, Leaf):
                values[value] = np.array(values[value])
    outputs = tuple(np.array(values[v]) for v in graph.outputs)
    new = [(param, values[value]) for param, value in graph.assigns]
    for param, array in new:
        param.assign(array)
    return outputs


def _dtype(value: Value, real: np.dtype[Any]) -> np.dtype[Any]:
    """What a value is held in when numbers are held in `real`."""
    return real if value.dtype == "f32" else np.dtype(NUMPY_DTYPES[value.dtype])
