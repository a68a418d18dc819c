"""Weight gradient of a convolution in small groups (depthwise: of one channel), NHWC.

    dw[g, a, b, c, o] =
        Σ_{n,i,j} x[n, i·sh − pt + a·dh, j·sw − pl + b·dw, g·ci + c] · dy[n, i, j, g·co + o]

FLOPs: 2 · n · rows · cols · groups · co · ci · kh · kw. A vector has the output channels of as
many groups as fit; x is shuffled so that each lane meets its own group (see `grouped`). A unit of
work is (chunk of row blocks, share of the vectors). For each block, vector and kernel row, the
sums of kw taps and a few input channels stay in registers over all pixels of the block. Chunks
follow from the shape; their sums are added in order later.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from striate.arith.machine import Machine
from striate.ir import vec
from striate.ir.kernel import I64, PTR, Int, Kernel, Ptr, Unit
from striate.kernels.grouped import Lanes, inside
from striate.kernels.span import load, store
from striate.kernels.spec import symbol

SIZES = (
    *("n", "in_h", "in_w", "rows", "cols", "pad_top", "pad_left"),
    *("row_block", "chunk", "shares"),
)
X, DY, SUMS = 0, 1, 2
PIXELS = 4  # neighbours a round


@dataclass(frozen=True)
class GroupedGradient:
    """All that shapes the code; `ci` and `co` count one group's channels.

    Sums are [chunk][input channel][tap][output channel].
    """

    groups: int
    ci: int
    co: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]

    def emit(self, machine: Machine) -> str:
        """LLVM IR text of the kernel."""
        unit = Unit(machine)
        _Build(self, unit.kernel(symbol(self))).build()
        return unit.text()


class _Build:
    def __init__(self, spec: GroupedGradient, k: Kernel) -> None:
        self.spec, self.k = spec, k
        self.over = Lanes(spec.groups, spec.ci, spec.co, k.lanes)
        self.inputs, self.outputs = spec.groups * spec.ci, spec.groups * spec.co
        # Three quarters of the registers for sums: those of as many input channels as fit.
        self.room = k.machine.registers * 3 // 4
        most = max(1, self.room // spec.kernel[1])
        self.passes = [range(c, min(c + most, spec.ci)) for c in range(0, spec.ci, most)]

    def build(self) -> None:
        k, over = self.k, self.over
        s = {name: k.size(i) for i, name in enumerate(SIZES)}
        variants = ((False, over.whole), (True, over.vectors - over.whole))
        bodies = {
            tail: [self._body(channels, tail) for channels in self.passes]
            for tail, some in variants
            if some
        }
        row_blocks = s["rows"].ceil_div(s["row_block"])
        blocks = s["n"] * row_blocks
        start, stop = k.share(blocks.ceil_div(s["chunk"]) * s["shares"])
        with k.loop(start, stop) as unit:
            chunk, share = unit // s["shares"], unit % s["shares"]
            begin, end = (k.int(over.vectors) * (share + i) // s["shares"] for i in (0, 1))
            first = chunk * s["chunk"]
            with k.loop(first, (first + s["chunk"]).min(blocks)) as block:
                n, row = block // row_blocks, block % row_blocks * s["row_block"]
                fresh = Int(k, k.b.zext(block.equals(first), I64))
                last = (row + s["row_block"]).min(s["rows"])
                x = k.buffer(X).at(n * s["in_h"] * s["in_w"] * self.inputs)
                dy = k.buffer(DY).at(n * s["rows"] * s["cols"] * self.outputs)
                taps = self.spec.kernel[0] * self.spec.kernel[1]
                sums = k.buffer(SUMS).at(chunk * (self.spec.ci * taps * self.outputs))

                def vector(v: Int, tail: bool) -> None:
                    xv = x.at(v * (over.together * self.spec.ci))
                    at = v * (over.together * self.spec.co)
                    with k.loop(0, self.spec.kernel[0]) as a:
                        for body in bodies[tail]:
                            args = (xv, dy.at(at), sums.at(at), row, last, a, fresh)
                            k.call(body, k.function.args[1], *args)

                over.for_each(k, begin, end, vector)
        k.finish()

    def _body(self, channels: range, tail: bool) -> Any:
        """rows(sizes, x, dy, sums, first row, last row, kernel row, fresh) of one vector."""
        spec = self.spec
        name = f"rows{channels.start}{'_tail' if tail else ''}"
        k = self.k.unit.function(name, [PTR, PTR, PTR, PTR, I64, I64, I64, I64])
        values = k.function.args
        x, dy, sums = (Ptr(k, v) for v in values[1:4])
        first, last, a, fresh = (Int(k, v) for v in values[4:])
        table = Ptr(k, values[0], I64)
        s = {name: Int(k, vec.load_scalar(k, table.at(i))) for i, name in enumerate(SIZES)}
        # Rows of dy whose row of x is in the image.
        top = s["pad_top"] - a * spec.dilation[0]
        low = top.max(0).ceil_div(spec.stride[0]).max(first)
        high = (s["in_h"] + top).max(0).ceil_div(spec.stride[0]).min(last)
        columns = inside(
            *(spec.kernel[1], spec.dilation[1], spec.stride[1]),
            *(s["in_w"], s["pad_left"], s["cols"]),
        )
        width, many = spec.kernel[1], spec.kernel[1] * len(channels)
        # Even and odd pixels are summed apart where there is room, for a sum waits for its FMA.
        sets = 2 if 2 * many <= self.room else 1
        line = _Line(k, spec, self.over, channels, sets, s, tail, columns)

        def row(i: Int, accs: list[Any]) -> list[Any]:
            source = x.at((i * spec.stride[0] - top) * s["in_w"] * self.inputs)
            return line.add(source, dy.at(i * s["cols"] * self.outputs), accs)

        accs = k.fold(low, high, [vec.constant(k, 0.0)] * (many * sets), row)
        for number in range(many):
            c, b = channels[number // width], number % width
            place = sums.at((a * width + (c * spec.kernel[0] * width + b)) * self.outputs)
            total = accs[number] if sets == 1 else k.b.fadd(accs[number], accs[many + number])
            self._add(k, total, place, fresh, tail)
        k.finish()
        return k.function

    def _add(self, k: Kernel, total: Any, place: Ptr, fresh: Int, tail: bool) -> None:
        on = self.over.mask(k, tail)
        with k.either(fresh.equals(1)) as (new, old):
            with new:
                store(k, total, place, on)
            with old:
                store(k, k.b.fadd(load(k, place, on), total), place, on)


@dataclass
class _Line:
    """One row of dy times one row of x, added to the sums of `channels` and kw taps."""

    k: Kernel
    spec: GroupedGradient
    over: Lanes
    channels: range
    sets: int
    s: dict[str, Int]
    tail: bool
    columns: tuple[Int, Int]

    def add(self, x: Ptr, dy: Ptr, accs: list[Any]) -> list[Any]:
        k, (first, stop) = self.k, self.columns
        whole = first + (stop - first) // PIXELS * PIXELS
        accs = k.fold(0, first, accs, lambda j, v: self._edge(x, dy, j, v))
        rounds = (whole - first) // PIXELS
        accs = k.fold(
            0, rounds, accs, lambda i, v: self._pixels(x, dy, first + i * PIXELS, PIXELS, v)
        )
        accs = k.fold(whole, stop, accs, lambda j, v: self._pixels(x, dy, j, 1, v))
        return k.fold(stop, self.s["cols"], accs, lambda j, v: self._edge(x, dy, j, v))

    def _gradient(self, dy: Ptr, j: Int) -> Any:
        outputs = self.spec.groups * self.spec.co
        return load(self.k, dy.at(j * outputs), self.over.mask(self.k, self.tail))

    def _meet(self, met: list[Any], g: dict[int, Any], b: dict[int, int], out: list[Any]) -> None:
        """The inputs of one place, times the pixels of dy that have tap b[r] there."""
        k, width = self.k, self.spec.kernel[1]
        for number, c in enumerate(self.channels):
            pixel = self.over.pick(k, met, c)
            for r, tap in b.items():
                at = (r % self.sets * len(self.channels) + number) * width + tap
                out[at] = vec.fma(k, pixel, g[r], out[at])

    def _pixels(self, x: Ptr, dy: Ptr, j: Int, count: int, accs: list[Any]) -> list[Any]:
        k, spec = self.k, self.spec
        inputs, out = spec.groups * spec.ci, list(accs)
        source = x.at((j * spec.stride[1] - self.s["pad_left"]) * inputs)
        g = {r: self._gradient(dy, j + r) for r in range(count)}
        meetings: dict[int, dict[int, int]] = {}
        for r in range(count):
            for b in range(spec.kernel[1]):
                meetings.setdefault(r * spec.stride[1] + b * spec.dilation[1], {})[r] = b
        for place, taps in sorted(meetings.items()):
            met = self.over.load(k, source.at(place * inputs), self.tail)
            self._meet(met, g, taps, out)
        return out

    def _edge(self, x: Ptr, dy: Ptr, j: Int, accs: list[Any]) -> list[Any]:
        """A pixel some of whose taps lie outside: there x counts as zero."""
        k, spec = self.k, self.spec
        nothing, out = vec.constant(k, 0.0), list(accs)
        g = {0: self._gradient(dy, j)}
        for b in range(spec.kernel[1]):
            column = j * spec.stride[1] - self.s["pad_left"] + b * spec.dilation[1]
            near = column.max(0).min(self.s["in_w"] - 1)
            valid = k.every(column >= 0, column < self.s["in_w"])
            met = self.over.load(k, x.at(near * (spec.groups * spec.ci)), self.tail)
            self._meet([k.select(valid, v, nothing) for v in met], g, {0: b}, out)
        return out
