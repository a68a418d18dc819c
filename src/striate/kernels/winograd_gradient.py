"""Weight gradient of a 3×3 convolution by Winograd's method, NHWC, stride 1.

    dg = Gᵀ [ Σ_tiles V ⊙ Z ] G        V = Bᵀ d B of the input patch, Z = A dy Aᵀ of the 4×4 tile

It is the transpose of the forward computation: for each of 36 points a product of V (tiles × ci,
turned) with Z (tiles × co). FLOPs of the products: 2 · 36 · tiles · ci · co instead of
2 · 144 · tiles · ci · co directly.

A unit of work is (chunk of tiles, share of the output blocks). Chunks depend on the shape only;
each sums into a buffer of its own, and the buffers are added in order afterwards, so the bits are
the same for any number of threads. Inside: a block of tiles is transformed to V, then for each
output block to Z, and the products are added to the sums.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from striate.arith.cook_toom import Filtering
from striate.arith.machine import Machine
from striate.ir import vec
from striate.ir.kernel import I1, I64, PTR, Int, Kernel, Ptr, Unit
from striate.kernels.linear import combine
from striate.kernels.micro import in_rounds, steps_together
from striate.kernels.patches import Grid, Patches, pitch_of, step_of
from striate.kernels.span import load, store
from striate.kernels.spec import symbol

TILE = 4
FILTERING = Filtering(TILE)
PATCH, POINTS = FILTERING.side, FILTERING.points
SIZES = (
    "n",
    "in_h",
    "in_w",
    "rows",
    "cols",
    "pad_top",
    "pad_left",
    "block",
    "chunk",
    "shares",
    "scratch",
)
X, DY, SUMS, SCRATCH = 0, 1, 2, 3


def scratch_elements(ci: int, co: int, block: int, machine: Machine) -> int:
    """Scratch of one part: V, Z and a bordered patch."""
    v = step_of(block, pitch_of(ci, machine.lanes, FILTERING))
    z = step_of(block, machine.block(co))
    return POINTS * (v + z + ci) + 2 * machine.lanes


@dataclass(frozen=True)
class WinogradGradient:
    """Sums [chunk][36][ci][co]. Sizes: `block` tiles at a time, `chunk` blocks a chunk."""

    ci: int
    co: int

    def emit(self, machine: Machine) -> str:
        """LLVM IR text of the kernel."""
        unit = Unit(machine)
        _Build(self, unit.kernel(symbol(self))).build()
        return unit.text()


class _Build:
    def __init__(self, spec: WinogradGradient, k: Kernel) -> None:
        self.spec, self.k = spec, k
        self.width = k.machine.block(spec.co)
        self.whole, self.rest = divmod(spec.co, self.width)
        self.blocks = self.whole + (self.rest > 0)
        self.pitch = pitch_of(spec.ci, k.lanes, FILTERING)
        self.tiles = -(-spec.ci // k.machine.rows)
        self.length, self.longer = divmod(spec.ci, self.tiles)
        self.bodies: dict[tuple[int, bool], Any] = {}
        self.s: dict[str, Int] = {}

    def build(self) -> None:
        k = self.k
        self.s = s = {name: k.size(i) for i, name in enumerate(SIZES)}
        self.grid, self.patches = Grid(s, TILE), Patches(k, self.spec.ci, s, FILTERING)
        tails = [t for t, there in ((False, self.whole), (True, self.rest)) if there]
        self.outward = {tail: self._gradient_function(tail) for tail in tails}
        blocks = self.grid.tiles.ceil_div(s["block"])
        start, stop = k.share(blocks.ceil_div(s["chunk"]) * s["shares"])
        with k.loop(start, stop) as unit:
            share, chunk = unit % s["shares"], unit // s["shares"]
            first = chunk * s["chunk"]
            with k.loop(first, (first + s["chunk"]).min(blocks)) as block:
                self._block(chunk, share, block, block.equals(first))
        k.finish()

    def _block(self, chunk: Int, share: Int, block: Int, fresh: Any) -> None:
        k, s, spec = self.k, self.s, self.spec
        first = block * s["block"]
        count = (self.grid.tiles - first).min(s["block"])
        v = k.buffer(SCRATCH).at(k.worker * s["scratch"])
        v_step, z_step = step_of(s["block"], self.pitch), step_of(s["block"], self.width)
        z = v.at(v_step * POINTS)
        patch = z.at(z_step * POINTS)
        with k.loop(0, count) as t:
            n, row, col = self.grid.place(first + t)
            self.patches.transform(n, row, col, v.at(t * self.pitch), patch, v_step)
        sums = k.buffer(SUMS).at(chunk * (POINTS * spec.ci * spec.co))
        begin = k.int(self.blocks) * share // s["shares"]
        end = k.int(self.blocks) * (share + 1) // s["shares"]
        with k.loop(begin, end) as ob:
            if self.whole and self.rest:
                with k.either(ob < self.whole) as (full, last):
                    with full:
                        self._output_block(
                            ob, first, count, v, z, v_step, z_step, sums, fresh, False
                        )
                    with last:
                        self._output_block(
                            ob, first, count, v, z, v_step, z_step, sums, fresh, True
                        )
            else:
                tail = self.rest > 0
                self._output_block(ob, first, count, v, z, v_step, z_step, sums, fresh, tail)

    def _output_block(
        self,
        ob: Int,
        first: Int,
        count: Int,
        v: Ptr,
        z: Ptr,
        v_step: Int,
        z_step: Int,
        sums: Ptr,
        fresh: Any,
        tail: bool,
    ) -> None:
        k, s, spec = self.k, self.s, self.spec
        channel = ob * self.width
        with k.loop(0, count) as t:
            n, row, col = self.grid.place(first + t)
            dy = k.buffer(DY).at(((n * s["rows"] + row) * s["cols"] + col) * spec.co + channel)
            there = ((s["rows"] - row).min(TILE), (s["cols"] - col).min(TILE))
            k.call(
                self.outward[tail], dy, s["cols"] * spec.co, *there, z.at(t * self.width), z_step
            )
        with k.loop(0, POINTS) as p:
            target = sums.at(p * (spec.ci * spec.co)).at(channel)
            for length, begin, number in self._lengths():
                with k.loop(0, number) as i:
                    c = i * length + begin
                    body = self._body(length, tail)
                    vp, zp = v.at(p * v_step).at(c), z.at(p * z_step)
                    k.call(body, vp, zp, target.at(c * spec.co), count, fresh)

    def _lengths(self) -> list[tuple[int, int, int]]:
        """(input channels of a tile, first channel, number of tiles), longer tiles first."""
        split = self.longer * (self.length + 1)
        both = [(self.length + 1, 0, self.longer), (self.length, split, self.tiles - self.longer)]
        return [entry for entry in both if entry[2]]

    # -- Z = A dy Aᵀ ------------------------------------------------------------------------------

    def _gradient_function(self, tail: bool) -> Any:
        """outward(dy, row pitch, rows there, columns there, z, step from point to point)."""
        k = self.k.unit.function(f"outward{'_tail' * tail}", [PTR, I64, I64, I64, PTR, I64])
        args = k.function.args
        dy, z = Ptr(k, args[0]), Ptr(k, args[4])
        pitch, rows, cols, step = (Int(k, args[i]) for i in (1, 2, 3, 5))
        matrix = tuple(zip(*FILTERING.transforms.a, strict=True))
        held = k.stack(PATCH * TILE * k.lanes)
        width = self.rest if tail else self.width
        for c in range(0, width, k.lanes):
            on = min(k.lanes, width - c)
            for j in range(TILE):
                column = []
                for i in range(TILE):
                    inside = k.every(rows > i, cols > j)
                    lanes_on = _lanes(k, on, inside)
                    place = dy.at(pitch * i).at(j * self.spec.co + c)
                    column.append(vec.load_masked(k, place, lanes_on))
                for i, value in enumerate(combine(k, matrix, column)):
                    vec.store(k, value, held.at((i * TILE + j) * k.lanes))
            for i in range(PATCH):
                line = [vec.load(k, held.at((i * TILE + j) * k.lanes)) for j in range(TILE)]
                for j, value in enumerate(combine(k, matrix, line)):
                    vec.store(k, value, z.at(step * (i * PATCH + j)).at(c))
        k.finish()
        return k.function

    # -- products: sums[p] += V[p]ᵀ · Z[p] --------------------------------------------------------

    def _body(self, length: int, tail: bool) -> Any:
        if (length, tail) not in self.bodies:
            self.bodies[length, tail] = self._make_body(length, tail)
        return self.bodies[length, tail]

    def _make_body(self, length: int, tail: bool) -> Any:
        """product(v, z, sums, count, fresh) for `length` input channels."""
        name = f"product{length}{'_tail' * tail}"
        k = self.k.unit.function(name, [PTR, PTR, PTR, I64, I1])
        v, z, sums = (Ptr(k, a) for a in k.function.args[:3])
        count, fresh = Int(k, k.function.args[3]), k.function.args[4]
        width = self.rest if tail else self.width
        cols = -(-width // k.lanes)
        rest = vec.mask(k, width % k.lanes) if width % k.lanes else None
        places = [
            (sums.at(i * self.spec.co + c * k.lanes), rest if c == cols - 1 else None)
            for i in range(length)
            for c in range(cols)
        ]

        def tile(first: Int, u: int, accs: list[Any]) -> list[Any]:
            t = first + u
            gradients = [vec.load(k, z.at(t * self.width).at(c * k.lanes)) for c in range(cols)]
            out = list(accs)
            for i in range(length):
                value = vec.broadcast(k, v.at(t * self.pitch).at(i))
                for c in range(cols):
                    out[i * cols + c] = vec.fma(k, value, gradients[c], out[i * cols + c])
            return out

        start = k.start_or(fresh, vec.constant(k, 0.0), lambda: [load(k, *p) for p in places])
        accs = in_rounds(k, count, start, tile, steps_together(k, length, cols))
        for acc, (place, on) in zip(accs, places, strict=True):
            store(k, acc, place, on)
        k.finish()
        return k.function


def _lanes(k: Kernel, count: int, inside: Any) -> Any:
    """Lanes 0 … count−1 if the i1 `inside` holds, else none."""
    if count == k.lanes:
        return vec.splat(k, inside)
    # Not `inside` and a constant mask: LLVM 22, when it splits a vector, reads the half of it that
    # such a mask never has on.
    return vec.mask(k, k.select(inside, k.int(count), k.int(0)))


@dataclass(frozen=True)
class KernelGradient:
    """dg = Gᵀ dU G: sums [36][ci][co] → [3][3][ci][co].

    Buffers: sums, dg. Sizes: none. Bytes: 4 · 45 · ci · co.
    """

    ci: int
    co: int

    def emit(self, machine: Machine) -> str:
        """LLVM IR text of the kernel."""
        unit = Unit(machine)
        k = unit.kernel(symbol(self))
        matrix = tuple(zip(*FILTERING.transforms.g, strict=True))
        held = k.stack(3 * PATCH * k.lanes)
        plane = self.ci * self.co
        start, stop = k.share(k.int(-(-plane // k.lanes)))

        def vector(e: Int, on: Any) -> None:
            for j in range(PATCH):
                column = [
                    load(k, k.buffer(0).at(e).at((i * PATCH + j) * plane), on) for i in range(PATCH)
                ]
                for i, value in enumerate(combine(k, matrix, column)):
                    vec.store(k, value, held.at((i * PATCH + j) * k.lanes))
            for i in range(3):
                line = [vec.load(k, held.at((i * PATCH + j) * k.lanes)) for j in range(PATCH)]
                for j, value in enumerate(combine(k, matrix, line)):
                    store(k, value, k.buffer(1).at(e).at((i * 3 + j) * plane), on)

        with k.loop(start, stop) as i:
            e = i * k.lanes
            if plane % k.lanes == 0:
                vector(e, None)
            else:
                vector(e, vec.mask(k, plane - e))
        k.finish()
        return unit.text()
