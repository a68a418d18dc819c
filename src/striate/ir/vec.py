"""Vectors of float32: loads, stores, masks, arithmetic, broadcasts and transposes.

All functions take the `Kernel` first and work on raw LLVM values; a vector has `k.lanes` lanes
unless said otherwise.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from llvmlite import ir

from striate.ir.kernel import F32, I1, I32, I64, PTR, Int, IntLike, Kernel, Ptr


def vector_type(k: Kernel, elem: Any = F32, lanes: int | None = None) -> Any:
    """<lanes x elem>."""
    return _vector_type(elem, lanes or k.lanes)


@functools.cache
def _vector_type(elem: Any, lanes: int) -> Any:
    """One object a type: llvmlite keeps its text, and writes it anew for every other object."""
    return ir.VectorType(elem, lanes)


class Written(ir.Constant):  # type: ignore[misc]  # llvmlite is untyped
    """A constant with its text.

    llvmlite spells out every lane, which makes the text of a kernel four times as long, and slow
    to write and to read. It needs the `lanes` of a shuffle's mask only.
    """

    def __init__(self, kind: Any, text: str, lanes: Any = None) -> None:
        super().__init__(kind, ir.Undefined if lanes is None else lanes)
        self._text = text

    def _get_reference(self) -> str:
        return self._text


def constant(k: Kernel, value: float, lanes: int | None = None) -> Any:
    """The same number in every lane."""
    text = f"splat (float {ir.Constant(F32, float(value)).get_reference()})"
    return Written(vector_type(k, F32, lanes), text)


def load(k: Kernel, p: Ptr, lanes: int | None = None) -> Any:
    """Unaligned load of a whole vector."""
    out = k.b.load(p.v, typ=vector_type(k, p.elem, lanes))
    out.align = 4
    return out


def store(k: Kernel, value: Any, p: Ptr) -> None:
    """Unaligned store of a whole vector."""
    k.b.store(value, p.v).align = 4


def load_scalar(k: Kernel, p: Ptr) -> Any:
    """One element."""
    out = k.b.load(p.v, typ=p.elem)
    out.align = 4
    return out


def splat(k: Kernel, scalar: Any, lanes: int | None = None) -> Any:
    """A scalar in every lane."""
    n = lanes or k.lanes
    nothing = Written(vector_type(k, scalar.type, n), "poison")
    first = k.b.insert_element(nothing, scalar, ir.Constant(I32, 0))
    return k.b.shuffle_vector(first, nothing, _first_lane(n))


@functools.cache
def _first_lane(lanes: int) -> Any:
    """The mask of a shuffle that takes lane 0 everywhere."""
    return Written(_vector_type(I32, lanes), "zeroinitializer", [0] * lanes)


def broadcast(k: Kernel, p: Ptr) -> Any:
    """One element of memory in every lane."""
    return splat(k, load_scalar(k, p))


def mask(k: Kernel, count: IntLike, lanes: int | None = None) -> Any:
    """Lanes 0 … count−1."""
    n, c = lanes or k.lanes, k.int(count)
    if c.known:
        return ir.Constant(ir.VectorType(I1, n), [int(i < c.v) for i in range(n)])
    iota = ir.Constant(ir.VectorType(I32, n), list(range(n)))
    limit = splat(k, k.b.trunc(c.min(n).ir, I32), n)
    return k.b.icmp_signed("<", iota, limit)


def between(k: Kernel, first: int, stop: int) -> Any:
    """A constant mask of the lanes first … stop−1."""
    return ir.Constant(ir.VectorType(I1, k.lanes), [int(first <= i < stop) for i in range(k.lanes)])


def load_masked(k: Kernel, p: Ptr, lanes_on: Any, otherwise: Any = None) -> Any:
    """Lanes that are on are loaded; memory of the others is not touched.

    The others are those of the vector `otherwise`, or zero.
    """
    n = lanes_on.type.count
    kind = ir.VectorType(p.elem, n)
    name = f"llvm.masked.load.v{n}{'f32' if p.elem is F32 else 'i32'}.p0"
    function = k.unit.declare(name, kind, [PTR, lanes_on.type, kind])
    off = Written(kind, "zeroinitializer") if otherwise is None else otherwise
    return k.b.call(function, [p.v, lanes_on, off])


def store_masked(k: Kernel, value: Any, p: Ptr, lanes_on: Any) -> None:
    """Only lanes that are on are written."""
    n = lanes_on.type.count
    name = f"llvm.masked.store.v{n}{'f32' if value.type.element == F32 else 'i32'}.p0"
    function = k.unit.declare(name, ir.VoidType(), [value.type, PTR, lanes_on.type])
    k.b.call(function, [value, p.v, lanes_on])


def fma(k: Kernel, a: Any, b: Any, c: Any) -> Any:
    """a·b + c, fused where the machine can, else a product and a sum."""
    if not k.machine.fma:
        return k.b.fadd(k.b.fmul(a, b), c)
    name = f"llvm.fma.v{a.type.count}f32" if isinstance(a.type, ir.VectorType) else "llvm.fma.f32"
    return k.b.call(k.unit.declare(name, a.type, [a.type] * 3), [a, b, c])


def pick(k: Kernel, vectors: Sequence[Any], order: Sequence[int]) -> Any:
    """Lane l is number order[l] of the lanes of all `vectors`, counted through."""
    n = len(order)
    if len(vectors) == 1 and list(order) == list(range(n)):
        return vectors[0]
    out = vectors[0]
    for number, vector in enumerate(vectors[1:] or vectors, start=1):
        # Lanes of earlier vectors stay once they are picked.
        first = order if number == 1 else range(n)
        lanes = [
            n + o - number * n if 0 <= o - number * n < n else min(kept, n - 1)
            for o, kept in zip(order, first, strict=True)
        ]
        out = k.b.shuffle_vector(out, vector, ir.Constant(ir.VectorType(I32, n), lanes))
    return out


def prefetch(k: Kernel, p: Ptr, *, write: bool = False, into: int = 1) -> None:
    """Have the cache line of an address fetched into L1 or L2.

    Nothing happens where there is no memory.
    """
    function = k.unit.declare("llvm.prefetch.p0", ir.VoidType(), [PTR, I32, I32, I32])
    kind, locality, data = I32(int(write)), I32(4 - into), I32(1)
    k.b.call(function, [p.v, kind, locality, data])


def transpose(k: Kernel, rows: Sequence[Any]) -> list[Any]:
    """L vectors of L lanes, transposed in log2 L rounds of shuffles.

    Round with distance d exchanges, in every pair of rows (i, i+d), the lanes whose bit d
    differs from the row's:  [a0 a1 | a2 a3], [b0 b1 | b2 b3] → [a0 b0 | a2 b2], [a1 b1 | a3 b3]
    for d = 1.
    """
    n = len(rows)
    out = list(rows)
    d = 1
    while d < n:
        low = [lane if not lane & d else n + (lane ^ d) for lane in range(n)]
        high = [(lane | d) if not lane & d else n + lane for lane in range(n)]
        index = [ir.Constant(ir.VectorType(I32, n), order) for order in (low, high)]
        for i in range(n):
            if not i & d:
                a, b = out[i], out[i + d]
                out[i] = k.b.shuffle_vector(a, b, index[0])
                out[i + d] = k.b.shuffle_vector(a, b, index[1])
        d *= 2
    return out


def reduce_lanes(k: Kernel, value: Any, combine: Any) -> Any:
    """Combine the lanes of a vector pairwise, in a fixed order, to a scalar."""
    n = value.type.count
    while n > 1:
        half = n // 2
        undefined = ir.Constant(value.type, ir.Undefined)
        parts = [
            k.b.shuffle_vector(
                value,
                undefined,
                ir.Constant(ir.VectorType(I32, half), list(range(start, start + half))),
            )
            for start in (0, half)
        ]
        value = combine(parts[0], parts[1])
        n = half
    return k.b.extract_element(value, ir.Constant(I32, 0))


__all__ = [
    "I64",
    "Int",
    "between",
    "broadcast",
    "constant",
    "fma",
    "load",
    "load_masked",
    "load_scalar",
    "mask",
    "pick",
    "prefetch",
    "reduce_lanes",
    "splat",
    "store",
    "store_masked",
    "transpose",
    "vector_type",
]
