"""What happens to a finished tile before it is stored: an expression on registers.

Input 0 of the expression is the accumulator; the others are operands in memory: a number a
channel ("channel"), a value for each output element ("full") or one number ("scalar").
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from striate.arith.expr import Expr
from striate.ir import vec
from striate.ir.kernel import Int, Kernel
from striate.kernels.micro import LINE
from striate.kernels.span import load as load_lanes
from striate.kernels.span import store


@dataclass(frozen=True)
class Epilogue:
    """`expr` on the accumulator and `operands`; None leaves the accumulator as it is.

    `pitch` counts the elements from one pixel of the result to the next; 0: as many as it has
    channels. A "full" operand lies in memory as the result does. With `pool` the largest value of
    each whole 2×2 window is stored instead of all; a "full" operand lies as all would.
    """

    expr: Expr | None = None
    operands: tuple[str, ...] = ()
    pitch: int = 0
    pool: bool = False

    def pixel(self, channels: int) -> int:
        """Elements from one pixel to the next of a result with so many channels."""
        return self.pitch or channels


NONE = Epilogue()


def apply_epilogue(
    k: Kernel,
    epilogue: Epilogue,
    accs: list[Any],
    *,
    rows: int,
    cols: int,
    offset: Int,
    channel: Int,
    row_step: int,
    lanes_on: Any,
    y: int,
    operands: int,
) -> None:
    """Transform and store a tile: row r, vector c goes to y[offset + r·row_step + c·lanes].

    `lanes_on` masks the last vector of each row (None: all lanes). `y` and `operands` are slots
    of the buffer table.
    """
    assert not epilogue.pool, "a kernel that pools stores by itself"
    out = k.buffer(y).at(offset)
    finish = finishing(
        k,
        epilogue,
        cols=cols,
        offset=offset,
        channel=channel,
        row_step=row_step,
        lanes_on=lanes_on,
        operands=operands,
    )
    for r in range(rows):
        for c in range(cols):
            value = finish(accs[r * cols + c], r, c)
            store(k, value, out.at(r * row_step + c * k.lanes), lanes_on if c == cols - 1 else None)


def fetch_tile(
    k: Kernel,
    epilogue: Epilogue,
    *,
    rows: int,
    cols: int,
    offset: Int,
    row_step: int,
    y: int,
    operands: int,
) -> None:
    """Ask for the lines of memory that `apply_epilogue` will read and write for a tile."""
    full = [operands + i for i, kind in enumerate(epilogue.operands) if kind == "full"]
    for slot in (*full, y):
        first = k.buffer(slot).at(offset)
        for r in range(rows):
            for c in range(0, cols * k.lanes, LINE):
                vec.prefetch(k, first.at(r * row_step + c), write=slot == y, into=2)


def finishing(
    k: Kernel,
    epilogue: Epilogue,
    *,
    cols: int,
    offset: Int,
    channel: Int,
    row_step: int,
    lanes_on: Any,
    operands: int,
) -> Callable[[Any, int, int], Any]:
    """What makes of the accumulator of row r, vector c its final value, as `apply_epilogue` says.

    `offset` is where "full" operands lie.
    """
    slots = [k.buffer(operands + i) for i in range(len(epilogue.operands))]

    def load(p: Any, c: int) -> Any:
        return load_lanes(k, p, lanes_on if c == cols - 1 else None)

    fixed: dict[tuple[int, int], Any] = {}
    for i, kind in enumerate(epilogue.operands):
        for c in range(cols):
            if kind == "channel":
                fixed[i, c] = load(slots[i].at(channel).at(c * k.lanes), c)
            elif kind == "scalar":
                fixed[i, c] = vec.broadcast(k, slots[i])

    def finish(value: Any, r: int, c: int) -> Any:
        if epilogue.expr is None:
            return value
        values = [value]
        for i, kind in enumerate(epilogue.operands):
            if kind == "full":
                values.append(load(slots[i].at(offset).at(r * row_step + c * k.lanes), c))
            else:
                values.append(fixed[i, c])
        return _emit(k, epilogue.expr, values)

    return finish


def _emit(k: Kernel, expr: Expr, values: list[Any]) -> Any:
    from striate.kernels.expression import emit_expr

    return emit_expr(k, expr, values)[0]
