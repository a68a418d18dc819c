"""The register tile that every convolution and matrix product is made of.

    acc[r][c] += x[r·row_stride + i] · w[i·block + c·lanes …]      for i in 0 … length−1

`rows` neighbouring output pixels × `cols` vectors of output channels stay in registers; an input
element is broadcast, a weight vector is loaded once a row of the tile. Per step: cols loads,
rows broadcasts and rows·cols FMAs, 2·rows·cols·lanes FLOPs.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from striate.ir import vec
from striate.ir.kernel import Int, Kernel, Ptr

LINE = 16  # elements of a cache line


class Ahead(NamedTuple):
    """What a run fetches for the next one: a cache line a round, `step` elements apart."""

    start: Ptr
    step: int | Int = LINE
    into: int = 1  # L1 or L2


def zeros(k: Kernel, rows: int, cols: int) -> list[Any]:
    """Accumulators of a tile, row by row."""
    return [vec.constant(k, 0.0)] * (rows * cols)


def multiply_run(
    k: Kernel,
    x: Ptr,
    w: Ptr,
    accs: list[Any],
    *,
    rows: int,
    cols: int,
    length: int | Int,
    row_stride: int,
    block: int,
    ahead: Ahead | None = None,
) -> list[Any]:
    """Accumulate one contiguous run of `length` inputs into the tile.

    With `ahead` memory works for the next run while this one computes.

    One input channel a round: with more, LLVM's scheduler lifts the weight loads of the next
    channel above the FMAs of this one, and accumulators are spilled.
    """

    def body(i: Int, accs: list[Any]) -> list[Any]:
        if ahead is not None:
            vec.prefetch(k, ahead.start.at(i * ahead.step), into=ahead.into)
        return multiply_step(k, x.at(i), w.at(i * block), accs, rows, cols, row_stride)

    if length == 1:
        return body(k.int(0), accs)
    return k.fold(0, length, accs, body, at_least_once=True)


def multiply_step(
    k: Kernel, x: Ptr, w: Ptr, accs: list[Any], rows: int, cols: int, row_stride: int
) -> list[Any]:
    """One input channel: cols weight vectors, rows broadcasts, rows·cols FMAs."""
    weights = [vec.load(k, w.at(c * k.lanes)) for c in range(cols)]
    out = list(accs)
    for r in range(rows):
        pixel = vec.broadcast(k, x.at(r * row_stride))
        for c in range(cols):
            out[r * cols + c] = vec.fma(k, pixel, weights[c], out[r * cols + c])
    return out


def dispatch(k: Kernel, count: Int, most: int, call: Any) -> None:
    """`call(rows)` for the one rows in 1 … most that `count` equals."""
    b = k.b
    done = b.append_basic_block("tile_done")
    blocks = [b.append_basic_block(f"tile{rows}") for rows in range(1, most + 1)]
    chosen = b.switch(count.ir, done)
    for rows, block in enumerate(blocks, start=1):
        chosen.add_case(k.int(rows).ir, block)
        b.position_at_end(block)
        call(rows)
        b.branch(done)
    b.position_at_end(done)
