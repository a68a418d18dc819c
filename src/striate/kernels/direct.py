"""Direct convolution, NHWC: forward, and each phase of the input gradient.

    y[n, h0 + i·oh_step, w0 + j·ow_step, co] =
        epilogue( Σ_{a,b,ci} x[n, i·sh − pt + a·dh, j·sw − pl + b·dw, ci] · w[a, b, ci, co] )

FLOPs: 2 · n · rows · cols · co · kh · kw · ci/groups.

A unit of work is (image, block of output rows, group, chunk of output blocks). Inside a unit:
output block → row → tiles. A row of output pixels is cut into tiles of nearly equal length
(29 = 10+10+9), and there is a body for each length: any image width runs at the speed of whole
tiles and compiles nothing new.

Only taps that meet the image are computed, as far as all pixels of a tile share them. A row of
outputs whose window begins in row r = i·sh − pt of the image meets the kernel rows a with
0 ≤ r + a·dh < in_h:

    ⌈max(0, −r) / dh⌉ ≤ a < min(kh, ⌈max(0, in_h − r) / dh⌉)

Left and right of the image zeros stand for what is outside: where windows leave it there, the
rows that the unit needs are copied once into scratch with their border. Copying touches each
input once, the products 2·kh·kw·co times, so the border is as good as free. The columns of a
dilated kernel are products of their own, so its rows of outputs are cut where a column enters or
leaves the image: every tile meets whole columns, and nothing is copied.

With max pooling in the epilogue `rows` and `cols` count 2×2 windows, y_h and y_w are the size of
what is pooled, and a tile is the windows of two rows of pixels: the sums of the first row leave
their maxima on the stack, those of the second are stored. All four sides of the copy have their
border then, and all taps are computed (`DirectConv.bordered`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from striate.arith.machine import Machine
from striate.ir import vec
from striate.ir.kernel import I64, PTR, Int, Kernel, Ptr, Unit
from striate.kernels.border import Border, Source
from striate.kernels.epilogue import Epilogue, apply_epilogue, fetch_tile, finishing
from striate.kernels.maxpool import larger
from striate.kernels.micro import dispatch, zeros
from striate.kernels.span import store
from striate.kernels.spec import symbol
from striate.kernels.taps import Taps

# Names of the run-time sizes, in their order in the size table.
SIZES = (
    "n",
    "in_h",
    "in_w",
    "rows",
    "cols",
    "pad_top",
    "pad_left",
    "y_h",
    "y_w",
    "y_top",
    "y_left",
    "row_block",
    "chunks",
    "w_offset",
    "scratch",
)
X, W, Y, SCRATCH, OPERANDS = 0, 1, 2, 3, 4
SHORT_ROW = 32


@dataclass(frozen=True)
class DirectConv:
    """All that shapes the code; `ci` and `co` count one group's channels.

    `in_place`: a 1×1 kernel without padding reads the pixels of its group where they lie, between
    those of the other groups.
    """

    ci: int
    co: int
    groups: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    step: tuple[int, int]
    epilogue: Epilogue
    in_place: bool = False

    @property
    def cuts(self) -> bool:
        """Whether rows of outputs are cut where a column of the kernel enters or leaves the image.

        It takes columns that are products of their own, and pixels of one group.
        """
        return self.dilation[1] > 1 and self.groups == 1 and not self.epilogue.pool

    @property
    def bordered(self) -> bool:
        """Whether what windows outside the image read is copied with a border on all sides.

        Then all taps are computed: for pools, whose two rows of pixels differ in what they meet,
        and where a kernel row has so few products that leaving some out gains nothing.
        """
        short = self.kernel[1] * self.ci < SHORT_ROW and not self.cuts
        return self.epilogue.pool or (short and not self.in_place and 0 not in self.kernel)

    def emit(self, machine: Machine) -> str:
        """LLVM IR text of the kernel."""
        unit = Unit(machine)
        Direct(self, unit.kernel(symbol(self))).build()
        return unit.text()


class Place(NamedTuple):
    """A row of results: image, row, output block and the block's first channel."""

    n: Int
    row: Int
    ob: Int
    channel: Int


