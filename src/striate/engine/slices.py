"""Concatenations without copies: what is joined is computed where the whole lies.

In NHWC a concatenation of channels puts its inputs side by side in every pixel. An input whose
kernel can write pixels further apart, and whose other readers can read them so, gets the memory
order `NhwcSlice` and its home in the concatenation's buffer. In a chain
concat(concat(x₀, x₁), x₂), as in DenseNet, all lie in the buffer of the last, and what is read
between is a prefix of every pixel. Inputs for which this does not hold are copied, as before.
"""

from __future__ import annotations

from collections import defaultdict

from striate.arith.layout import NHWC, Nhwc, NhwcSlice
from striate.engine.constants import constant_nodes
from striate.engine.layout import Placed
from striate.graph.ops.axismap import AxisMap
from striate.graph.ops.conv import Conv2d, ConvInputGrad
from striate.graph.ops.fused import FusedConv
from striate.graph.ops.pool import MaxPool
from striate.graph.ops.shape import Concat
from striate.graph.value import Node, Value

CHANNELS, WIDTH = 1, 3


def join_channels(placed: Placed) -> Placed:
    """The same graph with the inputs of concatenations in slices of their results.

    For inference: what a training step computes for its backward pass is read in too many ways.
    """
    readers: dict[Value, list[tuple[Node, int]]] = defaultdict(list)
    for node in placed.graph.nodes():
        for place, value in enumerate(node.inputs):
            readers[value].append((node, place))
    constant = constant_nodes(placed.graph)
    layouts, homes = dict(placed.layouts), dict(placed.homes)

    def fits(value: Value) -> bool:
        return (
            layouts.get(value) == NHWC
            and value.node not in constant
            and value not in placed.graph.outputs
            and _writes_apart(value.node)
            and all(_reads_apart(*reader) for reader in readers[value])
        )

    for node in reversed(placed.graph.nodes()):
        if not _joins_channels(node, placed) or node in constant:
            continue
        whole = Value(node)
        layout, start = layouts[whole], 0
        pitch, begin = whole.shape[CHANNELS], 0
        if isinstance(layout, NhwcSlice):
            pitch, begin = layout.pitch, layout.start
        for value in node.inputs:
            if fits(value):
                layouts[value] = NhwcSlice(pitch, begin + start)
                homes[value] = homes.get(whole, whole)
            start += value.shape[CHANNELS]
    return Placed(placed.graph, layouts, placed.choices, homes)


def _joins_channels(node: Node, placed: Placed) -> bool:
    whole = Value(node)
    return (
        isinstance(node.op, Concat)
        and node.op.axis == CHANNELS
        and whole.dtype == "f32"
        and isinstance(placed.layouts.get(whole), Nhwc)
    )


def _writes_apart(node: Node) -> bool:
    """Whether the kernel of a node can write pixels that lie further apart."""
    op = node.op
    if isinstance(op, FusedConv):
        return "full" not in op.operands  # it lies in memory as the result does
    if isinstance(op, AxisMap):
        return op.axis == WIDTH
    return isinstance(op, (Conv2d, ConvInputGrad, MaxPool, Concat))


def _reads_apart(node: Node, place: int) -> bool:
    """Whether the kernel of a node can read input number `place` so."""
    if isinstance(node.op, Concat):
        return node.op.axis == CHANNELS
    conv = node.op.conv if isinstance(node.op, FusedConv) else node.op
    return place == 0 and conv == Conv2d() and node.inputs[1].shape[2:] == (1, 1)
