"""Mean and biased variance of every channel, for batch normalisation.

    mean[c] = Σ_r x[r, c] / n        var[c] = Σ_r (x[r, c] − mean[c])² / n        r = 0 … n−1

Σx² − n·mean² would lose everything when the mean is large beside the deviation. So every chunk of
rows is read twice, the second time out of the cache, and its sum of squares is taken around its
own mean (the corrected two-pass algorithm; Chan, Golub, LeVeque: "Algorithms for computing the
sample variance", The American Statistician 37, 1983):

    m_b = Σx / n_b      d = x − m_b      s_b = Σd / n_b      M_b = Σd² − s_b·Σd

m_b + s_b is the mean of chunk b; it stays in two parts, for their sum would round to the last
bit of the mean. The second kernel joins the chunks by the same paper's formula for many groups,
relative to the first chunk, where the differences are small:

    e_b = (m_b − m_0) + s_b      r = Σ_b n_b·e_b / n
    mean = m_0 + r               var = Σ_b (M_b + n_b·(e_b − r)²) / n

Bytes: 4 for each element from memory, 4 from the cache. FLOPs: 5 an element (a sum in the first
pass; a difference, a product and two sums in the second). The cut into chunks depends on the
number of rows alone, so the bits are the same for any number of parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from striate.arith.machine import Machine
from striate.ir import mathfn, vec
from striate.ir.kernel import F32, Int, Kernel, Ptr, Unit
from striate.kernels.columns import (
    STRIP,
    Columns,
    Values,
    fetch_next_block,
    vectors_side_by_side,
)
from striate.kernels.eltwise import load_vector, store_vector
from striate.kernels.reduce import accumulate, over_vectors
from striate.kernels.span import vectors
from striate.kernels.spec import symbol

X, SCRATCH = 0, 3
PARTIALS = 3  # m_b, s_b and M_b


@dataclass(frozen=True)
class ChannelStats:
    """Partial statistics of x [rows][channels], float32.

    Buffers: x, mean, var, scratch. Sizes: rows, channels, chunk, where chunk is
    `chunk_rows(rows)`. Only scratch is written, [chunk][m_b, s_b, M_b][channels]; `StatsFinish`
    makes mean and var of it.
    """

    def emit(self, machine: Machine) -> str:
        """LLVM IR text of the kernel."""
        unit = Unit(machine)
        _stats(unit.kernel(symbol(self)))
        return unit.text()


@dataclass(frozen=True)
class StatsFinish:
    """Mean and biased variance from the partial statistics of `ChannelStats`.

    Buffers: scratch, mean, var. Sizes: rows, channels, chunk.
    """

    def emit(self, machine: Machine) -> str:
        """LLVM IR text of the kernel."""
        unit = Unit(machine)
        _finish(unit.kernel(symbol(self)))
        return unit.text()


def chunk_rows(rows: int) -> int:
    """Rows in a chunk: 128 or 256, so that a strip of them stays in L2 between the passes."""
    return 128 if rows <= 64 * 128 else 256


def scratch_elements(sizes: Sequence[int]) -> int:
    """float32 elements of the scratch for sizes (rows, channels, …)."""
    rows, channels = sizes[:2]
    return -(-rows // chunk_rows(rows)) * PARTIALS * channels


def _number(k: Kernel, count: Int) -> Any:
    """A count as a float32 in every lane."""
    return vec.splat(k, k.b.sitofp(count.ir, F32))


def _stats(k: Kernel) -> None:
    """A unit of work is (chunk, strip of channels)."""
    rows, channels, chunk = (k.size(i) for i in range(3))
    strips = channels.ceil_div(STRIP)
    start, stop = k.share(rows.ceil_div(chunk) * strips)
    with k.loop(start, stop) as unit:
        number, column = unit // strips, unit % strips * STRIP
        first = number * chunk
        span = (first, (first + chunk).min(rows))
        target = k.buffer(SCRATCH).at(number * PARTIALS * channels + column)
        _chunk(k, span, k.buffer(X).at(column), channels, (channels - column).min(STRIP), target)
    k.finish()


def _chunk(
    k: Kernel, span: tuple[Int, Int], x: Ptr, channels: Int, extent: Int, target: Ptr
) -> None:
    """m_b, s_b and M_b of the rows of `span`, for a strip of `extent` channels."""
    n = _number(k, span[1] - span[0])

    def loaded(column: Int, width: int, lanes_on: Any, row: Int) -> list[Any]:
        places = [x.at(row * channels).at(column + w * k.lanes) for w in range(width)]
        for w, p in enumerate(places):
            fetch_next_block(k, p, channels, w)
        return [load_vector(k, p, lanes_on) for p in places]

    def values(column: Int, width: int, lanes_on: Any) -> Values:
        return lambda row: loaded(column, width, lanes_on, row)

    sums = Columns(k, "sum", extent, vectors_side_by_side(k, 1), 1, values).totals(*span)
    centres = k.stack(STRIP)
    with k.loop(0, extent, k.lanes) as c:
        vec.store(k, k.b.fdiv(vec.load(k, sums.at(c)), n), centres.at(c))

    def deviations(column: Int, width: int, lanes_on: Any) -> Values:
        here = [vec.load(k, centres.at(column + w * k.lanes)) for w in range(width)]

        def both(row: Int) -> list[Any]:
            values = loaded(column, width, lanes_on, row)
            d = [k.b.fsub(v, m) for v, m in zip(values, here, strict=True)]
            return [value for v in d for value in (v, k.b.fmul(v, v))]

        return both

    totals = Columns(k, "sum", extent, vectors_side_by_side(k, 2), 2, deviations).totals(*span)

    def write(c: Int, lanes_on: Any) -> None:
        moved, squares = (vec.load(k, totals.at(c + o * STRIP)) for o in range(2))
        shift = k.b.fdiv(moved, n)
        # Rounding must not make the M of a constant channel negative.
        spread = k.b.fsub(squares, k.b.fmul(moved, shift))
        spread = mathfn.maximum(k, vec.constant(k, 0.0), spread)
        for i, value in enumerate((vec.load(k, centres.at(c)), shift, spread)):
            store_vector(k, value, target.at(channels * i + c), lanes_on)

    vectors(k, extent, write)


def _finish(k: Kernel) -> None:
    """Vectors of channels; for each the chunks in their order, twice."""
    rows, channels, chunk = (k.size(i) for i in range(3))
    scratch, total = k.buffer(0), _number(k, rows)
    chunks = (k.int(0), rows.ceil_div(chunk))

    def vector(c: Int, lanes_on: Any) -> None:
        start = load_vector(k, scratch.at(c), lanes_on)

        def partial(b: Int) -> tuple[Any, Any, Any]:
            """n_b, e_b and M_b."""
            p = scratch.at(b * PARTIALS * channels + c)
            n = _number(k, (rows - b * chunk).min(chunk))
            centre, shift, spread = (
                load_vector(k, p.at(channels * i), lanes_on) for i in range(PARTIALS)
            )
            return n, k.b.fadd(k.b.fsub(centre, start), shift), spread

        def weighted(b: Int) -> list[Any]:
            n, e, _ = partial(b)
            return [k.b.fmul(n, e)]

        (moved,) = accumulate(k, "sum", chunks, 1, weighted)
        r = k.b.fdiv(moved, total)

        def spreads(b: Int) -> list[Any]:
            n, e, spread = partial(b)
            d = k.b.fsub(e, r)
            return [k.b.fadd(spread, k.b.fmul(n, k.b.fmul(d, d)))]

        (spread,) = accumulate(k, "sum", chunks, 1, spreads)
        store_vector(k, k.b.fadd(start, r), k.buffer(1).at(c), lanes_on)
        store_vector(k, k.b.fdiv(spread, total), k.buffer(2).at(c), lanes_on)

    over_vectors(k, channels, vector)
    k.finish()
