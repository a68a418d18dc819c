"""Matrix product with packed weights: 1×1 convolution and dense layers, one kernel, one result.

    y[m, co] = epilogue( Σ_ci x[m, ci] · w[ci, co] )          FLOPs: 2 · m · ci · co

A unit of work is (panel of rows, chunk of output blocks). Inside: output block → tiles of rows,
so a block of weights is read from L2 once a tile and a panel of inputs stays in cache. Each sum
runs over ci in order, whatever the panel or the tile: the bits do not depend on m.

Rows whose distance is a multiple of 2 KiB fall into the same few sets of an L1 cache (64 sets of
64 bytes), and the 14 rows of a tile throw each other out. Such panels are copied to scratch with
rows one vector longer. So are panels that a prologue changes, or whose pixels a stride picks.

While a tile is computed, the next inputs and the places of its results are fetched into L2: of a
large batch they come from memory, which the first products of a tile would wait for. Of weights
that L2 does not hold, the tiles of an output block fetch those of the next block. One row, as of a
dense layer for one image, needs weights faster than they come: it reads those of several output
blocks side by side, for a processor fetches ahead in each of several streams.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from striate.arith.machine import Machine
from striate.ir import vec
from striate.ir.kernel import I64, PTR, Int, Kernel, Ptr, Unit
from striate.kernels.epilogue import Epilogue, apply_epilogue, fetch_tile
from striate.kernels.micro import LINE, Ahead, dispatch, multiply_run, zeros
from striate.kernels.prologue import AS_THEY_ARE, Prologue, panel_function
from striate.kernels.spec import symbol

SIZES = ("m", "panel", "chunks", "w_offset", "scratch")
STRIDED_SIZES = (*SIZES, "in_h", "in_w", "rows", "cols")
X, W, Y, SCRATCH, OPERANDS = 0, 1, 2, 3, 4
ALIASING_BYTES = 2048
PITCH_FILL = 16
STREAMS = 6  # output blocks whose weights one row reads side by side
FURTHER = 4096  # elements of the weights that a tile of one row fetches ahead where they are fewer


@dataclass(frozen=True)
class Gemm:
    """All that shapes the code.

    With a `stride` the rows of x are pixels of images in_h × in_w, and row m of the product is
    that of pixel (stride[0]·i, stride[1]·j) of an image, i and j counting its rows × cols outputs.
    """

    ci: int
    co: int
    epilogue: Epilogue
    prologue: Prologue = AS_THEY_ARE
    stride: tuple[int, int] = (1, 1)

    @property
    def row(self) -> int:
        """Elements from one row of x to the next."""
        return self.prologue.pitch or self.ci

    @property
    def packed(self) -> bool:
        """Whether panels are copied to rows of `pitch` elements."""
        return (
            self.prologue.expr is not None
            or self.stride != (1, 1)
            or self.row * 4 % ALIASING_BYTES == 0
        )

    @property
    def pitch(self) -> int:
        """Elements from one row of a panel to the next."""
        if not self.packed:
            return self.row
        return self.ci + PITCH_FILL if self.ci * 4 % ALIASING_BYTES == 0 else self.ci

    def emit(self, machine: Machine) -> str:
        """LLVM IR text of the kernel."""
        unit = Unit(machine)
        _Build(self, unit.kernel(symbol(self))).build()
        return unit.text()


def near(ci: int, co: int, machine: Machine) -> bool:
    """Whether half of L2 holds the weights."""
    return 4 * ci * co <= machine.l2_bytes // 2


class _Build:
    def __init__(self, spec: Gemm, k: Kernel) -> None:
        self.spec, self.k = spec, k
        self.block = k.machine.block(spec.co)
        self.most = k.machine.rows
        self.whole, self.rest = divmod(spec.co, self.block)
        self.blocks = self.whole + (self.rest > 0)
        self.turns = min(2, self.blocks)
        # Weights that half of L2 holds are read again for each tile of rows, so that results
        # leave in the order of memory; larger ones are read once for a panel.
        self.rows_first = near(spec.ci, spec.co, k.machine)

    def build(self) -> None:
        k, spec = self.k, self.spec
        names = SIZES if spec.stride == (1, 1) else STRIDED_SIZES
        s = {name: k.size(i) for i, name in enumerate(names)}
        operands = OPERANDS + len(spec.epilogue.operands)
        copy = None
        if spec.packed:
            copy = panel_function(k, spec.prologue, spec.ci, spec.pitch, operands)
        tails = [t for t, there in ((False, self.whole), (True, self.rest)) if there]
        bodies = {t: [self._body(r, t) for r in range(1, self.most + 1)] for t in tails}
        x, w = k.buffer(X), k.buffer(W).at(s["w_offset"])
        scratch = k.buffer(SCRATCH).at(k.worker * s["scratch"])
        start, stop = k.share(s["m"].ceil_div(s["panel"]) * s["chunks"])
        with k.loop(start, stop) as unit:
            chunk, first = unit % s["chunks"], unit // s["chunks"] * s["panel"]
            count = (s["m"] - first).min(s["panel"])
            xp = x.at(first * spec.row)
            if copy is not None:
                self._copy(copy, x, scratch, s, first, count)
                xp = scratch
            begin = k.int(self.blocks) * chunk // s["chunks"]
            end = k.int(self.blocks) * (chunk + 1) // s["chunks"]
            tiles = count.ceil_div(self.most)
            length, longer = count // tiles, count % tiles

            def tile(ob: Int, t: Int) -> None:
                j = t * length + t.min(longer)
                rows = k.select(t < longer, length + 1, length)
                channel = ob * self.block
                place = (first + j) * spec.epilogue.pixel(spec.co) + channel
                wb = w.at(ob * (spec.ci * self.block))
                inputs = x.at((first + j + (s["panel"] if spec.packed else rows)) * spec.row)
                inputs = inputs.at(ob % self.turns * (rows * spec.row // self.turns))
                ahead = self._ahead(inputs, wb, t, ob < begin + self.turns)
                args = (k.function.args[0], xp.at(j * spec.pitch), wb, place, channel, *ahead)
                self._tile(bodies, ob, rows, args)

            if not self.rows_first and self.whole >= STREAMS:
                begin = self._one_row(count, begin, end, xp, w, first)
            if self.rows_first:
                with k.loop(0, tiles) as t, k.loop(begin, end) as ob:
                    tile(ob, t)
            else:
                with k.loop(begin, end) as ob, k.loop(0, tiles) as t:
                    tile(ob, t)
        k.finish()

    def _one_row(self, count: Int, begin: Int, end: Int, x: Ptr, w: Ptr, m: Int) -> Int:
        """If a panel is the row m alone, its output blocks from `begin` on, some side by side.

        Returns the first block that is left to do.
        """
        k, full = self.k, end.min(self.whole)
        groups: Int = k.select(count.equals(1), (full - begin).max(0) // STREAMS, k.int(0))
        body = self._streams()
        with k.loop(0, groups) as g:
            place = m * self.spec.epilogue.pixel(self.spec.co)
            k.call(body, k.function.args[0], x, w, place, begin + g * STREAMS)
        return begin + groups * STREAMS

    def _copy(
        self, copy: Any, x: Ptr, scratch: Ptr, s: dict[str, Int], first: Int, count: Int
    ) -> None:
        """A panel of rows from `first` on; strided ones come one by one."""
        k, spec = self.k, self.spec
        if spec.stride == (1, 1):
            k.call(copy, k.function.args[0], scratch, x.at(first * spec.row), count)
            return
        with k.loop(0, count) as r:
            j, rest = (first + r) % s["cols"], (first + r) // s["cols"]
            n, i = rest // s["rows"], rest % s["rows"]
            pixel = (n * s["in_h"] + i * spec.stride[0]) * s["in_w"] + j * spec.stride[1]
            to = scratch.at(r * spec.pitch)
            k.call(copy, k.function.args[0], to, x.at(pixel * spec.row), k.int(1))

    def _ahead(self, inputs: Ptr, w: Ptr, t: Int, first: Any) -> tuple[Ptr, ...]:
        """What tile t of the output block whose weights are `w` fetches: inputs or weights.

        Inputs are those of the next tile, or where panels are copied, of the next panel; blocks
        take turns, each a half. Pixels that a stride picks do not lie in a row and are left to
        themselves. Where blocks come one after another, only the `first` have inputs to fetch; the
        tiles of the others fetch the weights of the next block, a quarter of them each.
        """
        strided = self.spec.stride != (1, 1)
        if self.rows_first:
            return () if strided else (inputs,)
        whole = self.spec.ci * self.block
        weights = w.at(whole).at(t % 4 * (whole // 4))
        return (weights if strided else self.k.select(first, inputs, weights),)

    def _tile(
        self, bodies: dict[bool, list[Any]], ob: Int, rows: Int, args: tuple[Any, ...]
    ) -> None:
        k = self.k

        def run(tail: bool) -> None:
            dispatch(k, rows, self.most, lambda r: k.call(bodies[tail][r - 1], *args))

        if len(bodies) == 1:
            run(next(iter(bodies)))
            return
        with k.either(ob < self.whole) as (full, last):
            with full:
                run(False)
            with last:
                run(True)

    def _streams(self) -> Any:
        """streams(buffers, x, w, y offset, ob): `STREAMS` output blocks of one row, from ob on."""
        spec, block = self.spec, self.block
        k = self.k.unit.function("streams", [PTR, PTR, PTR, I64, I64])
        x, ob = Ptr(k, k.function.args[1]), Int(k, k.function.args[4])
        w = Ptr(k, k.function.args[2]).at(ob * (spec.ci * block))
        row, cols = Int(k, k.function.args[3]), block // k.lanes

        def step(i: Int, accs: list[Any]) -> list[Any]:
            pixel, wi = vec.broadcast(k, x.at(i)), w.at(i * block)
            out = []
            for number, acc in enumerate(accs):
                b, c = divmod(number, cols)
                weights = vec.load(k, wi.at(b * (spec.ci * block) + c * k.lanes))
                out.append(vec.fma(k, pixel, weights, acc))
            return out

        accs = k.fold(0, spec.ci, zeros(k, STREAMS, cols), step, at_least_once=True)
        for b in range(STREAMS):
            apply_epilogue(
                k,
                spec.epilogue,
                accs[b * cols : (b + 1) * cols],
                rows=1,
                cols=cols,
                offset=row + (ob + b) * block,
                channel=(ob + b) * block,
                row_step=0,
                lanes_on=None,
                y=Y,
                operands=OPERANDS,
            )
        k.finish()
        return k.function

    def _body(self, rows: int, tail: bool) -> Any:
        """tile(buffers, x, w, y offset, channel, ahead) for `rows` rows; see `_ahead`."""
        spec = self.spec
        name = f"tile{rows}{'_tail' if tail else ''}"
        fetched = [PTR] if spec.stride == (1, 1) or not self.rows_first else []
        k = self.k.unit.function(name, [PTR, PTR, PTR, I64, I64, *fetched])
        x, w = Ptr(k, k.function.args[1]), Ptr(k, k.function.args[2])
        offset, channel = (Int(k, a) for a in k.function.args[3:5])
        ahead = [Ptr(k, a) for a in k.function.args[5:]]
        width = self.rest if tail else self.block
        cols = -(-width // k.lanes)
        place: dict[str, Any] = {
            "rows": rows,
            "cols": cols,
            "offset": offset,
            "row_step": spec.epilogue.pixel(spec.co),
            "y": Y,
            "operands": OPERANDS,
        }
        fetch_tile(k, spec.epilogue, **place)
        accs = multiply_run(
            k,
            x,
            w,
            zeros(k, rows, cols),
            rows=rows,
            cols=cols,
            length=spec.ci,
            row_stride=spec.pitch,
            block=self.block,
            ahead=self._fetched(w, rows, ahead),
        )
        lanes_on = vec.mask(k, width % k.lanes) if width % k.lanes else None
        apply_epilogue(k, spec.epilogue, accs, channel=channel, lanes_on=lanes_on, **place)
        k.finish()
        return k.function

    def _fetched(self, w: Ptr, rows: int, ahead: list[Ptr]) -> Ahead | None:
        """What a tile of so many rows fetches: its weights, or what `_ahead` says."""
        if rows == 1:
            return Ahead(w.at(FURTHER), self.block, into=2)
        every = 1 << (self.turns * LINE // rows).bit_length() - 1
        return Ahead(ahead[0], LINE // every, into=2, every=every) if ahead else None
