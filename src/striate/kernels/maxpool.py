"""Max pooling, NHWC: the maximum, its place, and its gradient.

    y[n, i, j, c] = max of x[n, a, b, c] over the window: a in rows[i], b in cols[j]

A window is a (start, stop, step) of int32 for each output row and column, clipped to the image;
so padding, dilation, ceil mode and adaptive pooling are tables, not code. A
window that has exactly kernel[0] × kernel[1] pixels runs unrolled, any other in loops. An empty
window (all padding) gives −inf, the place −1 and no gradient.

A window is read row by row. A pixel takes over if it is greater than the greatest so far, which
starts at −inf, or if it is NaN: the first of equals wins, the last of several NaN, and the first
pixel if all are −inf.

Bytes moved: forward 4·(x + y); gradient 4·(x + dy + dx), and dx twice more where windows overlap.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from striate.arith.machine import Machine
from striate.ir import vec
from striate.ir.kernel import I32, Int, Kernel, Ptr, Unit
from striate.kernels.prologue import AS_THEY_ARE, Prologue, Reading
from striate.kernels.span import (
    fill_run,
    int_lanes,
    load,
    load_int,
    splat_int,
    store,
    vectors,
    walk,
)
from striate.kernels.spec import symbol

MOST_UNROLLED = 25  # pixels of the largest window that is unrolled
LINE = 16  # channels of a cache line: the gradient's units do not share lines
N, H, W, C, OUT_H, OUT_W = range(6)
SIZES = ("n", "h", "w", "c", "out_h", "out_w")

Read = Callable[[Ptr], Any]  # an address → the vector there


@dataclass(frozen=True)
class MaxPool:
    """x → y. `kernel` is the size of a whole window, None for windows of many sizes.

    `pitch` counts the elements from one pixel of y to the next; 0: c. `before` is computed of the
    pixels that are read; its operands follow the buffers.
    """

    kernel: tuple[int, int] | None = None
    pitch: int = 0
    before: Prologue = AS_THEY_ARE

    BUFFERS: ClassVar[tuple[str, ...]] = ("x", "y", "rows", "cols")
    SIZES: ClassVar[tuple[str, ...]] = SIZES

    def emit(self, machine: Machine) -> str:
        """LLVM IR text of the kernel."""
        unit = Unit(machine)
        k = unit.kernel(symbol(self))
        _forward(k, self.kernel, indices=False, pitch=self.pitch, before=self.before)
        k.finish()
        return unit.text()


@dataclass(frozen=True)
class MaxPoolIndices:
    """x → y, the int32 place a·w + b of the maximum in its plane. NHWC like the maximum."""

    kernel: tuple[int, int] | None = None

    BUFFERS: ClassVar[tuple[str, ...]] = ("x", "y", "rows", "cols")
    SIZES: ClassVar[tuple[str, ...]] = SIZES

    def emit(self, machine: Machine) -> str:
        """LLVM IR text of the kernel."""
        unit = Unit(machine)
        k = unit.kernel(symbol(self))
        _forward(k, self.kernel, indices=True)
        k.finish()
        return unit.text()


@dataclass(frozen=True)
class MaxPoolGrad:
    """dx[n, a, b, c] = Σ dy[n, i, j, c] over the windows whose winner is (a, b), in their order.

    `disjoint` promises that windows do not overlap: starts ascend, steps are 1 and each window
    stops before the next one starts. Then every dx is written once. `before` is computed of the
    pixels of x; its operands follow the buffers, and dx is the gradient of its result.
    """

    kernel: tuple[int, int] | None = None
    disjoint: bool = False
    before: Prologue = AS_THEY_ARE

    BUFFERS: ClassVar[tuple[str, ...]] = ("x", "dy", "dx", "rows", "cols")
    SIZES: ClassVar[tuple[str, ...]] = SIZES

    def emit(self, machine: Machine) -> str:
        """LLVM IR text of the kernel."""
        unit = Unit(machine)
        k = unit.kernel(symbol(self))
        grad = _Grad(k, self)
        if self.disjoint:
            grad.by_rows()
        else:
            grad.by_channels()
        k.finish()
        return unit.text()


class Span(NamedTuple):
    """The rows or columns start, start+step, … below stop of a window."""

    start: Int
    stop: Int
    step: Int

    @staticmethod
    def read(k: Kernel, table: Ptr, i: Int) -> Span:
        """Entry i of a table of windows."""
        return Span(*(load_int(k, table.at(i * 3).at(part)) for part in range(3)))

    @property
    def some(self) -> Any:
        """Whether there is one (i1)."""
        return self.start < self.stop

    def has(self, k: Kernel, count: int) -> Any:
        """Whether there are exactly `count` (i1)."""
        length = self.stop - self.start
        return k.every(length > self.step * (count - 1), length <= self.step * count)


class Window:
    """One window: walks its pixels, unrolled (`kernel` given) or in loops."""

    def __init__(
        self, k: Kernel, rows: Span, cols: Span, width: Int, kernel: tuple[int, int] | None
    ) -> None:
        self.k, self.rows, self.cols, self.width, self.kernel = k, rows, cols, width, kernel
        self.first = rows.start * width + cols.start
        self.taps: list[Int] = []
        if kernel:
            self.taps = [
                self.first + rows.step * width * a + cols.step * b
                for a in range(kernel[0])
                for b in range(kernel[1])
            ]

    def tag(self, pixel: Int, tap: int) -> Any:
        """What tells the pixels of this window apart, in every lane."""
        if self.kernel:
            return int_lanes(self.k, [tap] * self.k.lanes)
        return splat_int(self.k, pixel)

    def over(
        self, values: list[Any], visit: Callable[[Int, int, list[Any]], list[Any]]
    ) -> list[Any]:
        """`visit(pixel, tap, values)` → values, row by row; `tap` is 0 in loops."""
        if self.kernel:
            for tap, pixel in enumerate(self.taps):
                values = visit(pixel, tap, values)
            return values
        k, rows, cols = self.k, self.rows, self.cols

        def row(a: Int, values: list[Any]) -> list[Any]:
            begin = (rows.start + a * rows.step) * self.width + cols.start
            return k.fold(
                0,
                (cols.stop - cols.start).ceil_div(cols.step),
                values,
                lambda b, now: visit(begin + b * cols.step, 0, now),
            )

        return k.fold(0, (rows.stop - rows.start).ceil_div(rows.step), values, row)


def either_window(
    k: Kernel,
    rows: Span,
    cols: Span,
    width: Int,
    kernel: tuple[int, int] | None,
    run: Callable[[Window], None],
) -> None:
    """`run` with the window unrolled if it has the kernel's size, else in loops."""
    loops = Window(k, rows, cols, width, None)
    if kernel is None or kernel[0] * kernel[1] > MOST_UNROLLED:
        run(loops)
        return
    with k.either(k.every(rows.has(k, kernel[0]), cols.has(k, kernel[1]))) as (whole, clipped):
        with whole:
            run(Window(k, rows, cols, width, kernel))
        with clipped:
            run(loops)


