"""Arrays that go into a module made of an ONNX graph, and come out of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from striate.errors import DTypeError, ShapeError, UnsupportedError
from striate.graph import Param
from striate.onnx.read import Port
from striate.onnx.value import Array, Tensor, as_float32, cast_array, is_real, is_whole


def read_array(port: Port, x: Any) -> Array:
    """An input array in the declared dtype. Raises ShapeError and DTypeError."""
    declared = port.dtype
    if declared is None:
        raise UnsupportedError(f"input {port.name!r} is no tensor; only tensors are supported")
    array = x.data if isinstance(x, Param) else np.asarray(x)
    if port.shape is not None and array.ndim != len(port.shape):
        hint = "; add the batch axis with x[None]" if array.ndim + 1 == len(port.shape) else ""
        shape = ", ".join("?" if n is None else str(n) for n in port.shape)
        raise ShapeError(
            f"input {port.name!r} is declared as ({shape}), got an array {array.shape}{hint}"
        )
    if array.dtype == declared or array.dtype.kind in "OUS":
        return array
    if is_whole(declared) and not is_whole(array.dtype):
        raise DTypeError(
            f"input {port.name!r} takes {declared}, got {array.dtype}: convert it with "
            f".astype({declared.name!r})"
        )
    if not is_whole(array.dtype) and not is_real(array.dtype):
        raise DTypeError(f"input {port.name!r} takes {declared}, got {array.dtype}")
    return cast_array(array, declared)


def beyond_float32(array: Array) -> bool:
    """Whether float64 numbers are too large or too small for float32: then NumPy computes."""
    if array.dtype != np.float64:
        return False
    with np.errstate(over="ignore"):
        single = array.astype(np.float32)
    return bool(
        np.any(np.isfinite(array) != np.isfinite(single)) or np.any((array != 0) & (single == 0))
    )


def plain(array: Array) -> Array:
    """An array that NumPy itself can convert."""
    return as_float32(array) if array.dtype.kind == "V" else array


def bytes_of(array: Array) -> bytes:
    """What tells the contents of one array from another's."""
    return repr(array.tolist()).encode() if array.dtype.kind == "O" else array.tobytes()


def finished(
    outputs: tuple[Tensor | Array, ...], results: tuple[Array, ...]
) -> Iterator[Array]:  # fmt: skip
    """Known outputs, and those of the program in the model's dtypes."""
    computed = iter(results)
    for output in outputs:
        if not isinstance(output, Tensor):
            yield np.array(output)
            continue
        array = next(computed)
        yield cast_array(output.finish(array) if output.finish else array, output.dtype)
