"""Labels as rows of zeros and a one.

    y[o, j, i] = 1 if labels[o, i] == j else 0     j in 0 … classes−1

labels is i32 [outer][inner], y is f32 [outer][classes][inner]. Labels (N,) have inner = 1; a
label outside of 0 … classes−1 gives zeros. Bytes moved: 4·outer·inner·(classes + 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from striate.arith.machine import Machine
from striate.ir import vec
from striate.ir.kernel import I32, Int, Kernel, Unit
from striate.kernels.span import int_lanes, load, splat_int, store, vectors, walk
from striate.kernels.spec import symbol


@dataclass(frozen=True)
class OneHot:
    """i32 labels → f32 y."""

    BUFFERS: ClassVar[tuple[str, ...]] = ("labels", "y")
    SIZES: ClassVar[tuple[str, ...]] = ("outer", "classes", "inner")

    def emit(self, machine: Machine) -> str:
        """LLVM IR text of the kernel."""
        unit = Unit(machine)
        k = unit.kernel(symbol(self))
        outer, classes, inner = (k.size(i) for i in range(3))
        start, stop = k.share(outer)
        with k.either(inner.equals(1)) as (row, plane):
            with row:
                _rows(k, start, stop, classes)
            with plane:
                _planes(k, start, stop, classes, inner)
        k.finish()
        return unit.text()


def _rows(k: Kernel, start: Int, stop: Int, classes: Int) -> None:
    """Vectors along the classes."""
    labels, y = k.buffer(0, I32), k.buffer(1)
    lanes = int_lanes(k, range(k.lanes))
    with k.loop(start, stop) as o:
        label = vec.broadcast(k, labels.at(o))
        out = y.at(o * classes)

        def body(j: Int, lanes_on: Any) -> None:
            there = k.b.icmp_signed("==", k.b.add(lanes, splat_int(k, j)), label)
            store(k, _one_or_zero(k, there), out.at(j), lanes_on)

        vectors(k, classes, body)


def _planes(k: Kernel, start: Int, stop: Int, classes: Int, inner: Int) -> None:
    """Vectors along the labels."""
    labels, y = k.buffer(0, I32), k.buffer(1)

    def plane(at: list[Int]) -> None:
        o, j = at
        here, out, number = labels.at(o * inner), y.at((o * classes + j) * inner), splat_int(k, j)

        def body(i: Int, lanes_on: Any) -> None:
            there = k.b.icmp_signed("==", load(k, here.at(i), lanes_on), number)
            store(k, _one_or_zero(k, there), out.at(i), lanes_on)

        vectors(k, inner, body)

    walk(k, start * classes, stop * classes, (stop, classes), plane)


def _one_or_zero(k: Kernel, condition: Any) -> Any:
    return k.b.select(condition, vec.constant(k, 1.0), vec.constant(k, 0.0))
