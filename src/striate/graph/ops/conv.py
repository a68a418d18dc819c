"""Two-dimensional cross-correlation and its two gradients.

All three are the same sum over (x, w, y) read in three ways, so each is a gradient of the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from striate.arith.conv import ConvShape
from striate.arith.padding import Pair, Sides
from striate.errors import DTypeError, ShapeError
from striate.graph.value import Array, Node, Op, TensorType, Value


@dataclass(frozen=True)
class _Conv(Op):
    stride: Pair = (1, 1)
    padding: Sides = ((0, 0), (0, 0))
    dilation: Pair = (1, 1)
    groups: int = 1

    def conv_shape(self, x: tuple[int, ...], w: tuple[int, ...]) -> ConvShape:
        """The arithmetic of images `x` and weights `w`. Raises ShapeError."""
        if len(x) != 4 or len(w) != 4:
            raise ShapeError(
                f"a convolution takes images (N, C, H, W) and weights (co, ci/groups, "
                f"kh, kw), got {x} and {w}"
            )
        if x[1] != w[1] * self.groups:
            raise ShapeError(
                f"the image has {x[1]} channels, but the weights {w} with groups={self.groups} "
                f"take {w[1]} * {self.groups} = {w[1] * self.groups}"
            )
        return ConvShape(*x, w[0], *w[2:], self.stride, self.padding, self.dilation, self.groups)

    def taps(self, out: Pair, kernel: Pair) -> Iterator[tuple[int, int, tuple[slice, slice]]]:
        """Each tap (a, b), with the rows and columns of the padded image it meets."""
        (sh, sw), (dh, dw) = self.stride, self.dilation
        for a in range(kernel[0]):
            for b in range(kernel[1]):
                rows = slice(a * dh, a * dh + (out[0] - 1) * sh + 1, sh)
                cols = slice(b * dw, b * dw + (out[1] - 1) * sw + 1, sw)
                yield a, b, (rows, cols)

    def split(self, x: Array) -> Array:
        """(N, C, H, W) as (N, groups, C / groups, H · W) in float64, for sums rounded once."""
        n, c, h, w = x.shape
        return x.astype(np.float64).reshape(n, self.groups, c // self.groups, h * w)

    def tap_weights(self, w: Array, a: int, b: int) -> Array:
        """Weights of one tap, (groups, co / groups, ci / groups), in float64."""
        return w[:, :, a, b].astype(np.float64).reshape(self.groups, -1, w.shape[1])

    def pad(self, x: Array) -> Array:
        """Zeros around the image."""
        return np.pad(x, ((0, 0), (0, 0), *self.padding))


def _check(types: tuple[TensorType, ...]) -> None:
    for t in types:
        if t.dtype != "f32":
            raise DTypeError(f"a convolution takes f32, got {t}")


@dataclass(frozen=True)
class Conv2d(_Conv):
    """Cross-correlation of x (n, ci, h, w) with w (co, ci / groups, kh, kw); see `ConvShape`."""

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        """(n, co, out_h, out_w)."""
        _check(inputs)
        x, w = inputs
        s = self.conv_shape(x.shape, w.shape)
        return (TensorType((s.n, s.co, s.out_h, s.out_w)),)

    def numpy(self, *arrays: Array) -> tuple[Array, ...]:
        """y = Σ over taps of w[tap] · (x shifted to the tap)."""
        x, w = arrays
        s = self.conv_shape(x.shape, w.shape)
        padded = self.pad(x)
        y = np.zeros((s.n, s.groups, s.co // s.groups, s.out_h * s.out_w))
        with np.errstate(all="ignore"):
            for a, b, (rows, cols) in self.taps((s.out_h, s.out_w), (s.kh, s.kw)):
                y += self.tap_weights(w, a, b) @ self.split(padded[:, :, rows, cols])
            return (y.reshape(s.n, s.co, s.out_h, s.out_w).astype(x.dtype),)

    def grad(self, node: Node, *g: Value | None) -> tuple[Value | None, ...]:
        """dx and dw by the other two operations."""
        x, w = node.inputs
        if g[0] is None:
            return (None, None)
        return input_grad(self, g[0], w, x), weight_grad(self, x, g[0], w)

    def macs(self, *inputs: TensorType) -> int:
        """As `ConvShape.macs`."""
        return self.conv_shape(inputs[0].shape, inputs[1].shape).macs


@dataclass(frozen=True)
class ConvInputGrad(_Conv):
    """Gradient dx (n, ci, in_h, in_w) from dy (n, co, out_h, out_w) and w.

    It is also the transposed convolution of dy with w, w's first axis being dy's channels.
    """

    in_h: int = 0
    in_w: int = 0

    def forward_shape(self, dy: tuple[int, ...], w: tuple[int, ...]) -> ConvShape:
        """The convolution whose gradient this is. Raises ShapeError when dy does not fit it."""
        if len(dy) != 4 or len(w) != 4 or dy[1] != w[0]:
            raise ShapeError(
                f"the image {dy} must have as many channels as the weights {w} have on their "
                "first axis"
            )
        x = (dy[0], w[1] * self.groups, self.in_h, self.in_w)
        s = self.conv_shape(x, w)
        if (s.out_h, s.out_w) != dy[2:]:
            raise ShapeError(
                f"a convolution of {x} with {w} gives {(s.out_h, s.out_w)}, not {dy[2:]}"
            )
        return s

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        """(n, ci, in_h, in_w)."""
        _check(inputs)
        s = self.forward_shape(inputs[0].shape, inputs[1].shape)
        return (TensorType((s.n, s.ci, s.h, s.w)),)

    def numpy(self, *arrays: Array) -> tuple[Array, ...]:
        """Each tap adds w[tap]ᵀ · dy to the places of the padded image it met."""
        dy, w = arrays
        s = self.forward_shape(dy.shape, w.shape)
        (top, bottom), (left, right) = self.padding
        padded = np.zeros((s.n, s.ci, s.h + top + bottom, s.w + left + right))
        flat = self.split(dy)
        with np.errstate(all="ignore"):
            for a, b, (rows, cols) in self.taps((s.out_h, s.out_w), (s.kh, s.kw)):
                part = self.tap_weights(w, a, b).transpose(0, 2, 1) @ flat
                padded[:, :, rows, cols] += part.reshape(s.n, s.ci, s.out_h, s.out_w)
            return (padded[:, :, top : top + s.h, left : left + s.w].astype(dy.dtype),)

    def grad(self, node: Node, *g: Value | None) -> tuple[Value | None, ...]:
        """d dy is the convolution of g with w; dw is as for it."""
        dy, w = node.inputs
        if g[0] is None:
            return (None, None)
        forward = Conv2d(self.stride, self.padding, self.dilation, self.groups)
        return forward(g[0], w), weight_grad(self, g[0], dy, w)

    def macs(self, *inputs: TensorType) -> int:
        """As of the convolution whose gradient this is."""
        return self.forward_shape(inputs[0].shape, inputs[1].shape).macs


@dataclass(frozen=True)
class ConvWeightGrad(_Conv):
    """Gradient dw (co, ci / groups, kh, kw) from x (n, ci, h, w) and dy (n, co, out_h, out_w)."""

    kh: int = 0
    kw: int = 0

    def forward_shape(self, x: tuple[int, ...], dy: tuple[int, ...]) -> ConvShape:
        """The convolution whose gradient this is. Raises ShapeError when dy does not fit it."""
        if len(x) != 4 or len(dy) != 4:
            raise ShapeError(f"x and dy must be images (N, C, H, W), got {x} and {dy}")
        w = (dy[1], x[1] // self.groups, self.kh, self.kw)
        s = self.conv_shape(x, w)
        if (s.n, s.co, s.out_h, s.out_w) != dy:
            raise ShapeError(
                f"a convolution of {x} with {w} gives {(s.n, s.co, s.out_h, s.out_w)}, not {dy}"
            )
        return s

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        """(co, ci / groups, kh, kw)."""
        _check(inputs)
        s = self.forward_shape(inputs[0].shape, inputs[1].shape)
        return (TensorType((s.co, s.ci // s.groups, s.kh, s.kw)),)

    def numpy(self, *arrays: Array) -> tuple[Array, ...]:
        """dw[tap] = Σ over images of dy · (x shifted to the tap)ᵀ."""
        x, dy = arrays
        s = self.forward_shape(x.shape, dy.shape)
        padded, flat = self.pad(x), self.split(dy)
        dw = np.zeros((s.co, s.ci // s.groups, s.kh, s.kw))
        with np.errstate(all="ignore"):
            for a, b, (rows, cols) in self.taps((s.out_h, s.out_w), (s.kh, s.kw)):
                shifted = self.split(padded[:, :, rows, cols])
                products = flat @ shifted.transpose(0, 1, 3, 2)
                dw[:, :, a, b] = products.sum(axis=0).reshape(s.co, s.ci // s.groups)
            return (dw.astype(x.dtype),)

    def grad(self, node: Node, *g: Value | None) -> tuple[Value | None, ...]:
        """dx and d dy with g in the place of the weights."""
        x, dy = node.inputs
        if g[0] is None:
            return (None, None)
        forward = Conv2d(self.stride, self.padding, self.dilation, self.groups)
        return input_grad(self, dy, g[0], x), forward(x, g[0])

    def macs(self, *inputs: TensorType) -> int:
        """As of the convolution whose gradient this is."""
        return self.forward_shape(inputs[0].shape, inputs[1].shape).macs


def input_grad(op: _Conv, dy: Value, w: Value, x: Value) -> Value:
    """Gradient of a convolution for its image `x`."""
    h, width = x.shape[2:]
    return ConvInputGrad(op.stride, op.padding, op.dilation, op.groups, h, width)(dy, w)


def weight_grad(op: _Conv, x: Value, dy: Value, w: Value) -> Value:
    """Gradient of a convolution for its weights `w`."""
    kh, kw = w.shape[2:]
    return ConvWeightGrad(op.stride, op.padding, op.dilation, op.groups, kh, kw)(x, dy)
