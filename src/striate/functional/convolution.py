"""Convolutions, dense layers, and their backwards."""

from __future__ import annotations

from typing import Any, NamedTuple

from striate.arith.padding import PaddingLike, Pair, dilated, is_int, normalise, pair
from striate.errors import ArgumentError, ShapeError
from striate.functional._dispatch import Tensor, functional
from striate.functional._images import choice, image, vector
from striate.graph import Value
from striate.graph.grad import pullback
from striate.graph.ops.axismap import AxisMap, Pad1d
from striate.graph.ops.conv import Conv2d, ConvInputGrad
from striate.graph.ops.shape import Flip

NO_PADDING = ((0, 0), (0, 0))


@functional("x", "w", "bias")
def conv2d(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int | Pair = 1,
    padding: PaddingLike = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    flip_kernel: bool = False,
) -> Tensor:
    """Cross-correlation of images x (N, C, H, W) with w (co, C / groups, kh, kw): (N, co, H', W').

    H' = floor((H + top + bottom - (kh - 1)·dilation - 1) / stride) + 1, and W' alike.

    Args:
        x: images; other dtypes than float32 are converted to it.
        w: weights.
        bias: (co,), added to every output of its channel.
        stride: int or (height, width).
        padding: int, (ph, pw) per side, ((top, bottom), (left, right)), "same" (⌈H / stride⌉
            outputs, the odd row or column at the end), "valid" (none) or "full" (dilated
            kernel - 1 on each side).
        dilation: distance of the kernel's taps, int or (height, width).
        groups: channel groups that are convolved apart from each other.
        padding_mode: "zeros", "reflect", "replicate" or "circular".
        flip_kernel: turn the kernel by 180°, which gives the convolution of mathematics.

    Raises ShapeError, ArgumentError, DTypeError.
    """
    size = image("conv2d", x)
    kernel = _kernel("conv2d", w)
    strides, dilations = pair("stride", stride), pair("dilation", dilation)
    sides = normalise(padding, size, kernel, strides, dilations)
    choice("conv2d", "padding_mode", padding_mode, ("zeros", "reflect", "replicate", "circular"))
    if padding_mode != "zeros":
        for axis, (begin, end) in zip((2, 3), sides, strict=True):
            if begin or end:
                x = AxisMap(axis, Pad1d(x.shape[axis], begin, end, padding_mode))(x)
        sides = NO_PADDING
    if flip_kernel:
        w = Flip((2, 3))(w)
    y = Conv2d(strides, sides, dilations, _groups(groups))(x, w)
    return y if bias is None else y + vector("conv2d", "bias", bias, w.shape[0])


