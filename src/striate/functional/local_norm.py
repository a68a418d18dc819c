"""Normalisation by the statistics of each image alone: nothing is kept from batch to batch.

All use the biased variance, taken from the differences to the mean, so that a large mean does no
harm. Arrays of other dtypes are converted to float32.
"""

from __future__ import annotations

from collections.abc import Sequence

from striate.errors import ArgumentError, ShapeError
from striate.functional._dispatch import Tensor, functional
from striate.functional._images import image, vector
from striate.graph import Value
from striate.graph.ops.eltwise import m
from striate.graph.ops.shape import Broadcast, pad_axis, slice_axis


@functional("x", "weight", "bias")
def group_norm(
    x: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """(x - mean) / sqrt(var + eps) · weight + bias; mean and var of each image's group of channels.

    Args:
        x: images (N, C, H, W), or (N, C).
        num_groups: divides C; 1: all channels together, C: each by itself.
        weight: (C,), or None for 1.
        bias: (C,), or None for 0.
        eps: added to the variance.

    Raises ShapeError, ArgumentError, DTypeError.
    """
    shape = x.shape
    if x.ndim == 2:
        x = x.reshape(*shape, 1, 1)
    image("group_norm", x)
    c = x.shape[1]
    if num_groups < 1 or c % num_groups:
        raise ShapeError(f"group_norm: {c} channels do not divide into num_groups={num_groups!r}")

    centred = x - _of_groups(x.mean((2, 3), keepdims=True), num_groups)
    var = _of_groups((centred * centred).mean((2, 3), keepdims=True), num_groups)
    scale = m("rsqrt", var + eps)
    y = centred * (scale if weight is None else scale * vector("group_norm", "weight", weight, c))
    y = y if bias is None else y + vector("group_norm", "bias", bias, c)
    return y.reshape(shape)


def _of_groups(means: Value, groups: int) -> Value:
    """Means of channels (n, c, 1, 1) → the mean of each channel's group in its place."""
    n, c = means.shape[:2]
    if groups == c:
        return means
    mean = means.reshape(n, groups, c // groups).mean(2, keepdims=True)
    return Broadcast((n, groups, c // groups))(mean).reshape(means.shape)


@functional("x", "weight", "bias")
def instance_norm(
    x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """(x - mean) / sqrt(var + eps) · weight + bias; mean and var of each image's each channel.

    Shapes as in `group_norm`. Raises ShapeError (also for one pixel), ArgumentError, DTypeError.
    """
    h, w = image("instance_norm", x)
    if h * w == 1:
        raise ShapeError(f"instance_norm: images of one pixel have no deviation, got {x.shape}")
    return group_norm(x, x.shape[1], weight, bias, eps)


@functional("x", "weight", "bias")
def layer_norm(
    x: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """(x - mean) / sqrt(var + eps) · weight + bias; mean and var over the last axes.

    Args:
        x: any shape that ends with `normalized_shape`.
        normalized_shape: sizes of the axes that share mean and variance.
        weight: of that shape, or None for 1.
        bias: of that shape, or None for 0.
        eps: added to the variance.

    Raises ShapeError, DTypeError.
    """
    sizes = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    if not sizes or x.shape[-len(sizes) :] != sizes:
        raise ShapeError(
            f"layer_norm: x of shape {x.shape} does not end with normalized_shape={sizes}"
        )
    for name, v in (("weight", weight), ("bias", bias)):
        if v is not None and v.shape != sizes:
            raise ShapeError(f"layer_norm: {name} must have shape {sizes}, got {v.shape}")
    y = _standardised(x, tuple(range(x.ndim - len(sizes), x.ndim)), eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


@functional("x", "weight", "bias")
def layer_norm2d(
    x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-6
) -> Tensor:
    """`layer_norm` over the channels of every pixel of images (N, C, H, W).

    weight and bias have shape (C,), or are None. Raises ShapeError, DTypeError.
    """
    image("layer_norm2d", x)
    y = _standardised(x, (1,), eps)
    y = y if weight is None else y * vector("layer_norm2d", "weight", weight, x.shape[1])
    return y if bias is None else y + vector("layer_norm2d", "bias", bias, x.shape[1])


def _standardised(x: Value, axes: tuple[int, ...], eps: float) -> Value:
    centred = x - x.mean(axes, keepdims=True)
    var = (centred * centred).mean(axes, keepdims=True)
    return centred * m("rsqrt", var + eps)


@functional("x")
def local_response_norm(
    x: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Tensor:
    """x / (k + alpha / size · Σ x²)^beta, the sum over `size` neighbouring channels.

    Of channel c these are c - size // 2 … c + (size - 1) // 2, with 0 outside, as in PyTorch;
    AlexNet's paper leaves out the division by `size`.
    Raises ShapeError, ArgumentError, DTypeError.
    """
    image("local_response_norm", x)
    if size < 1:
        raise ArgumentError(f"local_response_norm: size must be an int of at least 1, got {size!r}")
    c = x.shape[1]
    squares = pad_axis(x * x, 1, size // 2, (size - 1) // 2)
    total = slice_axis(squares, 1, 0, c)
    for i in range(1, size):
        total = total + slice_axis(squares, 1, i, i + c)
    # y^-beta = exp(-beta · log y)
    return x * m("exp", m("log", total * (alpha / size) + k) * -beta)
