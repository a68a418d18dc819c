"""Copying the rows that a unit of work reads, with their zero border.

Shared by the convolution kernels: a bordered copy makes every window whole, so the inner loops
know no edges. The copy touches each input once, the products many times.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from striate.ir import vec
from striate.ir.kernel import I64, PTR, Int, IntLike, Kernel, Ptr


def copy_function(k: Kernel) -> Any:
    """Inner function copy(to, from, count): vectors, then a masked rest."""
    inner = k.unit.function("copy", [PTR, PTR, I64])
    to, source, count = inner.function.args
    src, dst, n = Ptr(inner, source), Ptr(inner, to), Int(inner, count)
    whole = n // inner.lanes * inner.lanes
    with inner.loop(0, whole, inner.lanes) as i:
        vec.store(inner, vec.load(inner, src.at(i)), dst.at(i))
    with inner.when(whole < n):
        rest = vec.mask(inner, n - whole)
        vec.store_masked(inner, vec.load_masked(inner, src.at(whole), rest), dst.at(whole), rest)
    inner.finish()
    return inner.function


def zero_function(k: Kernel) -> Any:
    """Inner function zero(to, count)."""
    inner = k.unit.function("zero", [PTR, I64])
    dst, n = Ptr(inner, inner.function.args[0]), Int(inner, inner.function.args[1])
    nothing = vec.constant(inner, 0.0)
    whole = n // inner.lanes * inner.lanes
    with inner.loop(0, whole, inner.lanes) as i:
        vec.store(inner, nothing, dst.at(i))
    with inner.when(whole < n):
        vec.store_masked(inner, nothing, dst.at(whole), vec.mask(inner, n - whole))
    inner.finish()
    return inner.function


class Source(NamedTuple):
    """Rows of the input: of the image, or of a bordered copy. `x` is the row `top`."""

    x: Ptr
    top: Int
    pitch: Int

    def line(self, row: Int) -> Ptr:
        """Where a row of the image begins."""
        return self.x.at((row - self.top) * self.pitch)


@dataclass
class Border:
    """Copies rows of one NHWC image; `ci` channels of one of `groups` groups a pixel."""

    k: Kernel
    ci: int
    groups: int

    def __post_init__(self) -> None:
        self.copy, self.zero = copy_function(self.k), zero_function(self.k)

    def pack(
        self,
        image: Ptr,
        to: Ptr,
        *,
        size: tuple[Int, Int],
        top: Int,
        height: Int,
        pad_left: Int,
        width: Int,
        group: IntLike,
    ) -> None:
        """Rows top … top+height−1, columns −pad_left … −pad_left+width−1 of `image` → `to`.

        `size` is (height, width) of the image; what lies outside of it is zero.
        """
        k, pixel = self.k, self.ci
        left = pad_left.max(0).min(width)
        right = (size[1] + pad_left).max(left).min(width)
        with k.loop(0, height) as r:
            row, target = top + r, to.at(r * width * pixel)
            with k.either(k.every(row >= 0, row < size[0])) as (inside, outside):
                with inside:
                    source = image.at((row * size[1] + left - pad_left) * (pixel * self.groups))
                    k.call(self.zero, target, left * pixel)
                    self._copy_pixels(source, target.at(left * pixel), right - left, group)
                    k.call(self.zero, target.at(right * pixel), (width - right) * pixel)
                with outside:
                    k.call(self.zero, target, width * pixel)

    def _copy_pixels(self, source: Ptr, target: Ptr, count: Int, group: IntLike) -> None:
        k, pixel = self.k, self.ci
        if self.groups == 1:
            k.call(self.copy, target, source, count * pixel)
            return
        first = source.at(k.int(group) * pixel)
        with k.loop(0, count) as j:
            k.call(
                self.copy, target.at(j * pixel), first.at(j * (pixel * self.groups)), k.int(pixel)
            )
