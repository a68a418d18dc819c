"""`striate bench`: what each step of a program takes, beside what the machine could do.

    GFLOP/s = 2 · multiply-accumulates of the direct convolution / time
    GB/s    = bytes of the buffers that a step reads and writes / time

The machine's limits are measured in the same run: fused multiply-adds on registers, and adding two
arrays much larger than the caches. A step's share is that of the limit it is nearer to. Winograd's
method needs fewer products than the direct convolution, and buffers may lie in a cache: either
share may exceed 1.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from striate import engine
from striate.engine.choice import layer_name
from striate.engine.program import SCRATCH, Program, Step, Task
from striate.graph import Graph, Trace
from striate.graph.ops.conv import Conv2d, ConvInputGrad, ConvWeightGrad
from striate.graph.ops.fused import FusedConv
from striate.kernels.move import CopyStrided
from striate.nn.module import Module
from striate.nn.tracing import trace_module
from striate.train.optim import SGD
from striate.train.step import compile_step

Array = np.ndarray[Any, Any]

# The kernels that do the multiplications of a convolution; what else belongs to its task is moving.
ALGORITHMS = {
    "Gemm": "gemm",
    "DirectConv": "direct",
    "WeightGrad": "direct",
    "Winograd": "winograd",
    "WinogradGradient": "winograd",
    "Grouped": "grouped",
    "GroupedGradient": "grouped",
}
DIRECTIONS = {
    Conv2d: "forward",
    ConvInputGrad: "input gradient",
    ConvWeightGrad: "weight gradient",
}
OTHERS = {
    "Eltwise": "elementwise",
    "Reduce": "reduction",
    "ReduceFinish": "reduction",
    "ChannelStats": "statistics",
    "StatsFinish": "statistics",
    "MaxPool": "pooling",
    "MaxPoolIndices": "pooling",
    "MaxPoolGrad": "pooling",
    "AxisMap": "resampling",
    "Transpose2d": "reordering",
    "CopyStrided": "copying",
    "PackWeights": "packing weights",
    "PackGrouped": "packing weights",
    "TransformWeights": "packing weights",
    "KernelGradient": "packing weights",
    "UnpackHwio": "packing weights",
}
FEWEST_ROUNDS, MOST_ROUNDS = 5, 500
ARRAY_BYTES = 2**26  # of each of the three arrays that memory bandwidth is measured with


class Work(NamedTuple):
    """What a step has to do: `flops` is 0 for a step that multiplies nothing of a convolution."""

    label: str
    layer: str
    kind: str
    flops: int
    bytes: int


class Limits(NamedTuple):
    """What the machine can do on `threads` threads."""

    threads: int
    gflops: float
    gbs: float


@dataclass(frozen=True)
class Speed:
    """Work and the time it took, in seconds."""

    seconds: float
    flops: int
    bytes: int
    limits: Limits

    @property
    def gflops(self) -> float:
        """Direct FLOPs a second, in units of 10⁹."""
        return self.flops / self.seconds / 1e9 if self.seconds else 0.0

    @property
    def gbs(self) -> float:
        """Bytes read and written a second, in units of 10⁹."""
        return self.bytes / self.seconds / 1e9 if self.seconds else 0.0

    @property
    def shares(self) -> dict[str, float]:
        """Of the machine's multiply-adds, and of its memory bandwidth."""
        return {
            "compute": self.gflops / self.limits.gflops,
            "memory": self.gbs / self.limits.gbs,
        }

    def to_dict(self) -> dict[str, Any]:
        """Seconds, work, speeds, and the share of the nearer limit."""
        limit = max(self.shares, key=self.shares.__getitem__)
        return {
            "seconds": self.seconds,
            "flops": self.flops,
            "bytes": self.bytes,
            "gflops": self.gflops,
            "gbs": self.gbs,
            "share": self.shares[limit],
            "limit": limit,
        }


def _total(speeds: Sequence[Speed]) -> Speed:
    """All of their work, one after the other."""
    return Speed(
        sum(speed.seconds for speed in speeds),
        sum(speed.flops for speed in speeds),
        sum(speed.bytes for speed in speeds),
        speeds[0].limits,
    )


