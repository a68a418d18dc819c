"""Large batches in pieces, so that what passes from layer to layer stays in the cache (inference).

A program walks through its layers with the whole batch. Of 16 images the activations of one layer
fill L3, and every layer reads from memory what the one before has written there; of 4 images they
do not. But each piece reads the weights anew. So with A bytes of activations alive at a time, an
image, pieces have

    images at once = ⌊share of L3 / A⌋

and go through the first layers only, up to the boundary of two tasks where

    images · (bytes of activations written before it) − pieces · (bytes of weights read before it)

is largest: early layers have large maps and small weights, late ones the reverse. The whole batch
takes the rest of the way (`engine.stages`). Weights that the rest of L3 holds beside the
activations cost nothing.

With several threads, each takes pieces of its own (`engine.deal`) if its share of the images at
once is at least one: it reads its pieces' activations from the caches that it wrote them to. The
pieces must keep all threads busy.

The bits of an image do not depend on the batch that it comes in, so they do not change. A net that
mixes the images of its batch, or whose `forward` looks at their number, is not cut: its graph for
a piece must be the graph for the whole batch with another first size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from striate.arith.machine import Machine
from striate.engine import arena
from striate.engine.deal import Dealt
from striate.engine.lower.context import GOOD_BALANCE
from striate.engine.program import Buffer, Program
from striate.engine.run import DTYPES, Array, Executable
from striate.engine.stages import begin_alike, boundaries, first_half, second_half
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
    """Images of each piece (one piece: the whole batch), and whether threads take pieces.

    The first `tasks` tasks go piece by piece; None: all. `crossing` are the buffers that the
    others read of them.
    """

    sizes: tuple[int, ...]
    dealt: bool = False
    tasks: int | None = None
    crossing: tuple[int, ...] = ()


def cut_of(graph: Graph, program: Program, machine: Machine, threads: int) -> Cut:
    """How a graph's batch should be cut."""
    shapes = [v.shape for v in (*graph.inputs, *graph.outputs)]
    count = shapes[0][0] if graph.inputs and shapes[0] else 0
    if count < 2 or any(s[:1] != (count,) for s in shapes) or not _separate(graph, count):
        return Cut((count,))
    fitting = max(1, int(SHARE_OF_L3 * machine.l3_bytes) // max(1, program.arena_bytes // count))
    if fitting >= count:
        return Cut((count,))
    ends = _Ends(program, machine, count)
    # Rounded: threads that go their own ways are seldom at their largest layers together.
    own = (2 * fitting + threads) // (2 * threads)
    for images in range(own if threads > 1 else 0, 0, -1):
        sizes = sizes_of(count, images, threads)
        if dealt_well(sizes, threads) >= GOOD_BALANCE and (end := ends.best(len(sizes))):
            return Cut(sizes, True, *end)
    sizes = sizes_of(count, fitting)
    end = ends.best(len(sizes))
    return Cut(sizes, False, *end) if end else Cut((count,))


class _Ends:
    """How far pieces of a batch may go: boundaries, with the bytes before each, of the batch."""

    def __init__(self, program: Program, machine: Machine, count: int) -> None:
        # Tasks and what crosses after them; None: all tasks, nothing crosses.
        self.ends: list[tuple[int | None, tuple[int, ...]]] = []
        self.written: list[int] = []
        self.weights: list[int] = []
        self.at_hand = int((1 - SHARE_OF_L3) * machine.l3_bytes)
        cuts = boundaries(program, count)
        written, read = 0, set[int]()
        for number, task in enumerate(program.tasks, start=1):
            written += sum(program.buffers[b].nbytes for s in task.steps for b in s.writes)
            read.update(b for s in task.steps for b in s.reads if b in program.kept)
            last = number == len(program.tasks)
            if last or number in cuts:
                self.ends.append((None, ()) if last else (number, cuts[number]))
                self.written.append(written)
                self.weights.append(sum(program.buffers[b].nbytes for b in read))

    def best(self, pieces: int) -> tuple[int | None, tuple[int, ...]] | None:
        """The end that saves most if there are so many pieces; None if none saves anything."""
        saved = [
            written - (pieces * weights if weights > self.at_hand else 0)
            for written, weights in zip(self.written, self.weights, strict=True)
        ]
        most = max(saved, default=0)
        return self.ends[saved.index(most)] if most > 0 else None


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

    def __init__(
        self, cut: Cut, programs: dict[int, Executable], rest: Executable | None = None
    ) -> None:
        """`rest` takes the whole batch through what the pieces' programs leave to do."""
        self.sizes, self.programs, self.rest = cut.sizes, programs, rest
        self.dealt = {s: Dealt(p) for s, p in programs.items()} if cut.dealt else {}

    def __call__(self, *arrays: Array) -> tuple[Array, ...]:
        """The results for all images, in new arrays of the caller's own."""
        first = self.programs[self.sizes[0]].program
        arrays = tuple(
            self._input(i, first.buffers[number], array)
            for i, (number, array) in enumerate(zip(first.inputs, arrays, strict=True))
        )
        last = first if self.rest is None else self.rest.program
        results: list[Array] = [
            np.empty((sum(self.sizes), *b.shape[1:]), DTYPES[b.dtype])
            for b in (last.buffers[i] for i in last.outputs)
        ]
        if self.rest is None:
            self._walk(arrays, results)
            return tuple(results)
        between = [last.buffers[i] for i in last.inputs]
        starts = np.cumsum(
            [0, *(-(-b.nbytes // arena.ALIGNMENT) * arena.ALIGNMENT for b in between)]
        )
        block = arena.take(int(starts[-1]))
        try:
            crossing = [
                block.array(int(start), b.elements, np.float32).reshape(b.shape)
                for start, b in zip(starts, between, strict=False)
            ]
            self._walk(arrays, crossing)
            self.rest.run_into(crossing, results)
        finally:
            arena.give_back(block)
        return tuple(results)

    def _walk(self, arrays: Sequence[Array], results: Sequence[Array]) -> None:
        """All pieces, one after the other."""
        start = 0
        for size, pieces in self._runs():
            part = slice(start, start + size * pieces)
            given, taken = [a[part] for a in arrays], [r[part] for r in results]
            if self.dealt:
                self.dealt[size].run_into(given, taken, pieces)
            else:
                self.programs[size].run_into(given, taken)
            start += size * pieces

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


class Planned(NamedTuple):
    """How a batch is cut: programs by size of a piece, and what all images go through then."""

    cut: Cut
    programs: dict[int, Program]
    rest: Program | None = None


def planned(
    graph: Graph,
    program: Program,
    machine: Machine,
    threads: int,
    trace: Trace,
    plan: Callable[[Graph, int], Program],
) -> Planned:
    """How the batch is cut, and the programs for it.

    `trace(n)` gives the graph for n images, `plan(graph, threads)` a program.
    """
    count = graph.inputs[0].shape[0] if graph.inputs and graph.inputs[0].shape else 0
    whole = Planned(Cut((count,)), {count: program})
    cut = cut_of(graph, program, machine, threads)
    if len(cut.sizes) == 1:
        return whole
    graphs = {size: trace(size) for size in sorted(set(cut.sizes))}
    if not all(like(piece, graph, size, count) for size, piece in graphs.items()):
        return whole
    programs = {size: plan(g, 1 if cut.dealt else threads) for size, g in graphs.items()}
    if cut.tasks is None:
        return Planned(cut, programs)
    if not all(begin_alike(p, program, cut.tasks) for p in programs.values()):
        return whole
    end = cut.tasks, cut.crossing
    first = {size: first_half(p, *end) for size, p in programs.items()}
    return Planned(cut, first, second_half(program, *end))


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
