"""Before fusion: composite ops become their parts, and what a map can do by itself goes."""

from __future__ import annotations

from collections.abc import Callable

from striate.engine.fuse import CHEAP_OPERANDS
from striate.graph.ops.eltwise import Map
from striate.graph.ops.norm import BatchNorm, ChannelStats
from striate.graph.ops.shape import Broadcast
from striate.graph.ops.transpose import shuffle_of
from striate.graph.value import Graph, Node, Value

Rewrite = Callable[[Node], tuple[Value, ...]]


def expand(graph: Graph) -> Graph:
    """The same graph in the form that fusion works on.

    `BatchNorm` becomes statistics and maps, reshapes around a transpose become a channel shuffle,
    maps read the sources of broadcasts, and the masks of ReLU's gradient are taken before the
    ReLU where that saves reading its result.
    """
    graph = _rebuilt(graph, _parts)
    measured = {n.inputs[0] for n in graph.nodes() if isinstance(n.op, ChannelStats)}
    return _rebuilt(graph, lambda node: _mask_before_relu(node, measured))


def _rebuilt(graph: Graph, rewrite: Rewrite) -> Graph:
    """The graph with every node replaced by what `rewrite` gives, inputs first."""
    made: dict[Value, Value] = {}
    for node in graph.nodes():
        inputs = tuple(made[v] for v in node.inputs)
        same = inputs == node.inputs
        new = node if same else Node(node.op, inputs, node.types, node.scope)
        made.update(zip(node.outputs(), rewrite(new), strict=True))
    return Graph(
        tuple(made[v] for v in graph.inputs),
        tuple(made[v] for v in graph.outputs),
        tuple((p, made[v]) for p, v in graph.assigns),
        graph.host_updates,
    )


def _parts(node: Node) -> tuple[Value, ...]:
    if isinstance(node.op, BatchNorm):
        return node.op.expand(node)
    shuffle = shuffle_of(node)
    if shuffle is not None:
        image = node.inputs[0].node.inputs[0].node.inputs[0]
        return Node(shuffle, (image,), node.types, node.scope).outputs()
    if not isinstance(node.op, Map):
        return node.outputs()
    bare = tuple(v.node.inputs[0] if isinstance(v.node.op, Broadcast) else v for v in node.inputs)
    if bare == node.inputs or node.op.infer(*(v.type for v in bare)) != node.types:
        return node.outputs()
    return Node(node.op, bare, node.types, node.scope).outputs()


def _mask_before_relu(node: Node, measured: set[Value]) -> tuple[Value, ...]:
    """`relu(z) ≤ 0` is `z ≤ 0`.

    With z = x·s + t and x a convolution's result whose statistics are taken, x stays in memory
    anyway and is read by the same passes as the mask; so z is computed again from it and the
    ReLU's own result need not be read. But not from more operands than fusion computes it again
    of: it would be stored, beside the ReLU's result.
    """
    if not isinstance(node.op, Map) or node.op.kind != "le":
        return node.outputs()
    relu = node.inputs[0].node
    if not isinstance(relu.op, Map) or relu.op.kind != "relu":
        return node.outputs()
    (before,) = relu.inputs
    operands = _large_operands(before)
    if len(operands) <= CHEAP_OPERANDS and operands <= measured:
        return Node(node.op, (before, *node.inputs[1:]), node.types, node.scope).outputs()
    return node.outputs()


def _large_operands(value: Value) -> set[Value]:
    """The operands of full size that a tree of maps reads."""
    found, stack, size = set(), [value], value.size
    while stack:
        current = stack.pop()
        if current.size != size:
            continue
        if isinstance(current.node.op, Map):
            stack.extend(current.node.inputs)
        else:
            found.add(current)
    return found
