"""The machine's own limit: fused multiply-adds on registers and nothing else.

FLOPs: 2 · chains · lanes · iterations for each part. The chains are independent and as many as
a register tile has, so neither latency nor memory plays a part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from striate.arith.machine import Machine
from striate.ir import vec
from striate.ir.kernel import Int, Unit
from striate.kernels.spec import symbol

OUT = 0


@dataclass(frozen=True)
class Peak:
    """Buffers: out (chains · lanes elements a part). Sizes: iterations."""

    chains: int

    def emit(self, machine: Machine) -> str:
        """LLVM IR text of the kernel."""
        unit = Unit(machine)
        k = unit.kernel(symbol(self))
        factor = vec.constant(k, 1e-9)

        def step(_: Int, accs: list[Any]) -> list[Any]:
            # acc·f + acc: the summand is also the result, as NEON's instruction wants it.
            return [vec.fma(k, acc, factor, acc) for acc in accs]

        start = [vec.constant(k, 1.0 + i / 64) for i in range(self.chains)]
        accs = k.fold(0, k.size(0), start, step, at_least_once=True)
        out = k.buffer(OUT).at(k.part * (self.chains * k.lanes))
        for i, acc in enumerate(accs):
            vec.store(k, acc, out.at(i * k.lanes))
        k.finish()
        return unit.text()

    def flops(self, machine: Machine, iterations: int) -> int:
        """Floating-point operations of one part."""
        return 2 * self.chains * machine.lanes * iterations
