"""Max pooling over tables of windows, so that strided, dilated and adaptive pooling are one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from striate.arith.pool import Window
from striate.errors import DTypeError, ShapeError
from striate.graph.value import Array, Node, Op, TensorType, Value


@dataclass(frozen=True)
class _Windows(Op):
    windows_h: tuple[Window, ...]
    windows_w: tuple[Window, ...]

    def out_shape(self, x: TensorType) -> tuple[int, ...]:
        """(N, C, output rows, output columns). Raises ShapeError."""
        if x.dtype != "f32":
            raise DTypeError(f"max pooling takes f32, got {x}")
        if len(x.shape) != 4:
            raise ShapeError(f"max pooling takes images (N, C, H, W), got {x.shape}")
        for size, windows in zip(x.shape[2:], (self.windows_h, self.windows_w), strict=True):
            for start, stop, _ in windows:
                if start < stop and not 0 <= start < stop <= size:
                    raise ShapeError(f"window {start}:{stop} lies outside the size {size}")
        return (*x.shape[:2], len(self.windows_h), len(self.windows_w))

    def best(self, x: Array) -> tuple[Array, Array]:
        """Maximum and its flat index h · W + w in the plane, for each window.

        The elements are visited row by row; one takes over if it is greater or NaN. An empty
        window gives -inf and the index -1.
        """
        shape = (*x.shape[:2], len(self.windows_h), len(self.windows_w))
        largest = np.full(shape, -np.inf, x.dtype)
        index = np.full(shape, -1, np.int32)
        rows, rows_valid = _taps(self.windows_h)
        cols, cols_valid = _taps(self.windows_w)
        for row, row_valid in zip(rows, rows_valid, strict=True):
            for col, col_valid in zip(cols, cols_valid, strict=True):
                value = x[:, :, row[:, None], col[None, :]]
                takes = (value > largest) | np.isnan(value) | (index < 0)
                takes &= row_valid[:, None] & col_valid[None, :]
                largest = np.where(takes, value, largest)
                index = np.where(takes, row[:, None] * x.shape[3] + col[None, :], index)
        return largest, index.astype(np.int32)

    def __str__(self) -> str:
        return f"{type(self).__name__}({len(self.windows_h)}x{len(self.windows_w)} windows)"


def _taps(windows: tuple[Window, ...]) -> tuple[Array, Array]:
    """The t-th element of every window, (taps, windows), and whether the window has one."""
    count = max(len(range(*w)) for w in windows)
    index = np.zeros((count, len(windows)), np.int64)
    valid = np.zeros((count, len(windows)), bool)
    for j, window in enumerate(windows):
        for t, i in enumerate(range(*window)):
            index[t, j], valid[t, j] = i, True
    return index, valid


@dataclass(frozen=True)
class MaxPool(_Windows):
    """The largest element of every window of x (N, C, H, W); a NaN in a window gives NaN."""

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        """(N, C, output rows, output columns)."""
        return (TensorType(self.out_shape(inputs[0])),)

    def numpy(self, *arrays: Array) -> tuple[Array, ...]:
        """See `best`."""
        return (self.best(arrays[0])[0],)

    def grad(self, node: Node, *g: Value | None) -> tuple[Value | None, ...]:
        """All of g to the element that was chosen."""
        if g[0] is None:
            return (None,)
        return (MaxPoolGrad(self.windows_h, self.windows_w)(node.inputs[0], g[0]),)


@dataclass(frozen=True)
class MaxPoolIndices(_Windows):
    """Index h · W + w (i32, in the plane) of the element that MaxPool chooses."""

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        """(N, C, output rows, output columns), i32."""
        return (TensorType(self.out_shape(inputs[0]), "i32"),)

    def numpy(self, *arrays: Array) -> tuple[Array, ...]:
        """See `best`."""
        return (self.best(arrays[0])[1],)

    def grad(self, node: Node, *g: Value | None) -> tuple[Value | None, ...]:
        """None."""
        return (None,)


@dataclass(frozen=True)
class MaxPoolGrad(_Windows):
    """Gradient of MaxPool from x and dy: dy added up at the chosen elements."""

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        """The shape of x."""
        x, dy = inputs
        if dy != TensorType(self.out_shape(x)):
            raise ShapeError(f"dy must have the shape {self.out_shape(x)}, got {dy}")
        return (x,)

    def numpy(self, *arrays: Array) -> tuple[Array, ...]:
        """Scatter, summed in float64."""
        x, dy = arrays
        n, c, h, w = x.shape
        index = self.best(x)[1].reshape(n * c, -1)
        planes, at = np.nonzero(index >= 0)
        dx = np.zeros((n * c, h * w))
        np.add.at(dx, (planes, index[planes, at]), dy.reshape(n * c, -1)[planes, at])
        return (dx.reshape(x.shape).astype(x.dtype),)