class Profile(NamedTuple):
    """A program measured.

    Attributes:
        steps: what each had to do for all images and how fast it was, in order.
        program_seconds: of a whole run without clocks between the steps.
        call_seconds: of a call from Python, which also makes arrays for the results.
        limits: of the machine, measured just before and after.
        batch: images that go through the first steps together; fewer than `images`, if a call
            runs them in pieces. Then one piece is measured, and counts for all.
        images: of a call.
        dealt: whether a call deals out pieces to the threads, each of which runs on one.
        pieced: number of the steps that run in pieces.
    """

    steps: list[tuple[Work, Speed]]
    program_seconds: float
    call_seconds: float
    limits: Limits
    batch: int
    images: int
    dealt: bool = False
    pieced: int = 0

    @property
    def whole(self) -> Speed:
        """All work, in the time of a whole run."""
        total = _total([speed for _, speed in self.steps])
        return replace(total, seconds=self.program_seconds)

    @property
    def sum_seconds(self) -> float:
        """Of all steps; nearly `program_seconds`, or the figures of the steps are not to trust."""
        return sum(speed.seconds for _, speed in self.steps)

    def groups(self) -> list[tuple[str, int, Speed]]:
        """(kind, number of steps, speed) of each kind of step, the longest first."""
        kinds: dict[str, list[Speed]] = {}
        for work, speed in self.steps:
            kinds.setdefault(work.kind, []).append(speed)
        sums = [(kind, len(speeds), _total(speeds)) for kind, speeds in kinds.items()]
        return sorted(sums, key=lambda group: -group[2].seconds)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        whole = self.whole
        return {
            "peak_gflops": self.limits.gflops,
            "memory_gbs": self.limits.gbs,
            "threads": self.limits.threads,
            "batch": self.batch,
            "steps": [{**_named(work), **speed.to_dict()} for work, speed in self.steps],
            "groups": [
                {"kind": kind, "steps": count, **speed.to_dict()}
                for kind, count, speed in self.groups()
            ],
            "sum_seconds": self.sum_seconds,
            "program_seconds": self.program_seconds,
            "call_seconds": self.call_seconds,
            "images_per_second": self.images / self.call_seconds,
            "flops": whole.flops,
            "gflops": whole.gflops,
            "share_of_peak": whole.shares["compute"],
        }


def _named(work: Work) -> dict[str, str]:
    return {"label": work.label, "layer": work.layer, "kind": work.kind}


def profile(
    net: Module,
    shape: tuple[int, int, int],
    batch: int = 1,
    *,
    training: bool = False,
    seconds: float = 2.0,
    algorithm: str = "auto",
    max_relative_error: float | None = None,
) -> Profile:
    """Measure a net on random images, in inference or in training by SGD with momentum.

    Runs with clocks, runs without and calls from Python alternate; figures are medians.

    Args:
        net: a net of one output (n, classes). Its weights stay as they are: in training its rate
            is 0, which changes nothing in the work; but its running statistics move.
        shape: (C, H, W) of an image.
        batch: images a run.
        training: measure forward, loss, backward and update instead of inference.
        seconds: how long to measure, at least five rounds.
        algorithm: see `compile_step`.
        max_relative_error: see `compile_step`.

    Raises: ShapeError, naming the layer, if the net cannot take such images; UnsupportedError
    where the steps of a program cannot be timed.
    """
    wishes: dict[str, Any] = {"algorithm": algorithm, "max_relative_error": max_relative_error}
    call: engine.Executable | engine.Pieces
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, *shape)).astype(np.float32)
    graph = trace_module(net, [x.shape], training=False).graph
    if training:
        step = compile_step(net, optimizer=SGD(lr=0.1, momentum=0.9), **wishes)
        step.lr = 0.0
        y = rng.integers(0, graph.outputs[0].shape[1], batch)
        call, arrays = step.executable(x, y)
    else:
        arrays, call = [x], _inference(net, graph, wishes)
    parts = _parts(call, arrays, rng)
    before = limits()
    times, whole, calls = _measure(parts, call, arrays, seconds)
    found = _better(before, limits())
    works = [(w, part.images) for part in parts for w in describe(part.executable.program)]
    steps = [
        (work, Speed(float(t), int(work.flops * n), int(work.bytes * n), found))
        for (work, n), t in zip(works, times, strict=True)
    ]
    if not isinstance(call, engine.Pieces):
        return Profile(steps, whole, calls, found, batch, batch)
    pieced = len(parts[0].executable.program.steps)
    return Profile(steps, whole, calls, found, call.sizes[0], batch, bool(call.dealt), pieced)


class _Part(NamedTuple):
    """A program that a call runs: once on `arrays` does the work of one in `images` of all images.

    `share` of its time counts for all, since threads may run it beside one another.
    """

    executable: engine.Executable
    arrays: list[Array]
    images: float = 1.0
    share: float = 1.0


