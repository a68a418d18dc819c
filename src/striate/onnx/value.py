"""What a value of an ONNX graph is while it is traced: known numbers, or a symbol with a dtype.

Known values are NumPy arrays in their own dtype, and what follows from known values is computed by
NumPy at once: shapes and all arithmetic with them. Everything else is a `Tensor`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from striate.graph import Value
from striate.graph.symbol import Symbol

Array: TypeAlias = np.ndarray[Any, Any]
DType: TypeAlias = np.dtype[Any]

FLOAT32 = np.dtype(np.float32)
INT64 = np.dtype(np.int64)
BOOL = np.dtype(np.bool_)
# Every integer of at most this size is a float32.
EXACT = 2**24


@dataclass(frozen=True)
class Tensor(Symbol):
    """A symbol that is computed in float32 (or i32), and the dtype that it has in the model.

    Attributes:
        value: the symbol.
        dtype: of the model; an output of the model is given in it.
        exact: of integers: whether every value that can occur is held exactly.
        finish: what NumPy does with an output of the model before it is given; such a tensor has
            no other use.
    """

    value: Value
    dtype: DType = FLOAT32
    exact: bool = True
    finish: Callable[[Array], Array] | None = None

    def as_value(self) -> Value:
        """The symbol."""
        return self.value

    @property
    def shape(self) -> tuple[int, ...]:
        """Concrete sizes."""
        return self.value.shape

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self.value.ndim

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.value.size


# A value of a graph; None is an input that is left out.
Item: TypeAlias = "Tensor | Array | None"


class NeedsValue(Exception):  # noqa: N818 - a request, which the module answers by tracing again
    """A handler has to know the numbers of a symbol to go on."""

    def __init__(self, value: Value, reason: str) -> None:
        super().__init__(reason)
        self.value = value
        self.reason = reason


def is_real(dtype: DType) -> bool:
    """Whether it is a float dtype, bfloat16 and float8 included."""
    return dtype.kind == "f" or (dtype.kind == "V" and "float" in dtype.name)


def is_whole(dtype: DType) -> bool:
    """Whether it is an integer dtype (4-bit ones included) or bool."""
    return dtype.kind in "iub" or (dtype.kind == "V" and "int" in dtype.name)


def fits_float32(dtype: DType) -> bool:
    """Whether float32 holds all values of an integer dtype."""
    return dtype.kind == "b" or dtype.itemsize <= 2


def as_float32(array: Array) -> Array:
    """The numbers in float32; those beyond its range become infinite."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(array.astype(np.float32, copy=False), order="C")


def cast_array(array: Array, dtype: DType) -> Array:
    """The numbers in another dtype: towards zero where fractions are lost, True where not 0."""
    if array.dtype == dtype:
        return array
    with np.errstate(all="ignore"):
        if dtype.kind == "b":
            plain = array.astype(np.float64) if array.dtype.kind == "V" else array
            return np.asarray(plain != 0)
        if array.dtype.kind == "V" or dtype.kind == "V":
            return np.asarray(array.astype(np.float32).astype(dtype))
        return np.asarray(array.astype(dtype))
