"""Reductions of an expression over the middle one of three dimensions.

    y_o[a, c] = Σ_b expr_o(x[a, b, c], …)     or max_b;      a: outer, b: reduce, c: inner

Bytes: 4 for each element of every operand, each read once; the results are small. FLOPs: the
expression and one addition an element and output. One load an operand and one addition an output
for a vector: the speed of memory.

Order of the additions, the same for any number of parts: elements of a block by turns into a few
accumulators, blocks into a group, groups into the chunk's total, chunks in their order (with
vectors along the inner dimension as `Columns` has it). So a term passes through about
BLOCK/2 + GROUP/BLOCK + elements/GROUP additions and not through one for each element. The cut
into chunks depends on the extent of the reduction alone, so an image has the same bits whatever
batch it came in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from striate.arith.expr import Expr
from striate.arith.machine import Machine
from striate.errors import ArgumentError
from striate.ir import vec
from striate.ir.kernel import Int, Kernel, Ptr, Unit
from striate.kernels.columns import (
    IDENTITY,
    STRIP,
    Columns,
    combine,
    fetch_next_block,
    vectors_side_by_side,
)
from striate.kernels.eltwise import dense_strides, load_vector, offset, store_vector
from striate.kernels.expression import emit_expr, instructions
from striate.kernels.span import vectors
from striate.kernels.spec import symbol

BLOCK = 64  # steps added up from zero
GROUP = 32 * BLOCK
MOST_CHUNKS = 64


@dataclass(frozen=True)
class Reduce:
    """Reduce every output of `expr` by `kind`, "sum" or "max" (NaN wins).

    `operands[i]` has three marks for input i, over (outer, reduce, inner): 'x' where it varies,
    '1' where it is broadcast; operands are dense in the order of their varying dimensions.
    Outputs are dense [outer][inner]. With `inner` vectors run along the inner dimension (channels
    of NHWC); without it the inner extent is 1 and vectors run along the reduced one.

    Buffers: inputs, outputs, and with `chunked` the scratch. Sizes: outer, reduce, inner, chunk,
    where chunk is `chunk_rows(spec, reduce)`. With `chunked` the outputs are not written: the
    partial results [chunk][output][outer][inner] go to scratch, and `ReduceFinish` adds them.
    Without it, work is split over outer and inner only.
    """

    kind: str
    expr: Expr
    operands: tuple[str, ...]
    inner: bool
    chunked: bool

    def __post_init__(self) -> None:
        if self.kind not in IDENTITY:
            raise ArgumentError(f"Reduce: kind must be 'sum' or 'max', got {self.kind!r}")
        if len(self.operands) != self.expr.arity:
            raise ArgumentError(
                f"Reduce: the expression takes {self.expr.arity} operands, got {self.operands}"
            )
        for pattern in self.operands:
            if len(pattern) != 3 or set(pattern) - {"x", "1"}:
                raise ArgumentError(f"Reduce: {pattern!r} is no pattern of 3 dimensions")

    def emit(self, machine: Machine) -> str:
        """LLVM IR text of the kernel."""
        unit = Unit(machine)
        k = unit.kernel(symbol(self))
        (_Columns if self.inner else _Rows)(self, k).build()
        return unit.text()


@dataclass(frozen=True)
class ReduceFinish:
    """Combine the partial results of a chunked `Reduce` with as many outputs, in chunk order.

    Buffers: scratch, then the outputs. Sizes: chunks, and elements = outer·inner of one output.
    """

    kind: str
    outputs: int

    def emit(self, machine: Machine) -> str:
        """LLVM IR text of the kernel."""
        unit = Unit(machine)
        _finish(self, unit.kernel(symbol(self)))
        return unit.text()


def chunk_rows(spec: Reduce, reduce: int) -> int:
    """Elements along the reduced dimension in a chunk; all of them if the spec is not chunked.

    At most 64 chunks, and none so small that the bytes of its partial results would matter.
    """
    if not spec.chunked:
        return reduce
    least, unit = (256, 128) if spec.inner else (4096, 2048)
    return max(least, -(-reduce // (MOST_CHUNKS * unit)) * unit)


def chunk_count(spec: Reduce, reduce: int) -> int:
    """Number of chunks that the reduced dimension is cut into."""
    return -(-reduce // chunk_rows(spec, reduce))


def scratch_elements(spec: Reduce, sizes: Sequence[int]) -> int:
    """float32 elements of the scratch for sizes (outer, reduce, inner, …); 0 if not chunked."""
    outer, reduce, inner = sizes[:3]
    if not spec.chunked:
        return 0
    return chunk_count(spec, reduce) * len(spec.expr.outputs) * outer * inner


def accumulate(
    k: Kernel,
    kind: str,
    span: tuple[Int, Int],
    width: int,
    values: Callable[[Int], list[Any]],
    *,
    step: int = 1,
    unroll: int = 2,
) -> list[Any]:
    """Combine the `width` vectors `values(i)` for i = first, first+step, … < last of the span.

    `unroll` neighbours have accumulators of their own within a block of BLOCK steps; blocks are
    added to a group of GROUP steps, groups to the total.
    """
    neutral = [vec.constant(k, IDENTITY[kind])] * width

    def several(i: Int, accs: list[Any]) -> list[Any]:
        return combine(k, kind, accs, [v for u in range(unroll) for v in values(i + u * step)])

    def one(i: Int, accs: list[Any]) -> list[Any]:
        return combine(k, kind, accs, values(i))

    def block(start: Int, stop: Int) -> list[Any]:
        together = start + (stop - start) // (unroll * step) * (unroll * step)
        accs = k.fold(start, together, neutral * unroll, several, unroll * step)
        turns = [accs[u * width : (u + 1) * width] for u in range(unroll)]
        turns[0] = k.fold(together, stop, turns[0], one, step)
        while len(turns) > 1:
            pairs = zip(turns[::2], turns[1::2], strict=True)
            turns = [combine(k, kind, a, b) for a, b in pairs]
        return turns[0]

    def cut(inner: Callable[[Int, Int], list[Any]], size: int) -> Callable[[Int, Int], list[Any]]:
        """The same sum, in pieces of `size` steps."""

        def pieces(first: Int, last: Int) -> list[Any]:
            def add(i: Int, totals: list[Any]) -> list[Any]:
                return combine(k, kind, totals, inner(i, (i + size * step).min(last)))

            return k.fold(first, last, neutral, add, size * step)

        return pieces

    return cut(cut(block, BLOCK), GROUP)(*span)


def over_vectors(k: Kernel, elements: Int, run: Callable[[Int, Any], None]) -> None:
    """`run(element, lanes_on)` for this part's vectors of `elements`; lanes_on is None if whole."""
    start, stop = k.share(elements.ceil_div(k.lanes))
    start, stop = start * k.lanes, (stop * k.lanes).min(elements)
    whole = start + (stop - start) // k.lanes * k.lanes
    with k.loop(start, whole, k.lanes) as e:
        run(e, None)
    with k.when(whole < stop):
        run(whole, vec.mask(k, stop - whole))


