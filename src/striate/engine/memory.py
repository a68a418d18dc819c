"""Lifetimes → one arena: each buffer gets bytes that no buffer alive at the same time has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from striate.engine.program import Buffer, Task

ALIGNMENT = 64


def lifetimes(tasks: Sequence[Task], buffers: dict[int, Buffer]) -> dict[int, tuple[int, int]]:
    """First and last task that touches each arena buffer."""
    spans: dict[int, tuple[int, int]] = {}
    for i, task in enumerate(tasks):
        for step in task.steps:
            for buffer in (*step.reads, *step.writes):
                if buffers[buffer].kind == "arena":
                    first, _ = spans.get(buffer, (i, i))
                    spans[buffer] = (first, i)
    return spans


def place(
    spans: dict[int, tuple[int, int]], bytes_of: dict[int, int]
) -> tuple[dict[int, int], int]:
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
