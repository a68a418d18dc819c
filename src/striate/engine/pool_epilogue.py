"""Max pooling behind a convolution becomes the end of its epilogue.

A 2×2 pool of stride 2 reads each element of a map once. Where the kernel that computes the map has
whole windows in registers, it stores their maxima alone: a quarter of the map, which itself is
never written or read. For inference: the gradient of pooling wants the map.

It comes after the ways of convolutions are chosen, for they decide which kernel it is; and what is
chosen, and with it every bit, does not depend on what reads the result.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from striate.arith.expr import Expr
from striate.engine.layout import Placed
from striate.engine.lower.conv import can_pool
from striate.graph.ops.fused import FusedConv, pool_of
from striate.graph.ops.pool import MaxPool
from striate.graph.value import Graph, Node, Value


def draw_in_pools(placed: Placed) -> Placed:
    """The same graph with pools that alone read a convolution's result drawn into it."""
    graph, layouts = placed.graph, dict(placed.layouts)
    readers = Counter(v for node in graph.nodes() for v in node.inputs)
    readers.update([*graph.outputs, *(v for _, v in graph.assigns)])
    made: dict[Value, Value] = {}
    became: dict[Node, Node] = {}
    for node in graph.nodes():
        inputs = tuple(made[v] for v in node.inputs)
        new = node if inputs == node.inputs else Node(node.op, inputs, node.types, node.scope)
        if _pools_result(node, placed) and readers[node.inputs[0]] == 1:
            new = _with_pool(node, new)
            became[node.inputs[0].node] = new
        elif node in placed.choices:
            became[node] = new
        for old, value in zip(node.outputs(), new.outputs(), strict=True):
            made[old] = value
            if old in placed.layouts:
                layouts[value] = placed.layouts[old]
    result = Graph(
        tuple(made[v] for v in graph.inputs),
        tuple(made[v] for v in graph.outputs),
        tuple((p, made[v]) for p, v in graph.assigns),
        graph.host_updates,
    )
    return Placed(result, layouts, {became[node]: way for node, way in placed.choices.items()})


def _pools_result(node: Node, placed: Placed) -> bool:
    """Whether a node takes the maxima of 2×2 windows of what a kernel computes that can do it."""
    if not isinstance(node.op, MaxPool):
        return False
    (value,) = node.inputs
    weights = placed.layouts.get(value.node.inputs[1]) if len(value.node.inputs) > 1 else None
    choice = placed.choices.get(value.node)
    if weights is None or choice is None or not can_pool(value.node, weights, choice.way.tile):
        return False
    return min(value.shape[2:]) > 1 and node.op == pool_of(value.type)


def _with_pool(node: Node, new: Node) -> Node:
    """The convolution before the new node of a pool, with the pool drawn in."""
    conv = new.inputs[0].node
    op = conv.op
    op = op if isinstance(op, FusedConv) else FusedConv(op, Expr.identity(), ())
    return Node(replace(op, pool=True), conv.inputs, node.types, node.scope or conv.scope)
