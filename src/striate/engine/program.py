"""The flat plan: buffers and steps. Everything here is data and can be printed."""

from __future__ import annotations

from dataclasses import dataclass, field

from striate.arith.layout import PLAIN, Layout, product
from striate.engine.choice import Choice
from striate.engine.constants import Constant
from striate.graph.value import Graph, Node, Param, Value
from striate.kernels.spec import KernelSpec

SCRATCH = 0  # id of the buffer that every thread has a share of, for the time of one step


@dataclass(frozen=True)
class Buffer:
    """A piece of memory: `elements` elements of four bytes (of dtype u8: of one).

    kind: "arena" (lives within a run), "param" (a Param's own memory), "input", "output"
    (the caller's arrays), "table" (constants of the plan, in `table`), "scratch". A slice of
    another arena buffer names it in `home`; its first element is the layout's `start` of that.
    """

    id: int
    kind: str
    elements: int
    shape: tuple[int, ...] = ()
    dtype: str = "f32"
    layout: Layout = PLAIN
    param: Param | None = None
    index: int = 0
    table: bytes = b""
    home: int | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self.elements if self.dtype == "u8" else 4 * self.elements


@dataclass(frozen=True)
class Step:
    """One kernel call. `scratch` is elements for each thread; slot SCRATCH stands for them."""

    spec: KernelSpec
    buffers: tuple[int, ...]
    sizes: tuple[int, ...]
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    label: str
    scratch: int = 0


@dataclass(frozen=True)
class Task:
    """The steps that together compute one node: `inputs` and `outputs` are ids of buffers."""

    node: Node
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Program:
    """A plan: tasks in order, the buffers they use, and where those lie in the arena.

    `constants` tasks depend on parameters only: an executor runs them when a parameter has
    changed, not at each run; `kept` says what is held of their results, by buffer id. `offsets`
    are bytes into the arena, by buffer id; `constant_offsets` are those of what only constant
    tasks read, which need the arena while they run. `values` tells the buffer of each value of
    `graph`, `layouts` its memory order (plain for those that are not listed). `prepared` kernels
    are compiled with those of the steps: other sizes of the same net need them. `choices` say how
    each convolution is computed and why.
    """

    graph: Graph
    buffers: dict[int, Buffer]
    tasks: tuple[Task, ...]
    constants: tuple[Task, ...] = ()
    inputs: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()
    offsets: dict[int, int] = field(default_factory=dict)
    arena_bytes: int = 0
    kept: dict[int, Constant] = field(default_factory=dict)
    values: dict[Value, int] = field(default_factory=dict)
    layouts: dict[Value, Layout] = field(default_factory=dict)
    prepared: tuple[KernelSpec, ...] = ()
    choices: tuple[Choice, ...] = ()
    constant_offsets: dict[int, int] = field(default_factory=dict)
    constant_arena_bytes: int = 0

    @property
    def memory_bytes(self) -> int:
        """What the arena takes: runs and constant tasks have it by turns."""
        return max(self.arena_bytes, self.constant_arena_bytes)

    @property
    def constant_steps(self) -> tuple[Step, ...]:
        """All steps that depend on parameters only, in order."""
        return tuple(step for task in self.constants for step in task.steps)

    @property
    def steps(self) -> tuple[Step, ...]:
        """All steps of a run, in order."""
        return tuple(step for task in self.tasks for step in task.steps)

    def __str__(self) -> str:
        lines = []
        for title, tasks in (
            ("once for each version of the parameters:", self.constants),
            ("each run:", self.tasks),
        ):
            if any(task.steps for task in tasks):
                lines.append(title)
                lines += [f"  {line}" for task in tasks for line in self._lines(task)]
        lines.append(
            f"arena {self.arena_bytes / 2**20:.2f} MiB, "
            f"{len(self.steps)} steps, {len(self.constants)} constant tasks"
        )
        return "\n".join(lines)

    def _lines(self, task: Task) -> list[str]:
        return [
            f"{', '.join(self.name(b) for b in step.writes)} = {step.label}"
            f"({', '.join(self.name(b) for b in step.reads)})"
            + (f"  @ {task.node.scope}" if task.node.scope else "")
            for step in task.steps
        ]

    def name(self, buffer: int) -> str:
        """Short description of a buffer: kind, shape and order."""
        b = self.buffers[buffer]
        what = b.param.name if b.param is not None else f"%{b.id}"
        shape = "×".join(map(str, b.shape)) or "scalar"
        order = "" if b.layout == PLAIN else f" {b.layout}"
        return f"{what}[{shape}{order}]"


def elements_of(shape: tuple[int, ...], layout: Layout) -> int:
    """Elements that a value of this shape occupies in this order."""
    return layout.elements(shape) if shape else product(shape)
