"""Large batches in pieces, so that what passes from layer to layer stays in the cache (inference).

A program walks through its layers with the whole batch. Of 16 images the activations of one layer
fill L3, and every layer reads from memory what the one before has written there; of 4 images they
do not. But each piece reads the weights anew. So with A bytes of activations alive at a time and T
in all, an image, and W bytes of weights:

    images at once = ⌊share of L3 / A⌋       if W / images < T, else the whole batch

With several threads, each takes pieces of its own (`engine.deal`) if its share of the images at
once is at least one: it reads its pieces' activations from the caches that it wrote them to. The
weights must be worth reading for so few images, and the pieces must keep all threads busy.

The bits of an image do not depend on the batch that it comes in, so they do not change. A net that
mixes the images of its batch, or whose `forward` looks at their number, is not cut: its graph for
a piece must be the graph for the whole batch with another first size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from striate.arith.machine import Machine
from striate.engine.deal import Dealt
from striate.engine.lower.context import GOOD_BALANCE
from striate.engine.program import Buffer, Program
from striate.engine.run import DTYPES, Array, Executable
from striate.errors import ShapeError
from striate.graph.ops.axismap import AxisMap
from striate.graph.ops.conv import Conv2d, ConvInputGrad
from striate.graph.ops.eltwise import Map
from striate.graph.ops.leaf import Input
from striate.graph.ops.pixels import NormalisePixels
from striate.graph.ops.pool import MaxPool
from striate.graph.ops.reduce import Reduce
from striate.graph.ops.shape import Broadcast, Concat, Flip, Reshape, Slice
from striate.graph.ops.transpose import ShuffleChannels, Transpose
from striate.graph.value import Graph, Node, TensorType, Value

Trace = Callable[[int], Graph]
# Of L3: other programs and the weights want some of it.
SHARE_OF_L3 = 5 / 8


class Cut(NamedTuple):
    """Images of each piece (one piece: the whole batch), and whether threads take pieces."""

    sizes: tuple[int, ...]
    dealt: bool = False


def cut_of(graph: Graph, program: Program, machine: Machine, threads: int) -> Cut:
    """How a graph's batch should be cut."""
    shapes = [v.shape for v in (*graph.inputs, *graph.outputs)]
    count = shapes[0][0] if graph.inputs and shapes[0] else 0
    if count < 2 or any(s[:1] != (count,) for s in shapes) or not _separate(graph, count):
        return Cut((count,))
    buffers = program.buffers.values()
    alive = program.arena_bytes // count
    written = sum(4 * b.elements for b in buffers if b.kind == "arena" and b.home is None) // count
    weights = sum(4 * program.buffers[number].elements for number in program.kept)
    fitting = max(1, int(SHARE_OF_L3 * machine.l3_bytes) // max(1, alive))
    if fitting >= count:
        return Cut((count,))
    # Rounded: threads that go their own ways are seldom at their largest layers together.
    own = (2 * fitting + threads) // (2 * threads)
    for images in range(own if threads > 1 else 0, 0, -1):
        sizes = sizes_of(count, images, threads)
        if weights / images < written and dealt_well(sizes, threads) >= GOOD_BALANCE:
            return Cut(sizes, dealt=True)
    return Cut(sizes_of(count, fitting) if weights / fitting < written else (count,))


def sizes_of(count: int, most: int, threads: int = 1) -> tuple[int, ...]:
    """Images of each piece: as few pieces as possible, nearly alike, the larger ones first.

    Where there are enough images, so many pieces that every one of `threads` takes as many.
    """
    pieces = -(-count // most)
    pieces = min(count, -(-pieces // threads) * threads)
    size, more = divmod(count, pieces)
    return (*[size + 1] * more, *[size] * (pieces - more))


def dealt_well(sizes: Sequence[int], threads: int) -> float:
    """Share of the threads' time that is used when pieces are dealt out, one size after another."""
    rounds = sum(size * -(-sizes.count(size) // threads) for size in set(sizes))
    return sum(sizes) / (threads * rounds)


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

    def __init__(self, cut: Cut, programs: dict[int, Executable]) -> None:
        self.sizes, self.programs = cut.sizes, programs
        self.dealt = {s: Dealt(p) for s, p in programs.items()} if cut.dealt else {}

    def __call__(self, *arrays: Array) -> tuple[Array, ...]:
        """The results for all images, in new arrays of the caller's own."""
        first = self.programs[self.sizes[0]].program
        arrays = tuple(
            self._input(i, first.buffers[number], array)
            for i, (number, array) in enumerate(zip(first.inputs, arrays, strict=True))
        )
        results = [
            np.empty((sum(self.sizes), *b.shape[1:]), DTYPES[b.dtype])
            for b in (first.buffers[i] for i in first.outputs)
        ]
        start = 0
        for size, pieces in self._runs():
            part = slice(start, start + size * pieces)
            given, taken = [a[part] for a in arrays], [r[part] for r in results]
            if self.dealt:
                self.dealt[size].run_into(given, taken, pieces)
            else:
                self.programs[size].run_into(given, taken)
            start += size * pieces
        return tuple(results)

    def _input(self, index: int, buffer: Buffer, array: Array) -> Array:
        """The whole batch as its pieces are read."""
        shape = (sum(self.sizes), *buffer.shape[1:])
        if np.shape(array) != shape:
            raise ShapeError(f"input {index} has shape {np.shape(array)}, expected {shape}")
        return np.ascontiguousarray(array, DTYPES[buffer.dtype])

    def _runs(self) -> list[tuple[int, int]]:
        """(images of a piece, pieces of one run)."""
        if self.dealt:
            return [(size, self.sizes.count(size)) for size in dict.fromkeys(self.sizes)]
        return [(size, 1) for size in self.sizes]


def cut(
    graph: Graph, program: Program, machine: Machine, threads: int, trace: Trace
) -> tuple[Cut, dict[int, Graph]]:
    """How the batch is cut, and the graph for each size of a piece.

    `trace(n)` gives the graph for n images.
    """
    count = graph.inputs[0].shape[0] if graph.inputs and graph.inputs[0].shape else 0
    chosen = cut_of(graph, program, machine, threads)
    if len(chosen.sizes) > 1:
        graphs = {size: trace(size) for size in sorted(set(chosen.sizes))}
        if all(like(piece, graph, size, count) for size, piece in graphs.items()):
            return chosen, graphs
    return Cut((count,)), {count: graph}


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
    if isinstance(op, (Reshape, AxisMap, MaxPool, ShuffleChannels, NormalisePixels)):
        return True
    return isinstance(op, Broadcast) and same_rank
