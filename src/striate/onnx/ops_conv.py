"""Convolutions and dense layers."""

from __future__ import annotations

from typing import Any

import numpy as np

import striate.functional as F
from striate.arith.padding import Sides, dilated
from striate.errors import FormatError
from striate.graph import Value
from striate.graph.ops.axismap import AxisMap, Pad1d
from striate.onnx.handling import Call, Ints, handler
from striate.onnx.volumes import conv3d, conv_transpose3d
from striate.onnx.windows import Window, as_plane, check_axes, from_plane, split, window


@handler("Conv")
def conv(call: Call) -> Any:
    """X (N, C, …), W (M, C / group, …), B (M,): cross-correlation."""
    shape, kernel = call.shape(0), _kernel(call)
    plain = window(call, shape[2:], kernel)
    bias = call.symbol(2) if call.given(2) else None
    groups = call.integer("group", 1)
    if len(shape) == 5:
        x, w, ways = call.symbol(0), call.symbol(1), plain.of_volume()
        return conv3d(x, w, bias, ways.strides, plain.pads, ways.dilations, groups)
    _, strides, pads, dilations = plain.of_plane()
    x, w = as_plane(call.symbol(0)), as_plane(call.symbol(1))
    x, pads = absorbed(x, pads)
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
    if axes == 3:
        return _volume(call, plain, more, blank)
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


def _volume(call: Call, plain: Window, more: Ints, blank: list[int]) -> Value:
    """A transposed convolution of images with three axes."""
    if any(blank):
        raise call.unsupported("an output_shape beyond the kernel's reach", "a smaller one")
    bias = call.symbol(2) if call.given(2) else None
    ways, extra = plain.of_volume(), (more[0], more[1], more[2])
    groups = call.integer("group", 1)
    return conv_transpose3d(
        call.symbol(0),
        call.symbol(1),
        bias,
        ways.strides,
        plain.pads,
        extra,
        ways.dilations,
        groups,
    )


def absorbed(x: Value, pads: Sides) -> tuple[Value, Sides]:
    """An image before it was padded with zeros, and all of its padding: it is the convolution's."""
    sides = list(pads)
    while isinstance(x.node.op, AxisMap) and isinstance(x.node.op.rule, Pad1d):
        rule, i = x.node.op.rule, x.node.op.axis - 2
        if rule.mode != "zeros" or min(rule.begin, rule.end) < 0:
            break
        sides[i] = (sides[i][0] + rule.begin, sides[i][1] + rule.end)
        (x,) = x.node.inputs
    return x, (sides[0], sides[1])


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


@handler("MatMul")
def matmul(call: Call) -> Any:
    """The product of matrices, or of stacks of them, as NumPy's matmul."""
    if call.all_known:
        return np.matmul(call.array(0), call.array(1))
    return F.matmul(call.symbol(0), call.symbol(1))
