"""Depthwise convolution, NHWC: forward, and each phase of the input gradient.

    y[n, h0 + i·step, w0 + j·step, c] =
        epilogue( Σ_{a,b} x[n, i·sh − pt + a·dh, j·sw − pl + b·dw, c] · w[a, b, c] )

FLOPs: 2 · n · rows · cols · c · kh · kw. An input meets only kh·kw weights, so loads bound the
speed, not arithmetic, and a bordered copy would cost a third of it. Instead kernel rows outside
of the image are left out of a loop, and pixels are told apart: those whose taps all lie inside
are computed as tiles of neighbours, which share the vectors that their windows have in common;
the few others one by one, with the taps that they have.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from striate.arith.machine import Machine
from striate.ir import vec
from striate.ir.kernel import I64, PTR, Int, Kernel, Ptr, Unit
from striate.kernels.epilogue import Epilogue, apply_epilogue
from striate.kernels.micro import dispatch
from striate.kernels.span import load, vectors
from striate.kernels.spec import symbol

SIZES = (
    *("n", "in_h", "in_w", "rows", "cols", "pad_top", "pad_left"),
    *("y_h", "y_w", "y_top", "y_left", "w_offset"),
)
X, W, Y, OPERANDS = 0, 1, 2, 4


def inside(
    taps: int, dilation: int, stride: int, size: Int, pad: Int, count: Int
) -> tuple[Int, Int]:
    """Outputs [first, stop) of 0 … count−1 whose taps all lie in 0 … size−1 along one axis."""
    first = pad.max(0).ceil_div(stride).min(count)
    stop = (size + pad - (taps - 1) * dilation).max(0).ceil_div(stride).min(count)
    return first, stop.max(first)


def there(taps: int, dilation: int, size: Int, start: Int) -> tuple[Int, Int]:
    """Taps [first, stop) whose places start + tap·dilation lie in 0 … size−1."""
    first = (0 - start).max(0).ceil_div(dilation)
    stop = (size - start).max(0).ceil_div(dilation).min(taps)
    return first, stop.max(first)


@dataclass(frozen=True)
class Depthwise:
    """All that shapes the code. Weights are [tap][channel]."""

    channels: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    step: tuple[int, int]
    epilogue: Epilogue

    def emit(self, machine: Machine) -> str:
        """LLVM IR text of the kernel."""
        unit = Unit(machine)
        _Build(self, unit.kernel(symbol(self))).build()
        return unit.text()


class _Build:
    def __init__(self, spec: Depthwise, k: Kernel) -> None:
        self.spec, self.k = spec, k
        self.pixel = spec.epilogue.pixel(spec.channels)
        self.most = k.machine.registers // 4  # tiles: accumulators, then windows and weights
        self.s: dict[str, Int] = {}

    def build(self) -> None:
        k, spec = self.k, self.spec
        self.s = s = {name: k.size(i) for i, name in enumerate(SIZES)}
        self.bodies = [self._tile(rows) for rows in range(1, self.most + 1)]
        self.edge = self._edge()
        start, stop = k.share(s["n"] * s["rows"])
        with k.loop(start, stop) as unit:
            n, row = unit // s["rows"], unit % s["rows"]
            top = row * spec.stride[0] - s["pad_top"]
            if 0 in spec.kernel:
                a, columns = (k.int(0), k.int(0)), (k.int(0), s["cols"])
            else:
                a = there(spec.kernel[0], spec.dilation[0], s["in_h"], top)
                columns = inside(spec.kernel[1], spec.dilation[1], spec.stride[1], *self._across())
            image = k.buffer(X).at((n * s["in_h"] + top) * s["in_w"] * spec.channels)
            y = (n * s["y_h"] + row * spec.step[0] + s["y_top"]) * s["y_w"] + s["y_left"]
            self._row(image, y * self.pixel, a, columns)
        k.finish()

    def _across(self) -> tuple[Int, Int, Int]:
        return self.s["in_w"], self.s["pad_left"], self.s["cols"]

    def _row(self, image: Ptr, y: Int, a: tuple[Int, Int], columns: tuple[Int, Int]) -> None:
        """One row of outputs: edges one by one, the rest in tiles of nearly equal length."""
        k, spec, s = self.k, self.spec, self.s
        w = k.buffer(W).at(s["w_offset"])

        def args(j: Int) -> tuple[Any, ...]:
            column = j * spec.stride[1] - s["pad_left"]
            place = y + j * (spec.step[1] * self.pixel)
            pitch = s["in_w"] * spec.channels
            return (k.function.args[0], image.at(column * spec.channels), w, place, pitch, *a)

        def edges(start: Int, stop: Int) -> None:
            with k.loop(start, stop) as j:
                column = j * spec.stride[1] - s["pad_left"]
                b = there(max(1, spec.kernel[1]), spec.dilation[1], s["in_w"], column)
                k.call(self.edge, *args(j), *b)

        edges(k.int(0), columns[0])
        count = columns[1] - columns[0]
        tiles = count.ceil_div(self.most)
        length, longer = count // tiles.max(1), count % tiles.max(1)
        with k.loop(0, tiles) as t:
            j = columns[0] + t * length + t.min(longer)
            rows = k.select(t < longer, length + 1, length)
            dispatch(k, rows, self.most, lambda r: k.call(self.bodies[r - 1], *args(j)))
        edges(columns[1], s["cols"])

    # -- inner functions --------------------------------------------------------------------------

    def _function(self, name: str, extra: int) -> tuple[Kernel, Ptr, Ptr, list[Int]]:
        k = self.k.unit.function(name, [PTR, PTR, PTR, *[I64] * (4 + extra)])
        args = k.function.args
        return k, Ptr(k, args[1]), Ptr(k, args[2]), [Int(k, v) for v in args[3:]]

    def _finish(self, k: Kernel, rows: int, y: Int, accs: Callable[[Int, Any], list[Any]]) -> Any:
        """For all channels: the sums, the epilogue, the store."""

        def channels(c: Int, on: Any) -> None:
            apply_epilogue(
                k,
                self.spec.epilogue,
                accs(c, on),
                rows=rows,
                cols=1,
                offset=y + c,
                channel=c,
                row_step=self.spec.step[1] * self.pixel,
                lanes_on=on,
                y=Y,
                operands=OPERANDS,
            )

        vectors(k, k.int(self.spec.channels), channels)
        k.finish()
        return k.function

    def _tile(self, rows: int) -> Any:
        """tile(buffers, x, w, y offset, pitch, first kernel row, last) for `rows` neighbours."""
        spec = self.spec
        k, x, w, (y, pitch, first, stop) = self._function(f"tile{rows}", 0)

        def accs(c: Int, on: Any) -> list[Any]:
            def kernel_row(a: Int, sums: list[Any]) -> list[Any]:
                xa = x.at(a * spec.dilation[0] * pitch).at(c)
                wa = w.at(a * (spec.kernel[1] * spec.channels)).at(c)
                held: dict[int, Any] = {}
                out = list(sums)
                for b in range(spec.kernel[1]):
                    weight = load(k, wa.at(b * spec.channels), on)
                    for r in range(rows):
                        place = r * spec.stride[1] + b * spec.dilation[1]
                        if place not in held:
                            held[place] = load(k, xa.at(place * spec.channels), on)
                        out[r] = vec.fma(k, held[place], weight, out[r])
                return out

            return k.fold(first, stop, [vec.constant(k, 0.0)] * rows, kernel_row)

        return self._finish(k, rows, y, accs)

    def _edge(self) -> Any:
        """edge(as tile, first kernel column, last): one pixel."""
        spec = self.spec
        k, x, w, (y, pitch, first, stop, left, right) = self._function("edge", 2)

        def accs(c: Int, on: Any) -> list[Any]:
            def kernel_row(a: Int, sums: list[Any]) -> list[Any]:
                xa = x.at(a * spec.dilation[0] * pitch).at(c)
                wa = w.at(a * (spec.kernel[1] * spec.channels)).at(c)

                def tap(b: Int, sums: list[Any]) -> list[Any]:
                    pixel = load(k, xa.at(b * (spec.dilation[1] * spec.channels)), on)
                    return [vec.fma(k, pixel, load(k, wa.at(b * spec.channels), on), sums[0])]

                return k.fold(left, right, sums, tap)

            return k.fold(first, stop, [vec.constant(k, 0.0)], kernel_row)

        return self._finish(k, 1, y, accs)


@dataclass(frozen=True)
class PackDepthwise:
    """w (c, 1, kh, kw) → [tap][c], the taps in the order `taps` (flat, of `total`)."""

    channels: int
    taps: tuple[int, ...]
    total: int

    def emit(self, machine: Machine) -> str:
        """LLVM IR text of the kernel."""
        unit = Unit(machine)
        k = unit.kernel(symbol(self))
        start, stop = k.share(self.channels)
        with k.loop(start, stop) as c:
            for i, tap in enumerate(self.taps):
                value = vec.load_scalar(k, k.buffer(0).at(c * self.total + tap))
                k.b.store(value, k.buffer(1).at(c + i * self.channels).v)
        k.finish()
        return unit.text()