class _Body:
    """What a body of either kind knows: extents, addresses, strides of one unit of work."""

    def __init__(self, spec: Reduce, k: Kernel) -> None:
        self.spec, self.k = spec, k
        self.count = len(spec.expr.outputs)
        outer, reduce, inner, chunk = (k.size(i) for i in range(4))
        self.extents = [outer, reduce, inner if spec.inner else k.int(1)]
        self.chunk = chunk
        self.strides = [dense_strides(k, p, self.extents) for p in spec.operands]
        self.sources = [k.buffer(i) for i in range(len(spec.operands))]

    def chunks(self) -> Int:
        return self.extents[1].ceil_div(self.chunk) if self.spec.chunked else self.k.int(1)

    def span(self, chunk: Int) -> tuple[Int, Int]:
        """Rows [first, last) of the chunk."""
        first = chunk * self.chunk if self.spec.chunked else self.k.int(0)
        last = (first + self.chunk).min(self.extents[1]) if self.spec.chunked else self.extents[1]
        return first, last

    def target(self, output: int, a: Int, chunk: Int, column: Int) -> Ptr:
        """Where the unit's result goes: to the output, or as a partial result to scratch."""
        k, (outer, _, inner) = self.k, self.extents
        inputs = len(self.sources)
        if not self.spec.chunked:
            return k.buffer(inputs + output).at(a * inner + column)
        row = (chunk * self.count + output) * outer + a
        return k.buffer(inputs + self.count).at(row * inner + column)


