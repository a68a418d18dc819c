"""Convolution in small groups (depthwise: of one channel), NHWC: forward, and each phase of dx.

    y[n, h0 + i·step, w0 + j·step, g·co + o] =
        epilogue( Σ_{a,b,c} x[n, i·sh − pt + a·dh, j·sw − pl + b·dw, g·ci + c] · w[g, a, b, c, o] )

FLOPs: 2 · n · rows · cols · groups · co · ci · kh · kw. A vector of outputs holds as many whole
groups as fit, and for each c the inputs are shuffled so that every lane has channel c of its own
group: all lanes multiply. With few products an input, a bordered copy would cost a third of the
time. Instead kernel rows outside of the image are left out of a loop, and a row of outputs is cut
into tiles of neighbours, which share the (shuffled) vectors that their windows have in common; in
tiles at an edge, zeros stand for what lies outside of the image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from striate.arith.layout import groups_of_a_vector
from striate.arith.machine import Machine
from striate.ir import vec
from striate.ir.kernel import F32, I64, PTR, Int, Kernel, Ptr, Unit
from striate.kernels.epilogue import Epilogue, apply_epilogue
from striate.kernels.micro import dispatch
from striate.kernels.span import load
from striate.kernels.spec import symbol

SIZES = (
    *("n", "in_h", "in_w", "rows", "cols", "pad_top", "pad_left"),
    *("y_h", "y_w", "y_top", "y_left", "w_offset", "shares"),
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
class Lanes:
    """How vectors run across groups of `ci` inputs and `co` outputs."""

    groups: int
    ci: int
    co: int
    lanes: int

    @property
    def together(self) -> int:
        """Groups of a vector."""
        return groups_of_a_vector(self.co, self.lanes)

    @property
    def whole(self) -> int:
        """Vectors that hold so many groups."""
        return self.groups // self.together

    @property
    def vectors(self) -> int:
        """All vectors of outputs, the last perhaps with fewer groups."""
        return -(-self.groups // self.together)

    def held(self, tail: bool) -> int:
        """Groups of a whole vector, or of the last one."""
        return self.groups % self.together if tail else self.together

    def mask(self, k: Kernel, tail: bool) -> Any:
        """Lanes with an output; None when all have one."""
        used = self.held(tail) * self.co
        return None if used == self.lanes else vec.mask(k, used)

    def load(self, k: Kernel, x: Ptr, tail: bool) -> list[Any]:
        """The inputs of a vector's groups, in as many vectors as they fill."""
        count = self.held(tail) * self.ci
        return [
            load(k, x.at(i), vec.mask(k, count - i) if count - i < self.lanes else None)
            for i in range(0, count, self.lanes)
        ]

    def pick(self, k: Kernel, inputs: Sequence[Any], c: int) -> Any:
        """In each lane input channel `c` of the lane's group."""
        last = len(inputs) * self.lanes // self.ci - 1
        groups = (min(lane // self.co, self.together - 1, last) for lane in range(self.lanes))
        order = [group * self.ci + c for group in groups]
        return vec.pick(k, inputs, order)

    def for_each(self, k: Kernel, begin: Int, end: Int, body: Callable[[Int, bool], None]) -> None:
        """`body(vector, is it the one with fewer groups)` for the vectors begin … end−1."""
        if self.whole:
            with k.loop(begin, end.min(self.whole)) as v:
                body(v, False)
        if self.vectors > self.whole:
            with k.when(end > self.whole):
                body(k.int(self.whole), True)


@dataclass(frozen=True)
class Grouped:
    """All that shapes the code; `ci` and `co` count one group's channels.

    Weights are [vector of outputs][tap][input channel][lane].
    """

    groups: int
    ci: int
    co: int
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
    def __init__(self, spec: Grouped, k: Kernel) -> None:
        self.spec, self.k = spec, k
        self.most = k.machine.registers // 4  # tiles: accumulators, then windows and weights
        self.over = Lanes(spec.groups, spec.ci, spec.co, k.lanes)
        self.inputs = spec.groups * spec.ci
        self.outputs = spec.epilogue.pixel(spec.groups * spec.co)  # from pixel to pixel of y
        self.reach = (spec.kernel[1] - 1) * spec.dilation[1]
        self.s: dict[str, Int] = {}

    def build(self) -> None:
        k, spec = self.k, self.spec
        self.s = s = {name: k.size(i) for i, name in enumerate(SIZES)}
        lengths = range(1, self.most + 1)
        self.bodies = [self._tile(columns, edge=False) for columns in lengths]
        if 0 not in spec.kernel:
            self.edges = [self._tile(columns, edge=True) for columns in lengths]
        start, stop = k.share(s["n"] * s["rows"] * s["shares"])
        with k.loop(start, stop) as unit:
            share, line = unit % s["shares"], unit // s["shares"]
            n, row = line // s["rows"], line % s["rows"]
            top = row * spec.stride[0] - s["pad_top"]
            a = (k.int(0), k.int(0))
            if 0 not in spec.kernel:
                a = there(spec.kernel[0], spec.dilation[0], s["in_h"], top)
            image = k.buffer(X).at((n * s["in_h"] + top) * s["in_w"] * self.inputs)
            y = (n * s["y_h"] + row * spec.step[0] + s["y_top"]) * s["y_w"] + s["y_left"]
            part = (k.int(self.over.vectors) * (share + i) // s["shares"] for i in (0, 1))
            self._row(image, y * self.outputs, (*a, *part))
        k.finish()

    def _row(self, image: Ptr, y: Int, bounds: tuple[Int, ...]) -> None:
        """One row of outputs in tiles of nearly equal length."""
        k, s = self.k, self.s
        tiles = s["cols"].ceil_div(self.most)
        length, longer = s["cols"] // tiles, s["cols"] % tiles
        with k.loop(0, tiles) as t:
            j = t * length + t.min(longer)
            self._cut(image, y, j, k.select(t < longer, length + 1, length), bounds)

    def _cut(self, image: Ptr, y: Int, j: Int, count: Int, bounds: tuple[Int, ...]) -> None:
        """`count` outputs from j on: the tile all of whose places are inside, that at an edge, or,
        where even the places between its edges are not inside, one output after the other.
        """
        k, spec, s = self.k, self.spec, self.s
        w = k.buffer(W).at(s["w_offset"])

        def args(j: Int) -> tuple[Any, ...]:
            column = j * spec.stride[1] - s["pad_left"]
            place = y + j * (spec.step[1] * self.outputs)
            return (k.function.args[0], image, w, place, column, s["in_w"], *bounds)

        def run(bodies: list[Any]) -> None:
            dispatch(k, count, self.most, lambda columns: k.call(bodies[columns - 1], *args(j)))

        if 0 in spec.kernel:
            run(self.bodies)
            return
        column = j * spec.stride[1] - s["pad_left"]
        last = column + (count - 1) * spec.stride[1]
        with k.either(k.every(column >= 0, last + self.reach < s["in_w"])) as (inside, not_inside):
            with inside:
                run(self.bodies)
            with (
                not_inside,
                k.either(k.every(column + self.reach >= 0, last < s["in_w"])) as (
                    edge,
                    outside,
                ),
            ):
                with edge:
                    run(self.edges)
                with outside, k.loop(j, j + count) as one:
                    k.call(self.edges[0], *args(one))

    def _tile(self, columns: int, edge: bool) -> Any:
        """tile(buffers, row of x, w, y offset, column, width, kernel rows [2], vectors [2])."""
        spec, over = self.spec, self.over
        name = f"{'edge' if edge else 'tile'}{columns}"
        k = self.k.unit.function(name, [PTR, PTR, PTR, *[I64] * 7])
        x, w = (Ptr(k, v) for v in k.function.args[1:3])
        y, column, width, first, stop, begin, end = (Int(k, v) for v in k.function.args[3:])
        window = _Window(
            k, over, x, width * self.inputs, self._places(column, columns, width, edge)
        )
        row_of_weights = spec.kernel[1] * spec.ci * k.lanes

        def vector(v: Int, tail: bool) -> None:
            wv = w.at(v * (spec.kernel[0] * row_of_weights))
            shifted = window.at(v * (over.together * spec.ci))

            def kernel_row(a: Int, sums: list[Any]) -> list[Any]:
                met = shifted.load(a * spec.dilation[0], tail)
                return self._products(k, met, wv.at(a * row_of_weights), sums)

            nothing = [vec.constant(k, 0.0)] * columns
            channel = v * (over.together * spec.co)
            apply_epilogue(
                k,
                spec.epilogue,
                k.fold(first, stop, nothing, kernel_row),
                rows=columns,
                cols=1,
                offset=y + channel,
                channel=channel,
                row_step=spec.step[1] * self.outputs,
                lanes_on=over.mask(k, tail),
                y=Y,
                operands=OPERANDS,
            )

        over.for_each(k, begin, end, vector)
        k.finish()
        return k.function

    def _places(
        self, column: Int, columns: int, width: Int, edge: bool
    ) -> dict[int, tuple[Int, Any]]:
        """Offset of each place of a tile's window in the row of x; at an edge also its validity.

        There the places that the first or the last window alone reaches may lie outside; those
        of a single window are all told apart.
        """
        k, spec, out = column.k, self.spec, {}
        last = (columns - 1) * spec.stride[1]
        for place in sorted(
            {r * spec.stride[1] + b * spec.dilation[1] for r in range(columns) for b in self._b()}
        ):
            at, valid = column + place, None
            if edge and (place < self.reach or place > last or columns == 1):
                valid = k.every(at >= 0, at < width)
                at = at.max(0).min(width - 1)
            out[place] = (at * self.inputs, valid)
        return out

    def _b(self) -> range:
        return range(self.spec.kernel[1])

    def _products(self, k: Kernel, met: dict[int, list[Any]], w: Ptr, sums: list[Any]) -> list[Any]:
        """One kernel row: each place of the window meets the outputs that have a tap there."""
        spec = self.spec
        out = list(sums)
        for c in range(spec.ci):
            weights = [vec.load(k, w.at((b * spec.ci + c) * k.lanes)) for b in self._b()]
            for place, inputs in met.items():
                pixel = self.over.pick(k, inputs, c)
                for b in self._b():
                    r, rest = divmod(place - b * spec.dilation[1], spec.stride[1])
                    if rest == 0 and 0 <= r < len(out):
                        out[r] = vec.fma(k, pixel, weights[b], out[r])
        return out


@dataclass(frozen=True)
class _Window:
    """Where the places of a tile's window lie: offset in the row, and whether in the image."""

    k: Kernel
    over: Lanes
    x: Ptr
    pitch: Int
    places: dict[int, tuple[Int, Any]]

    def at(self, channel: Int) -> _Window:
        """The same window at other channels."""
        return _Window(self.k, self.over, self.x.at(channel), self.pitch, self.places)

    def load(self, row: Int, tail: bool) -> dict[int, list[Any]]:
        """The inputs of each place; zeros outside of the image."""
        k, x = self.k, self.x.at(row * self.pitch)
        nothing = vec.constant(k, 0.0)
        out = {}
        for place, (offset, valid) in self.places.items():
            values = self.over.load(k, x.at(offset), tail)
            out[place] = values if valid is None else [k.select(valid, v, nothing) for v in values]
        return out


@dataclass(frozen=True)
class PackGrouped:
    """w (co, ci / groups, kh, kw) → [vector of outputs][tap][input channel][lane].

    `co`, `ci` count a group's channels as the kernel sees them; `phases` lists the taps (flat, of
    `total`) of one kernel after the other. With `swap` the weights' first channel is the input.
    Lanes without an output are 0.
    """

    groups: int
    ci: int
    co: int
    phases: tuple[tuple[int, ...], ...]
    total: int
    swap: bool

    def emit(self, machine: Machine) -> str:
        """LLVM IR text of the kernel."""
        unit = Unit(machine)
        k = unit.kernel(symbol(self))
        lanes, together = k.lanes, groups_of_a_vector(self.co, k.lanes)
        vectors = -(-self.groups // together)
        steps = (self.total, self.ci * self.total)  # of an input, of an output channel
        c_step, o_step = (self.co * self.total, self.total) if self.swap else steps
        start, stop = k.share(vectors)
        with k.loop(start, stop) as v, k.loop(0, lanes) as lane:
            group, o = v * together + lane // self.co, lane % self.co
            used = k.every(lane < together * self.co, group < self.groups)
            source = k.buffer(0).at(
                k.select(used, group, k.int(0)) * (self.ci * self.co * self.total)
            )
            source = source.at(o * o_step)
            offset = 0
            for taps in self.phases:
                run = k.buffer(1).at(offset).at(v * (len(taps) * self.ci * lanes)).at(lane)
                for i, tap in enumerate(taps):
                    with k.loop(0, self.ci) as c:
                        value = vec.load_scalar(k, source.at(c * c_step + tap))
                        kept = k.select(used, value, F32(0.0))
                        k.b.store(kept, run.at((c + i * self.ci) * lanes).v)
                offset += vectors * len(taps) * self.ci * lanes
        k.finish()
        return unit.text()
