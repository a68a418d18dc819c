"""Input patches of Winograd convolutions, and their transform V = Bᵀ d B.

Shared by the forward kernel, which is also the input gradient, and the weight gradient. About 10
FLOPs an element of a patch; a patch overlaps its neighbours by two rows and columns.
"""

from __future__ import annotations

from typing import Any, TypeVar

from striate.arith.cook_toom import transforms
from striate.ir import vec
from striate.ir.kernel import I64, PTR, Int, Kernel, Ptr
from striate.kernels.border import Border
from striate.kernels.gemm import ALIASING_BYTES
from striate.kernels.linear import combine
from striate.kernels.micro import LINE
from striate.kernels.span import load

Number = TypeVar("Number", int, Int)

OVERLAP = 2  # a patch has as many rows more than its tile of outputs: kernel size − 1
X = 0


def points(tile: int) -> int:
    """Points of F(tile×tile, 3×3): as many products a tile and channel pair."""
    return (tile + OVERLAP) ** 2


def pitch_of(ci: int, lanes: int) -> int:
    """Elements from one tile to the next in V: whole vectors, not a multiple of 2 KiB."""
    whole = -(-ci // lanes) * lanes
    return whole + lanes if whole * 4 % ALIASING_BYTES == 0 else whole


def step_of(tiles: Number, pitch: int) -> Number:
    """Elements from one point to the next of V, Z or M: room for `tiles`, an odd number of lines.

    A transform touches all points of a tile at once. With a power of two between them they would
    fall into a few sets of the L1 cache.
    """
    return ((tiles * pitch + (LINE - 1)) // (2 * LINE) * 2 + 1) * LINE


class Grid:
    """The tiles of tile×tile outputs of all images of the batch, numbered through."""

    def __init__(self, s: dict[str, Int], tile: int) -> None:
        self.tile = tile
        self.across, self.down = s["cols"].ceil_div(tile), s["rows"].ceil_div(tile)
        self.tiles = s["n"] * self.down * self.across

    def place(self, tile: Int) -> tuple[Int, Int, Int]:
        """(image, first output row, first output column) of a tile."""
        x, rest = tile % self.across, tile // self.across
        return rest // self.down, rest % self.down * self.tile, x * self.tile


class Patches:
    """Transforms the patch under a tile; `s` has the sizes in_h, in_w, pad_top and pad_left."""

    def __init__(self, k: Kernel, ci: int, s: dict[str, Int], tile: int) -> None:
        self.k, self.ci, self.s, self.tile = k, ci, s, tile
        self.side = tile + OVERLAP
        self.border = Border(k, ci, 1)
        self.into = self._function()

    def transform(self, n: Int, row: Int, col: Int, v: Ptr, patch: Ptr, step: Int) -> None:
        """V of the patch of the tile at (row, col) of image n, points `step` elements apart.

        A patch that leaves the image is copied to `patch` with its zero border first.
        """
        k, s, ci, side = self.k, self.s, self.ci, self.side
        top, left = row - s["pad_top"], col - s["pad_left"]
        image = k.buffer(X).at(n * s["in_h"] * s["in_w"] * ci)
        inside = k.every(top >= 0, left >= 0, top + side <= s["in_h"], left + side <= s["in_w"])
        with k.when(k.b.not_(inside)):
            self.border.pack(
                image,
                patch,
                size=(s["in_h"], s["in_w"]),
                top=top,
                height=k.int(side),
                pad_left=0 - left,
                width=k.int(side),
                group=0,
            )
        source = k.select(inside, image.at((top * s["in_w"] + left) * ci), patch)
        k.call(self.into, source, k.select(inside, s["in_w"] * ci, k.int(side * ci)), v, step)

    def _function(self) -> Any:
        """into(patch, row pitch, v, step from point to point): all channels of one patch."""
        k = self.k.unit.function("into", [PTR, I64, PTR, I64])
        args = k.function.args
        source, pitch, v, step = Ptr(k, args[0]), Int(k, args[1]), Ptr(k, args[2]), Int(k, args[3])
        matrix, ci, side = transforms(self.tile).b, self.ci, self.side
        held = k.stack(side * side * k.lanes)

        def channels(c: Int, on: Any) -> None:
            for j in range(side):
                column = [load(k, source.at(pitch * i).at(c).at(j * ci), on) for i in range(side)]
                for i, value in enumerate(combine(k, matrix, column)):
                    vec.store(k, value, held.at((i * side + j) * k.lanes))
            for i in range(side):
                line = [vec.load(k, held.at((i * side + j) * k.lanes)) for j in range(side)]
                for j, value in enumerate(combine(k, matrix, line)):
                    vec.store(k, value, v.at(step * (i * side + j)).at(c))

        whole = ci // k.lanes * k.lanes
        with k.loop(0, whole, k.lanes) as c:
            channels(c, None)
        if whole < ci:
            channels(k.int(whole), vec.mask(k, ci - whole))
        k.finish()
        return k.function
