"""Before fusion: composite ops become their parts, and broadcasts that a map does by itself go."""

from __future__ import annotations

from striate.graph.ops.eltwise import Map
from striate.graph.ops.norm import BatchNorm
from striate.graph.ops.shape import Broadcast
from striate.graph.value import Graph, Node, Value


def expand(graph: Graph) -> Graph:
    """The same graph without `BatchNorm` nodes and without broadcasts of map operands."""
    made: dict[Value, Value] = {}
    for node in graph.nodes():
        inputs = tuple(made[v] for v in node.inputs)
        if isinstance(node.op, Map):
            inputs = _without_broadcasts(node, inputs)
        new = node
        if inputs != node.inputs:
            new = Node(node.op, inputs, node.types, node.scope)
        outputs = new.op.expand(new) if isinstance(new.op, BatchNorm) else new.outputs()
        made.update(zip(node.outputs(), outputs, strict=True))
    return Graph(
        tuple(made[v] for v in graph.inputs),
        tuple(made[v] for v in graph.outputs),
        tuple((p, made[v]) for p, v in graph.assigns),
        graph.host_updates,
    )


def _without_broadcasts(node: Node, inputs: tuple[Value, ...]) -> tuple[Value, ...]:
    bare = tuple(v.node.inputs[0] if isinstance(v.node.op, Broadcast) else v for v in inputs)
    return bare if node.op.infer(*(v.type for v in bare)) == node.types else inputs
