"""Bytes of pictures become numbers: each is looked up in the table of its channel.

    y[p, c] = table[c, x[p, c]]        p in 0 … pixels−1, c in 0 … channels−1

x is u8, y f32, both [pixels][channels]; the table is f32 [channels][256]. Only bits are copied: the
numbers are those of whoever made the table, on every machine, and another normalisation compiles
nothing. Four bytes are loaded at once and four numbers stored, so an element costs a shift, a mask,
a load and its share of a shuffle: as long as one division of two that it saves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from striate.arith.machine import Machine
from striate.ir import vec
from striate.ir.kernel import I8, I32, I64, Int, Kernel, Ptr, Unit
from striate.kernels.spec import symbol

LEVELS = 256
QUAD = 4  # bytes of a word


@dataclass(frozen=True)
class LookUpPixels:
    """u8 x, f32 table → f32 y, for pictures of so many channels. Bytes moved: 5·pixels·channels."""

    channels: int

    BUFFERS: ClassVar[tuple[str, ...]] = ("x", "y", "table")
    SIZES: ClassVar[tuple[str, ...]] = ("pixels",)

    def emit(self, machine: Machine) -> str:
        """LLVM IR text of the kernel."""
        unit = Unit(machine)
        k = unit.kernel(symbol(self))
        x, y = k.buffer(0, I8), k.buffer(1, I32)
        tables = [k.buffer(2, I32).at(c * LEVELS) for c in range(self.channels)]
        start, stop = k.share(k.size(0))
        whole = start + (stop - start) // QUAD * QUAD
        with k.loop(start, whole, QUAD) as p:
            first = p * self.channels
            for e in range(0, QUAD * self.channels, QUAD):
                places = [tables[(e + i) % self.channels] for i in range(QUAD)]
                _four(k, x.at(first + e), places, y.at(first + e))
        with k.loop(whole, stop) as p:
            first = p * self.channels
            for c, table in enumerate(tables):
                level = k.b.zext(k.b.load(x.at(first + c).v, typ=I8), I64)
                number = vec.load_scalar(k, table.at(Int(k, level)))
                k.b.store(number, y.at(first + c).v).align = 4
        k.finish()
        return unit.text()


def _four(k: Kernel, x: Ptr, tables: Sequence[Ptr], y: Ptr) -> None:
    """Four bytes, each with its table."""
    word = k.b.load(x.v, typ=I32)
    word.align = 1
    out = vec.Written(vec.vector_type(k, I32, QUAD), "poison")
    for i, table in enumerate(tables):
        # The lowest byte is the first (little endian).
        level = k.b.and_(k.b.lshr(word, I32(8 * i)), I32(LEVELS - 1))
        number = vec.load_scalar(k, table.at(Int(k, k.b.zext(level, I64))))
        out = k.b.insert_element(out, number, I32(i))
    vec.store(k, out, y)