def takes_over(k: Kernel, v: Any, m: Any) -> Any:
    """v > m or v is NaN."""
    return k.b.or_(k.b.fcmp_ordered(">", v, m), k.b.fcmp_unordered("uno", v, v))


# -- forward -----------------------------------------------------------------------------------


def _forward(
    k: Kernel,
    kernel: tuple[int, int] | None,
    *,
    indices: bool,
    pitch: int = 0,
    before: Prologue = AS_THEY_ARE,
) -> None:
    """A unit of work is an output row of an image."""
    s = [k.size(i) for i in range(len(SIZES))]
    x, y = k.buffer(0), k.buffer(1, I32) if indices else k.buffer(1)
    row_table, col_table = k.buffer(2, I32), k.buffer(3, I32)
    reading = Reading(k, before, 4)

    def output_row(at: list[Int]) -> None:
        n, i = at
        rows = Span.read(k, row_table, i)
        image = x.at(n * s[H] * s[W] * s[C])
        with k.loop(0, s[OUT_W]) as j:
            out = y.at(((n * s[OUT_H] + i) * s[OUT_W] + j) * (pitch or s[C]))

            def run(window: Window, out: Ptr = out) -> None:
                body = _index_of_max if indices else _max

                def some(c: Int, on: Any) -> None:
                    result = body(window, image.at(c), s[C], reading.channels(c, on))
                    store(k, result, out.at(c), on)

                vectors(k, s[C], some)

            either_window(k, rows, Span.read(k, col_table, j), s[W], kernel, run)

    start, stop = k.share(s[N] * s[OUT_H])
    walk(k, start, stop, (s[N], s[OUT_H]), output_row)


