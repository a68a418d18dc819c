"""Winograd convolution F(m×m, r×r), NHWC: forward and input gradient.

    Y = Aᵀ [ (G g Gᵀ) ⊙ (Bᵀ d B) ] A    for each m×m tile of outputs and (m+r−1)×(m+r−1) patch d

The products of all tiles are P = (m+r−1)² matrix products V[p] · U[p], V[p] of tiles × ci, U[p] of
ci × co. With 3×3 kernels these are 36/16 = 2.25 products an output instead of 9 with m = 4,
16/4 = 4 with m = 2, whose U is less than half as large. FLOPs of the products:
2 · P · tiles · ci · co; of the transforms about 10 an element of patches and of outputs.

A kernel of stride s is a sum of s² kernels of ⌈kernel/s⌉ taps on the phases of the image: the
phases stand beside each other as channels, s²·ci in V and U. So 7×7 kernels of stride 2 become
4×4 kernels on 4·ci channels: 49·4/16 = 12.25 products an output with m = 4 instead of 49.

A dilation d makes d² images of every d-th row and column; each is convolved by itself, and its
patches are gathered pixel by pixel.

A unit of work is (block of tiles, share of the output blocks). Inside: the patches are transformed
to V; then for each group of output blocks the products go to M, and M is transformed back with the
epilogue. Tiles are numbered through all images of the batch, so small images fill whole blocks. A
patch that leaves the image is copied with its zero border first.

Weights come as U, or packed as for the direct convolution, which is a quarter of the bytes. Packed
ones are transformed inside, as many channels at a time as one partial sum adds, and stay in L2
until all tiles of the block have met them: where few tiles share them, that is faster than
fetching U from memory. The products, their order and the bits are the same.

With max pooling in the epilogue a tile of 4×4 or 2×2 outputs holds whole 2×2 windows. Their maxima
are taken in registers, and only those are stored; rows and columns that no window has are left out.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from functools import reduce
from typing import Any

from striate.arith.cook_toom import Filtering
from striate.arith.machine import Machine
from striate.ir import vec
from striate.ir.kernel import I64, PTR, Int, Kernel, Ptr, Unit
from striate.kernels.epilogue import Epilogue, apply_epilogue, finishing
from striate.kernels.linear import combine
from striate.kernels.maxpool import larger
from striate.kernels.micro import LINE
from striate.kernels.patches import Grid, Patches, Sums, step_of
from striate.kernels.span import store
from striate.kernels.spec import symbol
from striate.kernels.winograd_products import Block, Products, room_for_weights

SIZES = (
    *("n", "in_h", "in_w", "rows", "cols", "pad_top", "pad_left", "block", "chunks", "scratch"),
    "packed",  # 1: the weights are packed ones, 0: they are U
    "group",  # output blocks whose M is kept
)
X, WEIGHTS, Y, SCRATCH, OPERANDS = 0, 1, 2, 3, 4


def scratch_elements(
    ci: int,
    co: int,
    filtering: Filtering,
    block: int,
    machine: Machine,
    *,
    packed: bool = False,
    group: int = 1,
) -> int:
    """Scratch of one part: V, M, a bordered patch, and U of a partial sum if weights are packed."""
    width = machine.block(co)
    v = Sums.of(ci, filtering).room(block, machine.lanes, filtering)
    m = group * filtering.points * step_of(block, width)
    u = room_for_weights(ci, width, filtering) if packed else 0
    return v + m + u + filtering.points * filtering.phases * ci + 2 * machine.lanes


@dataclass(frozen=True)
class Winograd:
    """All that shapes the code."""

    ci: int
    co: int
    filtering: Filtering
    epilogue: Epilogue

    def emit(self, machine: Machine) -> str:
        """LLVM IR text of the kernel."""
        unit = Unit(machine)
        _Build(self, unit.kernel(symbol(self))).build()
        return unit.text()


@dataclass(frozen=True)
class _Place:
    """Where a vector of a tile's outputs goes: element of y, and elements from row to row.

    `before` says the same of the map that is pooled, along which "full" operands lie.
    """

    offset: Int
    pitch: Int
    channel: Int
    on: Any
    before: tuple[Int, ...]


class _Build:
    def __init__(self, spec: Winograd, k: Kernel) -> None:
        self.spec, self.k = spec, k
        self.width = k.machine.block(spec.co)
        self.whole, self.rest = divmod(spec.co, self.width)
        self.blocks = self.whole + (self.rest > 0)
        self.sums = Sums.of(spec.ci, spec.filtering)
        self.pitch = self.sums.pitch(k.lanes, spec.filtering)
        self.depth = spec.filtering.phases * spec.ci
        self.tile, self.side = spec.filtering.tile, spec.filtering.side
        self.points = spec.filtering.points
        self.back_matrix = spec.filtering.transforms.a
        self.apart = spec.filtering.dilation  # from one output of a tile to the next
        self.pixel = spec.epilogue.pixel(spec.co)
        self.window = 2 if spec.epilogue.pool else 1
        self.s: dict[str, Int] = {}

    def build(self) -> None:
        k, spec = self.k, self.spec
        self.s = s = {name: k.size(i) for i, name in enumerate(SIZES)}
        self.patches = Patches(k, spec.ci, s, spec.filtering, self.sums)
        weights = k.buffer(WEIGHTS)
        self.products = Products(k, weights, spec.ci, self.width, spec.filtering, self._fetch)
        tails = [t for t, there in ((False, self.whole), (True, self.rest)) if there]
        self.back = {tail: self._output_function(tail) for tail in tails}
        self.down, self.across = (s[axis] // self.window for axis in ("rows", "cols"))
        used = {**s, "rows": self.down * self.window, "cols": self.across * self.window}
        self.grid = Grid(used, self.tile, spec.filtering.dilation)
        tiles = self.grid.tiles
        start, stop = k.share(tiles.ceil_div(s["block"]) * s["chunks"])
        with k.loop(start, stop) as unit:
            chunk, first = unit % s["chunks"], unit // s["chunks"] * s["block"]
            self._unit(first, (tiles - first).min(s["block"]), chunk)
        k.finish()

    def _unit(self, first: Int, count: Int, chunk: Int) -> None:
        k, s = self.k, self.s
        v = k.buffer(SCRATCH).at(k.worker * s["scratch"])
        v_step, m_step = step_of(s["block"], self.pitch), step_of(s["block"], self.width)
        m = v.at(v_step * (self.points * (self.sums.count if self.sums.apart else 1)))
        patch = m.at(m_step * self.points * s["group"])
        with k.loop(0, count) as t:
            n, row, col = self.grid.place(first + t)
            self.patches.transform(n, row, col, v.at(t * self.pitch), patch, v_step)
        begin = k.int(self.blocks) * chunk // s["chunks"]
        end = k.int(self.blocks) * (chunk + 1) // s["chunks"]
        u = patch.at(self.points * self.depth)
        block = Block(v, m, u, v_step, m_step, first, count)
        with k.loop(0, (end - begin).ceil_div(s["group"])) as number:
            start = begin + number * s["group"]
            stop = (start + s["group"]).min(end)
            self.products.run(block, start, stop, s["packed"])
            with k.loop(start, stop) as ob, k.loop(0, count) as t:
                sums = m.at((ob - start) * self.points * m_step)
                self._store(first + t, sums.at(t * self.width), ob, m_step)

    def _fetch(self, tile: Int, ob: Int) -> None:
        """Ask for the lines that a tile of outputs is stored to."""
        k, pixel = self.k, self.pixel * self.apart
        place = self._element(*self.grid.place(tile)) + ob * self.width
        y, line = k.buffer(Y).at(place), self.across * pixel
        for i in range(self.tile // self.window):
            for j in range(self.tile // self.window):
                for c in range(0, self.width, LINE):
                    vec.prefetch(k, y.at(line * i).at(j * pixel + c), write=True)

    # -- output: Y = Aᵀ m A, epilogue --------------------------------------------------------------

    def _element(self, n: Int, row: Int, col: Int) -> Int:
        """Where in y the first output of a tile is stored."""
        down, across = self.down, self.across
        return ((n * down + row // self.window) * across + col // self.window) * self.pixel

    def _store(self, tile: Int, m: Ptr, ob: Int, m_step: Int) -> None:
        k, s = self.k, self.s
        n, row, col = self.grid.place(tile)
        channel = ob * self.width
        args = [
            k.function.args[0],
            m,
            m_step,
            self._element(n, row, col) + channel,
            channel,
            self.across * (self.pixel * self.apart),
            (self.down * self.window - row).max(0).ceil_div(self.apart).min(self.tile),
            (self.across * self.window - col).max(0).ceil_div(self.apart).min(self.tile),
        ]
        if self.window > 1:
            first = (n * s["rows"] + row) * s["cols"] + col
            args += [first * self.spec.co + channel, s["cols"] * self.spec.co]
        if len(self.back) == 1:
            k.call(next(iter(self.back.values())), *args)
            return
        with k.either(ob < self.whole) as (full, last):
            with full:
                k.call(self.back[False], *args)
            with last:
                k.call(self.back[True], *args)

    def _output_function(self, tail: bool) -> Any:
        """back(buffers, m, step, y offset, channel, row pitch, rows there, columns there).

        With pooling also the offset and row pitch of what is pooled.
        """
        name = "back_tail" if tail else "back"
        pools = self.window > 1
        k = self.k.unit.function(name, [PTR, PTR, *[I64] * (8 if pools else 6)])
        m = Ptr(k, k.function.args[1])
        step, offset, channel, pitch, rows, cols, *full = (Int(k, a) for a in k.function.args[2:])
        lines = self._windows if pools else self._line
        width = self.rest if tail else self.width
        held = k.stack(self.tile * self.side * k.lanes)
        all_there = k.every(rows >= self.tile, cols >= self.tile)
        for c in range(0, width, k.lanes):
            on = vec.mask(k, width - c) if width - c < k.lanes else None
            before = (full[0] + c, full[1]) if pools else ()
            place = _Place(offset + c, pitch, channel + c, on, before)
            self._columns(k, m.at(c), step, held)
            with k.either(all_there) as (whole, edge):
                with whole:
                    for i in range(0, self.tile, self.window):
                        lines(k, held, i, place, None)
                with edge:
                    for i in range(0, self.tile, self.window):
                        with k.when(rows > i):
                            lines(k, held, i, place, cols)
        k.finish()
        return k.function

    def _columns(self, k: Kernel, m: Ptr, step: Int, held: Ptr) -> None:
        side = self.side
        for j in range(side):
            column = [vec.load(k, m.at(step * (i * side + j))) for i in range(side)]
            for i, value in enumerate(combine(k, self.back_matrix, column)):
                vec.store(k, value, held.at((i * side + j) * k.lanes))

    def _row(self, k: Kernel, held: Ptr, i: int) -> list[Any]:
        """The outputs in row i of the tile."""
        side = self.side
        line = [vec.load(k, held.at((i * side + j) * k.lanes)) for j in range(side)]
        return combine(k, self.back_matrix, line)

    def _line(self, k: Kernel, held: Ptr, i: int, place: _Place, cols: Int | None) -> None:
        """Row i of the tile: all its pixels, or as many as `cols` says."""
        for j, value in enumerate(self._row(k, held, i)):
            with nullcontext() if cols is None else k.when(cols > j):
                apply_epilogue(
                    k,
                    self.spec.epilogue,
                    [value],
                    rows=1,
                    cols=1,
                    offset=place.offset + place.pitch * i + j * (self.pixel * self.apart),
                    channel=place.channel,
                    row_step=0,
                    lanes_on=place.on,
                    y=Y,
                    operands=OPERANDS,
                )

    def _windows(self, k: Kernel, held: Ptr, i: int, place: _Place, cols: Int | None) -> None:
        """The windows of rows i and i + 1: all of them, or those in as many columns as `cols`."""
        offset, pitch = place.before
        rows = [self._row(k, held, i + a) for a in range(2)]
        finish = [
            finishing(
                k,
                self.spec.epilogue,
                cols=1,
                offset=offset + pitch * (i + a),
                channel=place.channel,
                row_step=self.spec.co,
                lanes_on=place.on,
                operands=OPERANDS,
            )
            for a in range(2)
        ]
        for j in range(0, self.tile, 2):
            with nullcontext() if cols is None else k.when(cols > j):
                values = [finish[a](rows[a][b], b, 0) for a in range(2) for b in (j, j + 1)]
                most = reduce(lambda m, v: larger(k, v, m), values)
                at = place.offset + place.pitch * (i // 2) + j // 2 * self.pixel
                store(k, most, k.buffer(Y).at(at), place.on)
