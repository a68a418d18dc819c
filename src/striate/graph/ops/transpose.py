"""Axes in another order, and channels in another order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from striate.errors import ArgumentError, ShapeError
from striate.graph.ops.shape import Reshape, normalise_axis
from striate.graph.value import Array, Node, Op, TensorType, Value


@dataclass(frozen=True)
class Transpose(Op):
    """Axis i of the result is axis `axes[i]` of the input."""

    axes: tuple[int, ...]

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        """The sizes in the new order."""
        (x,) = inputs
        if sorted(self.axes) != list(range(len(x.shape))):
            raise ShapeError(f"axes {self.axes} are no order of the axes of shape {x.shape}")
        return (TensorType(tuple(x.shape[a] for a in self.axes), x.dtype),)

    def numpy(self, *arrays: Array) -> tuple[Array, ...]:
        """NumPy's transpose."""
        return (np.transpose(arrays[0], self.axes),)

    def grad(self, node: Node, *g: Value | None) -> tuple[Value | None, ...]:
        """Every axis back to its place."""
        back = tuple(self.axes.index(i) for i in range(len(self.axes)))
        return (None if g[0] is None else Transpose(back)(g[0]),)


@dataclass(frozen=True)
class ShuffleChannels(Op):
    """Channel i·groups + g of the result is channel g·(c / groups) + i of the image.

    It is what reshape to (n, groups, c / groups, h, w), transpose(0, 2, 1, 3, 4) and reshape back
    amount to, in the memory order of images (ShuffleNet, arXiv:1707.01083, section 3.1).
    """

    groups: int

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        """The input's type."""
        (x,) = inputs
        if len(x.shape) != 4 or x.shape[1] % self.groups:
            raise ShapeError(
                f"{self.groups} groups of channels cannot be shuffled in shape {x.shape}"
            )
        return inputs

    def numpy(self, *arrays: Array) -> tuple[Array, ...]:
        """By reshape and transpose."""
        (x,) = arrays
        n, c, h, w = x.shape
        groups = x.reshape(n, self.groups, c // self.groups, h, w)
        return (groups.swapaxes(1, 2).reshape(x.shape),)

    def grad(self, node: Node, *g: Value | None) -> tuple[Value | None, ...]:
        """The shuffle that undoes it has as many groups as these had channels."""
        inverse = ShuffleChannels(node.inputs[0].shape[1] // self.groups)
        return (None if g[0] is None else inverse(g[0]),)


def transpose(x: Value, axes: Sequence[int] | None = None) -> Value:
    """`x` with its axes in another order (default: reversed). Raises ArgumentError."""
    order = tuple(range(x.ndim))[::-1] if axes is None else tuple(axes)
    if not all(hasattr(a, "__index__") for a in order):
        raise ArgumentError(f"transpose: axes must be ints, got {order!r}")
    order = tuple(normalise_axis(int(a), x.ndim) for a in order)
    if sorted(order) != list(range(x.ndim)):
        raise ArgumentError(
            f"transpose: axes must name each of the {x.ndim} axes of shape {x.shape} once, "
            f"got {order}"
        )
    return x if order == tuple(range(x.ndim)) else Transpose(order)(x)


def shuffle_of(node: Node) -> ShuffleChannels | None:
    """What a reshape of a transpose of a reshape of images is, if it is a channel shuffle."""
    inner: Any = node.inputs[0].node if isinstance(node.op, Reshape) else None
    if inner is None or inner.op != Transpose((0, 2, 1, 3, 4)):
        return None
    split = inner.inputs[0]
    if not isinstance(split.node.op, Reshape):
        return None
    image = split.node.inputs[0].shape
    groups = split.shape[1]
    whole = len(image) == 4 and node.types[0].shape == image
    if whole and split.shape == (image[0], groups, image[1] // groups, *image[2:]):
        return ShuffleChannels(groups)
    return None
