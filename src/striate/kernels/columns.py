"""Sums over the rows of a table for all its columns, read in the order of memory.

    total_o[c] = Σ_r value_o(r, c)      or max_r

A vector of columns by itself would touch one line of each row: with 512 channels lines 2 KiB
apart, which no prefetcher follows and which share few sets of the cache. So BLOCK rows of a strip
of up to STRIP columns are added up in registers, vector after vector from left to right, and their
sums are added to totals that wait in L1.

Order of the additions, the same for any number of parts: even and odd rows of a block, the two
sums, 32 blocks into a group, 32 groups into one of the next size, those into the total. So a term
passes through about 4 + 32 + 32 + rows/8192 additions and not through one for each row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from striate.ir import mathfn, vec
from striate.ir.kernel import Int, Kernel, Ptr
from striate.kernels.span import vectors

IDENTITY = {"sum": 0.0, "max": float("-inf")}
BLOCK = 8  # rows added up in registers
GROUPS = (32 * 32 * BLOCK, 32 * BLOCK)  # rows of the groups, each with totals of its own
STRIP = 256  # columns whose totals wait in L1
TURNS = 2  # even and odd rows
LINE = 16  # float32 of a cache line

Values = Callable[[Int], list[Any]]


def combine(k: Kernel, kind: str, a: Sequence[Any], b: Sequence[Any]) -> list[Any]:
    """One step of the reduction, for several vectors."""
    if kind == "sum":
        return [k.b.fadd(x, y) for x, y in zip(a, b, strict=True)]
    return [mathfn.maximum(k, x, y) for x, y in zip(a, b, strict=True)]


def vectors_side_by_side(k: Kernel, outputs: int) -> int:
    """How many vectors of columns are added up together: sums take at most half the registers."""
    return max(1, min(4, k.machine.registers // (2 * TURNS * outputs)))


def fetch_next_block(k: Kernel, p: Ptr, pitch: Int, vector: int) -> None:
    """Ask for the same columns of the next block of rows, once for each line of `vector`s."""
    if vector * k.lanes % LINE == 0:
        vec.prefetch(k, p.at(pitch * BLOCK))


@dataclass(frozen=True)
class Columns:
    """A strip of `extent` ≤ STRIP columns, of which `width` vectors are added up at a time.

    `values(column, width, lanes_on)` gives a function from a row to its `width · outputs` vectors,
    those of the first vector of columns first; what does not depend on the row is loaded before.
    """

    k: Kernel
    kind: str
    extent: Int
    width: int
    outputs: int
    values: Callable[[Int, int, Any], Values]

    def totals(self, first: Int, last: Int) -> Ptr:
        """Totals of the rows [first, last), [output][STRIP], on the stack."""
        total = self._cleared()
        self._span(first, last, GROUPS, total)
        return total

    def _span(self, first: Int, last: Int, groups: tuple[int, ...], total: Ptr) -> None:
        """Rows [first, last) into `total`, through groups of these sizes."""
        k = self.k
        if not groups:
            with k.loop(first, last, BLOCK) as row:
                self._block(row, (row + BLOCK).min(last), total)
            return
        with k.loop(first, last, groups[0]) as start:
            group = self._cleared()
            self._span(start, (start + groups[0]).min(last), groups[1:], group)
            with k.loop(0, self.extent, k.lanes) as c:
                for o in range(self.outputs):
                    self._add(vec.load(k, group.at(c + o * STRIP)), total.at(c + o * STRIP))

    def _cleared(self) -> Ptr:
        """Totals of nothing yet."""
        totals, neutral = self.k.stack(self.outputs * STRIP), IDENTITY[self.kind]
        with self.k.loop(0, self.extent, self.k.lanes) as c:
            for o in range(self.outputs):
                vec.store(self.k, vec.constant(self.k, neutral), totals.at(c + o * STRIP))
        return totals

    def _add(self, value: Any, total: Ptr) -> None:
        (added,) = combine(self.k, self.kind, [vec.load(self.k, total)], [value])
        vec.store(self.k, added, total)

    def _block(self, row: Int, end: Int, total: Ptr) -> None:
        """At most BLOCK rows [row, end) into `total`."""
        k = self.k

        def run(column: Int, width: int, lanes_on: Any) -> None:
            sums = self._rows(row, end, self.values(column, width, lanes_on), width)
            for i, value in enumerate(sums):
                vector, output = divmod(i, self.outputs)
                self._add(value, total.at(column + (vector * k.lanes + output * STRIP)))

        several = k.int(0)
        if self.width > 1:
            wide = self.width * k.lanes
            several = self.extent // wide * wide
            with k.loop(0, several, wide) as column:
                run(column, self.width, None)
        vectors(k, self.extent, lambda c, lanes_on: run(c, 1, lanes_on), start=several)

    def _rows(self, row: Int, end: Int, values: Values, width: int) -> list[Any]:
        k, count = self.k, width * self.outputs

        def several(r: Int, accs: list[Any]) -> list[Any]:
            return combine(k, self.kind, accs, [v for u in range(TURNS) for v in values(r + u)])

        def one(r: Int, accs: list[Any]) -> list[Any]:
            return combine(k, self.kind, accs, values(r))

        together = row + (end - row) // TURNS * TURNS
        neutral = [vec.constant(k, IDENTITY[self.kind])] * count
        accs = k.fold(row, together, neutral * TURNS, several, TURNS)
        even = k.fold(together, end, accs[:count], one)
        return combine(k, self.kind, even, accs[count:])
