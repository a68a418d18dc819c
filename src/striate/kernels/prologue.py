"""What happens to inputs while they are read: an expression on each element.

Input 0 of the expression is the element; the others are operands in memory: a number a channel
("channel") or one number ("scalar"). Three or four instructions a vector, for products that take
`co` multiply-adds an element, or for pooling that waits for memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from striate.arith.expr import Expr
from striate.ir import vec
from striate.ir.kernel import I64, PTR, Int, Kernel, Ptr
from striate.kernels.expression import emit_expr
from striate.kernels.span import load, store, vectors

TOGETHER = 4  # rows that share one loading of the operands


@dataclass(frozen=True)
class Prologue:
    """`expr` on the inputs and `operands`; None leaves the inputs as they are.

    `pitch` counts the elements from one pixel of the inputs to the next; 0: as many as they have
    channels.
    """

    expr: Expr | None = None
    operands: tuple[str, ...] = ()
    pitch: int = 0


AS_THEY_ARE = Prologue()


class Reading:
    """Reads inputs through a prologue whose first operand is in slot `first` of the buffers."""

    def __init__(self, k: Kernel, prologue: Prologue, first: int) -> None:
        self.k, self.prologue = k, prologue
        self.slots = [k.buffer(first + i) for i in range(len(prologue.operands))]
        self.scalars = {
            i: vec.broadcast(k, self.slots[i])
            for i, kind in enumerate(prologue.operands)
            if kind != "channel"
        }

    def channels(self, c: Int, on: Any) -> Callable[[Ptr], Any]:
        """A function from an address to the vector there, which belongs to channels from c on."""
        k, expr = self.k, self.prologue.expr
        factors = [
            self.scalars[i] if i in self.scalars else load(k, p.at(c), on)
            for i, p in enumerate(self.slots)
        ]

        def read(p: Ptr) -> Any:
            x = load(k, p, on)
            if expr is not None:
                (x,) = emit_expr(k, expr, [x, *factors])
            return x

        return read


def panel_function(
    outer: Kernel, prologue: Prologue, channels: int, pitch: int, operands: int
) -> Any:
    """Inner function panel(buffers, to, from, count): rows of inputs → rows of `pitch` elements.

    `operands` is the first operand's slot of the buffer table.
    """
    k = outer.unit.function("panel", [PTR, PTR, PTR, I64])
    to, source = (Ptr(k, a) for a in k.function.args[1:3])
    count = Int(k, k.function.args[3])
    reading, step = Reading(k, prologue, operands), prologue.pitch or channels

    def rows(first: Int, together: int) -> None:
        target, begin = to.at(first * pitch), source.at(first * step)

        def vector(c: Int, on: Any) -> None:
            read = reading.channels(c, on)
            for r in range(together):
                store(k, read(begin.at(c).at(r * step)), target.at(c).at(r * pitch), on)

        vectors(k, k.int(channels), vector)

    whole = count // TOGETHER * TOGETHER
    with k.loop(0, whole, TOGETHER) as r:
        rows(r, TOGETHER)
    with k.loop(whole, count) as r:
        rows(r, 1)
    k.finish()
    return k.function
