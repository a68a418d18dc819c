"""What every lowering rule works with: buffers are made, steps are collected."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from striate.arith.layout import PLAIN, Layout
from striate.arith.machine import Machine
from striate.arith.winograd import DIRECT
from striate.engine.choice import Choice
from striate.engine.program import SCRATCH, Buffer, Step, elements_of
from striate.graph.value import Node, TensorType, Value
from striate.kernels.spec import KernelSpec

# Kernels may read nothing past a row, but vectors are stored whole into scratch rows.
SCRATCH_FILL = 64
GOOD_BALANCE = 0.9
POOLED = ", max pool 2×2"  # ends the label of a convolution that pools


class Lowering:
    """Buffers and steps of a program under construction."""

    def __init__(
        self,
        layouts: dict[Value, Layout],
        machine: Machine,
        threads: int,
        choices: Mapping[Node, Choice] | None = None,
    ) -> None:
        self.layouts, self.machine, self.threads = layouts, machine, threads
        self.choices = choices or {}
        self.buffers: dict[int, Buffer] = {SCRATCH: Buffer(SCRATCH, "scratch", 0)}
        self.values: dict[Value, int] = {}
        self.steps: list[Step] = []
        self.prepared: dict[KernelSpec, None] = {}
        self._tables: dict[bytes, int] = {}

    def layout(self, value: Value) -> Layout:
        """Memory order of a value."""
        return self.layouts.get(value, PLAIN)

    def tile(self, node: Node) -> int:
        """Tile of Winograd's method that was chosen for a convolution; 0 for the direct one."""
        choice = self.choices.get(node)
        return choice.way.tile if choice is not None else DIRECT

    def make(self, kind: str, type_: TensorType, layout: Layout = PLAIN, **facts: Any) -> int:
        """A new buffer for a value of this type."""
        number = len(self.buffers)
        elements = elements_of(type_.shape, layout)
        self.buffers[number] = Buffer(
            number, kind, elements, type_.shape, type_.dtype, layout, **facts
        )
        return number

    def temporary(self, elements: int) -> int:
        """Memory that lives within one task."""
        return self.make("arena", TensorType((max(1, elements),)))

    def table(self, numbers: Sequence[int] | Sequence[float], dtype: str = "i32") -> int:
        """Constants of the plan, kept once for each content."""
        data = np.asarray(numbers, np.int32 if dtype == "i32" else np.float32).tobytes()
        key = dtype.encode() + data
        if key not in self._tables:
            kind = TensorType((max(1, len(numbers)),), dtype)
            self._tables[key] = self.make("table", kind, table=data)
        return self._tables[key]

    def step(
        self,
        spec: KernelSpec,
        slots: Sequence[int],
        sizes: Sequence[int],
        *,
        writes: Sequence[int],
        label: str,
        scratch: int = 0,
    ) -> None:
        """Add a kernel call: `slots` are the buffers in the kernel's order."""
        reads = tuple(dict.fromkeys(b for b in slots if b not in writes and b != SCRATCH))
        numbers = tuple(int(s) for s in sizes)
        self.steps.append(Step(spec, tuple(slots), numbers, reads, tuple(writes), label, scratch))

    def prepare(self, spec: KernelSpec) -> None:
        """Have a kernel ready that this size does without, but another size of the net needs."""
        self.prepared[spec] = None

    def take_steps(self) -> tuple[Step, ...]:
        """The steps collected since the last call."""
        steps, self.steps = tuple(self.steps), []
        return steps


Rule = Callable[[Lowering, Node, Sequence[int], Sequence[int]], None]


def balanced(units: int, threads: int) -> float:
    """Share of the threads' time that is used when `units` equal units are dealt out.

    An empty batch (no units) counts as well dealt out.
    """
    rounds = -(-units // threads)
    return units / (rounds * threads) if units else 1.0
