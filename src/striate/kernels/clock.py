"""The time of day, as a step of a program: what stands between two clocks has taken the difference.

The system's monotonic clock (25 ns a reading). As a step of one part it is read when the step
before it is done, by the thread that finished that.
"""

from __future__ import annotations

from dataclasses import dataclass

from striate.arith.machine import Machine
from striate.errors import UnsupportedError
from striate.ir.kernel import I32, I64, PTR, Unit
from striate.kernels.spec import symbol

LINUX_MONOTONIC, MACOS_MONOTONIC = 1, 6


@dataclass(frozen=True)
class Clock:
    """Buffers: out (i64 seconds, i64 nanoseconds). Sizes: none."""

    def emit(self, machine: Machine) -> str:
        """LLVM IR text of the kernel. Raises UnsupportedError where there is no such clock."""
        if "windows" in machine.triple:
            raise UnsupportedError("steps can't be timed on Windows: there is no clock_gettime")
        which = MACOS_MONOTONIC if "darwin" in machine.triple else LINUX_MONOTONIC
        unit = Unit(machine)
        k = unit.kernel(symbol(self))
        read = unit.declare("clock_gettime", I32, [I32, PTR])
        with k.when(k.b.icmp_signed("==", k.part.ir, I64(0))):
            k.b.call(read, [I32(which), k.buffer(0, I64).v])
        k.finish()
        return unit.text()