def _parts(
    call: engine.Executable | engine.Pieces, arrays: list[Array], rng: np.random.Generator
) -> list[_Part]:
    """The programs that a call runs, one after the other."""
    if not isinstance(call, engine.Pieces):
        return [_Part(call, arrays)]
    size = call.sizes[0]
    images = sum(call.sizes) / size
    share = images / (engine.get_num_threads() if call.dealt else 1)
    parts = [_Part(call.programs[size], [a[:size] for a in arrays], images, share)]
    if call.rest is not None:
        given = (call.rest.program.buffers[b] for b in call.rest.program.inputs)
        between: list[Array] = [rng.standard_normal(b.shape, np.float32) for b in given]
        parts.append(_Part(call.rest, between))
    return parts


def _inference(net: Module, graph: Graph, wishes: Any) -> engine.Executable | engine.Pieces:
    """What a call of the net runs."""

    def trace(images: int) -> Graph:
        shape = (images, *graph.inputs[0].shape[1:])
        return trace_module(net, [shape], training=False).graph

    return engine.build_batch(graph, trace, **wishes)


def _measure(
    parts: Sequence[_Part],
    call: engine.Executable | engine.Pieces,
    arrays: Sequence[Array],
    seconds: float,
) -> tuple[Array, float, float]:
    """Medians for all images: seconds of each step, of a whole run, and of a call."""
    watches = [(part.executable.stopwatch(*part.arrays), part.share) for part in parts]
    each: list[Array] = []
    whole: list[float] = []
    calls: list[float] = []
    call(*arrays)
    stop = time.perf_counter() + seconds
    while len(each) < FEWEST_ROUNDS or (len(each) < MOST_ROUNDS and time.perf_counter() < stop):
        each.append(np.concatenate([share * watch.each() for watch, share in watches]))
        whole.append(sum(share * watch.whole() for watch, share in watches))
        start = time.perf_counter()
        call(*arrays)
        calls.append(time.perf_counter() - start)
    return np.median(each, 0), float(np.median(whole)), float(np.median(calls))


# ---------------------------------------------------------------------------- the machine's limits


def limits() -> Limits:
    """Multiply-adds and memory bandwidth on all threads that programs use."""
    return Limits(engine.get_num_threads(), engine.measure_peak(), _bandwidth())


def _better(a: Limits, b: Limits) -> Limits:
    return Limits(a.threads, max(a.gflops, b.gflops), max(a.gbs, b.gbs))


def _bandwidth() -> float:
    """GB/s of z = x + y on arrays that no cache holds: the best of several runs."""
    shape = (ARRAY_BYTES // 4,)
    with Trace() as trace:
        graph = trace.graph(trace.input("x", shape) + trace.input("y", shape))
    x = np.ones(shape, np.float32)
    watch = engine.build(graph).stopwatch(x, x.copy())
    return 3 * ARRAY_BYTES / min(watch.whole() for _ in range(FEWEST_ROUNDS)) / 1e9


# ---------------------------------------------------------------------------- what a step has to do


def describe(program: Program) -> list[Work]:
    """The work of each step of a program, in order."""
    return [work for task in program.tasks for work in _describe_task(program, task)]


def _describe_task(program: Program, task: Task) -> list[Work]:
    flops = _flops(task)
    op = task.node.op
    direction = DIRECTIONS.get(type(op.conv if isinstance(op, FusedConv) else op), "")
    works = []
    for step, count in zip(task.steps, flops, strict=True):
        name = type(step.spec).__name__
        kind = OTHERS.get(name, name.lower())
        if direction and name in ALGORITHMS:
            kind = f"{direction}, {ALGORITHMS[name]}"
        works.append(Work(step.label, layer_name(task.node), kind, count, _bytes(program, step)))
    return works


def _flops(task: Task) -> list[int]:
    """Those of the task's convolution, dealt out to the steps that multiply.

    An input gradient may have a step for each phase of a stride: by the taps of each.
    """
    whole = 2 * task.node.op.macs(*(value.type for value in task.node.inputs))
    taps = [
        int(np.prod(getattr(step.spec, "kernel", 1)))
        if type(step.spec).__name__ in ALGORITHMS
        else 0
        for step in task.steps
    ]
    return [whole * count // max(1, sum(taps)) for count in taps]


def _bytes(program: Program, step: Step) -> int:
    """Of the buffers that a step reads and writes, each once a direction."""
    if isinstance(step.spec, CopyStrided):  # reads or writes only a part of a buffer
        return 8 * int(np.prod(step.sizes[: step.spec.dims]))
    changed = [b for b in step.writes if step.buffers.count(b) > 1]
    return 4 * sum(
        program.buffers[b].elements for b in (*step.reads, *step.writes, *changed) if b != SCRATCH
    )
