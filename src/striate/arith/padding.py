"""Kernel sizes, strides and paddings as users write them, brought to one form."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, TypeAlias

from striate.errors import ArgumentError

Pair: TypeAlias = tuple[int, int]
Sides: TypeAlias = tuple[Pair, Pair]
PaddingLike: TypeAlias = "int | Sequence[int] | Sequence[Sequence[int]] | str"


def pair(name: str, value: Any, minimum: int = 1) -> Pair:
    """`value` as (height, width): an int counts for both.

    Raises ArgumentError, naming the argument, unless both are integers >= `minimum`.
    """
    items = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else None
    if items is None:
        items = (value, value)
    if len(items) != 2 or not all(is_int(item) for item in items):
        raise ArgumentError(f"{name} must be an int or a pair of ints, got {value!r}")
    h, w = (operator.index(item) for item in items)
    if h < minimum or w < minimum:
        raise ArgumentError(f"{name} must be at least {minimum}, got {value!r}")
    return h, w


def dilated(kernel: int, dilation: int) -> int:
    """Extent of a kernel whose taps stand `dilation` apart: (kernel - 1) · dilation + 1."""
    return (kernel - 1) * dilation + 1


def same(size: int, kernel: int, stride: int, dilation: int) -> Pair:
    """Padding (begin, end) that gives ⌈size / stride⌉ outputs; the odd element at the end."""
    outputs = -(-size // stride)
    total = max(0, (outputs - 1) * stride + dilated(kernel, dilation) - size)
    return total // 2, total - total // 2


def normalise(
    padding: PaddingLike, size: Pair, kernel: Pair, stride: Pair, dilation: Pair
) -> Sides:
    """`padding` as ((top, bottom), (left, right)).

    Taken are an int, (ph, pw), ((top, bottom), (left, right)), "valid" (none), "same"
    (⌈size / stride⌉ outputs, odd excess at the end) and "full" (dilated kernel - 1 on each side).

    Raises ArgumentError for anything else.
    """
    if isinstance(padding, str):
        return _named(padding, size, kernel, stride, dilation)
    if isinstance(padding, Sequence) and len(padding) == 2:
        first, second = padding[0], padding[1]
        if isinstance(first, Sequence) and isinstance(second, Sequence):
            return pair("padding of the height", first, 0), pair("padding of the width", second, 0)
    elif not is_int(padding):
        raise ArgumentError(
            "padding must be an int, (ph, pw), ((top, bottom), (left, right)), 'same', 'valid' "
            f"or 'full', got {padding!r}"
        )
    ph, pw = pair("padding", padding, 0)
    return (ph, ph), (pw, pw)


def _named(name: str, size: Pair, kernel: Pair, stride: Pair, dilation: Pair) -> Sides:
    axes = tuple(zip(size, kernel, stride, dilation, strict=True))
    if name == "valid":
        return (0, 0), (0, 0)
    if name == "same":
        h, w = (same(*axis) for axis in axes)
        return h, w
    if name == "full":
        h, w = ((dilated(k, d) - 1, dilated(k, d) - 1) for _, k, _, d in axes)
        return h, w
    raise ArgumentError(f"padding must be 'same', 'valid', 'full' or numbers, got {name!r}")


def is_int(value: Any) -> bool:
    """Whether `value` is an integer of any kind, but no bool."""
    return hasattr(value, "__index__") and not isinstance(value, bool)
