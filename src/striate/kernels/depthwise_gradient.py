"""Weight gradient of a depthwise convolution, NHWC.

    dw[a, b, c] = Σ_{n,i,j} x[n, i·sh − pt + a·dh, j·sw − pl + b·dw, c] · dy[n, i, j, c]

FLOPs: 2 · n · rows · cols · c · kh · kw. A unit of work is (chunk of row blocks, share of the
channel vectors). For each block, channel vector and kernel row, the kw sums stay in registers
over all pixels of the block. Chunks follow from the shape; their sums are added in order later.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from striate.arith.machine import Machine
from striate.ir import vec
from striate.ir.kernel import I64, PTR, Int, Kernel, Ptr, Unit
from striate.kernels.depthwise import inside
from striate.kernels.span import load, store
from striate.kernels.spec import symbol

SIZES = (
    *("n", "in_h", "in_w", "rows", "cols", "pad_top", "pad_left"),
    *("row_block", "chunk", "shares"),
)
X, DY, SUMS = 0, 1, 2
PIXELS = 4  # neighbours a round; even and odd ones are summed apart, for a sum waits for its FMA
SETS = 2


@dataclass(frozen=True)
class DepthwiseGradient:
    """All that shapes the code. Sums are [chunk][tap][channel]."""

    channels: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]

    def emit(self, machine: Machine) -> str:
        """LLVM IR text of the kernel."""
        unit = Unit(machine)
        _Build(self, unit.kernel(symbol(self))).build()
        return unit.text()


class _Build:
    def __init__(self, spec: DepthwiseGradient, k: Kernel) -> None:
        self.spec, self.k = spec, k
        self.taps = spec.kernel[0] * spec.kernel[1]

    def build(self) -> None:
        k, c = self.k, self.spec.channels
        s = {name: k.size(i) for i, name in enumerate(SIZES)}
        whole, rest = divmod(c, k.lanes)
        count = whole + (rest > 0)
        bodies = {tail: self._body(tail) for tail in (False, True) if (rest if tail else whole)}
        row_blocks = s["rows"].ceil_div(s["row_block"])
        blocks = s["n"] * row_blocks
        start, stop = k.share(blocks.ceil_div(s["chunk"]) * s["shares"])
        with k.loop(start, stop) as unit:
            chunk, share = unit // s["shares"], unit % s["shares"]
            begin, end = (k.int(count) * (share + i) // s["shares"] for i in (0, 1))
            first = chunk * s["chunk"]
            with k.loop(first, (first + s["chunk"]).min(blocks)) as block:
                n, row = block // row_blocks, block % row_blocks * s["row_block"]
                fresh = k.b.zext(block.equals(first), I64)
                x = k.buffer(X).at(n * s["in_h"] * s["in_w"] * c)
                dy = k.buffer(DY).at(n * s["rows"] * s["cols"] * c)
                last = (row + s["row_block"]).min(s["rows"])
                sums = k.buffer(SUMS).at(chunk * (self.taps * c))
                with k.loop(begin, end) as v, k.loop(0, self.spec.kernel[0]) as a:
                    at = v * k.lanes
                    tap = sums.at(a * (self.spec.kernel[1] * c)).at(at)
                    args = (k.function.args[1], x.at(at), dy.at(at), tap, row, last, a, fresh)
                    self._call(bodies, v < whole, args)
        k.finish()

    def _call(self, bodies: dict[bool, Any], full: Any, args: tuple[Any, ...]) -> None:
        k = self.k
        if len(bodies) == 1:
            k.call(next(iter(bodies.values())), *args)
            return
        with k.either(full) as (yes, no):
            with yes:
                k.call(bodies[False], *args)
            with no:
                k.call(bodies[True], *args)

    def _body(self, tail: bool) -> Any:
        """row(sizes, x, dy, sums, first row, last row, kernel row, fresh) of one vector."""
        spec, lanes = self.spec, self.k.lanes
        name = "row_tail" if tail else "row"
        k = self.k.unit.function(name, [PTR, PTR, PTR, PTR, I64, I64, I64, I64])
        values = k.function.args
        x, dy, sums = (Ptr(k, v) for v in values[1:4])
        first, last, a, fresh = (Int(k, v) for v in values[4:])
        table = Ptr(k, values[0], I64)
        s = {name: Int(k, vec.load_scalar(k, table.at(i))) for i, name in enumerate(SIZES)}
        on = vec.mask(k, spec.channels % lanes) if tail else None
        # Rows of dy whose row of x is in the image.
        top = s["pad_top"] - a * spec.dilation[0]
        low = top.max(0).ceil_div(spec.stride[0]).max(first)
        high = (s["in_h"] + top).max(0).ceil_div(spec.stride[0]).min(last)
        columns = inside(
            *(spec.kernel[1], spec.dilation[1], spec.stride[1]),
            *(s["in_w"], s["pad_left"], s["cols"]),
        )
        line = _Line(k, spec, s, on, columns)

        def row(i: Int, accs: list[Any]) -> list[Any]:
            source = x.at((i * spec.stride[0] - top) * s["in_w"] * spec.channels)
            return line.add(source, dy.at(i * s["cols"] * spec.channels), accs)

        width = spec.kernel[1]
        accs = k.fold(low, high, [vec.constant(k, 0.0)] * (width * SETS), row)
        for b in range(width):
            place = sums.at(b * spec.channels)
            total = k.b.fadd(accs[b], accs[width + b])
            with k.either(fresh.equals(1)) as (new, old):
                with new:
                    store(k, total, place, on)
                with old:
                    store(k, k.b.fadd(load(k, place, on), total), place, on)
        k.finish()
        return k.function


@dataclass
class _Line:
    """One row of dy times one row of x, added to kw sums (twice: even and odd pixels)."""

    k: Kernel
    spec: DepthwiseGradient
    s: dict[str, Int]
    on: Any
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

    def _pixels(self, x: Ptr, dy: Ptr, j: Int, count: int, accs: list[Any]) -> list[Any]:
        k, spec = self.k, self.spec
        c, width = spec.channels, spec.kernel[1]
        source = x.at((j * spec.stride[1] - self.s["pad_left"]) * c)
        held: dict[int, Any] = {}
        out = list(accs)
        for r in range(count):
            g = load(k, dy.at(j * c).at(r * c), self.on)
            for b in range(width):
                place = r * spec.stride[1] + b * spec.dilation[1]
                if place not in held:
                    held[place] = load(k, source.at(place * c), self.on)
                number = r % SETS * width + b
                out[number] = vec.fma(k, held[place], g, out[number])
        return out

    def _edge(self, x: Ptr, dy: Ptr, j: Int, accs: list[Any]) -> list[Any]:
        """A pixel some of whose taps lie outside: there x counts as zero."""
        k, spec = self.k, self.spec
        g = load(k, dy.at(j * spec.channels), self.on)
        nothing = vec.constant(k, 0.0)
        out = list(accs)
        for b in range(spec.kernel[1]):
            column = j * spec.stride[1] - self.s["pad_left"] + b * spec.dilation[1]
            near = column.max(0).min(self.s["in_w"] - 1)
            valid = k.every(column >= 0, column < self.s["in_w"])
            value = load(k, x.at(near * spec.channels), self.on)
            out[b] = vec.fma(k, k.b.select(valid, value, nothing), g, out[b])
        return out
