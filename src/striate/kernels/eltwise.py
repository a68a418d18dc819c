"""Elementwise kernels: an expression over broadcast operands.

    y_o[i₁, …, i_d] = expr_o(a[i₁, …, i_d], b[i₁, …, i_d], …)      for every output o

Bytes: 4 for each element of every operand and output, each touched once; an operand that is
broadcast stays in a register or in the cache. FLOPs: one for each instruction of the expression,
so nearly all expressions run at the speed of memory: a vector costs one load an operand, one
store an output and the expression, and one addition of the index for `unroll` vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from striate.arith.expr import Expr
from striate.arith.machine import Machine
from striate.errors import ArgumentError
from striate.ir import vec
from striate.ir.kernel import Int, Kernel, Ptr, Unit
from striate.kernels.expression import emit_expr, instructions
from striate.kernels.spec import symbol


def dense_strides(k: Kernel, pattern: str, extents: Sequence[Int]) -> list[Int]:
    """Strides in elements of a dense operand that varies along the dimensions marked 'x'.

    0 along the dimensions marked '1'. The innermost varying stride is known to be 1.
    """
    strides, step = [], k.int(1)
    for mark, extent in zip(reversed(pattern), reversed(extents), strict=True):
        strides.append(step if mark == "x" else k.int(0))
        step = step * extent if mark == "x" else step
    return strides[::-1]


def offset(k: Kernel, strides: Sequence[Int], index: Sequence[Int]) -> Int:
    """Σ stride·index in elements, without the dimensions whose stride is 0."""
    total = k.int(0)
    for stride, i in zip(strides, index, strict=True):
        if not (stride.known and stride.v == 0):
            total = i * stride + total
    return total


def load_vector(k: Kernel, p: Ptr, lanes_on: Any) -> Any:
    """A vector, or its lanes that are on (None: all)."""
    return vec.load(k, p) if lanes_on is None else vec.load_masked(k, p, lanes_on)


def store_vector(k: Kernel, value: Any, p: Ptr, lanes_on: Any) -> None:
    """Write a vector, or its lanes that are on (None: all)."""
    if lanes_on is None:
        vec.store(k, value, p)
    else:
        vec.store_masked(k, value, p, lanes_on)


@dataclass(frozen=True)
class Eltwise:
    """`expr` over an output space of `dims` (1 to 4) run-time dimensions, the last innermost.

    `operands[i]` has one mark a dimension for input i: 'x' where it varies, '1' where it is
    broadcast. Operands are dense in the order of their varying dimensions; outputs vary in all.

    Buffers: the inputs, then the outputs, all float32. Sizes: the extents. An output may be the
    buffer of an input that varies everywhere. Work is split over the outer dimensions, over
    vectors if there is only one.
    """

    expr: Expr
    dims: int
    operands: tuple[str, ...]

    def __post_init__(self) -> None:
        if not 1 <= self.dims <= 4:
            raise ArgumentError(f"Eltwise: dims must be 1 to 4, got {self.dims}")
        if len(self.operands) != self.expr.arity:
            raise ArgumentError(
                f"Eltwise: the expression takes {self.expr.arity} operands, got {self.operands}"
            )
        for pattern in self.operands:
            if len(pattern) != self.dims or set(pattern) - {"x", "1"}:
                raise ArgumentError(f"Eltwise: {pattern!r} is no pattern of {self.dims} dimensions")

    def emit(self, machine: Machine) -> str:
        """LLVM IR text of the kernel."""
        unit = Unit(machine)
        _Eltwise(self, unit.kernel(symbol(self))).build()
        return unit.text()


class _Eltwise:
    """One generation of the kernel."""

    def __init__(self, spec: Eltwise, k: Kernel) -> None:
        self.spec, self.k = spec, k
        # Long expressions have enough independent instructions in one vector.
        length = instructions(spec.expr)
        self.unroll = 4 if length <= 6 else 2 if length <= 24 else 1

    def build(self) -> None:
        """Loops over this part's rows of the innermost dimension."""
        k, spec = self.k, self.spec
        self.extents = [k.size(i) for i in range(spec.dims)]
        inputs = len(spec.operands)
        self.sources = [k.buffer(i) for i in range(inputs)]
        self.targets = [k.buffer(inputs + i) for i in range(len(spec.expr.outputs))]
        self.strides = [
            dense_strides(k, p, self.extents) for p in (*spec.operands, "x" * spec.dims)
        ]
        self.scalars = {
            i: vec.broadcast(k, self.sources[i])
            for i, pattern in enumerate(spec.operands)
            if "x" not in pattern
        }
        if spec.dims == 1:
            start, stop = k.share(self.extents[0].ceil_div(k.lanes))
            self._row([], start * k.lanes, (stop * k.lanes).min(self.extents[0]))
        else:
            self._rows()
        k.finish()

    def _rows(self) -> None:
        """All rows of the share; the coordinates count up like an odometer, without divisions."""
        k, outer = self.k, self.extents[:-1]
        rows = outer[0]
        for extent in outer[1:]:
            rows = rows * extent
        start, stop = k.share(rows)
        index, rest = [], start
        for extent in reversed(outer[1:]):
            index.append(rest % extent)
            rest = rest // extent
        first = [rest, *reversed(index)]

        def body(_: Int, values: list[Any]) -> list[Any]:
            at = [Int(k, v) for v in values]
            self._row(at, k.int(0), self.extents[-1])
            return [i.ir for i in self._next(at, outer)]

        k.fold(start, stop, [i.ir for i in first], body)

    def _next(self, index: list[Int], extents: list[Int]) -> list[Int]:
        k, out, carry = self.k, [], self.k.int(1)
        for i, extent in zip(reversed(index[1:]), reversed(extents[1:]), strict=True):
            following = i + carry
            full = following >= extent
            out.append(k.select(full, k.int(0), following))
            carry = k.select(full, k.int(1), k.int(0))
        return [index[0] + carry, *reversed(out)]

    def _row(self, outer: list[Int], start: Int, stop: Int) -> None:
        """Elements start … stop−1 of the row with these outer coordinates."""
        k, lanes = self.k, self.k.lanes
        at = [*outer, k.int(0)]
        sources = [p.at(offset(k, s, at)) for p, s in zip(self.sources, self.strides, strict=False)]
        targets = [p.at(offset(k, self.strides[-1], at)) for p in self.targets]
        fixed = dict(self.scalars)
        for i, pattern in enumerate(self.spec.operands):
            if pattern[-1] == "1" and i not in fixed:
                fixed[i] = vec.broadcast(k, sources[i])

        def vectors(i: Int, count: int, lanes_on: Any = None) -> None:
            for u in range(count):
                here = i + u * lanes
                values = [
                    fixed[n] if n in fixed else load_vector(k, p.at(here), lanes_on)
                    for n, p in enumerate(sources)
                ]
                results = emit_expr(k, self.spec.expr, values)
                for p, result in zip(targets, results, strict=True):
                    store_vector(k, result, p.at(here), lanes_on)

        step = self.unroll * lanes
        length = stop - start
        unrolled, whole = start + length // step * step, start + length // lanes * lanes
        with k.loop(start, unrolled, step) as first:
            vectors(first, self.unroll)
        if self.unroll > 1:
            with k.loop(unrolled, whole, lanes) as first:
                vectors(first, 1)
        with k.when(whole < stop):
            vectors(whole, 1, vec.mask(k, stop - whole))
