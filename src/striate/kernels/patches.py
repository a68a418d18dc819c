"""Input patches of Winograd convolutions, and their transform V = Bᵀ d B.

Shared by the forward kernel, which is also the input gradient, and the weight gradient. About 10
FLOPs an element of a patch; a patch overlaps its neighbours by two rows and columns.
"""

from __future__ import annotations

from typing import Any

from striate.arith.cook_toom import transforms
from striate.ir import vec
from striate.ir.kernel import I64, PTR, Int, Kernel, Ptr
from striate.kernels.border import Border
from striate.kernels.gemm import ALIASING_BYTES
from striate.kernels.linear import combine
from striate.kernels.span import load

TILE = 4
PATCH = TILE + 2
POINTS = PATCH * PATCH
X = 0


def pitch_of(ci: int, lanes: int) -> int:
    """Elements from one tile to the next in V: whole vectors, not a multiple of 2 KiB."""
    whole = -(-ci // lanes) * lanes
    return whole + lanes if whole * 4 % ALIASING_BYTES == 0 else whole


class Grid:
    """The 4×4 tiles of all images of the batch, numbered through."""

    def __init__(self, s: dict[str, Int]) -> None:
        self.across, self.down = s["cols"].ceil_div(TILE), s["rows"].ceil_div(TILE)
        self.tiles = s["n"] * self.down * self.across

    def place(self, tile: Int) -> tuple[Int, Int, Int]:
        """(image, first output row, first output column) of a tile."""
        x, rest = tile % self.across, tile // self.across
        return rest // self.down, rest % self.down * TILE, x * TILE


class Patches:
    """Transforms the patch under a tile; `s` has the sizes in_h, in_w, pad_top and pad_left."""

    def __init__(self, k: Kernel, ci: int, s: dict[str, Int]) -> None:
        self.k, self.ci, self.s = k, ci, s
        self.border = Border(k, ci, 1)
        self.into = self._function()

    def transform(self, n: Int, row: Int, col: Int, v: Ptr, patch: Ptr, step: Int) -> None:
        """V of the patch of the tile at (row, col) of image n, points `step` elements apart.

        A patch that leaves the image is copied to `patch` with its zero border first.
        """
        k, s, ci = self.k, self.s, self.ci
        top, left = row - s["pad_top"], col - s["pad_left"]
        image = k.buffer(X).at(n * s["in_h"] * s["in_w"] * ci)
        inside = k.every(top >= 0, left >= 0, top + PATCH <= s["in_h"], left + PATCH <= s["in_w"])
        with k.when(k.b.not_(inside)):
            self.border.pack(
                image,
                patch,
                size=(s["in_h"], s["in_w"]),
                top=top,
                height=k.int(PATCH),
                pad_left=0 - left,
                width=k.int(PATCH),
                group=0,
            )
        source = k.select(inside, image.at((top * s["in_w"] + left) * ci), patch)
        k.call(self.into, source, k.select(inside, s["in_w"] * ci, k.int(PATCH * ci)), v, step)

    def _function(self) -> Any:
        """into(patch, row pitch, v, step from point to point): all channels of one patch."""
        k = self.k.unit.function("into", [PTR, I64, PTR, I64])
        args = k.function.args
        source, pitch, v, step = Ptr(k, args[0]), Int(k, args[1]), Ptr(k, args[2]), Int(k, args[3])
        matrix, ci = transforms(TILE).b, self.ci
        held = k.stack(POINTS * k.lanes)

        def channels(c: Int, on: Any) -> None:
            for j in range(PATCH):
                column = [load(k, source.at(pitch * i).at(c).at(j * ci), on) for i in range(PATCH)]
                for i, value in enumerate(combine(k, matrix, column)):
                    vec.store(k, value, held.at((i * PATCH + j) * k.lanes))
            for i in range(PATCH):
                line = [vec.load(k, held.at((i * PATCH + j) * k.lanes)) for j in range(PATCH)]
                for j, value in enumerate(combine(k, matrix, line)):
                    vec.store(k, value, v.at(step * (i * PATCH + j)).at(c))

        whole = ci // k.lanes * k.lanes
        with k.loop(0, whole, k.lanes) as c:
            channels(c, None)
        if whole < ci:
            channels(k.int(whole), vec.mask(k, ci - whole))
        k.finish()
        return k.function
