"""Large batches in pieces, so that what passes from layer to layer stays in the cache (inference).

A program walks through its layers with the whole batch. Of 16 images the activations of one layer
fill L3, and every layer reads from memory what the one before has written there; of 4 images they
do not. But each piece reads the weights anew. So with A bytes of activations alive at a time and T
in all, an image, and W bytes of weights:

    images at once = ⌊share of L3 / A⌋       if W / images < T, else the whole batch

The bits of an image do not depend on the batch that it comes in, so they do not change. A net that
mixes the images of its batch, or whose `forward` looks at their number, is not cut: its graph for
a piece must be the graph for the whole batch with another first size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from striate.arith.machine import Machine
from striate.engine.program import Program
from striate.engine.run import DTYPES, Array, Executable
from striate.graph.ops.axismap import AxisMap
from striate.graph.ops.conv import Conv2d, ConvInputGrad
from striate.graph.ops.eltwise import Map
from striate.graph.ops.leaf import Input
from striate.graph.ops.pool import MaxPool
from striate.graph.ops.reduce import Reduce
from striate.graph.ops.shape import Broadcast, Concat, Flip, Reshape, Slice
from striate.graph.ops.transpose import ShuffleChannels, Transpose
from striate.graph.value import Graph, Node, TensorType, Value

Trace = Callable[[int], Graph]
# Of L3: other programs and the weights want some of it.
SHARE_OF_L3 = 3 / 4


def images_at_once(graph: Graph, program: Program, machine: Machine) -> int:
    """How many images of its batch a graph's program should take at a time; 0: all of them."""
    shapes = [v.shape for v in (*graph.inputs, *graph.outputs)]
    count = shapes[0][0] if graph.inputs and shapes[0] else 0
    if count < 2 or any(s[:1] != (count,) for s in shapes) or not _separate(graph, count):
        return 0
    buffers = program.buffers.values()
    alive = program.arena_bytes // count
    written = sum(4 * b.elements for b in buffers if b.kind == "arena" and b.home is None) // count
    weights = sum(4 * program.buffers[number].elements for number in program.kept)
    fitting = max(1, int(SHARE_OF_L3 * machine.l3_bytes) // max(1, alive))
    return fitting if fitting < count and weights / fitting < written else 0


def sizes_of(count: int, most: int) -> list[int]:
    """Images of each piece: as few pieces as possible, nearly alike, the larger ones first."""
    pieces = -(-count // most)
    size, more = divmod(count, pieces)
    return [size + 1] * more + [size] * (pieces - more)


def like(piece: Graph, whole: Graph, images: int, count: int) -> bool:
    """Whether one graph is the other with `images` instead of `count` as first size."""

    def scaled(kind: TensorType, batched: bool) -> TensorType:
        return TensorType((images, *kind.shape[1:]), kind.dtype) if batched else kind

    batched = _batched(whole, count)
    nodes = piece.nodes(), whole.nodes()
    if len(nodes[0]) != len(nodes[1]):
        return False
    for mine, other in zip(*nodes, strict=True):
        types = tuple(scaled(v.type, v in batched) for v in other.outputs())
        same = mine.op == other.op or isinstance(mine.op, (Input, Reshape, Broadcast))
        if type(mine.op) is not type(other.op) or not same or mine.types != types:
            return False
    return True


class Pieces:
    """A batch of one size, run piece by piece; called as an `Executable` is."""

    def __init__(self, sizes: Sequence[int], programs: dict[int, Executable]) -> None:
        self.sizes, self.programs = tuple(sizes), programs

    def __call__(self, *arrays: Array) -> tuple[Array, ...]:
        """The results for all images, in new arrays of the caller's own."""
        first = self.programs[self.sizes[0]].program
        results = [
            np.empty((sum(self.sizes), *b.shape[1:]), DTYPES[b.dtype])
            for b in (first.buffers[i] for i in first.outputs)
        ]
        start = 0
        for size in self.sizes:
            part = slice(start, start + size)
            self.programs[size].run_into([a[part] for a in arrays], [r[part] for r in results])
            start += size
        return tuple(results)


def cut(
    graph: Graph, program: Program, machine: Machine, trace: Trace
) -> tuple[list[int], dict[int, Graph]]:
    """Images of each piece of the batch, and the graph for each size; one piece: the whole batch.

    `trace(n)` gives the graph for n images.
    """
    count = graph.inputs[0].shape[0] if graph.inputs and graph.inputs[0].shape else 0
    most = images_at_once(graph, program, machine)
    if most:
        sizes = sizes_of(count, most)
        graphs = {size: trace(size) for size in sorted(set(sizes))}
        if all(like(piece, graph, size, count) for size, piece in graphs.items()):
            return sizes, graphs
    return [count], {count: graph}


# ---------------------------------------------------------------------------- who mixes images


def _batched(graph: Graph, count: int) -> set[Value]:
    """Values that hold something for each image, along their first axis."""
    found: set[Value] = set()
    for node in graph.nodes():
        if isinstance(node.op, Input) or any(v in found for v in node.inputs):
            found.update(v for v in node.outputs() if v.shape[:1] == (count,))
    return found


def _separate(graph: Graph, count: int) -> bool:
    """Whether every value of an image follows from that image and from parameters."""
    batched = _batched(graph, count)
    return all(
        _keeps_apart(node, batched)
        for node in graph.nodes()
        if any(v in batched for v in node.inputs)
    )


def _keeps_apart(node: Node, batched: set[Value]) -> bool:
    op, others = node.op, [v for v in node.inputs if v not in batched]
    if any(v not in batched for v in node.outputs()):
        return False
    ndim = len(node.types[0].shape)
    same_rank = all(v.ndim == ndim for v in node.inputs if v in batched)
    if isinstance(op, Map):
        return same_rank and all(v.ndim < ndim or v.shape[0] == 1 for v in others)
    if isinstance(op, (Conv2d, ConvInputGrad)):
        return node.inputs[0] in batched and node.inputs[1] not in batched
    if isinstance(op, Reduce):
        return 0 not in op.axes
    if isinstance(op, (Concat, Slice)):
        return op.axis != 0 and not others
    if isinstance(op, Flip):
        return 0 not in op.axes
    if isinstance(op, Transpose):
        return op.axes[0] == 0
    return isinstance(op, (Reshape, AxisMap, MaxPool, ShuffleChannels)) or (
        isinstance(op, Broadcast) and same_rank
    )
