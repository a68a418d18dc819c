"""Convolutions and dense layers."""

from __future__ import annotations

from typing import Any

import striate.functional as F
from striate.arith.padding import dilated
from striate.errors import FormatError
from striate.onnx.handling import Call, Ints, handler
from striate.onnx.windows import Window, as_plane, check_axes, from_plane, split, window


@handler("Conv")
def conv(call: Call) -> Any:
    """X (N, C, …), W (M, C / group, …), B (M,): cross-correlation."""
    shape, kernel = call.shape(0), _kernel(call)
    _, strides, pads, dilations = window(call, shape[2:], kernel).of_plane()
    bias = call.symbol(2) if call.given(2) else None
    groups = call.integer("group", 1)
    x, w = as_plane(call.symbol(0)), as_plane(call.symbol(1))
    y = F.conv2d(
        x, w, bias, stride=strides, padding=pads, dilation=dilations, groups=groups
    )  # fmt: skip
    return from_plane(y, len(shape))


def _kernel(call: Call) -> Ints:
    """The size of the kernel, which the attribute may repeat. Raises FormatError if it differs."""
    shape, weights = call.shape(0), call.shape(1)
    check_axes(call, shape)
    kernel = call.integers("kernel_shape", weights[2:])
    if len(weights) != len(shape) or kernel != weights[2:]:
        raise FormatError(
            f"{call.node.op}: weights {weights} and kernel_shape {kernel} do not fit images {shape}"
        )
    return kernel


@handler("ConvTranspose")
def conv_transpose(call: Call) -> Any:
    """X (N, C, …), W (C, M / group, …), B (M,): the input gradient of a cross-correlation.

    size = (n - 1)·stride + output_padding + (kernel - 1)·dilation + 1 - begin - end; where it is
    given (`output_shape`) or follows from auto_pad, the pads follow from it.
    """
    shape, kernel = call.shape(0), _kernel(call)
    size, axes = shape[2:], len(shape) - 2
    more = call.integers("output_padding", (0,) * axes)
    plain = window(call, size, kernel)
    wanted = _wanted(call, size, plain)
    blank: list[int] = [0] * axes
    if wanted is not None:
        pads = []
        for i, n in enumerate(size):
            whole = (n - 1) * plain.strides[i] + more[i]
            total = whole + dilated(kernel[i], plain.dilations[i]) - wanted[i]
            pads.append(split(max(0, total), call.text("auto_pad", "NOTSET")))
            blank[i] = max(0, -total)
        plain = Window(kernel, plain.strides, tuple(pads), plain.dilations)
    _, strides, sides, dilations = plain.of_plane()
    y = F.conv_transpose2d(
        as_plane(call.symbol(0)),
        as_plane(call.symbol(1)),
        stride=strides,
        padding=sides,
        output_padding=(more[0] if axes == 2 else 0, more[-1]),
        groups=call.integer("group", 1),
        dilation=dilations,
    )
    if any(blank):  # an output_shape beyond everything that the kernel reaches
        y = F.pad(y, (0, blank[-1], 0, blank[0] if axes == 2 else 0))
    if call.given(2):
        y = y + call.symbol(2).reshape(1, -1, 1, 1)
    return from_plane(y, len(shape))


def _wanted(call: Call, size: Ints, plain: Window) -> Ints | None:
    """The size of the output if it is prescribed."""
    if call.has("output_shape"):
        return call.integers("output_shape")[-len(size) :]
    if call.text("auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER"):
        return tuple(n * s for n, s in zip(size, plain.strides, strict=True))
    return None


@handler("Gemm", since=6)
def gemm(call: Call) -> Any:
    """alpha · A' · B' + beta · C, where ' transposes if transA or transB says so."""
    a, b = call.symbol(0), call.symbol(1)
    if call.integer("transA", 0):
        a = F.transpose(a, (1, 0))
    if not call.integer("transB", 0):
        b = F.transpose(b, (1, 0))
    alpha, beta = call.real("alpha", 1.0), call.real("beta", 1.0)
    row = call.given(2) and call.shape(2) in ((b.shape[0],), (1, b.shape[0]))
    if row and (alpha, beta) == (1, 1):  # a dense layer
        return F.linear(a, b, call.symbol(2).reshape(b.shape[0]))
    y = F.linear(a, b)
    y = y if alpha == 1 else y * alpha
    if not call.given(2) or beta == 0:
        return y
    c = call.operand(2, y.ndim)
    return y + (c if beta == 1 else c * beta)
