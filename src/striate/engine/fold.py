"""Inference: factors of channels that follow a convolution are multiplied into its weights.

    conv(x, w) · s = conv(x, w · s)            (conv(x, w) + b) · s = conv(x, w · s) + b · s

Batch norm in evaluation is such a factor and a sum; so it costs one addition an output. The new
weights depend on parameters alone and are computed once, like packed weights.
"""

from __future__ import annotations

from collections import Counter

from striate.engine.constants import constant_nodes
from striate.graph.ops.conv import Conv2d
from striate.graph.ops.eltwise import Map
from striate.graph.ops.shape import Reshape
from striate.graph.value import Graph, Node, Value


def fold_factors(graph: Graph) -> Graph:
    """The graph with factors folded into weights, where nothing else reads what lies between."""
    readers = Counter(v for node in graph.nodes() for v in node.inputs)
    readers.update(graph.outputs)
    constant = constant_nodes(graph)
    made: dict[Value, Value] = {}
    for node in graph.nodes():
        inputs = tuple(made[v] for v in node.inputs)
        new = node if inputs == node.inputs else Node(node.op, inputs, node.types, node.scope)
        folded = _folded(node, made, readers, constant)
        made.update(
            zip(node.outputs(), new.outputs() if folded is None else (folded,), strict=True)
        )
    return Graph(
        tuple(made[v] for v in graph.inputs),
        tuple(made[v] for v in graph.outputs),
        graph.assigns,
        graph.host_updates,
    )


def _folded(
    node: Node, made: dict[Value, Value], readers: Counter[Value], constant: set[Node]
) -> Value | None:
    """What a product of a convolution and a factor becomes; None for any other node."""
    split = _split(node, "mul", constant)
    if split is None or readers[split[0]] > 1:
        return None
    value, factor = split
    between = _split(value.node, "add", constant)
    if between is not None and readers[between[0]] == 1:
        conv = _weighted(between[0], made, factor, constant, node.scope)
        if conv is None:
            return None
        shift = _map("mul", made[between[1]], made[factor], node.scope)
        return _map("add", conv, shift, node.scope)
    return _weighted(value, made, factor, constant, node.scope)


def _split(node: Node, kind: str, constant: set[Node]) -> tuple[Value, Value] | None:
    """(images, a number for each channel) of a map of both."""
    if not isinstance(node.op, Map) or node.op.kind != kind or len(node.types[0].shape) != 4:
        return None
    channels = (1, node.types[0].shape[1], 1, 1)
    for value, other in (node.inputs, node.inputs[::-1]):
        if (
            other.node in constant
            and other.shape == channels
            and value.shape == node.types[0].shape
        ):
            return value, other
    return None


def _weighted(
    value: Value, made: dict[Value, Value], factor: Value, constant: set[Node], scope: str
) -> Value | None:
    """The convolution that gives `value`, with its weights times the factor."""
    conv = value.node
    if not isinstance(conv.op, Conv2d) or conv.inputs[1].node not in constant:
        return None
    x, w = (made[v] for v in conv.inputs)
    column = Reshape((w.shape[0], 1, 1, 1))(made[factor])
    weights = _map("mul", w, column, scope)
    return Node(conv.op, (x, weights), conv.types, conv.scope).outputs()[0]


def _map(kind: str, a: Value, b: Value, scope: str) -> Value:
    op = Map(kind)
    return Node(op, (a, b), op.infer(a.type, b.type), scope).outputs()[0]
