"""Weight gradient of a convolution, NHWC.

    dw[a, b, ci, co] = Σ_{n,i,j} x[n, i·sh − pt + a·dh, j·sw − pl + b·dw, ci] · dy[n, i, j, co]

FLOPs: 2 · n · rows · cols · co · kh · kw · ci/groups.

The register tile of `micro`, turned round: its rows are neighbouring elements of the run
kw·ci under one output pixel (broadcast), its vectors are output channels, and the loop runs
along the pixels. The pixels are cut into chunks that depend on the shape only; each chunk sums
into a buffer of its own, and the buffers are added in order afterwards (`Reduce`), so the bits
are the same for any number of threads.

A unit of work is (group, chunk, share of the output blocks). Inside: block of pixels (several
small images, or some rows of a large one), bordered copy of its inputs → output block → tiles.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from striate.arith.machine import Machine
from striate.ir import vec
from striate.ir.kernel import I1, I64, PTR, Int, Kernel, Ptr, Unit
from striate.kernels.border import Border
from striate.kernels.micro import in_rounds, steps_together
from striate.kernels.span import load
from striate.kernels.spec import symbol

SIZES = (
    "n",
    "in_h",
    "in_w",
    "rows",
    "cols",
    "pad_top",
    "pad_left",
    "images",
    "row_block",
    "chunk",
    "co_chunks",
    "scratch",
)
X, DY, DW, SCRATCH = 0, 1, 2, 3


@dataclass(frozen=True)
class WeightGrad:
    """All that shapes the code; `ci` and `co` count one group's channels.

    Output: [chunk][group][kh][kw][ci][co]. Sizes: `images` × `row_block` output rows make a block
    of pixels (`row_block` divides into whole images only if `images` is 1), `chunk` blocks make
    a chunk. `bordered`: inputs are copied with their zero border; it may be False only for one
    group without padding, and then scratch is not used.
    """

    ci: int
    co: int
    groups: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    bordered: bool

    @property
    def run(self) -> int:
        """Contiguous inputs under one output pixel: kw·ci, or ci where dilated."""
        return self.ci * (self.kernel[1] if self.dilation[1] == 1 else 1)

    def emit(self, machine: Machine) -> str:
        """LLVM IR text of the kernel."""
        unit = Unit(machine)
        _Build(self, unit.kernel(symbol(self))).build()
        return unit.text()


class _Build:
    def __init__(self, spec: WeightGrad, k: Kernel) -> None:
        self.spec, self.k = spec, k
        self.block = k.machine.block(spec.co)
        self.most = k.machine.rows
        self.whole, self.rest = divmod(spec.co, self.block)
        self.blocks = self.whole + (self.rest > 0)
        # Short runs: several kernel rows share a tile.
        self.together = max(1, min(spec.kernel[0], self.most // spec.run))
        self.tiles = -(-spec.run // self.most)
        self.length, self.longer = divmod(spec.run, self.tiles)
        self.bodies: dict[tuple[int, int, bool], Any] = {}
        self.s: dict[str, Int] = {}

    def build(self) -> None:
        k, spec = self.k, self.spec
        self.s = s = {name: k.size(i) for i, name in enumerate(SIZES)}
        if spec.bordered:
            self.border = Border(k, spec.ci, spec.groups)
        row_blocks = s["rows"].ceil_div(s["row_block"])
        blocks = s["n"].ceil_div(s["images"]) * row_blocks
        chunks = blocks.ceil_div(s["chunk"])
        start, stop = k.share(chunks * spec.groups * s["co_chunks"])
        with k.loop(start, stop) as unit:
            part, rest = unit % s["co_chunks"], unit // s["co_chunks"]
            group, chunk = rest % spec.groups, rest // spec.groups
            first = chunk * s["chunk"]
            with k.loop(first, (first + s["chunk"]).min(blocks)) as block:
                self._block(chunk, group, part, block, row_blocks, block.equals(first))
        k.finish()

    def _block(
        self, chunk: Int, group: Int, part: Int, block: Int, row_blocks: Int, fresh: Any
    ) -> None:
        """One block of pixels: bordered copy, then all tiles of this unit's output blocks."""
        k, spec, s = self.k, self.spec, self.s
        image, row = block // row_blocks * s["images"], block % row_blocks * s["row_block"]
        images, rows = (s["n"] - image).min(s["images"]), (s["rows"] - row).min(s["row_block"])
        height = (rows - 1) * spec.stride[0] + ((spec.kernel[0] - 1) * spec.dilation[0] + 1)
        width = (s["cols"] - 1) * spec.stride[1] + ((spec.kernel[1] - 1) * spec.dilation[1] + 1)
        x, pitch, image_pitch = self._inputs(image, images, row, height, width, group)
        channels = spec.co * spec.groups
        dy = k.buffer(DY).at((image * s["rows"] + row) * s["cols"] * channels + group * spec.co)
        taps = spec.kernel[0] * spec.kernel[1]
        dw = k.buffer(DW).at((chunk * spec.groups + group) * (taps * spec.ci * spec.co))
        begin = k.int(self.blocks) * part // s["co_chunks"]
        end = k.int(self.blocks) * (part + 1) // s["co_chunks"]
        space = (images, rows, s["cols"], image_pitch, pitch, s["rows"] * s["cols"] * channels)
        with k.loop(begin, end) as ob:
            args = (x, dy.at(ob * self.block), dw.at(ob * self.block), space, fresh)
            if self.whole and self.rest:
                with k.either(ob < self.whole) as (full, last):
                    with full:
                        self._output_block(*args, tail=False)
                    with last:
                        self._output_block(*args, tail=True)
            else:
                self._output_block(*args, tail=self.rest > 0)

    def _inputs(
        self, image: Int, images: Int, row: Int, height: Int, width: Int, group: Int
    ) -> tuple[Ptr, Int, Int]:
        """Address, row pitch and image pitch of the inputs: in place, or a bordered copy."""
        k, spec, s = self.k, self.spec, self.s
        size = (s["in_h"], s["in_w"])
        x = k.buffer(X).at(image * size[0] * size[1] * (spec.ci * spec.groups))
        if not spec.bordered:
            pitch = size[1] * spec.ci
            return x.at(row * spec.stride[0] * pitch), pitch, size[0] * pitch
        pitch = width * spec.ci
        scratch = k.buffer(SCRATCH).at(k.worker * s["scratch"])
        with k.loop(0, images) as i:
            self.border.pack(
                x.at(i * size[0] * size[1] * (spec.ci * spec.groups)),
                scratch.at(i * height * pitch),
                size=size,
                top=row * spec.stride[0] - s["pad_top"],
                height=height,
                pad_left=s["pad_left"],
                width=width,
                group=group,
            )
        return scratch, pitch, height * pitch

    def _output_block(
        self, x: Ptr, dy: Ptr, dw: Ptr, space: tuple[Int, ...], fresh: Any, *, tail: bool
    ) -> None:
        """All tiles of one block of output channels."""
        k, spec = self.k, self.spec
        pitch = space[4]
        dilated = spec.dilation[1] != 1
        groups, left = divmod(spec.kernel[0], self.together)

        def tiles(a: Int, together: int) -> None:
            for b in range(spec.kernel[1] if dilated else 1):
                xa = x.at(a * spec.dilation[0] * pitch).at(b * spec.dilation[1] * spec.ci)
                da = dw.at((a * spec.kernel[1] + b) * (spec.ci * spec.co))
                for count, first, number in self._lengths():
                    with k.loop(0, number) as t:
                        i = t * count + first
                        body = self._body(together, count, tail)
                        k.call(body, xa.at(i), dy, da.at(i * spec.co), *space, fresh)

        with k.loop(0, groups) as g:
            tiles(g * self.together, self.together)
        if left:
            tiles(k.int(groups * self.together), left)

    def _lengths(self) -> list[tuple[int, int, int]]:
        """(length, first element, number of tiles) of the longer and the shorter tiles."""
        split = self.longer * (self.length + 1)
        both = [(self.length + 1, 0, self.longer), (self.length, split, self.tiles - self.longer)]
        return [entry for entry in both if entry[2]]

    # -- tile bodies ------------------------------------------------------------------------------

    def _body(self, together: int, length: int, tail: bool) -> Any:
        key = (together, length, tail)
        if key not in self.bodies:
            self.bodies[key] = self._make_body(together, length, tail)
        return self.bodies[key]

    def _make_body(self, together: int, length: int, tail: bool) -> Any:
        """tile(x, dy, dw, images, rows, cols, image pitch, row pitch, dy image pitch, fresh)."""
        spec = self.spec
        name = f"tile{together}x{length}{'_tail' if tail else ''}"
        k = self.k.unit.function(name, [PTR] * 3 + [I64] * 6 + [I1])
        x, dy, dw = (Ptr(k, a) for a in k.function.args[:3])
        images, rows, columns, image_pitch, pitch, dy_pitch = (
            Int(k, a) for a in k.function.args[3:9]
        )
        width = self.rest if tail else self.block
        cols = -(-width // k.lanes)
        on = vec.mask(k, width % k.lanes) if width % k.lanes else None
        places = [
            dw.at((a * spec.kernel[1] * spec.ci + i) * spec.co)
            for a in range(together)
            for i in range(length)
        ]
        accs = self._start(k, places, cols, on, k.function.args[9])
        steps = steps_together(k, together * length, cols)

        def image(n: Int, accs: list[Any]) -> list[Any]:
            def row(r: Int, accs: list[Any]) -> list[Any]:
                xr = x.at(n * image_pitch + r * spec.stride[0] * pitch)
                dr = dy.at(n * dy_pitch + r * columns * (spec.co * spec.groups))
                starts = [xr.at(pitch * (a * spec.dilation[0])) for a in range(together)]

                def pixel(j: Int, u: int, accs: list[Any]) -> list[Any]:
                    return self._pixel(k, starts, dr, j + u, accs, length, cols, on)

                return in_rounds(k, columns, accs, pixel, steps)

            return k.fold(0, rows, accs, row, at_least_once=True)

        accs = k.fold(0, images, accs, image, at_least_once=True)
        for p, place in enumerate(places):
            for c in range(cols):
                target = place.at(c * k.lanes)
                if on is not None and c == cols - 1:
                    vec.store_masked(k, accs[p * cols + c], target, on)
                else:
                    vec.store(k, accs[p * cols + c], target)
        k.finish()
        return k.function

    def _start(self, k: Kernel, places: list[Ptr], cols: int, on: Any, fresh: Any) -> list[Any]:
        """Zero for the first block of a chunk, what is already summed for the others."""

        def summed() -> list[Any]:
            return [
                load(k, place.at(c * k.lanes), on if c == cols - 1 else None)
                for place in places
                for c in range(cols)
            ]

        return k.start_or(fresh, vec.constant(k, 0.0), summed)

    def _pixel(
        self,
        k: Kernel,
        starts: list[Ptr],
        dy: Ptr,
        j: Int,
        accs: list[Any],
        length: int,
        cols: int,
        on: Any,
    ) -> list[Any]:
        """One output pixel: cols vectors of dy, one broadcast an input, cols FMAs each."""
        spec = self.spec
        dj = dy.at(j * (spec.co * spec.groups))
        gradients = [
            vec.load_masked(k, dj.at(c * k.lanes), on)
            if on is not None and c == cols - 1
            else vec.load(k, dj.at(c * k.lanes))
            for c in range(cols)
        ]
        out = list(accs)
        p = 0
        for start in starts:
            xj = start.at(j * (spec.stride[1] * spec.ci))
            for i in range(length):
                value = vec.broadcast(k, xj.at(i))
                for c in range(cols):
                    out[p * cols + c] = vec.fma(k, value, gradients[c], out[p * cols + c])
                p += 1
        return out
