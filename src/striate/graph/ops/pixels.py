"""Pictures of bytes as images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from striate.errors import DTypeError, ShapeError
from striate.graph.value import Array, Node, Op, TensorType, Value
from striate.pixels import normalised


@dataclass(frozen=True)
class NormalisePixels(Op):
    """u8 pictures (N, H, W, C) as f32 images (N, C, H, W): (v / 255 − mean) / std.

    `mean` and `std` have a number for each channel.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        """The channel axis is put second."""
        (pictures,) = inputs
        if pictures.dtype != "u8":
            raise DTypeError(f"pictures must be u8, got {pictures}")
        if len(pictures.shape) != 4 or pictures.shape[3] != len(self.mean):
            raise ShapeError(f"pictures must be (N, H, W, {len(self.mean)}), got {pictures.shape}")
        n, h, w, c = pictures.shape
        return (TensorType((n, c, h, w)),)

    def numpy(self, *arrays: Array) -> tuple[Array, ...]:
        """As the recipe of a data set does it, in float32."""
        (pictures,) = arrays
        return (normalised(pictures, self.mean, self.std),)

    def levels(self) -> Array:
        """(C, 256) f32: what each byte becomes in each channel."""
        channels = len(self.mean)
        each = np.repeat(np.arange(256, dtype=np.uint8), channels).reshape(1, 1, 256, channels)
        return self.numpy(each)[0].reshape(channels, 256)

    def grad(self, node: Node, *g: Value | None) -> tuple[Value | None, ...]:
        """None: bytes have no gradient."""
        return (None,)
