"""Reductions of an expression over the middle one of three dimensions.

    y_o[a, c] = Σ_b expr_o(x[a, b, c], …)     or max_b;      a: outer, b: reduce, c: inner

Bytes: 4 for each element of every operand, each read once; the results are small. FLOPs: the
expression and one addition an element and output. One load an operand and one addition an output
for a vector: the speed of memory.

Order of the additions, the same for any number of parts: rows of a block by turns into a few
accumulators, blocks into a group, groups into the chunk's total, chunks in their order. So a term
passes through about BLOCK/2 + GROUP/BLOCK + rows/GROUP additions and not through one for each
row. The cut into chunks depends on the extent of the reduction alone, so an image has the same
bits whatever batch it came in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from striate.arith.expr import Expr
from striate.arith.machine import Machine
from striate.errors import ArgumentError
from striate.ir import mathfn, vec
from striate.ir.kernel import I64, PTR, Int, Kernel, Ptr, Unit
from striate.kernels.eltwise import dense_strides, load_vector, offset, store_vector
from striate.kernels.expression import emit_expr, instructions
from striate.kernels.spec import symbol

IDENTITY = {"sum": 0.0, "max": float("-inf")}
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


def combine(k: Kernel, kind: str, a: Sequence[Any], b: Sequence[Any]) -> list[Any]:
    """One step of the reduction, for several vectors."""
    if kind == "sum":
        return [k.b.fadd(x, y) for x, y in zip(a, b, strict=True)]
    return [mathfn.maximum(k, x, y) for x, y in zip(a, b, strict=True)]


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


def over_strip(
    k: Kernel, column: Int, inner: Int, width: int, run: Callable[[int, bool, Int], None]
) -> None:
    """`run(vectors, masked, column)` for the strip of `width` vectors that starts at `column`.

    A strip that the inner extent cuts off runs as single vectors and a masked rest.
    """
    with k.either(column + width * k.lanes <= inner) as (whole, partial):
        with whole:
            run(width, False, column)
        with partial:
            vectors = column + (inner - column) // k.lanes * k.lanes
            with k.loop(column, vectors, k.lanes) as j:
                run(1, False, j)
            with k.when(vectors < inner):
                run(1, True, vectors)


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

    unroll = 2

    def __init__(self, spec: Reduce, k: Kernel) -> None:
        self.spec, self.k = spec, k
        # Accumulators take at most half of the registers.
        fitting = k.machine.registers // (2 * self.unroll * len(spec.expr.outputs))
        self.width = max(1, min(4, fitting)) if instructions(spec.expr) <= 12 else 1

    def build(self) -> None:
        """Loop over this part's units of work; strips of one chunk follow one another."""
        k = self.k
        variants = {(self.width, False), (1, False), (1, True)}
        bodies = {variant: self._function(*variant) for variant in sorted(variants)}
        body = _Body(self.spec, k)
        outer, _, inner = body.extents
        strip = self.width * k.lanes
        strips, chunks = inner.ceil_div(strip), body.chunks()
        start, stop = k.share(outer * chunks * strips)
        with k.loop(start, stop) as unit:
            rest = unit // strips
            where = (*k.function.args[:2], rest // chunks, rest % chunks)

            def run(width: int, masked: bool, column: Int, where: tuple[Any, ...] = where) -> None:
                k.call(bodies[width, masked], *where, column)

            over_strip(k, unit % strips * strip, inner, self.width, run)
        k.finish()

    def _function(self, width: int, masked: bool) -> Any:
        """columns(buffers, sizes, outer, chunk, column): `width` vectors of one chunk."""
        name = f"columns{width}{'_tail' if masked else ''}"
        k = self.k.unit.function(name, [PTR, PTR, I64, I64, I64])
        body = _Body(self.spec, k)
        a, chunk, column = (Int(k, v) for v in k.function.args[2:])
        lanes_on = vec.mask(k, body.extents[2] - column) if masked else None
        at = [a, k.int(0), column]
        sources = [p.at(offset(k, s, at)) for p, s in zip(body.sources, body.strides, strict=True)]

        def load(i: int, w: int, row: Int) -> Any:
            p = sources[i].at(row * body.strides[i][1])
            if self.spec.operands[i][2] == "1":
                return vec.broadcast(k, p)
            return load_vector(k, p.at(w * k.lanes), lanes_on)

        fixed = {
            (i, w): load(i, w, k.int(0))
            for i, pattern in enumerate(self.spec.operands)
            for w in range(width)
            if pattern[1] == "1"
        }

        def values(row: Int) -> list[Any]:
            return [
                value
                for w in range(width)
                for value in emit_expr(
                    k,
                    self.spec.expr,
                    [
                        fixed[i, w] if (i, w) in fixed else load(i, w, row)
                        for i in range(len(sources))
                    ],
                )
            ]

        totals = accumulate(
            k, self.spec.kind, body.span(chunk), width * body.count, values, unroll=self.unroll
        )
        for w in range(width):
            for o in range(body.count):
                p = body.target(o, a, chunk, column + w * k.lanes)
                store_vector(k, totals[w * body.count + o], p, lanes_on)
        k.finish()
        return k.function


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
