"""Memory order of every value: plain outside, NHWC inside, weights packed for their kernel.

The pass inserts `Reorder` nodes where a value is wanted in another order than it has, once for
each value and order. A reorder that moves nothing (one channel, or a 1×1 image) stays in the
graph as a name for the same memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from striate.arith.conv import ConvShape
from striate.arith.cook_toom import Filtering
from striate.arith.layout import (
    NHWC,
    PLAIN,
    GroupedWeights,
    Layout,
    Nhwc,
    PackedWeights,
    Plain,
    WinogradWeights,
)
from striate.arith.machine import Machine
from striate.arith.winograd import LEAST_CHANNELS, MOST_TAPS
from striate.graph.ops.axismap import AxisMap
from striate.graph.ops.conv import Conv2d, ConvInputGrad, ConvWeightGrad
from striate.graph.ops.eltwise import Fused, Map
from striate.graph.ops.fused import FusedConv, FusedPool, FusedReduce
from striate.graph.ops.norm import ChannelStats
from striate.graph.ops.pixels import NormalisePixels
from striate.graph.ops.pool import MaxPool, MaxPoolGrad, MaxPoolIndices
from striate.graph.ops.random import RandomUniform
from striate.graph.ops.reduce import Reduce
from striate.graph.ops.shape import Concat, Flip, Slice
from striate.graph.ops.transpose import ShuffleChannels, Transpose
from striate.graph.value import Array, Graph, Node, Op, TensorType, Value

if TYPE_CHECKING:
    from striate.engine.choice import Choice

ConvOp = Conv2d | ConvInputGrad | ConvWeightGrad
IMAGE_OPS = (MaxPool, MaxPoolGrad, MaxPoolIndices, FusedPool, ChannelStats)
FLEXIBLE_OPS = (Map, Fused, FusedReduce, Reduce, Concat, Slice, Flip, AxisMap, ShuffleChannels)
CHANNELS_LAST, CHANNELS_FIRST = Transpose((0, 2, 3, 1)), Transpose((0, 3, 1, 2))


@dataclass(frozen=True)
class Reorder(Op):
    """The same value in another memory order."""

    layout: Layout

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        """The type does not change."""
        return inputs

    def numpy(self, *arrays: Array) -> tuple[Array, ...]:
        """Logically nothing happens."""
        return arrays


@dataclass(frozen=True)
class Placed:
    """A graph, the memory order of each of its values, the way of each of its convolutions.

    `homes` tells for each value in a slice the value whose buffer it is a slice of.
    """

    graph: Graph
    layouts: dict[Value, Layout]
    choices: dict[Node, Choice] = field(default_factory=dict)
    homes: dict[Value, Value] = field(default_factory=dict)


def same_memory(shape: tuple[int, ...], a: Layout, b: Layout) -> bool:
    """Whether a value of this shape lies in memory alike in both orders."""
    if a == b:
        return True
    if not isinstance(a, (Plain, Nhwc)) or not isinstance(b, (Plain, Nhwc)):
        return False
    return len(shape) != 4 or shape[1] == 1 or shape[2] * shape[3] == 1


def conv_of(node: Node) -> ConvOp | None:
    """The convolution of a node, with or without an epilogue."""
    op = node.op.conv if isinstance(node.op, FusedConv) else node.op
    return op if isinstance(op, (Conv2d, ConvInputGrad, ConvWeightGrad)) else None


def conv_shape(op: ConvOp, node: Node) -> ConvShape:
    """The forward convolution that a convolution node belongs to."""
    if isinstance(op, Conv2d):
        (n, ci, h, w), (co, _, kh, kw) = node.inputs[0].shape, node.inputs[1].shape
    elif isinstance(op, ConvInputGrad):
        (co, _, kh, kw) = node.inputs[1].shape
        n, ci, h, w = node.types[0].shape
    else:
        (n, ci, h, w), co = node.inputs[0].shape, node.inputs[1].shape[1]
        kh, kw = op.kh, op.kw
    return ConvShape(n, ci, h, w, co, kh, kw, op.stride, op.padding, op.dilation, op.groups)


def weight_layout(op: Conv2d | ConvInputGrad, shape: ConvShape, machine: Machine) -> PackedWeights:
    """How the kernel of this convolution reads its weights."""
    co, ci = shape.co // shape.groups, shape.ci // shape.groups
    if isinstance(op, Conv2d):
        taps = tuple((a, b) for a in range(shape.kh) for b in range(shape.kw))
        return PackedWeights(machine.block(co), shape.groups, (taps,), False)
    phases = tuple(phase.taps for phase in shape.phases())
    return PackedWeights(machine.block(ci), shape.groups, phases, True)


def allows_winograd(op: ConvOp, shape: ConvShape) -> bool:
    """Whether Winograd's method can compute this convolution, or this gradient of it.

    Strides are for the forward pass, and the weight gradient is for 3×3 kernels without dilation.
    """
    kernel, stride = shape.kh, shape.stride[0]
    return (
        (kernel, kernel, stride, stride) == (shape.kh, shape.kw, *shape.stride)
        and 2 <= -(-kernel // stride) <= MOST_TAPS
        and (stride == 1 or isinstance(op, Conv2d))
        and (kernel == 3 or not isinstance(op, ConvWeightGrad))
        and shape.dilation[0] == shape.dilation[1]
        and (shape.dilation[0] == 1 or (stride == 1 and not isinstance(op, ConvWeightGrad)))
        and shape.groups == 1
        and min(stride**2 * shape.ci, shape.co) >= LEAST_CHANNELS
    )


class _Placing:
    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.layouts: dict[Value, Layout] = {}
        self.moved: dict[tuple[Value, Layout], Value] = {}

    def has(self, value: Value) -> Layout:
        return self.layouts.get(value, PLAIN)

    def want(self, value: Value, layout: Layout) -> Value:
        """The value in this memory order."""
        if self.has(value) == layout:
            return value
        if isinstance(layout, (PackedWeights, WinogradWeights, GroupedWeights)):
            value = self.want(value, PLAIN)
        key = (value, layout)
        if key not in self.moved:
            node = Node(Reorder(layout), (value,), (value.type,), value.node.scope)
            (moved,) = node.outputs()
            self.layouts[moved] = layout
            self.moved[key] = moved
        return self.moved[key]

    def inputs_of(
        self, node: Node, inputs: tuple[Value, ...], choice: Choice | None
    ) -> tuple[tuple[Value, ...], Layout]:
        """The inputs in the order that the node's kernel reads, and the order of its outputs."""
        op, conv = node.op, conv_of(node)
        if isinstance(conv, (Conv2d, ConvInputGrad)):
            assert choice is not None
            weights = self._weights(conv, node, choice)
            first = (self.want(inputs[0], NHWC), self.want(inputs[1], weights))
            return (*first, *(self._image(v) for v in inputs[2:])), NHWC
        if isinstance(conv, ConvWeightGrad):
            return tuple(self.want(v, NHWC) for v in inputs), PLAIN
        if isinstance(op, IMAGE_OPS):
            return tuple(self._image(v) for v in inputs), NHWC
        if op == CHANNELS_LAST:  # images in their order inside: nothing moves
            return (self.want(inputs[0], NHWC),), PLAIN
        if op == CHANNELS_FIRST:
            return (self.want(inputs[0], PLAIN),), NHWC
        if isinstance(op, NormalisePixels):
            return inputs, NHWC
        if isinstance(op, RandomUniform):
            return inputs, NHWC if len(node.types[0].shape) == 4 else PLAIN
        if isinstance(op, FLEXIBLE_OPS) and self._inside(node, inputs):
            return tuple(self._image(v) for v in inputs), NHWC
        return tuple(self.want(v, PLAIN) for v in inputs), PLAIN

    def _weights(self, op: Conv2d | ConvInputGrad, node: Node, choice: Choice) -> Layout:
        """The order in which the chosen kernel reads the weights."""
        shape = conv_shape(op, node)
        packed = weight_layout(op, shape, self.machine)
        if shape.has_small_groups(self.machine.lanes, turned=packed.swap):
            return GroupedWeights(self.machine.lanes, shape.groups, packed.phases, packed.swap)
        if not choice.way.tile or choice.inside:
            return packed
        filtering = Filtering(choice.way.tile, shape.kh, shape.stride[0], shape.dilation[0])
        return WinogradWeights(packed, filtering)

    def _image(self, value: Value) -> Value:
        return self.want(value, NHWC) if len(value.shape) == 4 else value

    def _inside(self, node: Node, inputs: tuple[Value, ...]) -> bool:
        """Whether a node that can work in any order works in NHWC: as soon as one input has it.

        Pictures of bytes do not count: the net must add up as it does when it is given images.
        """
        if isinstance(node.op, AxisMap):
            return len(node.types[0].shape) == 4
        return any(
            isinstance(self.has(v), Nhwc) and not isinstance(v.node.op, NormalisePixels)
            for v in inputs
        )


def place(graph: Graph, machine: Machine, choose: Callable[[Node], Choice]) -> Placed:
    """Choose the ways of convolutions and memory orders, and insert the reorders."""
    placing = _Placing(machine)
    choices: dict[Node, Choice] = {}
    made: dict[Value, Value] = {}
    for node in graph.nodes():
        choice = None if conv_of(node) is None else choose(node)
        inputs, layout = placing.inputs_of(node, tuple(made[v] for v in node.inputs), choice)
        new = Node(node.op, inputs, node.types, node.scope) if node.inputs else node
        if choice is not None:
            choices[new] = choice
        for old, value in zip(node.outputs(), new.outputs(), strict=True):
            made[old] = value
            placing.layouts[value] = layout if len(value.shape) == 4 else PLAIN
    result = Graph(
        tuple(made[v] for v in graph.inputs),
        tuple(placing.want(made[v], PLAIN) for v in graph.outputs),
        tuple((p, placing.want(made[v], PLAIN)) for p, v in graph.assigns),
        graph.host_updates,
    )
    return Placed(result, placing.layouts, choices)
