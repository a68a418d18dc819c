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
to V, which stays in L2; then for each output block the products go to M and M is transformed
back with the epilogue. Tiles are numbered through all images of the batch, so small images fill
whole blocks. A patch that leaves the image is copied with its zero border first.

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
from striate.arith.rounding import partial_sums
from striate.ir import vec
from striate.ir.kernel import I64, PTR, Int, Kernel, Ptr, Unit
from striate.kernels.epilogue import Epilogue, apply_epilogue, finishing
from striate.kernels.linear import combine
from striate.kernels.maxpool import larger
from striate.kernels.micro import LINE, Ahead, dispatch, multiply_run, zeros
from striate.kernels.patches import Grid, Patches, pitch_of, step_of
from striate.kernels.span import store
from striate.kernels.spec import symbol

SIZES = ("n", "in_h", "in_w", "rows", "cols", "pad_top", "pad_left", "block", "chunks", "scratch")
X, U, Y, SCRATCH, OPERANDS = 0, 1, 2, 3, 4


def scratch_elements(ci: int, co: int, filtering: Filtering, block: int, machine: Machine) -> int:
    """Scratch of one part: V, M and a bordered patch."""
    v = step_of(block, pitch_of(ci, machine.lanes, filtering))
    m = step_of(block, machine.block(co))
    return filtering.points * (v + m + filtering.phases * ci) + 2 * machine.lanes


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
        self.pitch = pitch_of(spec.ci, k.lanes, spec.filtering)
        self.depth = spec.filtering.phases * spec.ci
        self.tile, self.side = spec.filtering.tile, spec.filtering.side
        self.points = spec.filtering.points
        self.back_matrix = spec.filtering.transforms.a
        self.apart = spec.filtering.dilation  # from one output of a tile to the next
        self.pixel = spec.epilogue.pixel(spec.co)
        self.window = 2 if spec.epilogue.pool else 1
        self.s: dict[str, Int] = {}

    def build(self) -> None:
        k = self.k
        self.s = s = {name: k.size(i) for i, name in enumerate(SIZES)}
        self.patches = Patches(k, self.spec.ci, s, self.spec.filtering)
        self.bodies = [self._body(rows) for rows in range(1, k.machine.rows + 1)]
        tails = [t for t, there in ((False, self.whole), (True, self.rest)) if there]
        self.back = {tail: self._output_function(tail) for tail in tails}
        self.down, self.across = (s[axis] // self.window for axis in ("rows", "cols"))
        used = {**s, "rows": self.down * self.window, "cols": self.across * self.window}
        self.grid = Grid(used, self.tile, self.spec.filtering.dilation)
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
        m = v.at(v_step * self.points)
        patch = m.at(m_step * self.points)
        with k.loop(0, count) as t:
            n, row, col = self.grid.place(first + t)
            self.patches.transform(n, row, col, v.at(t * self.pitch), patch, v_step)
        begin = k.int(self.blocks) * chunk // s["chunks"]
        end = k.int(self.blocks) * (chunk + 1) // s["chunks"]
        with k.loop(begin, end) as ob:
            self._products(v, m, first, count, ob, v_step, m_step)
            with k.loop(0, count) as t:
                self._store(first + t, m.at(t * self.width), ob, m_step)

    # -- products: M[p] = V[p] · U[p] -------------------------------------------------------------

    def _products(
        self, v: Ptr, m: Ptr, first: Int, count: Int, ob: Int, v_step: Int, m_step: Int
    ) -> None:
        k, depth = self.k, self.depth
        tiles = count.ceil_div(k.machine.rows)
        length, longer = count // tiles, count % tiles
        u = k.buffer(U).at(ob * (self.points * depth * self.width))
        with k.loop(0, self.points) as p:
            with k.loop(p * count // self.points, (p + 1) * count // self.points) as tile:
                self._fetch(first + tile, ob)
            with k.loop(0, tiles) as t:
                j = t * length + t.min(longer)
                rows = k.select(t < longer, length + 1, length)
                up = u.at(p * (depth * self.width))
                args = (
                    v.at(p * v_step).at(j * self.pitch),
                    up,
                    m.at(p * m_step).at(j * self.width),
                    *self._ahead(up, t, tiles),
                )
                dispatch(k, rows, k.machine.rows, lambda r, a=args: k.call(self.bodies[r - 1], *a))

    def _fetch(self, tile: Int, ob: Int) -> None:
        """Ask for the lines that a tile of outputs is stored to, while products are computed."""
        k, pixel = self.k, self.pixel * self.apart
        place = self._element(*self.grid.place(tile)) + ob * self.width
        y, line = k.buffer(Y).at(place), self.across * pixel
        for i in range(self.tile // self.window):
            for j in range(self.tile // self.window):
                for c in range(0, self.width, LINE):
                    vec.prefetch(k, y.at(line * i).at(j * pixel + c), write=True)

    def _ahead(self, u: Ptr, t: Int, tiles: Int) -> tuple[Ptr, Int]:
        """Where the weights of the next point are fetched from in pass t of `tiles` over these.

        Each round of a pass fetches one line, so half of the weights a pass; and how far apart.
        A single pass reads faster than memory gives: it leaves the order to the processor, and
        fetches the same line again and again.
        """
        k, half = self.k, self.depth * LINE
        following = u.at(self.depth * self.width + t.min(1) * half)
        return following, k.select(tiles > 1, k.int(LINE), k.int(0))

    def _body(self, rows: int) -> Any:
        """product(v, u, m, ahead, apart) for `rows` tiles: the first partial sum, then the others.

        The first is computed apart, so that nothing has to be set to zero or read back for it.
        """
        k = self.k.unit.function(f"product{rows}", [PTR, PTR, PTR, PTR, I64])
        v, u, m, ahead = (Ptr(k, a) for a in k.function.args[:4])
        apart = Int(k, k.function.args[4])
        cols = self.width // k.lanes
        places = [m.at(i * k.lanes) for i in range(rows * cols)]
        sums = partial_sums(self.depth)

        def run(start: int | Int, length: int | Int) -> list[Any]:
            return multiply_run(
                k,
                v.at(start),
                u.at(start * self.width),
                zeros(k, rows, cols),
                rows=rows,
                cols=cols,
                length=length,
                row_stride=self.pitch,
                block=self.width,
                ahead=Ahead(ahead.at(start * apart), apart),
            )

        for place, value in zip(places, run(0, self.depth // sums), strict=True):
            vec.store(k, value, place)
        if sums > 1:
            with k.loop(1, sums) as i:
                start, stop = i * self.depth // sums, (i + 1) * self.depth // sums
                for place, value in zip(places, run(start, stop - start), strict=True):
                    vec.store(k, k.b.fadd(vec.load(k, place), value), place)
        k.finish()
        return k.function

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


@dataclass(frozen=True)
class TransformWeights:
    """U[p] = (G g Gᵀ)[p]: [output block][tap][ci][block] → [output block][P][phase][ci][block].

    Buffers: packed weights, U. Sizes: blocks of `block` output channels, ci.
    """

    block: int
    filtering: Filtering

    def emit(self, machine: Machine) -> str:
        """LLVM IR text of the kernel."""
        unit = Unit(machine)
        k = unit.kernel(symbol(self))
        f, width = self.filtering, self.block
        blocks, ci = k.size(0), k.size(1)
        held = k.stack(f.side * f.taps * k.lanes)
        start, stop = k.share(blocks * ci)
        with k.loop(start, stop) as i:
            ob, c = i // ci, i % ci
            g = k.buffer(0).at((ob * (f.kernel**2) * ci + c) * width)
            for row in range(f.stride):
                for col in range(f.stride):
                    phase = ob * (f.points * f.phases) + (row * f.stride + col)
                    u = k.buffer(1).at((phase * ci + c) * width)
                    for lane in range(0, width, k.lanes):
                        self._phase(k, g.at(lane), u.at(lane), held, (row, col), ci)
        k.finish()
        return unit.text()

    def _phase(self, k: Kernel, g: Ptr, u: Ptr, held: Ptr, phase: tuple[int, int], ci: Int) -> None:
        """One vector of output channels of one phase, which may have a tap less than others."""
        f = self.filtering
        rows, cols = f.present(phase[0]), f.present(phase[1])
        down = [row[:rows] for row in f.transforms.g]
        across = [row[:cols] for row in f.transforms.g]
        tap, point = ci * self.block, ci * (f.phases * self.block)
        for b in range(cols):
            taps = [
                (a * f.stride + phase[0]) * f.kernel + b * f.stride + phase[1] for a in range(rows)
            ]
            column = [vec.load(k, g.at(tap * number)) for number in taps]
            for r, value in enumerate(combine(k, down, column)):
                vec.store(k, value, held.at((r * f.taps + b) * k.lanes))
        for r in range(f.side):
            line = [vec.load(k, held.at((r * f.taps + b) * k.lanes)) for b in range(cols)]
            for value in combine(k, across, line):
                vec.store(k, value, u)
                u = u.at(point)
