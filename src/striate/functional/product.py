"""Products of matrices whose both sides are computed."""

from __future__ import annotations

import math

import numpy as np

from striate.errors import ShapeError
from striate.functional._dispatch import Tensor, functional
from striate.functional.convolution import linear
from striate.graph import Value
from striate.graph.ops.conv import Conv2d
from striate.graph.ops.shape import Broadcast


@functional("a", "b")
def matmul(a: Tensor, b: Tensor) -> Tensor:
    """The matrix product of a (…, m, k) and b (…, k, n): (…, m, n), as NumPy's matmul.

    Leading axes are broadcast; a vector a is a row, a vector b a column, and that axis is gone in
    the result. 2·m·k·n FLOPs a pair of matrices. Raises ShapeError.
    """
    if not a.ndim or not b.ndim:
        raise ShapeError("matmul takes vectors, matrices or stacks of them, not scalars")
    left = a.reshape(1, *a.shape) if a.ndim == 1 else a
    right = b.reshape(*b.shape, 1) if b.ndim == 1 else b
    if left.shape[-1] != right.shape[-2]:
        raise ShapeError(
            f"matmul: shapes {a.shape} and {b.shape} do not fit: the inner sizes differ"
        )
    y = linear(left, right.transpose(1, 0)) if right.ndim == 2 else _stacked(left, right)
    kept = list(y.shape)
    if b.ndim == 1:
        del kept[-1]
    if a.ndim == 1:
        del kept[-2 if b.ndim > 1 else -1]
    return y.reshape(kept)


def _stacked(a: Value, b: Value) -> Value:
    """Each pair is a group of one 1×1 convolution of m pixels."""
    (m, k), n = a.shape[-2:], b.shape[-1]
    try:
        stack = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    except ValueError:
        raise ShapeError(
            f"matmul: the leading axes of {a.shape} and {b.shape} cannot be broadcast"
        ) from None
    count = math.prod(stack)
    pixels = _spread(a, (*stack, m, k)).reshape(count, m, k).transpose(0, 2, 1)
    weights = _spread(b, (*stack, k, n)).reshape(count, k, n).transpose(0, 2, 1)
    y = Conv2d(groups=count)(
        pixels.reshape(1, count * k, m, 1), weights.reshape(count * n, k, 1, 1)
    )
    return y.reshape(count, n, m).transpose(0, 2, 1).reshape(*stack, m, n)


def _spread(x: Value, shape: tuple[int, ...]) -> Value:
    return x if x.shape == shape else Broadcast(shape)(x)
