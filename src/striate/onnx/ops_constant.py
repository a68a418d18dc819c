"""What is known before the model runs: constants, shapes; and conversions of dtype."""

from __future__ import annotations

from typing import Any

import numpy as np

from striate.graph.ops.eltwise import m, select
from striate.onnx.handling import Call, handler
from striate.onnx.value import (
    BOOL,
    Array,
    DType,
    NeedsValue,
    Tensor,
    cast_array,
    is_real,
    is_whole,
)

# Those of 8 and 4 bits round and saturate by rules that float32 symbols do not follow.
HELD = ("float16", "float32", "float64", "bfloat16")


@handler("Constant")
def constant(call: Call) -> Any:
    """The numbers (or texts) of its one attribute."""
    for name, dtype in (
        ("value", None),
        ("value_float", np.float32),
        ("value_floats", np.float32),
        ("value_int", np.int64),
        ("value_ints", np.int64),
        ("value_string", object),
        ("value_strings", object),
    ):
        if call.has(name):
            value = call.node.attributes[name]
            return np.asarray(value) if dtype is None else np.array(value, dtype)
    raise call.unsupported("a sparse value", "dense values")


@handler("ConstantOfShape", known=(0,))
def constant_of_shape(call: Call) -> Any:
    """An array of one number."""
    value = call.node.attributes.get("value", np.zeros(1, np.float32))
    return np.full(call.numbers(0), value.reshape(()), value.dtype)


@handler("Shape")
def shape(call: Call) -> Any:
    """Sizes from axis `start` to `end`, known."""
    sizes = call.shape(0)
    return np.array(sizes[call.integer("start", 0) : call.integer("end", len(sizes))], np.int64)


@handler("Size")
def size(call: Call) -> Any:
    """Number of elements, known."""
    return np.array(np.prod(call.shape(0), dtype=np.int64))


@handler("Identity")
def identity(call: Call) -> Any:
    """The input itself."""
    return call.item(0)


@handler("Cast", since=6)
def cast(call: Call) -> Any:
    """The numbers in another dtype."""
    from onnx import helper

    return _cast(call, np.dtype(helper.tensor_dtype_to_np_dtype(call.integer("to"))))


@handler("CastLike")
def cast_like(call: Call) -> Any:
    """The numbers in the dtype of the second input."""
    return _cast(call, call.dtype(1))


def _cast(call: Call, dtype: DType) -> Any:
    item = call.item(0)
    if item.dtype == dtype:
        return item
    if "O" in (item.dtype.kind, dtype.kind) and not (dtype.kind != "O" and call.known(0)):
        raise call.unsupported(f"{item.dtype} to {dtype}", "numbers")
    if not isinstance(item, Tensor):
        return _cast_known(call, item, dtype)
    if item.finish is not None:
        raise call.unsupported("the indices of a pooling", "outputs of that type")
    if is_real(dtype):
        if dtype.name not in HELD or (is_real(item.dtype) and item.dtype.name not in HELD):
            reason = f"node {call.node.name!r} (Cast) from {item.dtype} to {dtype}"
            raise NeedsValue(item.value, f"{reason} needs the numbers")
        return Tensor(item.value, dtype)
    if dtype == BOOL:
        return Tensor(m("ne", item.value, 0.0), dtype)
    if is_real(item.dtype):
        # Towards zero. A float32 is held exactly, whatever its size.
        x = item.value
        whole = select(x < 0, -m("floor", -x), m("floor", x))
        return Tensor(whole, dtype)
    if not (is_whole(dtype) and _contains(dtype, item.dtype)):
        reason = f"node {call.node.name!r} (Cast) from {item.dtype} to {dtype} needs the numbers"
        raise NeedsValue(item.value, reason)
    return Tensor(item.value, dtype, item.exact)


def _cast_known(call: Call, array: Array, dtype: DType) -> Array:
    """By the onnx package for dtypes of 8 bits, which round and saturate in their own ways."""
    if not is_real(dtype) or dtype.name in HELD or array.dtype.kind == "O":
        return cast_array(array, dtype)
    from onnx import numpy_helper

    saturate = bool(call.integer("saturate", 1))
    if dtype.name == "float8_e8m0fnu":
        mode = call.text("round_mode", "up")
        return np.asarray(numpy_helper.to_float8e8m0(array.astype(np.float32), saturate, mode))
    with np.errstate(all="ignore"):
        plain = array.astype(np.float32)
        if saturate and dtype.itemsize == 1 and "float8" in dtype.name:
            return np.asarray(numpy_helper.saturate_cast(plain, dtype))
        return np.asarray(plain.astype(dtype))


def _contains(wide: DType, narrow: DType) -> bool:
    """Whether an integer dtype has all numbers of another one."""
    if narrow.kind == "b":
        return True
    if "V" in (wide.kind, narrow.kind) or wide.kind == "b":
        return False
    a, b = np.iinfo(wide), np.iinfo(narrow)
    return bool(a.min <= b.min and b.max <= a.max)
