"""Interpolation along one axis, by PyTorch's rules (its `interpolate`)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from striate.graph.ops.axismap import Rows, Rule


@dataclass(frozen=True)
class Resize1d(Rule):
    """Resample `in_size` elements to `outputs`.

    `mode`: "nearest", "nearest-exact", "linear" or "cubic". `scale` is the factor a user gave
    (output / input); None takes it from the sizes. `align_corners` maps the first and last
    centres onto each other. `antialias` (linear and cubic) widens the filter when shrinking.
    """

    in_size: int
    outputs: int
    mode: str
    align_corners: bool = False
    scale: float | None = None
    antialias: bool = False

    @property
    def out_size(self) -> int:
        """`outputs`."""
        return self.outputs

    def compute_rows(self) -> Rows:
        """The rows of the mode."""
        if self.mode in ("nearest", "nearest-exact"):
            return tuple(((i, 1.0),) for i in self._nearest())
        if self.antialias:
            return self._filtered()
        return self._linear() if self.mode == "linear" else self._cubic()

    def _step(self) -> float:
        """Input elements per output element."""
        if self.align_corners:
            return (self.in_size - 1) / (self.outputs - 1) if self.outputs > 1 else 0.0
        return 1 / self.scale if self.scale else self.in_size / self.outputs

    def _nearest(self) -> list[int]:
        # floor(j · step), or floor((j + 1/2) · step) for "nearest-exact", in float32 as PyTorch.
        # Its "nearest" leaves the given scale aside where the sizes are equal or twofold.
        if self.mode == "nearest" and self.outputs in (self.in_size, 2 * self.in_size):
            return [j * self.in_size // self.outputs for j in range(self.outputs)]
        step = np.float32(self._step())
        shift = np.float32(0.5 if self.mode == "nearest-exact" else 0.0)
        return [
            min(math.floor((np.float32(j) + shift) * step), self.in_size - 1)
            for j in range(self.outputs)
        ]

    def _source(self, j: int) -> float:
        """Where output j lies in the input: j · step, or (j + 1/2) · step - 1/2."""
        return j * self._step() if self.align_corners else (j + 0.5) * self._step() - 0.5

    def _linear(self) -> Rows:
        if self.in_size == self.outputs:
            return tuple(((j, 1.0),) for j in range(self.outputs))
        rows = []
        for j in range(self.outputs):
            source = max(self._source(j), 0.0)
            low = min(math.floor(source), self.in_size - 1)
            t = min(source - low, 1.0)
            rows.append(((low, 1 - t), (min(low + 1, self.in_size - 1), t)))
        return tuple(rows)

    def _cubic(self) -> Rows:
        # Keys' cubic convolution with a = -3/4; outside the image the border is repeated.
        rows = []
        for j in range(self.outputs):
            source = self._source(j)
            low = math.floor(source)
            taps = range(low - 1, low + 3)
            rows.append(
                tuple((min(max(i, 0), self.in_size - 1), cubic(source - i, -0.75)) for i in taps)
            )
        return tuple(rows)

    def _filtered(self) -> Rows:
        # A triangle or cubic (a = -1/2) filter, stretched by the step when that is above 1,
        # cut at the border and normalised. As in PyTorch, align_corners changes only the step.
        step = self._step()
        stretch = max(step, 1.0)
        kernel: Callable[[float], float] = triangle if self.mode == "linear" else _cubic_half
        support = (1.0 if self.mode == "linear" else 2.0) * stretch
        rows = []
        for j in range(self.outputs):
            centre = step * (j + 0.5)
            start = max(int(centre - support + 0.5), 0)
            stop = min(int(centre + support + 0.5), self.in_size)
            weights = [kernel((i - centre + 0.5) / stretch) for i in range(start, stop)]
            total = sum(weights)
            rows.append(tuple((start + t, weight / total) for t, weight in enumerate(weights)))
        return tuple(rows)


def triangle(x: float) -> float:
    """1 - |x| inside (-1, 1)."""
    return max(0.0, 1 - abs(x))


def cubic(x: float, a: float) -> float:
    """Keys' cubic convolution kernel.

    (a + 2)|x|³ - (a + 3)|x|² + 1 for |x| <= 1;  a|x|³ - 5a|x|² + 8a|x| - 4a for |x| < 2.
    R. G. Keys, Cubic convolution interpolation for digital image processing, 1981.
    """
    x = abs(x)
    if x <= 1:
        return ((a + 2) * x - (a + 3)) * x * x + 1
    if x < 2:
        return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return 0.0


def _cubic_half(x: float) -> float:
    return cubic(x, -0.5)
