"""A whole program as one step, whose parts are pieces of a batch.

    for each piece of this part:
        inputs and outputs ← the piece's share of the caller's arrays
        for each step of the program: kernel(buffers, sizes, part 0 of 1)

Every worker walks the steps by itself, with addresses and memory of its own: what a layer writes
is read by the thread that has written it, and no thread waits for another before the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from striate.arith.machine import Machine
from striate.ir.kernel import I32, I64, PTR, Int, Kernel, Ptr, Unit
from striate.ir.runner import STEP_WORDS
from striate.ir.types import KERNEL
from striate.kernels.spec import symbol

SIZES = ("pieces", "steps", "slots", "places")
ROWS, ADDRESSES, PLACES = 0, 1, 2
PLACE_WORDS = 3


@dataclass(frozen=True)
class Deal:
    """Buffers: steps [worker][step][4] as the runner's, addresses [worker][slot], and places.

    A place is (slot, address of the caller's array, bytes of a piece): what to fill in before a
    piece. All are i64.
    """

    def emit(self, machine: Machine) -> str:
        """LLVM IR text of the kernel."""
        unit = Unit(machine)
        k = unit.kernel(symbol(self))
        s = {name: k.size(i) for i, name in enumerate(SIZES)}
        rows = k.buffer(ROWS, I64).at(k.worker * s["steps"] * STEP_WORDS)
        addresses = k.buffer(ADDRESSES, I64).at(k.worker * s["slots"])
        places = k.buffer(PLACES, I64)
        start, stop = k.share(s["pieces"])
        with k.loop(start, stop) as piece:
            with k.loop(0, s["places"]) as i:
                place = places.at(i * PLACE_WORDS)
                slot, array, size = (Int(k, _word(k, place, j, I64)) for j in range(PLACE_WORDS))
                k.b.store((array + piece * size).ir, addresses.at(slot).v)
            with k.loop(0, s["steps"]) as step:
                _call(k, rows.at(step * STEP_WORDS))
        k.finish()
        return unit.text()


def _word(k: Kernel, row: Ptr, index: int, kind: Any) -> Any:
    return k.b.load(row.at(index).v, typ=kind)


def _call(k: Kernel, row: Ptr) -> None:
    """All of a step, as its only part."""
    kinds = (KERNEL.as_pointer(), PTR, PTR)
    function, buffers, sizes = (_word(k, row, j, kind) for j, kind in enumerate(kinds))
    k.b.call(function, [buffers, sizes, I32(0), I32(1)])
