"""Pooling, by PyTorch's rules.

Images are (N, C, H, W); arrays of other dtypes are converted to float32. A NaN in a window gives
NaN. `padding` is an int, (ph, pw), ((top, bottom), (left, right)), "same" or "valid"; an int or a
pair may be at most half the (dilated) window, as in PyTorch, and each side of the longer form at
most the window - 1. Errors: ShapeError, ArgumentError, DTypeError.
"""

from __future__ import annotations

from typing import Any

from striate.arith import pool
from striate.arith.padding import PaddingLike, Pair, Sides, dilated, is_int, normalise, pair
from striate.errors import ArgumentError, ShapeError
from striate.functional._dispatch import Tensor, functional
from striate.functional._images import image
from striate.graph import Value
from striate.graph.grad import pullback
from striate.graph.ops.axismap import AdaptiveAverage1d, AveragePool1d, AxisMap
from striate.graph.ops.eltwise import m, select
from striate.graph.ops.pool import MaxPool, MaxPoolIndices


@functional("x")
def max_pool2d(
    x: Tensor,
    kernel_size: int | Pair,
    stride: int | Pair | None = None,
    padding: PaddingLike = 0,
    dilation: int | Pair = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor:
    """Largest element of each window; `stride` None means `kernel_size`.

    Padding counts as -∞. With `return_indices` also the flat index h · W + w (int32) of the
    chosen element in its plane: of equal ones the first, row by row.
    """
    size = image("max_pool2d", x)
    kernel, strides, sides, dilations = _geometry(size, kernel_size, stride, padding, dilation)
    rows, cols = (
        pool.windows(size[i], kernel[i], strides[i], sides[i], dilations[i], ceil_mode)
        for i in (0, 1)
    )
    return _max_pool(x, rows, cols, return_indices)


@functional("x", "dy")
def max_pool2d_grad(
    x: Tensor,
    dy: Tensor,
    kernel_size: int | Pair,
    stride: int | Pair | None = None,
    padding: PaddingLike = 0,
    dilation: int | Pair = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """Gradient for x of `max_pool2d` from dy, the gradient of its result."""
    return _backward(x, dy, max_pool2d(x, kernel_size, stride, padding, dilation, ceil_mode))


@functional("x")
def avg_pool2d(
    x: Tensor,
    kernel_size: int | Pair,
    stride: int | Pair | None = None,
    padding: PaddingLike = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """Mean of each window; `stride` None means `kernel_size`.

    The sum is divided by the elements of the window inside the image and, with
    `count_include_pad`, its padding; or by `divisor_override`.
    """
    size = image("avg_pool2d", x)
    kernel, strides, sides, _ = _geometry(size, kernel_size, stride, padding, 1)
    if divisor_override is not None and divisor_override < 1:
        raise ArgumentError(f"divisor_override must be at least 1, got {divisor_override}")
    for i in (0, 1):
        divisor = None
        if divisor_override is not None:
            divisor = int(divisor_override) if i == 0 else 1
        rule = AveragePool1d(
            size[i],
            kernel[i],
            strides[i],
            sides[i],
            bool(ceil_mode),
            bool(count_include_pad),
            divisor,
        )
        x = AxisMap(i + 2, rule)(x)
    return x


@functional("x", "dy")
def avg_pool2d_grad(
    x: Tensor,
    dy: Tensor,
    kernel_size: int | Pair,
    stride: int | Pair | None = None,
    padding: PaddingLike = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """Gradient for x of `avg_pool2d` from dy, the gradient of its result."""
    y = avg_pool2d(x, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
    return _backward(x, dy, y)


@functional("x")
def adaptive_avg_pool2d(x: Tensor, output_size: Any) -> Tensor:
    """Means over a grid of `output_size` bins: int or (height, width), None keeps the size.

    Bin i covers [floor(i · H / O), ceil((i + 1) · H / O)).
    """
    size = image("adaptive_avg_pool2d", x)
    outputs = _output_size(size, output_size)
    if outputs == (1, 1):
        return x.mean((2, 3), keepdims=True)
    for i in (0, 1):
        if outputs[i] != size[i]:
            x = AxisMap(i + 2, AdaptiveAverage1d(size[i], outputs[i]))(x)
    return x


@functional("x")
def adaptive_max_pool2d(x: Tensor, output_size: Any, return_indices: bool = False) -> Tensor:
    """Maxima over the bins of `adaptive_avg_pool2d`; indices as in `max_pool2d`."""
    size = image("adaptive_max_pool2d", x)
    outputs = _output_size(size, output_size)
    rows, cols = (pool.adaptive_windows(size[i], outputs[i]) for i in (0, 1))
    return _max_pool(x, rows, cols, return_indices)


@functional("x")
def lp_pool2d(
    x: Tensor,
    norm_type: float,
    kernel_size: int | Pair,
    stride: int | Pair | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    """(Σ x^p)^(1/p) over each window with p = norm_type; `stride` None means `kernel_size`.

    As in PyTorch it is x^p, not |x|^p, and a window that `ceil_mode` cuts at the border is
    scaled up to the full window. Where the sum is 0, so is the gradient.
    """
    size = image("lp_pool2d", x)
    kernel, strides, _, _ = _geometry(size, kernel_size, stride, 0, 1)
    if norm_type == 0:
        raise ArgumentError("norm_type must not be 0")
    total = x if norm_type == 1 else x ** float(norm_type)
    for i in (0, 1):
        rule = AveragePool1d(size[i], kernel[i], strides[i], (0, 0), bool(ceil_mode))
        total = AxisMap(i + 2, rule)(total)
    total = total * float(kernel[0] * kernel[1])
    if norm_type == 1:
        return total
    empty = m("eq", total, 0.0)
    return select(empty, 0.0, select(empty, 1.0, total) ** (1 / norm_type))


def _geometry(
    size: Pair, kernel_size: Any, stride: Any, padding: Any, dilation: Any
) -> tuple[Pair, Pair, Sides, Pair]:
    kernel, dilations = pair("kernel_size", kernel_size), pair("dilation", dilation)
    strides = kernel if stride is None else pair("stride", stride)
    sides = normalise(padding, size, kernel, strides, dilations)
    symmetric = is_int(padding) or (not isinstance(padding, str) and all(map(is_int, padding)))
    for k, d, side in zip(kernel, dilations, sides, strict=True):
        extent = dilated(k, d)
        limit = extent // 2 if symmetric else extent - 1
        if max(side) > limit:
            raise ArgumentError(
                f"padding {padding!r} must be at most {limit} for a pooling window of {extent}"
            )
    return kernel, strides, sides, dilations


def _output_size(size: Pair, output_size: Any) -> Pair:
    items = output_size if isinstance(output_size, (tuple, list)) else (output_size,) * 2
    if len(items) != 2:
        raise ArgumentError(f"output_size must be an int, None or a pair, got {output_size!r}")
    chosen = [s if item is None else item for s, item in zip(size, items, strict=True)]
    return pair("output_size", chosen)


def _max_pool(x: Value, rows: Any, cols: Any, return_indices: bool) -> Any:
    y = MaxPool(rows, cols)(x)
    return (y, MaxPoolIndices(rows, cols)(x)) if return_indices else y


def _backward(x: Value, dy: Value, y: Value) -> Value:
    if dy.shape != y.shape:
        raise ShapeError(f"dy must have the shape of the result, {y.shape}, got {dy.shape}")
    (dx,) = pullback([y], [dy], [x])
    assert dx is not None
    return dx
