"""Input patches of Winograd convolutions, and their transform V = Bᵀ d B.

Shared by the forward kernel, which is also the input gradient, and the weight gradient. About 10
FLOPs an element of a patch; a patch overlaps its neighbours by taps − 1 rows and columns.

With a stride s a patch has s·side rows and columns of the image, and V has the channels of all
phases: [phase row][phase column][ci]. Pixels of one phase row that are neighbours in the image lie
side by side in memory, so s·ci channels are one run. A few channels (RGB pictures) are put
together from the s rows in one vector, by loads that leave each other's lanes alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

from striate.arith.cook_toom import Filtering
from striate.arith.rounding import partial_sums
from striate.ir import vec
from striate.ir.kernel import I64, PTR, Int, Kernel, Ptr
from striate.kernels.border import Border
from striate.kernels.gemm import ALIASING_BYTES
from striate.kernels.linear import combine
from striate.kernels.micro import LINE
from striate.kernels.span import load

Number = TypeVar("Number", int, Int)

X = 0


def pitch_of(ci: int, lanes: int, filtering: Filtering) -> int:
    """Elements from one tile to the next in V: whole vectors, not a multiple of 2 KiB."""
    run = filtering.stride * ci
    last = run if filtering.stride * run <= lanes else -(-run // lanes) * lanes
    whole = -(-((filtering.stride - 1) * run + last) // lanes) * lanes
    return whole + lanes if whole * 4 % ALIASING_BYTES == 0 else whole


@dataclass(frozen=True)
class Sums:
    """The partial sums over the channels of V: the bounds of all but the last are whole lines.

    `apart`: V is [partial sum][point][tile][channel], so that what the products of one partial
    sum read lies together. Otherwise it is [point][tile][channel].
    """

    depth: int
    apart: bool = True

    @staticmethod
    def of(ci: int, filtering: Filtering) -> Sums:
        """Those of a convolution; the phases of a stride lie across the bounds."""
        return Sums(filtering.phases * ci, apart=filtering.stride == 1)

    @property
    def count(self) -> int:
        """How many."""
        return partial_sums(self.depth)

    @property
    def unit(self) -> int:
        """What divides the numbers of channels of all of them."""
        return math.gcd(LINE, self.depth)

    def start(self, i: Int) -> Int:
        """First channel of partial sum i."""
        return i * self.depth // (self.count * LINE) * LINE

    def stop(self, i: Int) -> Int:
        """The channel after its last."""
        k, following = i.k, self.start(i + 1)
        if i.known:
            return k.int(self.depth) if i.v == self.count - 1 else following
        last = (i + 1).equals(self.count)
        return Int(k, k.b.select(last, k.int(self.depth).ir, following.ir))

    @property
    def longest(self) -> int:
        """Channels of the longest."""
        bounds = [i * self.depth // (self.count * LINE) * LINE for i in range(self.count)]
        return max(b - a for a, b in pairwise([*bounds, self.depth]))

    def pitch(self, lanes: int, filtering: Filtering) -> int:
        """Elements from one tile to the next in V."""
        if self.apart:
            return -(-self.longest // lanes) * lanes
        return pitch_of(self.depth // filtering.phases, lanes, filtering)

    def room(self, tiles: int, lanes: int, filtering: Filtering) -> int:
        """Elements of V for so many tiles."""
        pitch = self.pitch(lanes, filtering)
        return (self.count if self.apart else 1) * filtering.points * step_of(tiles, pitch)


def step_of(tiles: Number, pitch: int) -> Number:
    """Elements from one point to the next of V, Z or M: room for `tiles`, an odd number of lines.

    A transform touches all points of a tile at once. With a power of two between them they would
    fall into a few sets of the L1 cache.
    """
    return ((tiles * pitch + (LINE - 1)) // (2 * LINE) * 2 + 1) * LINE


class Grid:
    """The tiles of tile×tile outputs of all images of the batch, numbered through.

    With a dilation d a tile's outputs lie d apart, and d tiles side by side fill tile·d columns.
    """

    def __init__(self, s: dict[str, Int], tile: int, dilation: int = 1) -> None:
        self.tile, self.dilation = tile, dilation
        whole = tile * dilation
        self.across = s["cols"].ceil_div(whole) * dilation
        self.down = s["rows"].ceil_div(whole) * dilation
        self.tiles = s["n"] * self.down * self.across

    def place(self, tile: Int) -> tuple[Int, Int, Int]:
        """(image, first output row, first output column) of a tile."""
        x, rest = tile % self.across, tile // self.across
        return rest // self.down, self._first(rest % self.down), self._first(x)

    def _first(self, number: Int) -> Int:
        """First row or column of the tiles with this number along the axis."""
        d = self.dilation
        return number // d * (self.tile * d) + number % d if d > 1 else number * self.tile


class Patches:
    """Transforms the patch under a tile; `s` has the sizes in_h, in_w, pad_top and pad_left.

    V is [point][tile][channel], or as `sums` orders it.
    """

    def __init__(
        self,
        k: Kernel,
        ci: int,
        s: dict[str, Int],
        filtering: Filtering,
        sums: Sums | None = None,
    ) -> None:
        self.k, self.ci, self.s, self.filtering = k, ci, s, filtering
        self.sums = sums if sums is not None and sums.apart else None
        self.size = filtering.side * filtering.stride
        self.border = Border(k, ci, 1)
        self.into = self._function()

    def transform(self, n: Int, row: Int, col: Int, v: Ptr, patch: Ptr, step: Int) -> None:
        """V of the patch of the tile at (row, col) of image n, points `step` elements apart.

        A patch that leaves the image is copied to `patch` with its zero border first.
        """
        k, s, ci, size = self.k, self.s, self.ci, self.size
        if self.filtering.dilation > 1:
            self._gather(n, row - s["pad_top"], col - s["pad_left"], patch)
            k.call(self.into, patch, k.int(size * ci), v, step)
            return
        top = row * self.filtering.stride - s["pad_top"]
        left = col * self.filtering.stride - s["pad_left"]
        image = k.buffer(X).at(n * s["in_h"] * s["in_w"] * ci)
        inside = k.every(top >= 0, left >= 0, top + size <= s["in_h"], left + size <= s["in_w"])
        with k.when(k.b.not_(inside)):
            self.border.pack(
                image,
                patch,
                size=(s["in_h"], s["in_w"]),
                top=top,
                height=k.int(size),
                pad_left=0 - left,
                width=k.int(size),
                group=0,
            )
        source = k.select(inside, image.at((top * s["in_w"] + left) * ci), patch)
        k.call(self.into, source, k.select(inside, s["in_w"] * ci, k.int(size * ci)), v, step)

    def _gather(self, n: Int, top: Int, left: Int, patch: Ptr) -> None:
        """The pixels of a patch that lie `dilation` apart, side by side; zeros outside."""
        k, s, ci, d = self.k, self.s, self.ci, self.filtering.dilation
        image = k.buffer(X).at(n * s["in_h"] * s["in_w"] * ci)
        with k.loop(0, self.size) as i, k.loop(0, self.size) as j:
            row, col, to = top + i * d, left + j * d, patch.at((i * self.size + j) * ci)
            there = k.every(row >= 0, row < s["in_h"], col >= 0, col < s["in_w"])
            with k.either(there) as (inside, outside):
                with inside:
                    place = (row * s["in_w"] + col) * ci
                    k.call(self.border.copy, to, image.at(place), k.int(ci))
                with outside:
                    k.call(self.border.zero, to, k.int(ci))

    def _function(self) -> Any:
        """into(patch, row pitch, v, step from point to point): all channels of one patch."""
        k = self.k.unit.function("into", [PTR, I64, PTR, I64])
        args = k.function.args
        source, pitch, v, step = Ptr(k, args[0]), Int(k, args[1]), Ptr(k, args[2]), Int(k, args[3])
        stride, run = self.filtering.stride, self.filtering.stride * self.ci
        held = k.stack(self.filtering.points * k.lanes)

        def channels(first: Ptr, c: Int, to: Ptr, on: Any) -> None:
            def pixel(i: int, j: int) -> Any:
                return load(k, first.at(pitch * (i * stride)).at(c).at(j * run), on)

            self._transform(k, pixel, to, step, held)

        def run_of(first: Ptr, to: Ptr, start: Int, stop: Int) -> None:
            """Channels start … stop−1: whole vectors, and what is left of the last."""
            whole = start + (stop - start) // k.lanes * k.lanes
            with k.loop(start, whole, k.lanes) as c:
                channels(first, c, to.at(c - start), None)
            if run % k.lanes:
                with k.when(whole < stop):
                    channels(first, whole, to.at(whole - start), vec.mask(k, run % k.lanes))

        def all_rows(i: int, j: int) -> Any:
            value = None
            for row in range(stride):
                lanes_on = vec.between(k, row * run, (row + 1) * run)
                place = source.at(pitch * (i * stride + row)).at(j * run - row * run)
                value = vec.load_masked(k, place, lanes_on, value)
            return value

        if self.sums is not None:
            with k.loop(0, self.sums.count) as i:
                to = v.at(i * (step * self.filtering.points))
                run_of(source, to, self.sums.start(i), self.sums.stop(i))
        elif stride > 1 and stride * run <= k.lanes:
            self._transform(k, all_rows, v, step, held)
        else:
            with k.loop(0, stride) as row:
                run_of(source.at(pitch * row), v.at(row * run), k.int(0), k.int(run))
        k.finish()
        return k.function

    def _transform(
        self, k: Kernel, pixel: Callable[[int, int], Any], v: Ptr, step: Int, held: Ptr
    ) -> None:
        """One vector of channels: `pixel(i, j)` loads row i, column j of the patch."""
        matrix, side = self.filtering.transforms.b, self.filtering.side
        for j in range(side):
            column = [pixel(i, j) for i in range(side)]
            for i, value in enumerate(combine(k, matrix, column)):
                vec.store(k, value, held.at((i * side + j) * k.lanes))
        for i in range(side):
            line = [vec.load(k, held.at((i * side + j) * k.lanes)) for j in range(side)]
            for j, value in enumerate(combine(k, matrix, line)):
                vec.store(k, value, v.at(step * (i * side + j)))
