"""Maps in front of a matrix product or of max pooling become its prologue.

Nets with pre-activation have batch norm and ReLU in front of their 1×1 convolutions. Where the
value before has several readers (a concatenation, each reader with factors of its own), the maps
cannot be the epilogue of what computes it. They are computed while a panel of inputs is copied
into scratch instead, which saves writing and reading their result.

In training batch norm and ReLU cannot be the epilogue of the convolution before them, for the
statistics are those of its result. Max pooling behind them, and its gradient, read that result
and compute the maps of each pixel that they look at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from striate.arith.expr import Expr
from striate.arith.pool import Window
from striate.engine.constants import constant_nodes
from striate.graph.ops.conv import Conv2d
from striate.graph.ops.eltwise import Fused
from striate.graph.ops.fused import FusedConv, FusedPool
from striate.graph.ops.pool import MaxPool, MaxPoolGrad
from striate.graph.value import Graph, Node, Value
from striate.kernels.expression import instructions

MOST_INSTRUCTIONS = 12  # each panel is copied once for every chunk of output blocks
MOST_READINGS = 3  # of a pixel, by overlapping windows


def draw_in_maps(graph: Graph) -> Graph:
    """The graph with maps that only a 1×1 convolution or a max pooling reads drawn into it."""
    readers = Counter(v for node in graph.nodes() for v in node.inputs)
    readers.update([*graph.outputs, *(v for _, v in graph.assigns)])
    constant = constant_nodes(graph)
    made: dict[Value, Value] = {}
    for node in graph.nodes():
        inputs = tuple(made[v] for v in node.inputs)
        new = node if inputs == node.inputs else Node(node.op, inputs, node.types, node.scope)
        if _is_product(node) and readers[node.inputs[0]] == 1:
            new = _product(node, new, constant)
        elif _is_pooling(node) and readers[node.inputs[0]] == 1:
            new = _pooling(node, new)
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


def _is_pooling(node: Node) -> bool:
    """Whether a node is max pooling, or its gradient, that reads few pixels more than once."""
    if not isinstance(node.op, (MaxPool, MaxPoolGrad)):
        return False
    _, _, h, w = node.inputs[0].shape
    return _length(node.op.windows_h) * _length(node.op.windows_w) <= MOST_READINGS * h * w


def _length(windows: tuple[Window, ...]) -> int:
    return sum(len(range(*window)) for window in windows)


class Maps(NamedTuple):
    """`expr` on `source` and `factors`, which lie on it as `kinds` says."""

    expr: Expr
    source: Value
    factors: tuple[Value, ...]
    kinds: tuple[str, ...]


def _maps_before(node: Node, new: Node, large: Callable[[Value], bool]) -> Maps | None:
    """The maps that make the first input of `node`, if they are cheap and one operand is large.

    `large` tells operands that are images from factors; what is returned belongs to `new`, the
    node of the graph that is being made.
    """
    x = node.inputs[0]
    maps = x.node
    if not isinstance(maps.op, Fused) or len(maps.types) > 1:
        return None
    images = [v for v in maps.inputs if large(v)]
    if len(images) != 1 or images[0].shape != x.shape:
        return None
    others = [v for v in maps.inputs if v != images[0]]
    kinds = [_lies_on(v, x.shape[1]) for v in others]
    if None in kinds or instructions(maps.op.expr) > MOST_INSTRUCTIONS:
        return None
    order = [*images, *others]
    expr = maps.op.expr.with_inputs([order.index(v) for v in maps.inputs])
    # The new node of the maps is the first input of `new`: its operands are made already.
    place = dict(zip(maps.inputs, new.inputs[0].node.inputs, strict=True))
    source, *factors = (place[v] for v in order)
    return Maps(expr, source, tuple(factors), tuple(str(kind) for kind in kinds))


def _product(node: Node, new: Node, constant: set[Node]) -> Node:
    """`new` with the maps before it drawn in.

    The other operands must depend on parameters alone: then what is drawn in does not depend on
    the batch size, along which a value of one image looks like a factor for each channel.
    """
    maps = _maps_before(node, new, lambda v: v.node not in constant)
    if maps is None:
        return new
    op = new.op if isinstance(new.op, FusedConv) else FusedConv(new.op, Expr.identity(), ())
    op = replace(op, before=maps.expr, before_operands=maps.kinds)
    return Node(op, (maps.source, *new.inputs[1:], *maps.factors), new.types, new.scope)


def _pooling(node: Node, new: Node) -> Node:
    """`new` with the maps before it drawn in. Each value is computed by itself: same bits."""
    maps = _maps_before(node, new, lambda v: v.shape == node.inputs[0].shape)
    if maps is None:
        return new
    assert isinstance(new.op, (MaxPool, MaxPoolGrad))
    op = FusedPool(new.op, maps.expr, maps.kinds)
    return Node(op, (maps.source, *new.inputs[1:], *maps.factors), new.types, new.scope)


def _lies_on(value: Value, channels: int) -> str | None:
    """How an operand lies on images of so many channels: channel, scalar, or None for otherwise."""
    if value.size == 1:
        return "scalar"
    padded = (1,) * (4 - len(value.shape)) + value.shape
    return "channel" if padded == (1, channels, 1, 1) else None
