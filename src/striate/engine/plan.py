"""The pipeline: graph → expand → recompute → fuse → layout → order → lower → memory → Program."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from striate.arith.expr import Expr
from striate.arith.layout import PLAIN
from striate.arith.machine import Machine
from striate.engine.choice import Choice, Chooser, Timer, leaves_caches
from striate.engine.constants import Constant, Interned, constant_nodes
from striate.engine.expand import expand
from striate.engine.fold import fold_factors
from striate.engine.fuse import fuse
from striate.engine.layout import (
    CHANNELS_FIRST,
    CHANNELS_LAST,
    Placed,
    Reorder,
    place,
    same_memory,
)
from striate.engine.lower import RULES
from striate.engine.lower.context import Lowering
from striate.engine.lower.eltwise import add_map
from striate.engine.memory import arena, overwritable
from striate.engine.options import DEFAULT, Options
from striate.engine.order import ordered
from striate.engine.pool_epilogue import draw_in_pools
from striate.engine.program import Program, Step, Task
from striate.engine.recompute import recompute
from striate.engine.slices import join_channels
from striate.errors import UnsupportedError
from striate.graph.ops.leaf import Const, Input, ParamLeaf
from striate.graph.ops.shape import Reshape
from striate.graph.value import Graph, Node, Param, Value, typecheck


def passes(
    graph: Graph, machine: Machine, choices: Sequence[Choice], *, changing: bool
) -> list[tuple[str, Placed]]:
    """The graph after each pass, for those who want to see them.

    `choices`: those of the graph's program. `changing`: whether parameters change at each run.
    """
    shown = [("traced", Placed(typecheck(graph), {}))]
    graph = typecheck(expand(graph))
    shown.append(("expanded", Placed(graph, {})))
    graph = typecheck(recompute(graph) if changing else fold_factors(graph))
    graph = typecheck(fuse(graph))
    shown.append(("fused", Placed(graph, {})))
    made = iter(choices)
    placed = place(graph, machine, lambda _: next(made))
    typecheck(placed.graph)
    shown.append(("laid out", placed))
    if not changing:
        placed = draw_in_pools(placed)
        typecheck(placed.graph)
        shown.append(("with pools drawn in", placed))
    return shown


def plan(
    graph: Graph,
    machine: Machine,
    threads: int,
    *,
    training: bool = False,
    options: Options = DEFAULT,
    timer: Timer | None = None,
    checkpoint: bool = False,
) -> Program:
    """A program for `machine`, with work dealt out for `threads` (the results do not depend on it).

    In training, and when the graph assigns parameters, nothing is constant between runs. Without
    a `timer` the cost model decides alone, and equal graphs give equal programs. `checkpoint`: see
    `recompute`, whose `segments` it is.
    """
    changing = training or bool(graph.assigns)
    chooser = Chooser(machine, options, changing, timer, leaves_caches(graph, machine))
    graph = expand(graph) if changing else fold_factors(expand(graph))
    again = recompute(graph, segments=checkpoint)
    placed = place(fuse(again), machine, chooser)
    if not changing:
        placed = join_channels(draw_in_pools(placed))
    typecheck(placed.graph)
    building = _Building(placed, Lowering(placed.layouts, machine, threads, placed.choices))
    building.lower()
    constant = set() if changing else constant_nodes(placed.graph)
    building.bind_outputs()
    building.bind_assigns()
    return building.finish(constant)


class _Uses:
    """Where each buffer is used: numbers of tasks, ascending, and values that lie in it."""

    def __init__(self, tasks: Sequence[Task], values: dict[Value, int]) -> None:
        self.tasks: dict[int, list[int]] = defaultdict(list)
        self.values: dict[int, list[Value]] = defaultdict(list)
        for i, task in enumerate(tasks):
            touched = (b for step in task.steps for b in step.buffers)
            for buffer in {*task.inputs, *task.outputs, *touched}:
                self.tasks[buffer].append(i)
        for value, buffer in values.items():
            self.values[buffer].append(value)

    def join(self, old: int, new: int) -> None:
        """From now on `new` is used where `old` was."""
        self.tasks[new] = sorted({*self.tasks[new], *self.tasks.pop(old)})
        self.values[new] += self.values.pop(old)


class _Building:
    def __init__(self, placed: Placed, low: Lowering) -> None:
        self.placed, self.graph, self.low = placed, placed.graph, low
        self.tasks: list[Task] = []
        self.inputs: list[int] = []
        self.outputs: list[int] = []

    def lower(self) -> None:
        """Buffers and tasks of every node."""
        low = self.low
        for i, value in enumerate(self.graph.inputs):
            low.values[value] = low.make("input", value.type, index=i)
            self.inputs.append(low.values[value])
        for node in ordered(self.graph):
            op = node.op
            if isinstance(op, Input):
                continue
            if isinstance(op, ParamLeaf):
                value = Value(node)
                low.values[value] = low.make("param", value.type, param=op.param)
            elif isinstance(op, Const):
                low.values[Value(node)] = low.table([op.value], "f32")
            else:
                self._lower_node(node)

    def _lower_node(self, node: Node) -> None:
        low = self.low
        inputs = tuple(low.values[v] for v in node.inputs)
        if self._is_view(node):
            low.values[Value(node)] = inputs[0]
            self.tasks.append(Task(node, inputs, (inputs[0],), ()))
            return
        outputs = [self._buffer(value) for value in node.outputs()]
        rule = RULES.get(type(node.op))
        if rule is None:
            raise UnsupportedError(f"no kernel for {type(node.op).__name__} (in {node.scope!r})")
        rule(low, node, inputs, outputs)
        self.tasks.append(Task(node, inputs, tuple(outputs), low.take_steps()))

    def _buffer(self, value: Value) -> int:
        """The buffer that a value is computed into: its own, or a slice of its home's."""
        low, home = self.low, self.placed.homes.get(value)
        if value not in low.values:
            whole = None if home is None else self._buffer(home)
            low.values[value] = low.make("arena", value.type, low.layout(value), home=whole)
        return low.values[value]

    def _is_view(self, node: Node) -> bool:
        layout = self.low.layout
        if isinstance(node.op, Reorder):
            source = node.inputs[0]
            return same_memory(source.shape, layout(source), node.op.layout)
        return isinstance(node.op, Reshape) or node.op in (CHANNELS_LAST, CHANNELS_FIRST)

    # -- results go where the caller or a parameter has its memory --------------------------------

    def bind_outputs(self) -> None:
        """Every output of the graph gets a buffer of kind "output".

        A buffer that others are slices of stays in the arena, where its place is known.
        """
        homes = {b.home for b in self.low.buffers.values()}
        for index, value in enumerate(self.graph.outputs):
            buffer = self.low.values[value]
            old = self.low.buffers[buffer]
            if old.kind == "arena" and buffer not in self.outputs and buffer not in homes:
                self.low.buffers[buffer] = replace(
                    old, kind="output", index=index, shape=value.shape, layout=PLAIN
                )
                self.outputs.append(buffer)
            else:
                copy = self.low.make("output", value.type, index=index)
                self.tasks.append(self._copy(value, buffer, copy))
                self.outputs.append(copy)

    def bind_assigns(self) -> None:
        """New values go to their parameters.

        They are computed straight into it where nothing reads the old value afterwards;
        otherwise they are copied at the end. An old value that another parameter gets is saved
        at the start, before anything is written.
        """
        assigns = [
            (value, self.low.values[value], self._param_buffer(param.as_value()))
            for param, value in self.graph.assigns
        ]
        targets = {target for _, _, target in assigns}
        late: list[tuple[Value, int | None, int]] = []
        for value, source, target in assigns:
            if source in targets and source != target:
                saved = self.low.make("arena", value.type)
                self.tasks.insert(0, self._copy(value, source, saved))
                late.append((value, saved, target))
        uses = _Uses(self.tasks, self.low.values)
        for value, source, target in assigns:
            if source in targets:
                continue
            if self._can_write_through(self.low.values[value], target, uses):
                self._rename(self.low.values[value], target, uses)
            else:
                late.append((value, None, target))
        # Only now is it known where each value lies: several parameters may get the same.
        for value, saved_in, target in late:
            place = self.low.values[value] if saved_in is None else saved_in
            self.tasks.append(self._copy(value, place, target))

    def _param_buffer(self, leaf: Value) -> int:
        if leaf not in self.low.values:
            op = leaf.node.op
            assert isinstance(op, ParamLeaf)
            self.low.values[leaf] = self.low.make("param", leaf.type, param=op.param)
        return self.low.values[leaf]

    def _can_write_through(self, buffer: int, target: int, uses: _Uses) -> bool:
        old = self.low.buffers[buffer]
        if old.kind != "arena" or old.layout != PLAIN:
            return False
        tasks = self.tasks
        made = next(
            i for i in uses.tasks[buffer] if any(buffer in s.writes for s in tasks[i].steps)
        )
        touching = [
            i for i in uses.tasks[target] if any(target in s.buffers for s in tasks[i].steps)
        ]
        return all(
            i < made or (i == made and self._elementwise_on(tasks[i], target)) for i in touching
        )

    def _elementwise_on(self, task: Task, buffer: int) -> bool:
        """Whether the task reads each element of `buffer` just before it writes the same one."""
        return len(task.steps) == 1 and buffer in overwritable(task.steps[0])

    def _rename(self, old: int, new: int, uses: _Uses) -> None:
        def moved(ids: tuple[int, ...]) -> tuple[int, ...]:
            return tuple(new if i == old else i for i in ids)

        for i in uses.tasks[old]:
            task = self.tasks[i]
            steps = tuple(
                replace(s, buffers=moved(s.buffers), reads=moved(s.reads), writes=moved(s.writes))
                for s in task.steps
            )
            self.tasks[i] = Task(task.node, moved(task.inputs), moved(task.outputs), steps)
        self.low.values.update(dict.fromkeys(uses.values[old], new))
        uses.join(old, new)

    def _copy(self, value: Value, source: int, target: int) -> Task:
        add_map(
            self.low,
            Expr.identity(),
            [source],
            [(value.size,)],
            [target],
            (value.size,),
            label="copy",
        )
        node = Node(Reorder(PLAIN), (value,), (value.type,), value.node.scope)
        return Task(node, (source,), (target,), self.low.take_steps())

    # -- the finished program ---------------------------------------------------------------------

    def finish(self, constant: set[Node]) -> Program:
        """Split off constant tasks, place buffers in the arena."""
        low = self.low
        constants, tasks = self._split(constant)
        steps, once = _steps(tasks), _steps(constants)
        read = {buffer for step in steps for buffer in step.buffers}
        kept = {b: constant for b, constant in self._constants(once).items() if b in read}
        for buffer in kept:
            low.buffers[buffer] = replace(low.buffers[buffer], kind="constant")
        offsets, total = arena(steps, low.buffers)
        constant_offsets, constant_total = arena(once, low.buffers)
        return Program(
            self.graph,
            dict(low.buffers),
            tasks,
            constants,
            tuple(self.inputs),
            tuple(self.outputs),
            offsets,
            total,
            kept,
            dict(low.values),
            dict(low.layouts),
            tuple(low.prepared),
            tuple(self.placed.choices.values()),
            constant_offsets,
            constant_total,
        )

    def _split(self, constant: set[Node]) -> tuple[tuple[Task, ...], tuple[Task, ...]]:
        """Tasks to run once for each version of the parameters, and tasks to run each time.

        A task that writes an array of the caller's, another one at each run, runs each time, and
        so does what reads its result.
        """
        once: list[Task] = []
        each: list[Task] = []
        lasting = {b.id for b in self.low.buffers.values() if b.kind in {"param", "table"}}
        for task in self.tasks:
            writes = {b for step in task.steps for b in step.writes}
            reads = {b for step in task.steps for b in step.reads} - writes
            returns = any(self.low.buffers[b].kind == "output" for b in writes)
            if task.node in constant and reads <= lasting and not returns:
                once.append(task)
                lasting |= writes
            else:
                each.append(task)
        return tuple(once), tuple(each)

    def _constants(self, steps: Sequence[Step]) -> dict[int, Constant]:
        """What each buffer that constant steps write holds, so that programs can share it."""
        kept: dict[int, Constant] = {}

        def source(buffer: int) -> tuple[object, tuple[Param, ...]]:
            facts = self.low.buffers[buffer]
            if facts.param is not None:
                return facts.param, (facts.param,)
            constant = kept.get(buffer)
            return (constant.key, constant.params) if constant else (facts.table, ())

        for step in steps:
            read = [source(b) for b in step.reads]
            params = tuple(dict.fromkeys(p for _, ps in read for p in ps))
            for number, written in enumerate(step.writes):
                # Several steps may share a buffer: the parts of a concatenation.
                before, also = source(written) if written in kept else (None, ())
                key = (step.spec, step.sizes, tuple(k for k, _ in read), number, before)
                kept[written] = Constant(Interned.of(key), tuple(dict.fromkeys((*also, *params))))
        return kept


def _steps(tasks: Sequence[Task]) -> list[Step]:
    return [step for task in tasks for step in task.steps]
