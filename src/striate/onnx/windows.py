"""The geometry that convolutions and poolings share: pads, strides, dilations of every axis.

Images with one axis are images of one row, so that everything below is two-dimensional; those with
three axes go through `volumes`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from striate.arith.padding import Pair, Sides, dilated
from striate.errors import FormatError, ShapeError
from striate.graph import Value
from striate.onnx.handling import Call, Ints

AUTO_PADS = ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID", "")


@dataclass(frozen=True)
class Window:
    """Kernel, strides, pads (begin, end) and dilations, one of each for every axis of the image."""

    kernel: Ints
    strides: Ints
    pads: tuple[Pair, ...]
    dilations: Ints

    def of_plane(self) -> tuple[Pair, Pair, Sides, Pair]:
        """The same of an image of two axes; one axis becomes a row."""
        rows = 2 - len(self.kernel)
        kernel, strides, dilations = (
            (1,) * rows + v for v in (self.kernel, self.strides, self.dilations)
        )
        pads = ((0, 0),) * rows + self.pads
        return _two(kernel), _two(strides), (pads[0], pads[1]), _two(dilations)

    def of_volume(self) -> Volume:
        """Kernel, strides and dilations of an image with three axes."""
        return Volume(_three(self.kernel), _three(self.strides), _three(self.dilations))


class Volume(NamedTuple):
    """A window of three axes."""

    kernel: tuple[int, int, int]
    strides: tuple[int, int, int]
    dilations: tuple[int, int, int]


def _three(numbers: Ints) -> tuple[int, int, int]:
    a, b, c = numbers
    return a, b, c


def _two(numbers: Ints) -> Pair:
    a, b = numbers
    return a, b


def check_axes(call: Call, shape: Ints) -> None:
    """Raise ShapeError or UnsupportedError unless an image has one, two or three axes."""
    if len(shape) < 3:
        raise ShapeError(f"{call.node.op} takes images (N, C, …), got shape {shape}")
    if len(shape) > 5:
        raise call.unsupported(f"images of shape {shape}", "one, two or three axes after N and C")


def as_plane(x: Value) -> Value:
    """(N, C, W) as (N, C, 1, W); (N, C, H, W) as it is."""
    return x if x.ndim == 4 else x.reshape(*x.shape[:2], 1, x.shape[2])


def from_plane(y: Value, ndim: int) -> Value:
    """Back to the number of axes that the input had."""
    return y if ndim == 4 else y.reshape(*y.shape[:2], y.shape[3])


def window(call: Call, size: Ints, kernel: Ints) -> Window:
    """The window of a node by its attributes, for images of `size`. Raises FormatError."""
    axes = len(size)
    strides = call.integers("strides", (1,) * axes)
    dilations = call.integers("dilations", (1,) * axes)
    auto = call.text("auto_pad", "NOTSET")
    pads = call.integers("pads", (0,) * 2 * axes)
    lengths = (len(kernel), len(strides), len(dilations), len(pads) // 2)
    if lengths != (axes,) * 4 or auto not in AUTO_PADS:
        raise FormatError(
            f"{call.node.op}: kernel {kernel}, strides {strides}, dilations {dilations}, pads "
            f"{pads} and auto_pad {auto!r} do not fit images with {axes} axes"
        )
    if auto in ("NOTSET", ""):
        sides = tuple(zip(pads[:axes], pads[axes:], strict=True))
    elif auto == "VALID":
        sides = ((0, 0),) * axes
    else:
        sides = tuple(
            same(n, k, s, d, auto)
            for n, k, s, d in zip(size, kernel, strides, dilations, strict=True)
        )
    return Window(kernel, strides, sides, dilations)


def same(n: int, kernel: int, stride: int, dilation: int, auto: str) -> Pair:
    """Pads that give ⌈n / stride⌉ outputs; the odd element at the end, or at the beginning."""
    outputs = -(-n // stride)
    return split(max(0, (outputs - 1) * stride + dilated(kernel, dilation) - n), auto)


def split(total: int, auto: str) -> Pair:
    """Both sides of a padding: with SAME_UPPER the odd element at the end, else the beginning."""
    less = total // 2
    return (less, total - less) if auto == "SAME_UPPER" else (total - less, less)
