"""What the backward pass computes again instead of finding it kept since the forward pass.

Always the cheap: maps of values that are kept anyway. The result of a convolution is kept for the
gradient of its batch norm, so y = relu(norm(x)) costs one pass over memory, not a second array for
each layer. With `segments` nearly everything: the forward pass is cut at borders, only what crosses
them is kept, and the backward pass of a segment begins with a second forward pass through it.

The copies are the same operations on the same bits, so the results are the same bits. What does
not vary with the images (statistics of channels, dropout's random numbers, which depend on a key)
is kept, and so is what assigns a parameter done once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from striate.engine.fuse import COSTLY
from striate.graph.ops.eltwise import Map
from striate.graph.ops.leaf import Input, Leaf, ParamLeaf
from striate.graph.ops.norm import ChannelStats
from striate.graph.ops.reduce import Reduce
from striate.graph.ops.shape import Reshape
from striate.graph.value import Graph, Node, Value, topological

MOST_OPERANDS = 3  # of full size, of maps that are computed again in one pass
MOST_MAPS = 24
BUDGETS = 32  # sizes of segments that are tried, the largest being the whole net


def recompute(graph: Graph, *, segments: bool = False) -> Graph:
    """The graph with duplicates of forward nodes for its backward pass.

    Forward is what the outputs need; what only the assignments need comes after it. A graph
    without assignments stays as it is.
    """
    first = topological(graph.outputs)
    found = set(first)
    forward = _Forward(first, [node for node in graph.nodes() if node not in found])
    borders = forward.borders() if segments else [Border(-1, frozenset())]
    return _Duplicating(forward, borders).rebuild(graph)


@dataclass(frozen=True)
class Border:
    """Between the forward nodes `after` and `after` + 1: the values that cross it."""

    after: int
    values: frozenset[Value]

    @property
    def size(self) -> int:
        """Elements."""
        return sum(value.size for value in self.values)


class _Forward:
    """The forward nodes, and what the others (`later`) read of them."""

    def __init__(self, nodes: Sequence[Node], later: Sequence[Node]) -> None:
        self.nodes, self.later = nodes, later
        self.place = {node: i for i, node in enumerate(nodes)}
        self.read = {v for node in later for v in node.inputs if v.node in self.place}
        self.varies: set[Value] = set()
        for node in nodes:
            if isinstance(node.op, Input) or (
                any(v in self.varies for v in node.inputs)
                and not isinstance(node.op, (ChannelStats, Reduce))
            ):
                self.varies.update(v for v in node.outputs() if v.ndim > 1)

    def cheap(self, node: Node) -> bool:
        """Whether computing a node again costs no more than reading and writing it."""
        return isinstance(node.op, Map) and node.op.kind not in COSTLY

    # -- where to cut -----------------------------------------------------------------------------

    def borders(self) -> list[Border]:
        """The cuts with the lowest peak, the last of them before what is not computed again.

        For each budget a segment is cut, once what it holds in its backward pass exceeds that,
        where the least crosses.
        """
        crossing, held = self._crossing(), self._held()
        total = sum(held)
        tried = [self._cuts(crossing, held, total * k // BUDGETS) for k in range(1, BUDGETS + 1)]
        _, cuts = min((self._peak(crossing, held, cuts), cuts) for cuts in tried)
        return [Border(i, frozenset(crossing[i])) for i in cuts] or [Border(-1, frozenset())]

    def _crossing(self) -> list[list[Value]]:
        """For each node the values that exist after it and that later forward nodes read."""
        last: dict[Value, int] = {}
        for i, node in enumerate(self.nodes):
            last.update((v, i) for v in node.inputs if v in self.varies)
        alive: list[Value] = []
        crossing = []
        for i, node in enumerate(self.nodes):
            alive = [v for v in (*alive, *node.outputs()) if last.get(v, -1) > i]
            crossing.append(alive)
        return crossing

    def _held(self) -> list[int]:
        """Elements of each node that the backward pass needs in memory."""
        whole = {v for n in self.later if not isinstance(n.op, Map) for v in n.inputs}
        return [
            sum(
                v.size
                for v in node.outputs()
                if v in self.varies and (v in whole or (v in self.read and not self.cheap(node)))
            )
            for node in self.nodes
        ]

    def _cuts(self, crossing: list[list[Value]], held: list[int], budget: int) -> list[int]:
        sizes = [sum(v.size for v in values) for values in crossing]
        cuts: list[int] = []
        start, sum_held = 0, 0
        i = 0
        while i < len(held):
            sum_held += held[i]
            if sum_held > budget and i > start:
                cut = min(range(start, i), key=lambda j: (sizes[j], -j))
                cuts.append(cut)
                start, sum_held, i = cut + 1, 0, cut
            i += 1
        return cuts

    def _peak(self, crossing: list[list[Value]], held: list[int], cuts: list[int]) -> int:
        """Elements at the worst time: the borders so far and what the segment holds."""
        kept: set[Value] = set()
        peak = 0
        for start, stop in zip([0, *(c + 1 for c in cuts)], [*cuts, len(held) - 1], strict=True):
            segment = sum(held[start : stop + 1])
            peak = max(peak, sum(v.size for v in kept) + segment)
            kept.update(crossing[stop])
        return peak


class _Duplicating:
    """One run of the pass: which values are computed again, and the new graph."""

    def __init__(self, forward: _Forward, borders: list[Border]) -> None:
        self.forward = forward
        self.borders = {v for border in borders for v in border.values}
        self.last = borders[-1].after
        self.again = self._choose()
        self.stored = self._operands_to_store()
        self.shared: dict[Value, Value] = {}
        self.inner: dict[Value, Value] = {}
        self.outer: dict[Value, Value] = {}

    def _choose(self) -> set[Value]:
        """Values that later nodes find computed again: all their operands are to be had then.

        Before the last border that is everything which varies; after it cheap maps of what is kept
        because later nodes read it.
        """
        forward = self.forward
        again: set[Value] = set()
        for i, node in enumerate(forward.nodes):
            varying = [v for v in node.inputs if v in forward.varies]
            if i <= self.last:
                possible = not isinstance(node.op, Leaf)
            else:
                possible = forward.cheap(node) and all(
                    v in again or v in forward.read or v in self.borders for v in varying
                )
            if possible:
                here = (v for v in node.outputs() if v in forward.varies)
                again.update(v for v in here if v not in self.borders)
        return again

    def _is_map(self, value: Value) -> bool:
        """Whether it is computed again in one pass with the maps that read it."""
        return value in self.again and self.forward.cheap(value.node)

    def _operands_to_store(self) -> set[tuple[Node, Value]]:
        """Where a tree of maps is cut because one pass would read or compute too much.

        A chain of residual blocks is a chain of sums, so the result of the last one is a map of
        what all its blocks have computed.
        """
        sources: dict[Value, set[Value]] = {}
        lengths: dict[Value, int] = {}
        stored: set[tuple[Node, Value]] = set()
        for node in self.forward.nodes:
            (*_, value) = node.outputs()
            if not self._is_map(value):
                continue
            found: set[Value] = set()
            length = 1
            varying = [v for v in dict.fromkeys(node.inputs) if v in self.forward.varies]
            for v in sorted(varying, key=lambda v: len(sources.get(v, ()))):
                inside = sources.get(v, {v})
                more = length + lengths.get(v, 0)
                if len(found | inside) > MOST_OPERANDS or more > MOST_MAPS:
                    stored.add((node, v))
                    found.add(v)
                else:
                    found |= inside
                    length = more
            sources[value], lengths[value] = found, length
        return stored

    def _copy(self, value: Value, copies: dict[Value, Value]) -> Value:
        """The value for one kind of readers: copies (`inner`) or later nodes (`outer`).

        They do not share the maps, so that these need not be kept from the second forward pass
        of a segment to its backward pass.
        """
        if value not in self.again or value in self.shared:
            return self.shared.get(value, value)
        if value not in copies:
            copies[value] = self._tree(value, copies, {})
        return copies[value]

    def _tree(self, value: Value, copies: dict[Value, Value], made: dict[Value, Value]) -> Value:
        """A map and all maps that it is made of, down to where they are cut."""
        if not self._is_map(value):
            return self.shared.get(value, value)
        if value not in made:
            node = value.node
            inputs = [
                self._copy(v, copies) if (node, v) in self.stored else self._tree(v, copies, made)
                for v in node.inputs
            ]
            made[value] = _like(node, inputs).outputs()[value.index]
        return made[value]

    def rebuild(self, graph: Graph) -> Graph:
        """The graph whose later nodes read copies."""
        for node in self.forward.nodes:
            if any(v in self.again for v in node.outputs()) and not self.forward.cheap(node):
                copy = _like(node, [_view(self._copy(v, self.inner)) for v in node.inputs])
                self.shared.update(zip(node.outputs(), copy.outputs(), strict=True))
        made: dict[Value, Value] = {}
        for node in self.forward.later:
            inputs = tuple(made[v] if v in made else self._copy(v, self.outer) for v in node.inputs)
            new = node if inputs == node.inputs else Node(node.op, inputs, node.types, node.scope)
            made.update(zip(node.outputs(), new.outputs(), strict=True))
        return Graph(
            graph.inputs,
            graph.outputs,
            tuple((param, made.get(value, value)) for param, value in graph.assigns),
            graph.host_updates,
        )


def _view(value: Value) -> Value:
    """Weights under another name: packed anew for a copy, not kept packed since the first pass."""
    return Reshape(value.shape)(value) if isinstance(value.node.op, ParamLeaf) else value


def _like(node: Node, inputs: Sequence[Value]) -> Node:
    return Node(node.op, tuple(inputs), node.types, f"again:{node.scope}")
