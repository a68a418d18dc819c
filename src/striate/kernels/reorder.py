"""Batched transposes: NCHW ↔ NHWC at the borders of a program.

    y[b, j, i] = x[b, i, j]        x is [batch][rows][cols], y is [batch][cols][rows]

NCHW → NHWC has rows = C and cols = H·W, the way back rows = H·W and cols = C. The general kernel
serves all sizes and takes one of three ways:

- one row or one column: a copy;
- at least a vector of rows and of columns: blocks of lanes × lanes are transposed in registers.
  The last block of a side is moved inwards until it is whole; what is written twice is equal;
- otherwise: the same blocks with masks.

For two to four rows or columns (RGB pictures) there is a kernel each, which interleaves whole
vectors with shuffles.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from striate.arith.machine import Machine
from striate.ir import vec
from striate.ir.kernel import I32, PTR, Int, Kernel, Ptr, Unit
from striate.kernels.span import copy_run, int_lanes, load, share_run, store, vectors
from striate.kernels.spec import symbol

X, Y = 0, 1
BATCH, ROWS, COLS = 0, 1, 2
FEW = 4  # most rows or columns that are interleaved
ROW_BLOCKS = 16  # blocks along the rows in one unit of work
PIXEL_VECTORS = 64  # vectors of pixels in one unit of work that interleaves


@dataclass(frozen=True)
class Transpose2d:
    """y[b, j, i] = x[b, i, j]. Bytes moved: 8·batch·rows·cols.

    `few_rows` or `few_cols` (2, 3 or 4) says that there are exactly so many; 0: any number.
    """

    few_rows: int = 0
    few_cols: int = 0

    BUFFERS: ClassVar[tuple[str, ...]] = ("x", "y")
    SIZES: ClassVar[tuple[str, ...]] = ("batch", "rows", "cols")

    @staticmethod
    def to_nhwc(channels: int) -> Transpose2d:
        """For rows = channels. The number of pixels chooses nothing: it is free in a kernel."""
        return Transpose2d(few_rows=channels if 2 <= channels <= FEW else 0)

    @staticmethod
    def to_nchw(channels: int) -> Transpose2d:
        """For cols = channels."""
        return Transpose2d(few_cols=channels if 2 <= channels <= FEW else 0)

    def emit(self, machine: Machine) -> str:
        """LLVM IR text of the kernel."""
        unit = Unit(machine)
        k = unit.kernel(symbol(self))
        if self.few_rows:
            _interleave(k, self.few_rows)
        elif self.few_cols:
            _deinterleave(k, self.few_cols)
        else:
            _any_sizes(k)
        k.finish()
        return unit.text()


def _any_sizes(k: Kernel) -> None:
    rows, cols = k.size(ROWS), k.size(COLS)
    blocks = {masked: _blocks(k, masked=masked) for masked in (False, True)}
    with k.either(k.b.or_(rows.equals(1), cols.equals(1))) as (line, plane):
        with line:
            start, stop = share_run(k, k.size(BATCH) * rows * cols)
            copy_run(k, k.buffer(Y).at(start), k.buffer(X).at(start), stop - start)
        with plane, k.either(k.every(rows >= k.lanes, cols >= k.lanes)) as (large, small):
            with large:
                k.call(blocks[False], *k.function.args)
            with small:
                k.call(blocks[True], *k.function.args)


# -- few planes ---------------------------------------------------------------------------------


def pick(k: Kernel, sources: Sequence[Any], wanted: Sequence[tuple[int, int]]) -> Any:
    """The vector whose lane i is lane wanted[i][1] of the vector sources[wanted[i][0]].

    One shuffle for each source after the first.
    """
    n = len(wanted)
    used = sorted({source for source, _ in wanted})
    out, place = sources[used[0]], [lane for _, lane in wanted]
    for s in used[1:] or used:
        order = [n + lane if source == s else place[i] for i, (source, lane) in enumerate(wanted)]
        out = k.b.shuffle_vector(out, sources[s], int_lanes(k, order))
        place = list(range(n))
    return out


def _interleave(k: Kernel, few: int) -> None:
    """[few][pixels] → [pixels][few]: element e of the result is plane e mod few, pixel e / few."""
    lanes = k.lanes

    def body(plane: Callable[[int], Any], packed: Callable[[int], Any]) -> None:
        planes = [load(k, *plane(c)) for c in range(few)]
        for v in range(few):
            wanted = [(e % few, e // few) for e in range(v * lanes, (v + 1) * lanes)]
            target, lanes_on = packed(v)
            store(k, pick(k, planes, wanted), target, lanes_on)

    _pixels(k, few, k.size(COLS), X, Y, body)


def _deinterleave(k: Kernel, few: int) -> None:
    """[pixels][few] → [few][pixels]: lane i of plane c is element i·few + c."""
    lanes = k.lanes

    def body(plane: Callable[[int], Any], packed: Callable[[int], Any]) -> None:
        loaded = [load(k, *packed(v)) for v in range(few)]
        for c in range(few):
            wanted = [divmod(i * few + c, lanes) for i in range(lanes)]
            target, lanes_on = plane(c)
            store(k, pick(k, loaded, wanted), target, lanes_on)

    _pixels(k, few, k.size(ROWS), Y, X, body)


def _pixels(
    k: Kernel, few: int, pixels: Int, planes_slot: int, packed_slot: int, body: Callable[..., None]
) -> None:
    """`body(plane, packed)` for each vector of pixels of each image.

    plane(c) is the address and mask of the vector in plane c, packed(v) of the v-th of the `few`
    vectors that hold the same pixels side by side.
    """
    long = PIXEL_VECTORS * k.lanes
    chunks = pixels.ceil_div(long)
    start, stop = k.share(k.size(BATCH) * chunks)
    with k.loop(start, stop) as unit:
        image = unit // chunks * pixels * few
        planes, packed = k.buffer(planes_slot).at(image), k.buffer(packed_slot).at(image)
        first = unit % chunks * long
        last = (first + long).min(pixels)

        def vector(p: Int, lanes_on: Any) -> None:
            def plane(c: int) -> Any:
                return planes.at(pixels * c + p), lanes_on

            def side_by_side(v: int) -> Any:
                inside = None
                if lanes_on is not None:
                    inside = vec.mask(k, (last - p) * few - v * k.lanes)
                return packed.at(p * few).at(v * k.lanes), inside

            body(plane, side_by_side)

        vectors(k, last, vector, start=first)


# -- blocks of lanes × lanes -----------------------------------------------------------------------


def _blocks(outer: Kernel, *, masked: bool) -> Any:
    """Units of (image, ROW_BLOCKS blocks of rows, one block of columns)."""
    name = "blocks_masked" if masked else "blocks"
    k = outer.unit.function(name, [PTR, PTR, I32, I32])  # the arguments of the kernel
    rows, cols, lanes = k.size(ROWS), k.size(COLS), k.lanes
    x, y = k.buffer(X), k.buffer(Y)
    long = ROW_BLOCKS * lanes
    row_chunks, col_blocks = rows.ceil_div(long), cols.ceil_div(lanes)
    start, stop = k.share(k.size(BATCH) * row_chunks * col_blocks)
    with k.loop(start, stop) as unit:
        j, rest = unit % col_blocks * lanes, unit // col_blocks
        first, image = rest % row_chunks * long, rest // row_chunks * rows * cols
        if not masked:
            j = j.min(cols - lanes)
        with k.loop(first, (first + long).min(rows), lanes) as row:
            i = row if masked else row.min(rows - lanes)
            source, target = x.at(image + i * cols + j), y.at(image + j * rows + i)
            extent = (rows - i, cols - j) if masked else None
            _block(k, source, target, (cols, rows), extent)
    k.finish()
    return k.function


def _block(
    k: Kernel, x: Ptr, y: Ptr, pitch: tuple[Int, Int], extent: tuple[Int, Int] | None
) -> None:
    """y[s, r] = x[r, s] for r, s in 0 … lanes−1; `extent` are the rows and columns of x there."""

    def inside(index: int, count: int) -> Any:
        """Mask of a run along the other side, empty if run `index` does not exist."""
        if extent is None:
            return None
        run = extent[1 - count]
        return vec.mask(k, k.select(extent[count] > index, run, k.int(0)))

    taken = [load(k, x.at(pitch[0] * r), inside(r, 0)) for r in range(k.lanes)]
    for s, column in enumerate(vec.transpose(k, taken)):
        store(k, column, y.at(pitch[1] * s), inside(s, 1))