def _max(window: Window, image: Ptr, channels: Int, read: Read) -> Any:
    k = window.k

    def visit(pixel: Int, _: int, values: list[Any]) -> list[Any]:
        return [larger(k, read(image.at(pixel * channels)), values[0])]

    return window.over([vec.constant(k, float("-inf"))], visit)[0]


def larger(k: Kernel, v: Any, m: Any) -> Any:
    """v where it takes over from the maximum m, else m."""
    greater = k.b.select(k.b.fcmp_ordered(">", v, m), v, m)
    return k.b.select(k.b.fcmp_unordered("uno", v, v), v, greater)


def _index_of_max(window: Window, image: Ptr, channels: Int, read: Read) -> Any:
    k = window.k
    there = k.every(window.rows.some, window.cols.some)
    first = splat_int(k, k.select(there, window.first, k.int(-1)))
    return _winner(window, image, channels, read, first, lambda p, _: splat_int(k, p))


def _winner(
    window: Window,
    image: Ptr,
    channels: Int,
    read: Read,
    first: Any,
    tag: Callable[[Int, int], Any],
) -> Any:
    """The tag of the pixel that holds the maximum; `first` if all are −inf."""
    k = window.k

    def visit(pixel: Int, tap: int, values: list[Any]) -> list[Any]:
        v = read(image.at(pixel * channels))
        wins = takes_over(k, v, values[0])
        return [
            k.b.select(wins, v, values[0]),
            k.b.select(wins, tag(pixel, tap), values[1]),
        ]

    return window.over([vec.constant(k, float("-inf")), first], visit)[1]


# -- gradient ----------------------------------------------------------------------------------


