"""The register tile that every convolution and matrix product is made of.

    acc[r][c] += x[r·row_stride + i] · w[i·block + c·lanes …]      for i in 0 … length−1

`rows` neighbouring output pixels × `cols` vectors of output channels stay in registers; an input
element is broadcast, a weight vector is loaded once a row of the tile. Per step: cols loads,
rows broadcasts and rows·cols FMAs, 2·rows·cols·lanes FLOPs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from striate.ir import vec
from striate.ir.kernel import Int, Kernel, Ptr

LINE = 16  # elements of a cache line
FEW = 12  # accumulators of a tile whose steps are too short to count one by one
TOGETHER = 4


class Ahead(NamedTuple):
    """What a run fetches for the next one: `step` elements further a product.

    A cache line is asked for every `every` products, a power of two.
    """

    start: Ptr
    step: int | Int = LINE
    into: int = 1  # L1 or L2
    every: int = 1


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
    multiple: int = 1,
    ahead: Ahead | None = None,
) -> list[Any]:
    """Accumulate one contiguous run of `length` inputs into the tile.

    With `ahead` memory works for the next run while this one computes; for `multiple` see
    `in_rounds`.
    """

    def step(i: Int, u: int, accs: list[Any]) -> list[Any]:
        if ahead is not None and u % ahead.every == 0:
            vec.prefetch(k, ahead.start.at((i + u) * ahead.step), into=ahead.into)
        return multiply_step(k, x.at(i + u), w.at((i + u) * block), accs, rows, cols, row_stride)

    return in_rounds(k, length, accs, step, steps_together(k, rows, cols), multiple)


def steps_together(k: Kernel, rows: int, cols: int) -> int:
    """Steps of a tile's loop that are one round of it.

    Where 16 registers hold a tile a step is some 20 instructions, and counting the rounds adds
    three: a sixth of the time where another thread computes on the same core, for the two share
    what a core can issue. Tiles of fewer rows than half are the rest of a small image. Without
    FMA a product takes a register, and steps in a row would spill.
    """
    usual = k.machine.fma and 2 * rows >= k.machine.rows
    return TOGETHER if usual and rows * cols <= FEW else 1


def in_rounds(
    k: Kernel,
    length: int | Int,
    accs: list[Any],
    step: Callable[[Int, int, list[Any]], list[Any]],
    together: int,
    multiple: int = 1,
) -> list[Any]:
    """The steps 0 … length−1: `step(i, u, values)` is number i + u; length is at least one.

    A round is `together` steps, and what is left over comes after the rounds; of a length that
    only the kernel knows nothing is, if `multiple`, which divides it, says so. Between steps
    stands a fence for the compiler: without, LLVM's scheduler lifts the loads of the next step
    above the FMAs of this one, and accumulators are spilled.
    """

    def several(i: Int, accs: list[Any], count: int = together) -> list[Any]:
        for u in range(count):
            if u:
                k.fence()
            accs = step(i, u, accs)
        return accs

    def single(i: Int, accs: list[Any]) -> list[Any]:
        return step(i, 0, accs)

    if isinstance(length, Int):
        if multiple % together == 0:
            return k.fold(0, length, accs, several, step=together, at_least_once=True)
        whole = length // together * together
        return k.fold(whole, length, k.fold(0, whole, accs, several, step=together), single)
    rest = length % together
    if length > together:
        accs = k.fold(0, length - rest, accs, several, step=together, at_least_once=True)
    elif not rest:
        accs = several(k.int(0), accs)
    return several(k.int(length - rest), accs, rest) if rest else accs


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