class _Columns:
    """Vectors along the inner dimension: a unit of work is (outer, chunk, strip of columns)."""

    def __init__(self, spec: Reduce, k: Kernel) -> None:
        self.spec, self.k, self.body = spec, k, _Body(spec, k)
        simple = instructions(spec.expr) <= 12
        self.width = vectors_side_by_side(k, self.body.count) if simple else 1

    def build(self) -> None:
        """Loop over this part's units of work; strips of one chunk follow one another."""
        k, body = self.k, self.body
        outer, _, inner = body.extents
        strips, chunks = inner.ceil_div(STRIP), body.chunks()
        start, stop = k.share(outer * chunks * strips)
        with k.loop(start, stop) as unit:
            rest, column = unit // strips, unit % strips * STRIP
            self._unit(rest // chunks, rest % chunks, column, (inner - column).min(STRIP))
        k.finish()

    def _unit(self, a: Int, chunk: Int, column: Int, extent: Int) -> None:
        k, body = self.k, self.body
        at = [a, k.int(0), column]
        sources = [p.at(offset(k, s, at)) for p, s in zip(body.sources, body.strides, strict=True)]

        def values(c: Int, width: int, lanes_on: Any) -> Callable[[Int], list[Any]]:
            return self._values(sources, c, width, lanes_on)

        columns = Columns(k, self.spec.kind, extent, self.width, body.count, values)
        totals = columns.totals(*body.span(chunk))

        def write(c: Int, lanes_on: Any) -> None:
            for o in range(body.count):
                total = vec.load(k, totals.at(c + o * STRIP))
                store_vector(k, total, body.target(o, a, chunk, column + c), lanes_on)

        vectors(k, extent, write)

    def _values(
        self, sources: list[Ptr], column: Int, width: int, lanes_on: Any
    ) -> Callable[[Int], list[Any]]:
        """Values of a row for `width` vectors from `column` on; operands without rows are kept."""
        k, spec, strides = self.k, self.spec, self.body.strides

        def load(i: int, w: int, row: Int) -> Any:
            by_row, by_column = (mark == "x" for mark in spec.operands[i][1:])
            p = sources[i].at(row * strides[i][1])
            if not by_column:
                return vec.broadcast(k, p)
            p = p.at(column + w * k.lanes)
            if by_row:
                fetch_next_block(k, p, strides[i][1], w)
            return load_vector(k, p, lanes_on)

        kept = {
            (i, w): load(i, w, k.int(0))
            for i, pattern in enumerate(spec.operands)
            for w in range(width)
            if pattern[1] == "1"
        }

        def values(row: Int) -> list[Any]:
            out: list[Any] = []
            for w in range(width):
                places = [(i, w) for i in range(len(sources))]
                operands = [kept[at] if at in kept else load(*at, row) for at in places]
                out += emit_expr(k, spec.expr, operands)
            return out

        return values


class _Rows:
    """Vectors along the reduced dimension: a unit of work is (outer, chunk)."""

    def __init__(self, spec: Reduce, k: Kernel) -> None:
        self.spec, self.k = spec, k
        self.unroll = 4 if instructions(spec.expr) <= 12 else 2

    def build(self) -> None:
        k = self.k
        body = _Body(self.spec, k)
        chunks = body.chunks()
        start, stop = k.share(body.extents[0] * chunks)
        with k.loop(start, stop) as unit:
            a, chunk = (unit // chunks, unit % chunks) if self.spec.chunked else (unit, k.int(0))
            totals = self._row(body, a, chunk)
            for o, total in enumerate(totals):
                # Lanes are combined in halves: 0…7 with 8…15, then 0…3 with 4…7, and so on.
                result = vec.reduce_lanes(k, total, self._join)
                k.b.store(result, body.target(o, a, chunk, k.int(0)).v).align = 4
        k.finish()

    def _join(self, a: Any, b: Any) -> Any:
        return combine(self.k, self.spec.kind, [a], [b])[0]

    def _row(self, body: _Body, a: Int, chunk: Int) -> list[Any]:
        k, lanes = self.k, self.k.lanes
        at = [a, k.int(0), k.int(0)]
        sources = [p.at(offset(k, s, at)) for p, s in zip(body.sources, body.strides, strict=True)]
        fixed = {
            i: vec.broadcast(k, sources[i])
            for i, pattern in enumerate(self.spec.operands)
            if pattern[1] == "1"
        }

        def values(i: Int, lanes_on: Any = None) -> list[Any]:
            loaded = [
                fixed[n] if n in fixed else load_vector(k, p.at(i), lanes_on)
                for n, p in enumerate(sources)
            ]
            return emit_expr(k, self.spec.expr, loaded)

        first, last = body.span(chunk)
        whole = first + (last - first) // lanes * lanes
        totals = accumulate(
            k, self.spec.kind, (first, whole), body.count, values, step=lanes, unroll=self.unroll
        )
        neutral = vec.constant(k, IDENTITY[self.spec.kind])

        def rest(i: Int, totals: list[Any]) -> list[Any]:
            lanes_on = vec.mask(k, last - i)
            masked = [k.b.select(lanes_on, v, neutral) for v in values(i, lanes_on)]
            return combine(k, self.spec.kind, totals, masked)

        return k.fold(whole, last, totals, rest, lanes)


def _finish(spec: ReduceFinish, k: Kernel) -> None:
    """Vectors of elements; for each the chunks in their order."""
    chunks, elements = k.size(0), k.size(1)
    scratch = k.buffer(0)

    def vector(e: Int, lanes_on: Any) -> None:
        def partials(c: Int) -> list[Any]:
            rows = [(c * spec.outputs + o) * elements + e for o in range(spec.outputs)]
            return [load_vector(k, scratch.at(row), lanes_on) for row in rows]

        totals = accumulate(k, spec.kind, (k.int(0), chunks), spec.outputs, partials)
        for o, total in enumerate(totals):
            store_vector(k, total, k.buffer(1 + o).at(e), lanes_on)

    over_vectors(k, elements, vector)
    k.finish()