@functional("x", "w", "dy")
def conv2d_grad(
    x: Tensor,
    w: Tensor,
    dy: Tensor,
    *,
    stride: int | Pair = 1,
    padding: PaddingLike = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    flip_kernel: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients (dx, dw, db) of `conv2d(x, w, bias, …)` from dy, the gradient of its result.

    Shapes: as x, as w, and (co,). Other arguments and errors as in `conv2d`.
    """
    y = conv2d(
        x,
        w,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        padding_mode=padding_mode,
        flip_kernel=flip_kernel,
    )
    return _backward(x, w, dy, y)


@functional("x", "w", "bias")
def conv_transpose2d(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None = None,
    stride: int | Pair = 1,
    padding: PaddingLike = 0,
    output_padding: int | Pair = 0,
    groups: int = 1,
    dilation: int | Pair = 1,
) -> Tensor:
    """Transposed convolution of x (N, C, H, W) with w (C, co / groups, kh, kw): (N, co, H', W').

    It is the input gradient of conv2d with the same arguments, so

    H' = (H - 1)·stride - top - bottom + (kh - 1)·dilation + 1 + output_padding, and W' alike.

    Args:
        x: images; other dtypes than float32 are converted to it.
        w: weights, the input channels first.
        bias: (co,).
        stride: int or (height, width).
        padding: how much is cut off: int, (ph, pw) or ((top, bottom), (left, right)).
        output_padding: added at the bottom and right; smaller than stride or dilation.
        groups: channel groups that are convolved apart from each other.
        dilation: int or (height, width).

    Raises ShapeError, ArgumentError, DTypeError.
    """
    size = image("conv_transpose2d", x)
    kernel = _kernel("conv_transpose2d", w)
    if isinstance(padding, str):
        raise ArgumentError(f"conv_transpose2d: padding must be numbers, got {padding!r}")
    strides, dilations = pair("stride", stride), pair("dilation", dilation)
    sides = normalise(padding, size, kernel, strides, dilations)
    extra = pair("output_padding", output_padding, 0)
    h, w_out = (
        _transposed(size[i], kernel[i], strides[i], sides[i], dilations[i], extra[i])
        for i in (0, 1)
    )
    cut = (h.padding, w_out.padding)
    y = ConvInputGrad(strides, cut, dilations, _groups(groups), h.size, w_out.size)(x, w)
    for axis, part in ((2, h), (3, w_out)):
        if part.blank:
            y = AxisMap(axis, Pad1d(part.size, 0, part.blank))(y)
    return y if bias is None else y + vector("conv_transpose2d", "bias", bias, y.shape[1])


@functional("x", "w", "dy")
def conv_transpose2d_grad(
    x: Tensor,
    w: Tensor,
    dy: Tensor,
    stride: int | Pair = 1,
    padding: PaddingLike = 0,
    output_padding: int | Pair = 0,
    groups: int = 1,
    dilation: int | Pair = 1,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients (dx, dw, db) of `conv_transpose2d(x, w, bias, …)` from dy.

    Shapes: as x, as w, and (co,). Other arguments and errors as in `conv_transpose2d`.
    """
    y = conv_transpose2d(x, w, None, stride, padding, output_padding, groups, dilation)
    return _backward(x, w, dy, y)


@functional("x", "w", "bias")
def linear(x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (…, k) times the transpose of w (m, k), plus bias (m,): (…, m).

    Arrays of other dtypes than float32 are converted to it. Raises ShapeError.
    """
    if w.ndim != 2 or x.ndim < 1 or x.shape[-1] != w.shape[1]:
        raise ShapeError(
            f"linear: x of shape {x.shape} does not fit weights of shape {w.shape}; "
            "x must be (…, k) and w (m, k)"
        )
    outputs, k = w.shape
    # A dense layer is a 1×1 convolution of 1×1 images.
    y = Conv2d()(x.reshape(-1, k, 1, 1), w.reshape(outputs, k, 1, 1)).reshape(-1, outputs)
    if bias is not None:
        if bias.shape != (outputs,):
            raise ShapeError(f"linear: bias must have shape ({outputs},), got {bias.shape}")
        y = y + bias
    return y.reshape(*x.shape[:-1], outputs)


class _Transposed(NamedTuple):
    """One axis of a transposed convolution: its size, what is cut off, and zeros to append."""

    size: int
    padding: Pair
    blank: int


def _transposed(n: int, kernel: int, s: int, cut: Pair, d: int, more: int) -> _Transposed:
    if more >= max(s, d):
        raise ArgumentError(
            f"conv_transpose2d: output_padding ({more}) must be smaller than stride ({s}) or "
            f"dilation ({d})"
        )
    begin, end = cut
    k_d = dilated(kernel, d)
    total = (n - 1) * s - begin - end + k_d + more
    if total <= 0:
        raise ShapeError(
            f"conv_transpose2d: nothing is left: ({n} - 1) * {s} - {begin} - {end} + {k_d} + "
            f"{more} = {total} rows or columns"
        )
    if more < s:
        return _Transposed(total, cut, 0)
    # From one stride on, output padding uncovers what `end` cut off, and beyond that adds zeros.
    uncovered = min(end, more)
    return _Transposed(total - (more - uncovered), (begin, end - uncovered), more - uncovered)


def _backward(x: Value, w: Value, dy: Value, y: Value) -> tuple[Value, Value, Value]:
    if dy.shape != y.shape:
        raise ShapeError(f"dy must have the shape of the result, {y.shape}, got {dy.shape}")
    dx, dw = pullback([y], [dy], [x, w])
    assert dx is not None
    assert dw is not None
    return dx, dw, dy.sum((0, 2, 3))


def _kernel(function: str, w: Value) -> Pair:
    if w.ndim != 4:
        raise ShapeError(f"{function}: w must have four axes (…, …, kh, kw), got shape {w.shape}")
    return w.shape[2], w.shape[3]


def _groups(groups: Any) -> int:
    if not is_int(groups) or groups < 1:
        raise ArgumentError(f"groups must be an int of at least 1, got {groups!r}")
    return int(groups)
