"""Fusion: elementwise nodes become single passes over memory.

Three kinds of unit are made, all by concatenating expressions:

* maps that feed one another            → `Fused(expr)`, several outputs where several are needed
* maps that feed a reduction            → `FusedReduce(kind, axes, expr)`; reductions of the same
                                          space over the same axes share one pass
* maps on the result of a convolution   → `FusedConv(conv, expr)`: the epilogue, in registers;
                                          `engine.prologue` adds maps in front of a 1×1 convolution

A map whose result several units want is computed again in each of them if that is cheap (at most
two operands of full size, few and simple instructions); otherwise it is stored once.
A map is never drawn into a unit of another shape: per-channel factors are computed per channel.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from striate.arith.expr import Expr, Part, compose
from striate.engine.prologue import draw_in_maps
from striate.graph.ops.conv import Conv2d, ConvInputGrad
from striate.graph.ops.eltwise import Fused, Map
from striate.graph.ops.fused import FusedConv, FusedReduce
from striate.graph.ops.leaf import Const
from striate.graph.ops.reduce import Reduce
from striate.graph.ops.shape import Reshape
from striate.graph.value import Graph, Node, Op, Value

COSTLY = {"exp", "log", "log1p", "tanh", "sigmoid", "erf", "pow", "sqrt", "rsqrt", "div"}
CHEAP_OPERANDS = 2
CHEAP_INSTRUCTIONS = 10
EPILOGUE_INSTRUCTIONS = 12


@dataclass(eq=False)
class Unit:
    """What becomes one node: maps in topological order, and reductions if it is a reducing unit."""

    shape: tuple[int, ...]
    maps: list[Node] = field(default_factory=list)
    reductions: list[Node] = field(default_factory=list)
    outputs: list[Node] = field(default_factory=list)


@dataclass(frozen=True)
class Cost:
    """Of recomputing a map from stored values: what it reads, and how much it computes."""

    operands: frozenset[Value]
    instructions: int
    cheap: bool


class Fusion:
    """One run of the pass over one graph."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.nodes = graph.nodes()
        self.order = {node: i for i, node in enumerate(self.nodes)}
        self.required = {*graph.outputs, *(value for _, value in graph.assigns)}
        self.consumers: dict[Node, list[Node]] = defaultdict(list)
        for node in self.nodes:
            for value in dict.fromkeys(node.inputs):
                self.consumers[value.node].append(node)
        self.costs: dict[Node, Cost] = {}
        self.units_of: dict[Node, list[Unit]] = defaultdict(list)
        self.stored_in: dict[Node, Unit] = {}
        self.reducing: dict[tuple[tuple[int, ...], Op], list[Unit]] = defaultdict(list)

    # -- which maps go where ----------------------------------------------------------------------

    def assign_units(self) -> None:
        """Consumers first: each map joins the unit of its consumers, or starts one."""
        for node in self.nodes:
            if isinstance(node.op, Map):
                self.costs[node] = self._cost(node)
        for node in reversed(self.nodes):
            if isinstance(node.op, Reduce) and node.inputs[0].dtype == "f32":
                self._place_reduction(node)
            elif isinstance(node.op, Map):
                self._place_map(node)
        for unit in {u for units in self.units_of.values() for u in units}:
            unit.maps.sort(key=self.order.__getitem__)
            unit.outputs.sort(key=self.order.__getitem__)

    def _cost(self, node: Node) -> Cost:
        operands: set[Value] = set()
        instructions = 1
        simple = node.op.kind not in COSTLY if isinstance(node.op, Map) else False
        for value in node.inputs:
            inner = self.costs.get(value.node)
            if inner is not None and inner.cheap and value.shape == node.types[0].shape:
                operands |= inner.operands
                instructions += inner.instructions
            elif not _is_literal(value.node):
                operands.add(value)
        size = node.types[0].size
        large = sum(1 for v in operands if v.size == size)
        cheap = simple and large <= CHEAP_OPERANDS and instructions <= CHEAP_INSTRUCTIONS
        return Cost(frozenset(operands), instructions, cheap)

    def _is_required(self, node: Node) -> bool:
        return any(value in self.required for value in node.outputs())

    def _place_map(self, node: Node) -> None:
        shape, consumers = node.types[0].shape, self.consumers[node]
        units: dict[Unit, None] = {}
        outside = False
        for consumer in consumers:
            joinable = [u for u in self.units_of[consumer] if u.shape == shape]
            units.update(dict.fromkeys(joinable))
            outside = outside or not joinable or len(joinable) < len(self.units_of[consumer])
        required = self._is_required(node)
        if units and not outside:
            if len(units) == 1:
                (unit,) = units
                if not required or not unit.reductions:
                    self._join(node, unit, stored=required)
                    return
            elif not required and self.costs[node].cheap:
                for unit in units:
                    self._join(node, unit, stored=False)
                return
        self._join(node, Unit(shape), stored=True)

    def _join(self, node: Node, unit: Unit, *, stored: bool) -> None:
        unit.maps.append(node)
        self.units_of[node].append(unit)
        if stored:
            unit.outputs.append(node)
            self.stored_in[node] = unit

    def _place_reduction(self, node: Node) -> None:
        """Join a reduction of the same space that neither needs this one nor is needed by it."""
        assert isinstance(node.op, Reduce)
        value = node.inputs[0]
        alike = self.reducing[value.shape, node.op]
        for unit in alike:
            if self._shares_operand(node, unit) and not self._needs_node(unit, node):
                break
        else:
            unit = Unit(value.shape)
            alike.append(unit)
        unit.reductions.append(node)
        self.units_of[node].append(unit)
        self.stored_in[node] = unit

    def _shares_operand(self, node: Node, unit: Unit) -> bool:
        mine = self._read_by(node)
        return any(mine & self._read_by(other) for other in unit.reductions)

    def _read_by(self, reduction: Node) -> frozenset[Value]:
        value = reduction.inputs[0]
        cost = self.costs.get(value.node)
        return cost.operands | {value} if cost is not None else frozenset({value})

    def _needs_node(self, unit: Unit, node: Node) -> bool:
        """Whether a reducing unit can only run after `node`.

        Reductions that were put together run together, so what one of them needs all need.
        Nodes before `node` in the order cannot lead to it.
        """
        first = self.order[node]
        stack = list(unit.reductions)
        seen = set(stack)
        while stack:
            current = stack.pop()
            if current is node:
                return True
            near = [v.node for v in current.inputs]
            if current in self.stored_in:
                near += self.stored_in[current].reductions
            for following in near:
                if following not in seen and self.order[following] >= first:
                    seen.add(following)
                    stack.append(following)
        return False

    # -- the new graph ----------------------------------------------------------------------------

    def rebuild(self) -> Graph:
        """The graph with one node for each unit, in an order that respects what each reads."""
        made: dict[Value, Value] = {}
        for item in self._schedule():
            if isinstance(item, Unit):
                self._emit(item, made)
            elif not _is_literal(item):
                self._copy(item, made)
        made.update({value: value for value in self.required if _is_literal(value.node)})
        return Graph(
            tuple(made[v] for v in self.graph.inputs),
            tuple(made[v] for v in self.graph.outputs),
            tuple((p, made[v]) for p, v in self.graph.assigns),
            self.graph.host_updates,
        )

    def _copy(self, node: Node, made: dict[Value, Value]) -> None:
        inputs = tuple(made.get(v, v) for v in node.inputs)
        new = node if inputs == node.inputs else Node(node.op, inputs, node.types, node.scope)
        made.update(zip(node.outputs(), new.outputs(), strict=True))

    def _schedule(self) -> list[Unit | Node]:
        """Units and other nodes, in the order of the graph as far as dependencies allow."""
        items: list[Unit | Node] = []
        seen: set[Unit | Node] = set()

        def visit(root: Unit | Node) -> None:
            stack: list[tuple[Unit | Node, list[Unit | Node]]] = [(root, self._needs(root))]
            seen.add(root)
            while stack:
                item, needs = stack[-1]
                if not needs:
                    items.append(item)
                    stack.pop()
                    continue
                following = needs.pop()
                if following not in seen:
                    seen.add(following)
                    stack.append((following, self._needs(following)))

        for node in self.nodes:
            item = self.stored_in.get(node, node)
            if isinstance(item, Node) and isinstance(item.op, Map):
                continue  # recomputed inside other units, never stored
            if item not in seen:
                visit(item)
        return items

    def _needs(self, item: Unit | Node) -> list[Unit | Node]:
        values = self._operands(item) if isinstance(item, Unit) else list(item.inputs)
        needs = [self.stored_in.get(v.node, v.node) for v in values]
        return list(reversed([n for n in dict.fromkeys(needs) if n is not item]))

    def _operands(self, unit: Unit) -> list[Value]:
        inside = set(unit.maps)
        read = [v for node in [*unit.maps, *unit.reductions] for v in node.inputs]
        return [v for v in dict.fromkeys(read) if v.node not in inside and not _is_literal(v.node)]

    def _expression(self, unit: Unit, results: list[Value]) -> tuple[Expr, list[Value]]:
        parts: list[Part] = []
        constants: set[Value] = set()
        for node in [*unit.maps, *unit.reductions]:
            for value in node.inputs:
                op = value.node.op
                if _is_literal(value.node) and value not in constants and isinstance(op, Const):
                    constants.add(value)
                    parts.append(Part(Expr.constant(op.value), (), (value,)))
        for node in unit.maps:
            assert isinstance(node.op, Map)
            parts.append(Part(Expr.single(node.op.kind), node.inputs, node.outputs()))
        keys: list[Hashable] = list(results)
        expr, inputs = compose(parts, keys)
        return expr, [v for v in inputs if isinstance(v, Value)]

    def _emit(self, unit: Unit, made: dict[Value, Value]) -> None:
        scope = (unit.reductions or unit.outputs)[-1].scope
        if unit.reductions:
            self._emit_reduction(unit, made, scope)
            return
        results = [node.outputs()[0] for node in unit.outputs]
        expr, operands = self._expression(unit, results)
        host = self._host(unit, operands)
        if host is not None:
            made[results[0]] = host(expr, operands, made, scope)
            return
        inputs = tuple(made[v] for v in operands)
        types = tuple(v.type for v in results)
        node = Node(Fused(expr), inputs, types, scope)
        made.update(zip(results, node.outputs(), strict=True))

    def _emit_reduction(self, unit: Unit, made: dict[Value, Value], scope: str) -> None:
        reductions = sorted(unit.reductions, key=self.order.__getitem__)
        op = reductions[0].op
        assert isinstance(op, Reduce)
        wanted = list(dict.fromkeys(node.inputs[0] for node in reductions))
        expr, operands = self._expression(unit, wanted)
        fused = FusedReduce(op.kind, op.axes, expr)
        inputs = tuple(made[v] for v in operands)
        types = (reductions[0].types[0],) * len(wanted)
        outputs = dict(zip(wanted, Node(fused, inputs, types, scope).outputs(), strict=True))
        for node in reductions:
            made[node.outputs()[0]] = outputs[node.inputs[0]]

    # -- epilogues --------------------------------------------------------------------------------

    def _host(
        self, unit: Unit, operands: list[Value]
    ) -> Callable[[Expr, list[Value], dict[Value, Value], str], Value] | None:
        """The convolution that can take this unit as its epilogue, as a function that builds it."""
        if len(unit.outputs) != 1 or not unit.maps:
            return None
        kinds = {node.op.kind for node in unit.maps if isinstance(node.op, Map)}
        if kinds & (COSTLY - {"div"}) or len(unit.maps) > EPILOGUE_INSTRUCTIONS:
            return None
        for value in sorted(operands, key=lambda v: -self.order[v.node]):
            conv = self._only_for(value, unit)
            if conv is None:
                continue
            lies = [_lies_on(v, unit.shape) for v in operands if v != value]
            if None not in lies:
                return lambda expr, read, made, scope: self._with_epilogue(
                    conv, value, expr, read, made, scope
                )
        return None

    def _only_for(self, value: Value, unit: Unit) -> Node | None:
        """The convolution whose result `value` is, if nothing else reads it.

        A dense layer is a 1×1 convolution behind a reshape to a matrix; the reshape moves behind
        the epilogue.
        """
        node = value.node
        if value.shape != unit.shape or value in self.required:
            return None
        if any(consumer not in unit.maps for consumer in self.consumers[node]):
            return None
        if any(len(self.units_of[consumer]) > 1 for consumer in self.consumers[node]):
            return None
        if isinstance(node.op, Reshape) and len(value.shape) == 2:
            inner = node.inputs[0]
            if inner.shape != (*value.shape, 1, 1) or inner in self.required:
                return None
            if len(self.consumers[inner.node]) != 1:
                return None
            node = inner.node
        return node if isinstance(node.op, (Conv2d, ConvInputGrad)) else None

    def _with_epilogue(
        self,
        conv: Node,
        value: Value,
        expr: Expr,
        operands: list[Value],
        made: dict[Value, Value],
        scope: str,
    ) -> Value:
        others = [v for v in operands if v != value]
        keys = [value, *others]
        expr = expr.with_inputs([keys.index(v) for v in operands])
        kinds = tuple(str(_lies_on(v, value.shape)) for v in others)
        inputs = tuple(made[v] for v in (*conv.inputs, *others))
        result = Node(FusedConv(conv.op, expr, kinds), inputs, conv.types, scope or conv.scope)
        if value.shape == conv.types[0].shape:
            return result.outputs()[0]
        return Node(Reshape(value.shape), result.outputs(), (value.type,), scope).outputs()[0]


def _lies_on(value: Value, shape: tuple[int, ...]) -> str | None:
    """How an operand lies on a result of `shape`: full, channel, scalar, or None for otherwise."""
    if value.shape == shape:
        return "full"
    if value.size == 1:
        return "scalar"
    padded = (1,) * (len(shape) - len(value.shape)) + value.shape
    channel = tuple(s if axis == 1 else 1 for axis, s in enumerate(shape))
    return "channel" if padded == channel else None


def _is_literal(node: Node) -> bool:
    """Whether a node is a number that may stand in the code (sizes are data)."""
    return type(node.op) is Const


def fuse(graph: Graph) -> Graph:
    """The same results in fewer passes over memory."""
    fusion = Fusion(graph)
    fusion.assign_units()
    return draw_in_maps(fusion.rebuild())
