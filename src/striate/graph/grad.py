"""Reverse-mode differentiation: the backward pass is more nodes of the same operations."""

from __future__ import annotations

from collections.abc import Sequence

from striate.errors import ShapeError
from striate.graph.ops.leaf import Const
from striate.graph.symbol import current
from striate.graph.value import Node, Param, Value, as_value, topological


def gradients(loss: Value, wrt: Sequence[Value | Param]) -> list[Value | None]:
    """The gradient of `loss` (one element) for each of `wrt`; None where the loss does not
    depend on it.

    Raises ShapeError unless the loss has one element, UnsupportedError when an operation on the
    way has no gradient.
    """
    if loss.size != 1:
        raise ShapeError(f"gradients need a loss of one element, got the shape {loss.shape}")
    one = Const(1.0)()
    return pullback([loss], [one.reshape(loss.shape)], wrt)


def pullback(
    outputs: Sequence[Value], seeds: Sequence[Value], wrt: Sequence[Value | Param]
) -> list[Value | None]:
    """Gradients for `wrt` of the sum of outputs · seeds. Seeds have the shapes of the outputs."""
    targets = [as_value(x) for x in wrt]
    order = topological(outputs)
    wanted = set(targets)
    reaches = _dependents(order, wanted)
    flowing: dict[Value, Value] = {}
    for output, seed in zip(outputs, seeds, strict=True):
        if output.shape != seed.shape:
            raise ShapeError(f"the gradient of {output.shape} has the shape {seed.shape}")
        _accumulate(flowing, output, seed)
    scope = current.scope
    try:
        for node in reversed(order):
            g = [flowing.get(value) for value in node.outputs()]
            if node not in reaches or all(dy is None for dy in g):
                continue
            # The backward of a layer is listed beside the layer.
            current.scope = f"grad:{node.scope}" if node.scope else scope
            for x, dx in zip(node.inputs, node.op.grad(node, *g), strict=True):
                if dx is not None and (x in wanted or x.node in reaches):
                    _accumulate(flowing, x, dx)
    finally:
        current.scope = scope
    return [flowing.get(value) for value in targets]


def _accumulate(flowing: dict[Value, Value], x: Value, dx: Value) -> None:
    flowing[x] = dx if x not in flowing else flowing[x] + dx


def _dependents(order: Sequence[Node], wanted: set[Value]) -> set[Node]:
    """Nodes of which some input depends on a target: those the gradient has to pass."""
    reaches: set[Node] = set()
    for node in order:
        if any(value in wanted or value.node in reaches for value in node.inputs):
            reaches.add(node)
    return reaches
