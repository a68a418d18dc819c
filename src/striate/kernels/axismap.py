"""A sparse linear map along one axis of an array, H or W of NHWC images.

    y[o, j, i] = Σ_t weight[t] · x[o, index[t], i]     t in starts[j] … starts[j+1]−1

x is [outer][axis_in][inner] and y is [outer][axis_out][inner]: outer = N and inner = W·C for
the height, outer = N·H and inner = C for the width. The sum starts at 0 and runs in the order
of the table; a row without entries gives 0. Bytes moved: 4·outer·inner·(entries + axis_out),
of which neighbouring rows read much from the cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from striate.arith.machine import Machine
from striate.ir import vec
from striate.ir.kernel import I32, Int, Kernel, Unit
from striate.kernels.span import load, load_int, store, vectors, walk
from striate.kernels.spec import symbol

TOGETHER = 4  # vectors that share one reading of the table
CHUNK = 1024  # elements of a row in one unit of work


@dataclass(frozen=True)
class AxisMap:
    """x, i32 starts (axis_out + 1), i32 index and f32 weight (entries) → y.

    `pitch` counts the elements from one row of y to the next; 0: inner.
    """

    pitch: int = 0

    BUFFERS: ClassVar[tuple[str, ...]] = ("x", "y", "starts", "index", "weight")
    SIZES: ClassVar[tuple[str, ...]] = ("outer", "axis_in", "axis_out", "inner")

    def emit(self, machine: Machine) -> str:
        """LLVM IR text of the kernel."""
        unit = Unit(machine)
        k = unit.kernel(symbol(self))
        _build(k, self.pitch)
        k.finish()
        return unit.text()


def _build(k: Kernel, pitch: int) -> None:
    """A unit of work is a chunk of a row of y."""
    outer, axis_in, axis_out, inner = (k.size(i) for i in range(4))
    x, y = k.buffer(0), k.buffer(1)
    starts, index, weight = k.buffer(2, I32), k.buffer(3, I32), k.buffer(4)
    chunks = inner.ceil_div(CHUNK)

    def unit(at: list[Int]) -> None:
        o, j, chunk = at
        first, last = load_int(k, starts.at(j)), load_int(k, starts.at(j).at(1))
        source, target = x.at(o * axis_in * inner), y.at((o * axis_out + j) * (pitch or inner))

        def total(c: Int, count: int, lanes_on: Any) -> None:
            """`count` vectors of y from element c of the row on."""

            def tap(t: Int, sums: list[Any]) -> list[Any]:
                run = source.at(load_int(k, index.at(t)) * inner + c)
                factor = vec.broadcast(k, weight.at(t))
                return [
                    vec.fma(k, factor, load(k, run.at(v * k.lanes), lanes_on), sums[v])
                    for v in range(count)
                ]

            sums = k.fold(first, last, [vec.constant(k, 0.0)] * count, tap)
            for v in range(count):
                store(k, sums[v], target.at(c).at(v * k.lanes), lanes_on)

        begin = chunk * CHUNK
        end = (begin + CHUNK).min(inner)
        wide = TOGETHER * k.lanes
        middle = begin + (end - begin) // wide * wide
        with k.loop(begin, middle, wide) as c:
            total(c, TOGETHER, None)
        vectors(k, end, lambda c, lanes_on: total(c, 1, lanes_on), start=middle)

    start, stop = k.share(outer * axis_out * chunks)
    walk(k, start, stop, (outer, axis_out, chunks), unit)