class _Grad:
    def __init__(self, k: Kernel, spec: MaxPoolGrad) -> None:
        self.k, self.spec = k, spec
        self.s = [k.size(i) for i in range(len(SIZES))]
        self.x, self.dy, self.dx = (k.buffer(i) for i in range(3))
        self.row_table, self.col_table = k.buffer(3, I32), k.buffer(4, I32)
        self.reading = Reading(k, spec.before, 5)
        self.zero = vec.constant(k, 0.0)

    def by_channels(self) -> None:
        """A unit of work is an image and a share of its channels: windows may overlap.

        Images that are fewer than the parts are cut along the channels; no sum depends on it.
        """
        k, s = self.k, self.s
        pieces = k.parts.ceil_div(s[N].max(1))
        share = s[C].ceil_div(pieces).ceil_div(LINE) * LINE
        shares = s[C].ceil_div(share.max(1))
        start, stop = k.share(s[N] * shares)
        with k.loop(start, stop) as unit:
            n, first = unit // shares, unit % shares * share
            last = (first + share).min(s[C])
            dx = self.dx.at(n * s[H] * s[W] * s[C])
            with k.loop(0, s[H] * s[W]) as pixel:
                fill_run(k, dx.at(pixel * s[C] + first), last - first, self.zero)
            with k.loop(0, s[OUT_H]) as i:
                self._row_of_windows(n, i, first, last)

    def by_rows(self) -> None:
        """A unit of work is a row of windows, with the pixels from its start to the next one's."""
        k, s = self.k, self.s

        def unit(at: list[Int]) -> None:
            n, i = at
            self._zero_between(n, i)
            self._row_of_windows(n, i, k.int(0), s[C])

        start, stop = k.share(s[N] * s[OUT_H])
        walk(k, start, stop, (s[N], s[OUT_H]), unit)

    def _row_of_windows(self, n: Int, i: Int, first: Int, last: Int) -> None:
        """Channels first … last−1 of the windows of output row i."""
        k, s = self.k, self.s
        rows = Span.read(k, self.row_table, i)
        plane = n * s[H] * s[W] * s[C]
        with k.loop(0, s[OUT_W]) as j:
            out = ((n * s[OUT_H] + i) * s[OUT_W] + j) * s[C]

            def run(window: Window, out: Int = out) -> None:
                vectors(
                    k,
                    last,
                    lambda c, on: self._scatter(
                        window, plane + c, out + c, self.reading.channels(c, on), on
                    ),
                    start=first,
                )

            either_window(k, rows, Span.read(k, self.col_table, j), s[W], self.spec.kernel, run)

    def _scatter(self, window: Window, at: Int, out: Int, read: Read, lanes_on: Any) -> None:
        """Add dy[out] to the winner; where windows are disjoint, write it and zeros elsewhere."""
        k, channels = self.k, self.s[C]
        first = window.tag(window.first, 0)
        winner = _winner(window, self.x.at(at), channels, read, first, window.tag)
        dy = load(k, self.dy.at(out), lanes_on)

        def visit(pixel: Int, tap: int, _: list[Any]) -> list[Any]:
            target = self.dx.at(at + pixel * channels)
            wins = k.b.icmp_signed("==", winner, window.tag(pixel, tap))
            value = k.b.select(wins, dy, self.zero)
            if not self.spec.disjoint:
                value = k.b.fadd(load(k, target, lanes_on), value)
            store(k, value, target, lanes_on)
            return []

        window.over([], visit)

    def _zero_between(self, n: Int, i: Int) -> None:
        """Zero the pixels that belong to output row i and lie in no window."""
        k, s = self.k, self.s
        line = s[W] * s[C]
        dx = self.dx.at(n * s[H] * line)
        rows, before, after = self._neighbours(self.row_table, i, s[OUT_H], s[H])
        fill_run(k, dx.at(before * line), (rows.start - before) * line, self.zero)
        fill_run(k, dx.at(rows.stop * line), (after - rows.stop) * line, self.zero)
        with k.loop(0, s[OUT_W]) as j:
            cols, left, right = self._neighbours(self.col_table, j, s[OUT_W], s[W])
            gap = k.b.or_(left < cols.start, cols.stop < right)
            with k.when(gap), k.loop(rows.start, rows.stop) as row:
                to = dx.at(row * line)
                fill_run(k, to.at(left * s[C]), (cols.start - left) * s[C], self.zero)
                fill_run(k, to.at(cols.stop * s[C]), (right - cols.stop) * s[C], self.zero)

    def _neighbours(self, table: Ptr, i: Int, count: Int, extent: Int) -> tuple[Span, Int, Int]:
        """Window i, the first pixel that belongs to it, and the first that belongs to the next.

        Empty windows may lie beyond the image; here they end with it.
        """
        k = self.k
        start, stop, step = Span.read(k, table, i)
        here = Span(start.min(extent), stop.min(extent), step)
        following = Span.read(k, table, (i + 1).min(count - 1)).start.min(extent)
        before = k.select(i < 1, k.int(0), here.start)
        return here, before, k.select(i + 1 < count, following, extent)
