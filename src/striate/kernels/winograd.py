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
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from striate.arith.cook_toom import Filtering
from striate.arith.machine import Machine
from striate.ir import vec
from striate.ir.kernel import I64, PTR, Int, Kernel, Ptr, Unit
from striate.kernels.epilogue import Epilogue, apply_epilogue
from striate.kernels.linear import combine
from striate.kernels.micro import LINE, dispatch, multiply_run, zeros
from striate.kernels.patches import Grid, Patches, pitch_of, step_of
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
        self.s: dict[str, Int] = {}

    def build(self) -> None:
        k = self.k
        self.s = s = {name: k.size(i) for i, name in enumerate(SIZES)}
        self.patches = Patches(k, self.spec.ci, s, self.spec.filtering)
        self.bodies = [self._body(rows) for rows in range(1, k.machine.rows + 1)]
        tails = [t for t, there in ((False, self.whole), (True, self.rest)) if there]
        self.back = {tail: self._output_function(tail) for tail in tails}
        self.grid = Grid(s, self.tile, self.spec.filtering.dilation)
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
        u = k.buffer(U).at(ob * (depth * self.width))
        with k.loop(0, self.points) as p:
            with k.loop(p * count // self.points, (p + 1) * count // self.points) as tile:
                self._fetch(first + tile, ob)
            with k.loop(0, tiles) as t:
                j = t * length + t.min(longer)
                rows = k.select(t < longer, length + 1, length)
                up = u.at(p * (self.blocks * depth * self.width))
                args = (
                    v.at(p * v_step).at(j * self.pitch),
                    up,
                    m.at(p * m_step).at(j * self.width),
                    *self._ahead(up, t, tiles),
                )
                dispatch(k, rows, k.machine.rows, lambda r, a=args: k.call(self.bodies[r - 1], *a))

    def _fetch(self, tile: Int, ob: Int) -> None:
        """Ask for the lines that a tile of outputs is stored to, while products are computed."""
        k, s, pixel = self.k, self.s, self.pixel * self.apart
        n, row, col = self.grid.place(tile)
        place = ((n * s["rows"] + row) * s["cols"] + col) * self.pixel + ob * self.width
        y, line = k.buffer(Y).at(place), s["cols"] * pixel
        for i in range(self.tile):
            for j in range(self.tile):
                for c in range(0, self.width, LINE):
                    vec.prefetch(k, y.at(line * i).at(j * pixel + c), write=True)

    def _ahead(self, u: Ptr, t: Int, tiles: Int) -> tuple[Ptr, Ptr]:
        """Where the weights of the next point are fetched from in pass t of `tiles` over these.

        Each round of a pass fetches one line, or two where there is one pass only: so half of the
        weights a pass.
        """
        k, half = self.k, self.depth * LINE
        following = u.at(self.blocks * self.depth * self.width)
        mine = following.at(t.min(1) * half)
        return mine, k.select(tiles > 1, mine, following.at(half))

    def _body(self, rows: int) -> Any:
        """product(v, u, m, ahead, ahead) for `rows` tiles."""
        k = self.k.unit.function(f"product{rows}", [PTR] * 5)
        v, u, m, *ahead = (Ptr(k, a) for a in k.function.args)
        cols = self.width // k.lanes
        accs = multiply_run(
            k,
            v,
            u,
            zeros(k, rows, cols),
            rows=rows,
            cols=cols,
            length=self.depth,
            row_stride=self.pitch,
            block=self.width,
            ahead=tuple(ahead),
        )
        for i, acc in enumerate(accs):
            vec.store(k, acc, m.at(i * k.lanes))
        k.finish()
        return k.function

    # -- output: Y = Aᵀ m A, epilogue --------------------------------------------------------------

    def _store(self, tile: Int, m: Ptr, ob: Int, m_step: Int) -> None:
        k, s = self.k, self.s
        n, row, col = self.grid.place(tile)
        channel = ob * self.width
        offset = ((n * s["rows"] + row) * s["cols"] + col) * self.pixel + channel
        args = (
            k.function.args[0],
            m,
            m_step,
            offset,
            channel,
            s["cols"] * (self.pixel * self.apart),
            (s["rows"] - row).max(0).ceil_div(self.apart).min(self.tile),
            (s["cols"] - col).max(0).ceil_div(self.apart).min(self.tile),
        )
        if len(self.back) == 1:
            k.call(next(iter(self.back.values())), *args)
            return
        with k.either(ob < self.whole) as (full, last):
            with full:
                k.call(self.back[False], *args)
            with last:
                k.call(self.back[True], *args)

    def _output_function(self, tail: bool) -> Any:
        """back(buffers, m, step, y offset, channel, row pitch, rows there, columns there)."""
        name = "back_tail" if tail else "back"
        k = self.k.unit.function(name, [PTR, PTR, I64, I64, I64, I64, I64, I64])
        m = Ptr(k, k.function.args[1])
        step, offset, channel, pitch, rows, cols = (Int(k, a) for a in k.function.args[2:])
        width = self.rest if tail else self.width
        held = k.stack(self.tile * self.side * k.lanes)
        all_there = k.every(rows >= self.tile, cols >= self.tile)
        for c in range(0, width, k.lanes):
            on = vec.mask(k, width - c) if width - c < k.lanes else None
            self._columns(k, m.at(c), step, held)
            with k.either(all_there) as (whole, edge):
                with whole:
                    for i in range(self.tile):
                        self._line(k, held, i, offset + c, channel + c, pitch, on, None)
                with edge:
                    for i in range(self.tile):
                        with k.when(rows > i):
                            self._line(k, held, i, offset + c, channel + c, pitch, on, cols)
        k.finish()
        return k.function

    def _columns(self, k: Kernel, m: Ptr, step: Int, held: Ptr) -> None:
        side = self.side
        for j in range(side):
            column = [vec.load(k, m.at(step * (i * side + j))) for i in range(side)]
            for i, value in enumerate(combine(k, self.back_matrix, column)):
                vec.store(k, value, held.at((i * side + j) * k.lanes))

    def _line(
        self,
        k: Kernel,
        held: Ptr,
        i: int,
        offset: Int,
        channel: Int,
        pitch: Int,
        on: Any,
        cols: Int | None,
    ) -> None:
        """Row i of the tile: all its pixels, or as many as `cols` says."""
        side = self.side
        line = [vec.load(k, held.at((i * side + j) * k.lanes)) for j in range(side)]
        for j, value in enumerate(combine(k, self.back_matrix, line)):
            place = offset + pitch * i + j * (self.pixel * self.apart)

            def put(value: Any = value, place: Int = place) -> None:
                apply_epilogue(
                    k,
                    self.spec.epilogue,
                    [value],
                    rows=1,
                    cols=1,
                    offset=place,
                    channel=channel,
                    row_step=0,
                    lanes_on=on,
                    y=Y,
                    operands=OPERANDS,
                )

            if cols is None:
                put()
            else:
                with k.when(cols > j):
                    put()


@dataclass(frozen=True)
class TransformWeights:
    """U[p] = (G g Gᵀ)[p]: [output block][tap][ci][block] → [P][output block][phase][ci][block].

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
                    phase = ob * f.phases + (row * f.stride + col)
                    u = k.buffer(1).at((phase * ci + c) * width)
                    for lane in range(0, width, k.lanes):
                        self._phase(k, g.at(lane), u.at(lane), held, (row, col), (blocks, ci))
        k.finish()
        return unit.text()

    def _phase(
        self, k: Kernel, g: Ptr, u: Ptr, held: Ptr, phase: tuple[int, int], sizes: tuple[Int, Int]
    ) -> None:
        """One vector of output channels of one phase, which may have a tap less than others."""
        f, (blocks, ci) = self.filtering, sizes
        rows, cols = f.present(phase[0]), f.present(phase[1])
        down = [row[:rows] for row in f.transforms.g]
        across = [row[:cols] for row in f.transforms.g]
        tap, point = ci * self.block, blocks * ci * (f.phases * self.block)
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
