"""Resize along one axis by ONNX's rules (operator Resize, versions 10 to 19)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from striate.graph.ops.axismap import Rows, Rule
from striate.graph.ops.resize import cubic, triangle


@dataclass(frozen=True)
class Resample1d(Rule):
    """`outputs` elements of `in_size`, `scale` times as many before rounding.

    Attributes:
        mode: "nearest", "linear" or "cubic".
        where: coordinate_transformation_mode, which maps an output to a place in the input.
        nearest: nearest_mode, for a place between two elements.
        a: cubic_coeff_a.
        exclude_outside: whether elements outside the image have no weight; else the border counts.
        antialias: widen the filter when shrinking.
        roi: start and end of what is resized, as shares of the axis, for "tf_crop_and_resize".
    """

    in_size: int
    outputs: int
    scale: float
    mode: str
    where: str
    nearest: str = "round_prefer_floor"
    a: float = -0.75
    exclude_outside: bool = False
    antialias: bool = False
    roi: tuple[float, float] = (0.0, 1.0)

    @property
    def out_size(self) -> int:
        """`outputs`."""
        return self.outputs

    def source(self, j: int) -> float:
        """Where output j lies in the input."""
        length, size = self.scale * self.in_size, self.in_size
        if self.where == "align_corners":
            return 0.0 if length == 1 else j * (size - 1) / (length - 1)
        if self.where == "asymmetric":
            return j / self.scale
        if self.where == "tf_crop_and_resize":
            start, end = self.roi
            if length == 1:
                return (start + end) * (size - 1) / 2
            return start * (size - 1) + j * (end - start) * (size - 1) / (length - 1)
        if self.where == "pytorch_half_pixel" and self.outputs == 1:
            return 0.0
        if self.where == "tf_half_pixel_for_nn":
            return (j + 0.5) / self.scale
        place = (j + 0.5) / self.scale - 0.5
        if self.where == "half_pixel_symmetric":
            return place + size / 2 * (1 - self.outputs / length)
        return place  # half_pixel

    def outside(self, j: int) -> bool:
        """Whether output j is the extrapolation value."""
        return self.where == "tf_crop_and_resize" and not 0 <= self.source(j) <= self.in_size - 1

    def compute_rows(self) -> Rows:
        """The rows of the mode; nothing for what is extrapolated."""
        places = [None if self.outside(j) else self.source(j) for j in range(self.outputs)]
        return tuple(() if place is None else self._row(place) for place in places)

    def _row(self, place: float) -> tuple[tuple[int, float], ...]:
        if self.mode == "nearest":
            return ((self._inside(self._nearest(place)), 1.0),)
        low = math.floor(place)
        shrunk = min(self.scale, 1.0) if self.antialias else 1.0
        reach = (1 if self.mode == "linear" else 2) / shrunk
        first = math.floor(-reach) + 1
        if self.antialias and place == low:
            low -= 1  # as many elements before as behind, counted from the one below
        taps = range(low + first, low + 2 - first)
        weights = [self._weight((i - place) * shrunk) for i in taps]
        if self.exclude_outside:
            size = self.in_size
            weights = [w if 0 <= i < size else 0.0 for i, w in zip(taps, weights, strict=True)]
        total = sum(weights) if self.antialias or self.exclude_outside else 1.0
        return tuple((self._inside(i), w / total) for i, w in zip(taps, weights, strict=True) if w)

    def _weight(self, distance: float) -> float:
        return triangle(distance) if self.mode == "linear" else cubic(distance, self.a)

    def _nearest(self, place: float) -> int:
        if self.nearest == "round_prefer_floor":
            return math.ceil(place - 0.5)
        if self.nearest == "round_prefer_ceil":
            return math.floor(place + 0.5)
        return math.floor(place) if self.nearest == "floor" else math.ceil(place)

    def _inside(self, i: int) -> int:
        return min(max(i, 0), self.in_size - 1)