class Direct:
    """One generation: the kernel under construction and its inner functions."""

    def __init__(self, spec: DirectConv, k: Kernel) -> None:
        self.spec, self.k = spec, k
        self.block = k.machine.block(spec.co)
        self.window = 2 if spec.epilogue.pool else 1
        self.most = k.machine.rows // self.window
        # From one result to the next, in pixels of the input.
        self.stride = (spec.stride[0] * self.window, spec.stride[1] * self.window)
        self.whole, self.rest = divmod(spec.co, self.block)
        self.blocks = self.whole + (self.rest > 0)
        self.pixel = spec.ci * (spec.groups if spec.in_place else 1)
        self.channels = spec.epilogue.pixel(spec.co * spec.groups)  # from pixel to pixel of y
        self.taps = Taps(spec.ci, spec.kernel, spec.stride, spec.dilation, self.pixel, self.block)
        self.s: dict[str, Int] = {}

    def build(self) -> None:
        """The kernel: a loop over this part's units of work."""
        k, spec = self.k, self.spec
        self.s = {name: k.size(i) for i, name in enumerate(SIZES)}
        self.border = Border(k, spec.ci, spec.groups)
        self.bodies = {tail: self._bodies(tail) for tail in self._variants()}
        row_blocks = self.s["rows"].ceil_div(self.s["row_block"])
        units = self.s["n"] * row_blocks * self.s["chunks"] * spec.groups
        start, stop = k.share(units)
        with k.loop(start, stop) as unit:
            chunk, rest = unit % self.s["chunks"], unit // self.s["chunks"]
            group, rest = rest % spec.groups, rest // spec.groups
            self._unit(rest // row_blocks, rest % row_blocks, group, chunk)
        k.finish()

    def _variants(self) -> list[bool]:
        return [tail for tail, there in ((False, self.whole), (True, self.rest)) if there]

    # -- one unit of work -------------------------------------------------------------------------

    def _unit(self, n: Int, row_block: Int, group: Int, chunk: Int) -> None:
        k, s = self.k, self.s
        first = row_block * s["row_block"]
        last = (first + s["row_block"]).min(s["rows"])
        source = self._input(n, group, first, last)
        begin = k.int(self.blocks) * chunk // s["chunks"]
        end = k.int(self.blocks) * (chunk + 1) // s["chunks"]
        with k.loop(begin, end) as ob, k.loop(first, last) as row:
            self._row(source, n, row, group, ob)

    def _reach(self, count: Int, axis: int) -> Int:
        """Rows or columns of the input under so many results."""
        spec = self.spec
        reach = (spec.kernel[axis] - 1) * spec.dilation[axis]
        reach += (self.window - 1) * spec.stride[axis]
        return (count - 1) * self.stride[axis] + (reach + 1)

    def _input(self, n: Int, group: Int, first: Int, last: Int) -> Source:
        """What the rows first … last−1 of a unit read: the image, or a bordered copy."""
        k, spec, s = self.k, self.spec, self.s
        scratch = k.buffer(SCRATCH).at(k.worker * s["scratch"])
        image = k.buffer(X).at(n * s["in_h"] * s["in_w"] * (spec.ci * spec.groups))
        if 0 in spec.kernel or spec.in_place or spec.cuts:
            return Source(image.at(group * spec.ci), k.int(0), s["in_w"] * self.pixel)
        top = first * self.stride[0] - s["pad_top"]
        bottom = top + self._reach(last - first, 0)
        left, width = 0 - s["pad_left"], self._reach(s["cols"], 1)
        inside = k.every(left >= 0, left + width <= s["in_w"])
        if spec.bordered:
            inside = k.every(inside, top >= 0, bottom <= s["in_h"])
        else:
            top, bottom = top.max(0), bottom.min(s["in_h"])

        def pack() -> None:
            self.border.pack(
                image,
                scratch,
                size=(s["in_h"], s["in_w"]),
                top=top,
                height=bottom - top,
                pad_left=s["pad_left"],
                width=width,
                group=group,
            )

        if spec.groups > 1:
            pack()
            return Source(scratch, top, width * self.pixel)
        with k.when(k.b.not_(inside)):
            pack()
        there = image.at((top * s["in_w"] + left) * self.pixel)
        pitch = k.select(inside, s["in_w"], width) * self.pixel
        return Source(k.select(inside, there, scratch), top, pitch)

    def _row(self, source: Source, n: Int, row: Int, group: Int, ob: Int) -> None:
        """One row of output pixels, or of windows."""
        k, spec, s = self.k, self.spec, self.s
        taps = spec.kernel[0] * spec.kernel[1]
        w = k.buffer(W).at(
            s["w_offset"] + (group * self.blocks + ob) * (taps * spec.ci * self.block)
        )
        top = row * self.stride[0] - s["pad_top"]
        place = Place(n, row, ob, group * spec.co + ob * self.block)
        if spec.bordered:
            self._tiles(place, k.int(0), s["cols"], source.line(top), w, source.pitch)
            return
        first, stop = self._met(top, 0)
        x = source.line(top + first * spec.dilation[0])
        w = w.at(first * (spec.kernel[1] * spec.ci * self.block))
        if spec.cuts:
            self._segments(place, x, w, source.pitch, stop - first)
        else:
            self._tiles(place, k.int(0), s["cols"], x, w, source.pitch, stop - first)

    def _met(self, start: Int, axis: int) -> tuple[Int, Int]:
        """The taps (from, to) along an axis that meet the image where the window begins there."""
        size = self.s["in_w" if axis else "in_h"]
        taps, step = self.spec.kernel[axis], self.spec.dilation[axis]
        first, stop = (edge.max(0).ceil_div(step).min(taps) for edge in (0 - start, size - start))
        return first, stop

    def _segments(self, place: Place, x: Ptr, w: Ptr, pitch: Int, rows: Int) -> None:
        """A row of output pixels, cut where a column of the kernel enters or leaves the image.

        The window of pixel j begins in column c = j·sw − pl and meets the kernel columns
        b0 … b1−1, until b0 − 1 enters, c ≥ −(b0 − 1)·dw, or b1 − 1 leaves, c ≥ in_w − (b1 − 1)·dw.
        Either happens at most kw times.
        """
        k, spec, s = self.k, self.spec, self.s
        stride, step, left = spec.stride[1], spec.dilation[1], s["pad_left"]

        def segment(_: Int, carried: list[Any]) -> list[Any]:
            j = Int(k, carried[0])
            b0, b1 = self._met(j * stride - left, 1)
            enters = (left - (b0 - 1) * step).ceil_div(stride)
            leaves = (left + s["in_w"] - (b1 - 1) * step).ceil_div(stride)
            stop = k.select(b0 > 0, enters, s["cols"]).min(k.select(b1 > 0, leaves, s["cols"]))
            stop = stop.min(s["cols"])
            xb = x.at((b0 * step - left) * self.pixel)
            wb = w.at(b0 * (spec.ci * self.block))
            with k.when(j < stop):
                self._tiles(place, j, stop, xb, wb, pitch, rows, b1 - b0)
            return [stop.ir]

        k.fold(0, 2 * spec.kernel[1] + 1, [k.int(0).ir], segment)

    def _tiles(
        self, place: Place, start: Int, stop: Int, x: Ptr, w: Ptr, pitch: Int, *met: Int
    ) -> None:
        """Output pixels or windows start … stop−1 of a row, in tiles of nearly equal length.

        `x` is what pixel 0 meets first, `met` the numbers of kernel rows, and of columns where
        rows are cut, that meet the image.
        """
        k = self.k
        tiles = (stop - start).ceil_div(self.most)
        length, longer = (stop - start) // tiles, (stop - start) % tiles
        with k.loop(0, tiles) as t:
            j = start + t * length + t.min(longer)
            count = k.select(t < longer, length + 1, length)
            xt = x.at(j * self.stride[1] * self.pixel)
            yt, *before = self._places(place.n, place.row, j, place.channel)
            args = (k.function.args[0], xt, w, yt, place.channel, pitch, *met, *before)
            self._tile(place.ob, count, args)

    def _places(self, n: Int, row: Int, j: Int, channel: Int) -> list[Int]:
        """Where in y a tile goes; with pooling also where in what is pooled, and its row pitch."""
        s, spec = self.s, self.spec
        if self.window == 1:
            line = (n * s["y_h"] + row * spec.step[0] + s["y_top"]) * s["y_w"] + s["y_left"]
            return [(line + j * spec.step[1]) * self.channels + channel]
        y = (n * s["rows"] + row) * s["cols"] + j
        before = (n * s["y_h"] + row * self.window) * s["y_w"] + j * self.window
        whole = spec.co * spec.groups
        return [y * self.channels + channel, before * whole + channel, s["y_w"] * whole]

    def _tile(self, ob: Int, count: Int, args: tuple[Any, ...]) -> None:
        k = self.k

        def run(tail: bool) -> None:
            dispatch(k, count, self.most, lambda rows: k.call(self.bodies[tail][rows - 1], *args))

        variants = self._variants()
        if len(variants) == 1:
            run(variants[0])
            return
        with k.either(ob < self.whole) as (full, tail):
            with full:
                run(False)
            with tail:
                run(True)

    # -- tile bodies ------------------------------------------------------------------------------

    def _bodies(self, tail: bool) -> list[Any]:
        return [self._body(rows, tail) for rows in range(1, self.most + 1)]

    def _body(self, rows: int, tail: bool) -> Any:
        """tile(buffers, x, w, y offset, channel, pitch, met …) for `rows` outputs or windows.

        Instead of what is met, with pooling the offset and row pitch of what is pooled.
        """
        spec, pools = self.spec, self.window > 1
        more = 2 if pools or spec.cuts else int(not spec.bordered)
        name = f"tile{rows}{'_tail' if tail else ''}"
        k = self.k.unit.function(name, [PTR, PTR, PTR, *[I64] * (3 + more)])
        x, w = Ptr(k, k.function.args[1]), Ptr(k, k.function.args[2])
        offset, channel, pitch, *last = (Int(k, a) for a in k.function.args[3:])
        width = self.rest if tail else self.block
        cols = -(-width // k.lanes)
        lanes_on = vec.mask(k, width % k.lanes) if width % k.lanes else None
        place: dict[str, Any] = {
            "offset": offset,
            "row_step": spec.step[1] * self.channels,
            "y": Y,
            "operands": OPERANDS,
        }
        if pools:
            target = (offset, channel, *last)
            self._windows(k, (x, w, pitch), target, rows, cols, lanes_on)
            k.finish()
            return k.function
        if spec.bordered:  # few products: the lines where they end must be asked for by now
            fetch_tile(k, spec.epilogue, rows=rows, cols=cols, **place)
        accs = zeros(k, rows, cols)
        if 0 not in spec.kernel:
            most = [k.int(taps) for taps in spec.kernel]
            down, across = (*last, *most[len(last) :])
            sums = partial(self.taps.sum, k, (x, w, pitch), (down, across), rows, cols)
            nothing = down.min(across).equals(0)
            accs = k.start_or(nothing, accs[0], sums) if last else sums()
        apply_epilogue(
            k,
            spec.epilogue,
            accs,
            rows=rows,
            cols=cols,
            channel=channel,
            lanes_on=lanes_on,
            **place,
        )
        k.finish()
        return k.function

    def _windows(
        self,
        k: Kernel,
        source: tuple[Ptr, Ptr, Int],
        target: Sequence[Int],
        rows: int,
        cols: int,
        lanes_on: Any,
    ) -> None:
        """`rows` windows: the maxima of their first row of pixels wait on the stack."""
        spec, (x, w, pitch), (offset, channel, before, line) = self.spec, source, target
        met = (k.int(spec.kernel[0]), k.int(spec.kernel[1]))
        y, kept = k.buffer(Y).at(offset), k.stack(rows * cols * k.lanes)
        for a in range(2):
            xa = x.at(pitch * (a * spec.stride[0]))
            accs = self.taps.sum(k, (xa, w, pitch), met, 2 * rows, cols)
            finish = finishing(
                k,
                spec.epilogue,
                cols=cols,
                offset=before + line * a,
                channel=channel,
                row_step=spec.co * spec.groups,
                lanes_on=lanes_on,
                operands=OPERANDS,
            )
            for r in range(rows):
                for c in range(cols):
                    place = kept.at((r * cols + c) * k.lanes)
                    left, right = (finish(accs[i * cols + c], i, c) for i in (2 * r, 2 * r + 1))
                    most = larger(k, left, vec.load(k, place)) if a else left
                    most = larger(k, right, most)
                    if a:
                        on = lanes_on if c == cols - 1 else None
                        store(k, most, y.at(r * self.channels + c * k.lanes), on)
                    else:
                        vec.store(k, most, place)
