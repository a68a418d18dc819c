"""Direct convolution, NHWC: forward, and each phase of the input gradient.

    y[n, h0 + i·oh_step, w0 + j·ow_step, co] =
        epilogue( Σ_{a,b,ci} x[n, i·sh − pt + a·dh, j·sw − pl + b·dw, ci] · w[a, b, ci, co] )

FLOPs: 2 · n · rows · cols · co · kh · kw · ci/groups.

A unit of work is (image, block of output rows, group, chunk of output blocks). Where the window
leaves the image, the rows that the unit needs are copied once into scratch with their zero
border; so the inner loops know no edges. Copying touches each input once, the products
2·kh·kw·co times, so the border is as good as free. Inside a unit: output block → row → tiles.
A row of output pixels is cut into tiles of nearly equal length (29 = 10+10+9), and there is a
body for each length: any image width runs at the speed of whole tiles and compiles nothing new.

With max pooling in the epilogue `rows` and `cols` count 2×2 windows, y_h and y_w are the size of
what is pooled, and a tile is the windows of two rows of pixels: the sums of the first row leave
their maxima on the stack, those of the second are stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from striate.arith.machine import Machine
from striate.ir import vec
from striate.ir.kernel import I64, PTR, Int, Kernel, Ptr, Unit
from striate.kernels.border import Border
from striate.kernels.epilogue import Epilogue, apply_epilogue, finishing
from striate.kernels.maxpool import larger
from striate.kernels.micro import dispatch, multiply_run, zeros
from striate.kernels.span import store
from striate.kernels.spec import symbol

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
LONG_ROW = 512  # products of a kernel row; adding it to the total costs less than a hundredth


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

    def emit(self, machine: Machine) -> str:
        """LLVM IR text of the kernel."""
        unit = Unit(machine)
        Direct(self, unit.kernel(symbol(self))).build()
        return unit.text()


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
        top = first * self.stride[0] - s["pad_top"]
        height, width = self._reach(last - first, 0), self._reach(s["cols"], 1)
        x, pitch = self._input(n, group, top, height, width)
        begin = k.int(self.blocks) * chunk // s["chunks"]
        end = k.int(self.blocks) * (chunk + 1) // s["chunks"]
        with k.loop(begin, end) as ob, k.loop(first, last) as row:
            self._row(x.at((row - first) * self.stride[0] * pitch), n, row, group, ob, pitch)

    def _reach(self, count: Int, axis: int) -> Int:
        """Rows or columns of the input under so many results."""
        spec = self.spec
        reach = (self.window - 1) * spec.stride[axis] + (spec.kernel[axis] - 1) * spec.dilation[
            axis
        ]
        return (count - 1) * self.stride[axis] + (reach + 1)

    def _input(self, n: Int, group: Int, top: Int, height: Int, width: Int) -> tuple[Ptr, Int]:
        """Address and row pitch of the rows that the unit reads: the image, or a bordered copy."""
        k, spec, s = self.k, self.spec, self.s
        x, scratch = k.buffer(X), k.buffer(SCRATCH).at(k.worker * s["scratch"])
        if 0 in spec.kernel:
            return x, k.int(0)
        if spec.in_place:
            first = (n * s["in_h"] + top) * s["in_w"]
            return x.at(first * self.pixel + group * spec.ci), s["in_w"] * self.pixel
        packed_pitch = width * self.pixel

        def pack() -> None:
            self.border.pack(
                x.at(n * s["in_h"] * s["in_w"] * (self.pixel * spec.groups)),
                scratch,
                size=(s["in_h"], s["in_w"]),
                top=top,
                height=height,
                pad_left=s["pad_left"],
                width=width,
                group=group,
            )

        if spec.groups > 1:
            pack()
            return scratch, packed_pitch
        left = 0 - s["pad_left"]
        inside = k.every(top >= 0, top + height <= s["in_h"], left >= 0, left + width <= s["in_w"])
        with k.when(k.b.not_(inside)):
            pack()
        image = x.at(((n * s["in_h"] + top) * s["in_w"] + left) * self.pixel)
        return (
            k.select(inside, image, scratch),
            k.select(inside, s["in_w"] * self.pixel, packed_pitch),
        )

    def _row(self, x: Ptr, n: Int, row: Int, group: Int, ob: Int, pitch: Int) -> None:
        """One row of output pixels, or of windows, in tiles of nearly equal length."""
        k, spec, s = self.k, self.spec, self.s
        taps = spec.kernel[0] * spec.kernel[1]
        w = k.buffer(W).at(
            s["w_offset"] + (group * self.blocks + ob) * (taps * spec.ci * self.block)
        )
        channel = group * spec.co + ob * self.block
        tiles = s["cols"].ceil_div(self.most)
        length, longer = s["cols"] // tiles, s["cols"] % tiles
        with k.loop(0, tiles) as t:
            j = t * length + t.min(longer)
            count = k.select(t < longer, length + 1, length)
            xt = x.at(j * self.stride[1] * self.pixel)
            yt, *before = self._places(n, row, j, channel)
            args = (k.function.args[0], xt, w, yt, channel, pitch, *before)
            self._tile(ob, count, args)

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
        """tile(buffers, x, w, y offset, channel, pitch) for `rows` output pixels or windows.

        With pooling also the offset and row pitch of what is pooled.
        """
        spec, pools = self.spec, self.window > 1
        name = f"tile{rows}{'_tail' if tail else ''}"
        k = self.k.unit.function(name, [PTR, PTR, PTR, *[I64] * (5 if pools else 3)])
        x, w = Ptr(k, k.function.args[1]), Ptr(k, k.function.args[2])
        offset, channel, pitch, *before = (Int(k, a) for a in k.function.args[3:])
        width = self.rest if tail else self.block
        cols = -(-width // k.lanes)
        lanes_on = vec.mask(k, width % k.lanes) if width % k.lanes else None
        if pools:
            target = (offset, channel, *before)
            self._windows(k, (x, w, pitch), target, rows, cols, lanes_on)
            k.finish()
            return k.function
        accs = zeros(k, rows, cols)
        if 0 not in spec.kernel:
            accs = self._taps(k, x, w, accs, rows, cols, pitch)
        apply_epilogue(
            k,
            spec.epilogue,
            accs,
            rows=rows,
            cols=cols,
            offset=offset,
            channel=channel,
            row_step=spec.step[1] * self.channels,
            lanes_on=lanes_on,
            y=Y,
            operands=OPERANDS,
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
        y, kept = k.buffer(Y).at(offset), k.stack(rows * cols * k.lanes)
        for a in range(2):
            xa = x.at(pitch * (a * spec.stride[0]))
            accs = self._taps(k, xa, w, zeros(k, 2 * rows, cols), 2 * rows, cols, pitch)
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

    def _taps(
        self, k: Kernel, x: Ptr, w: Ptr, accs: list[Any], rows: int, cols: int, pitch: Int
    ) -> list[Any]:
        """All taps: kernel rows outside, then one contiguous run of kw·ci (ci where dilated).

        Rows of many products are summed up one by one and then added: a sum of kh sums loses √kh
        times less to rounding than one long sum.
        """
        spec = self.spec
        joined = spec.dilation[1] == 1
        length = spec.ci * (spec.kernel[1] if joined else 1)
        steps = 1 if joined else spec.kernel[1]

        def kernel_row(a: Int, accs: list[Any]) -> list[Any]:
            xa = x.at(a * spec.dilation[0] * pitch)
            wa = w.at(a * (spec.kernel[1] * spec.ci * self.block))

            def run(b: Int, accs: list[Any]) -> list[Any]:
                return multiply_run(
                    k,
                    xa.at(b * (spec.dilation[1] * self.pixel)),
                    wa.at(b * (spec.ci * self.block)),
                    accs,
                    rows=rows,
                    cols=cols,
                    length=length,
                    row_stride=spec.stride[1] * self.pixel,
                    block=self.block,
                )

            return (
                run(k.int(0), accs)
                if steps == 1
                else k.fold(0, steps, accs, run, at_least_once=True)
            )

        if spec.kernel[0] == 1:
            return kernel_row(k.int(0), accs)
        if length * steps >= LONG_ROW:
            return self._added(k, kernel_row, accs)
        return k.fold(0, spec.kernel[0], accs, kernel_row, at_least_once=True)

    def _added(
        self, k: Kernel, kernel_row: Callable[[Int, list[Any]], list[Any]], nothing: list[Any]
    ) -> list[Any]:
        """The sums of all kernel rows; the total waits on the stack meanwhile."""
        total = k.stack(len(nothing) * k.lanes)
        places = [total.at(i * k.lanes) for i in range(len(nothing))]
        for place, value in zip(places, nothing, strict=True):
            vec.store(k, value, place)
        with k.loop(0, self.spec.kernel[0]) as a:
            for place, value in zip(places, kernel_row(a, nothing), strict=True):
                vec.store(k, k.b.fadd(vec.load(k, place), value), place)
        return [vec.load(k, place) for place in places]
