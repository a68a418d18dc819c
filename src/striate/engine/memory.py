"""Lifetimes → one arena: each buffer gets bytes that no buffer alive at the same time has.

Only an elementwise step may write over what it reads for the last time: its result gets the bytes
of an operand that dies with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from striate.arith.layout import NhwcSlice
from striate.engine.program import Buffer, Program, Step
from striate.kernels.eltwise import Eltwise

ALIGNMENT = 64

Spans = dict[int, tuple[int, int]]


def lifetimes(steps: Sequence[Step], buffers: dict[int, Buffer]) -> Spans:
    """First and last step that touches each arena buffer, or a slice of it."""
    spans: Spans = {}
    for i, step in enumerate(steps):
        for buffer in (*step.reads, *step.writes):
            if buffers[buffer].kind == "arena":
                home = buffers[buffer].home
                whole = buffer if home is None else home
                first, _ = spans.get(whole, (i, i))
                spans[whole] = (first, i)
    return spans


def arena(steps: Sequence[Step], buffers: dict[int, Buffer]) -> tuple[dict[int, int], int]:
    """Offsets in bytes of all arena buffers, and the arena's size."""
    spans = lifetimes(steps, buffers)
    bytes_of = {b: 4 * buffers[b].elements for b in spans}
    whole = shared(steps, spans, bytes_of)
    joined: Spans = {}
    for buffer, owner in whole.items():
        first, last = spans[buffer]
        start, end = joined.get(owner, (first, last))
        joined[owner] = (min(start, first), max(end, last))
    offsets, total = place(joined, bytes_of)
    placed = {buffer: offsets[owner] for buffer, owner in whole.items()}
    return {**placed, **slices(buffers, placed)}, total


def slices(buffers: dict[int, Buffer], offsets: dict[int, int]) -> dict[int, int]:
    """Offsets of the slices of those buffers that `offsets` places."""
    return {
        b.id: offsets[b.home] + 4 * b.layout.start
        for b in buffers.values()
        if b.home in offsets and isinstance(b.layout, NhwcSlice)
    }


def shared(steps: Sequence[Step], spans: Spans, bytes_of: dict[int, int]) -> dict[int, int]:
    """For each arena buffer the one whose bytes it has: its own, or those that it is written over.

    Several elementwise steps in a row may work on the same bytes.
    """
    whole = {buffer: buffer for buffer in spans}
    for i, step in enumerate(steps):
        free = [b for b in overwritable(step) if b in spans and spans[b][1] == i]
        for result in step.writes:
            if result in spans and spans[result][0] == i:
                same = [b for b in free if bytes_of[b] == bytes_of[result]]
                if same:
                    whole[result] = whole[same[0]]
                    free.remove(same[0])
    return whole


def overwritable(step: Step) -> list[int]:
    """Buffers of which the step reads each element just before it writes the same one.

    Only an elementwise kernel promises that, and only for operands that vary everywhere: a
    broadcast operand is read again for later elements.
    """
    if not isinstance(step.spec, Eltwise):
        return []
    operands = step.buffers[: len(step.spec.operands)]
    broadcast = {b for b, p in zip(operands, step.spec.operands, strict=True) if "1" in p}
    return [b for b in dict.fromkeys(operands) if b not in broadcast and b not in step.writes]


def place(spans: Spans, bytes_of: dict[int, int]) -> tuple[dict[int, int], int]:
    """Offsets by buffer, and the arena's size.

    Greedy by size: the largest buffer first, each at the lowest offset where it fits between
    the placed buffers whose lifetimes overlap its own.
    """
    placed: list[tuple[int, int, int, int]] = []  # offset, end, first, last
    offsets: dict[int, int] = {}
    total = 0
    for buffer in sorted(spans, key=lambda b: (-bytes_of[b], b)):
        first, last = spans[buffer]
        size = -(-bytes_of[buffer] // ALIGNMENT) * ALIGNMENT
        offset = 0
        for start, end in sorted(_overlapping(placed, first, last)):
            if start - offset >= size:
                break
            offset = max(offset, end)
        placed.append((offset, offset + size, first, last))
        offsets[buffer] = offset
        total = max(total, offset + size)
    return offsets, total


def _overlapping(
    placed: Iterable[tuple[int, int, int, int]], first: int, last: int
) -> Iterable[tuple[int, int]]:
    return ((start, end) for start, end, born, dead in placed if born <= last and first <= dead)


# -- the whole -------------------------------------------------------------------------------------


class Footprint(NamedTuple):
    """Bytes while a program runs.

    Attributes:
        params: weights and statistics; in training also the state of the optimiser.
        constants: what is computed of the weights once: packed weights, folded factors.
        arena: activations, gradients and everything else that lives within a run.
        scratch: working memory of the threads.
        inputs, outputs: the caller's arrays.
        tables: numbers of the plan.
    """

    params: int
    constants: int
    arena: int
    scratch: int
    inputs: int
    outputs: int
    tables: int

    @property
    def total(self) -> int:
        """The peak: all of it is there at one time."""
        return sum(self)


def footprint_of(program: Program, threads: int) -> Footprint:
    """The memory of a program that runs on so many threads."""
    sizes: dict[str, int] = {}
    for buffer in program.buffers.values():
        sizes[buffer.kind] = sizes.get(buffer.kind, 0) + buffer.nbytes
    steps = (*program.steps, *program.constant_steps)
    return Footprint(
        params=sum(param.buffer.nbytes for param in program.graph.params()),
        constants=sizes.get("constant", 0),
        arena=program.memory_bytes,
        scratch=4 * threads * max((step.scratch for step in steps), default=0),
        inputs=sizes.get("input", 0),
        outputs=sizes.get("output", 0),
        tables=sizes.get("table", 0),
    )
