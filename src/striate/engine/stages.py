"""A program in two: the tasks up to a boundary, and those after it.

What crosses the boundary is what the first half returns and the second half is given, in the
order of memory that it has anyway. So nothing is copied, and every step is the one it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from striate.arith.layout import NHWC, PLAIN
from striate.engine.memory import arena
from striate.engine.program import Buffer, Program, Task


def boundaries(program: Program, count: int) -> dict[int, tuple[int, ...]]:
    """Numbers of tasks after which a program may be cut, and the buffers that cross there.

    They hold something for each of `count` images along their first axis. The first half must not
    write a result of the program, the second half not read its inputs.
    """
    if program.graph.host_updates or program.graph.assigns:
        return {}
    spans = _spans(program)
    parted = {b.home for b in program.buffers.values()} - {None}
    first_result = min((spans[b][0] for b in program.outputs if b in spans), default=0)
    last_input = max((spans[b][1] for b in program.inputs if b in spans), default=0)
    found = {}
    for k in range(last_input + 1, first_result + 1):
        crossing = tuple(b for b, (first, last) in spans.items() if first < k <= last)
        held = [program.buffers[b] for b in crossing if program.buffers[b].kind == "arena"]
        if all(b.id not in parted and _by_image(b, count) for b in held):
            found[k] = tuple(b.id for b in held)
    return found


def first_half(program: Program, k: int, crossing: Sequence[int]) -> Program:
    """The first k tasks: from the program's inputs to what crosses."""
    return _part(program, program.tasks[:k], program.inputs, tuple(crossing))


def second_half(program: Program, k: int, crossing: Sequence[int]) -> Program:
    """The other tasks: from what crosses to the program's outputs."""
    return _part(program, program.tasks[k:], tuple(crossing), program.outputs)


def begin_alike(a: Program, b: Program, k: int) -> bool:
    """Whether the first k tasks of both run the same kernels on the same buffers.

    Programs for other numbers of images do so as a rule; but one image more may make a copy of
    what was a view.
    """

    def steps(program: Program) -> list[object]:
        return [[(s.spec, s.buffers) for s in task.steps] for task in program.tasks[:k]]

    return steps(a) == steps(b)


def _by_image(buffer: Buffer, count: int) -> bool:
    plain = buffer.home is None and buffer.layout in (PLAIN, NHWC) and buffer.dtype == "f32"
    return plain and buffer.shape[:1] == (count,) and buffer.elements % count == 0


def _touched(task: Task) -> Iterable[int]:
    return (b for step in task.steps for b in step.buffers)


def _spans(program: Program) -> dict[int, tuple[int, int]]:
    """First and last task that touches each buffer; slices count for the whole too."""
    spans: dict[int, tuple[int, int]] = {}
    for i, task in enumerate(program.tasks):
        for number in _touched(task):
            home = program.buffers[number].home
            for b in (number, *([] if home is None else [home])):
                spans[b] = (spans.get(b, (i, i))[0], i)
    return spans


def _part(
    program: Program, tasks: tuple[Task, ...], given: tuple[int, ...], made: tuple[int, ...]
) -> Program:
    """A program of some of the tasks, with the constants that they need."""
    used = {*given, *made, *(b for task in tasks for b in _touched(task))}
    constants: list[Task] = []
    for task in reversed(program.constants):
        if any(b in used for step in task.steps for b in step.writes):
            constants.insert(0, task)
            used.update(_touched(task))
    used |= {home for b in used if (home := program.buffers[b].home) is not None}
    buffers = {number: b for number, b in program.buffers.items() if number in used}
    for kind, numbers in (("input", given), ("output", made)):
        for index, number in enumerate(numbers):
            old = buffers[number]
            if old.kind == "arena":
                shape = (old.shape[0], old.elements // old.shape[0])
                buffers[number] = replace(old, kind=kind, index=index, shape=shape, layout=PLAIN)
    offsets, size = arena([step for task in tasks for step in task.steps], buffers)
    once = arena([step for task in constants for step in task.steps], buffers)
    return replace(
        program,
        buffers=buffers,
        tasks=tasks,
        constants=tuple(constants),
        inputs=given,
        outputs=made,
        offsets=offsets,
        arena_bytes=size,
        kept={number: c for number, c in program.kept.items() if number in used},
        constant_offsets=once[0],
        constant_arena_bytes=once[1],
    )
