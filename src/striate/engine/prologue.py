"""Maps in front of a matrix product become its prologue.

Nets with pre-activation have batch norm and ReLU in front of their 1×1 convolutions. Where the
value before has several readers (a concatenation, each reader with factors of its own), the maps
cannot be the epilogue of what computes it. They are computed while a panel of inputs is copied
into scratch instead, which saves writing and reading their result.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from striate.arith.expr import Expr
from striate.engine.constants import constant_nodes
from striate.graph.ops.conv import Conv2d
from striate.graph.ops.eltwise import Fused
from striate.graph.ops.fused import FusedConv
from striate.graph.value import Graph, Node, Value
from striate.kernels.expression import instructions

MOST_INSTRUCTIONS = 12  # each panel is copied once for every chunk of output blocks


def draw_in_maps(graph: Graph) -> Graph:
    """The graph with maps that only a 1×1 convolution reads drawn into it."""
    readers = Counter(v for node in graph.nodes() for v in node.inputs)
    readers.update([*graph.outputs, *(v for _, v in graph.assigns)])
    constant = constant_nodes(graph)
    made: dict[Value, Value] = {}
    for node in graph.nodes():
        inputs = tuple(made[v] for v in node.inputs)
        new = node if inputs == node.inputs else Node(node.op, inputs, node.types, node.scope)
        if _is_product(node) and readers[node.inputs[0]] == 1:
            new = _with_prologue(node, new, constant)
        made.update(zip(node.outputs(), new.outputs(), strict=True))
    return Graph(
        tuple(made[v] for v in graph.inputs),
        tuple(made[v] for v in graph.outputs),
        tuple((p, made[v]) for p, v in graph.assigns),
        graph.host_updates,
    )


def _is_product(node: Node) -> bool:
    """Whether a node is a convolution that takes one pixel to one pixel."""
    conv = node.op.conv if isinstance(node.op, FusedConv) else node.op
    return conv == Conv2d() and node.inputs[1].shape[2:] == (1, 1)


def _with_prologue(node: Node, new: Node, constant: set[Node]) -> Node:
    """`new` with the maps before it drawn in, if they are cheap and have one large operand.

    The other operands must depend on parameters alone: then what is drawn in does not depend on
    the batch size, along which a value of one image looks like a factor for each channel.
    """
    x = node.inputs[0]
    maps = x.node
    if not isinstance(maps.op, Fused) or len(maps.types) > 1:
        return new
    large = [v for v in maps.inputs if v.node not in constant]
    if len(large) != 1 or large[0].shape != x.shape:
        return new
    others = [v for v in maps.inputs if v != large[0]]
    kinds = [_lies_on(v, x.shape[1]) for v in others]
    if None in kinds or instructions(maps.op.expr) > MOST_INSTRUCTIONS:
        return new
    order = [*large, *others]
    before = maps.op.expr.with_inputs([order.index(v) for v in maps.inputs])
    # The new node of the maps is the first input of `new`: its operands are made already.
    place = dict(zip(maps.inputs, new.inputs[0].node.inputs, strict=True))
    source, *factors = (place[v] for v in order)
    op = new.op if isinstance(new.op, FusedConv) else FusedConv(new.op, Expr.identity(), ())
    op = replace(op, before=before, before_operands=tuple(str(kind) for kind in kinds))
    return Node(op, (source, *new.inputs[1:], *factors), new.types, new.scope)


def _lies_on(value: Value, channels: int) -> str | None:
    """How an operand lies on images of so many channels: channel, scalar, or None for otherwise."""
    if value.size == 1:
        return "scalar"
    padded = (1,) * (4 - len(value.shape)) + value.shape
    return "channel" if padded == (1, channels, 1, 1) else None
