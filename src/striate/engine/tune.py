"""Timing two ways of a convolution whose costs are close, once, and remembering the better.

What is timed is the layer's own kernel, epilogue included, on one thread and for one image (in
training, where it must be asked for: for the batch), on random numbers. In a net whose weights
exceed a share of L3 ("cold"), they have left the caches before they are read again; so they have
here. The verdict holds for all layers of the same direction, channels and number of tiles, to the
next power of two: so neither batch nor threads can change it, and a net that sees 200 sizes
measures a handful of them.

A verdict is a small JSON file beside the kernels, whose name is a digest of all that it depends on,
the machine and the generators among it. The process that writes it first is right for all, and a
damaged file is written anew. Where nothing can be kept (STRIATE_CACHE=off), nothing is measured:
results would change from one process to the next. Deleting the cache may therefore change the last
bits of a result, as another machine may.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import tempfile
import threading
import time
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from striate.arith.conv import ConvShape
from striate.arith.machine import Machine
from striate.arith.winograd import NAMES, Candidate
from striate.engine.choice import Timer, Verdict, leaves_caches
from striate.engine.layout import conv_of
from striate.engine.options import Options
from striate.engine.plan import plan
from striate.engine.run import Executable
from striate.errors import ArgumentError, UnsupportedError
from striate.graph import Graph, Param, Trace
from striate.graph.ops.conv import Conv2d
from striate.graph.ops.fused import FusedConv
from striate.graph.value import Node
from striate.jit import cache

# Weights that pass through the caches between two runs of a layer: more than any L3 holds.
ELSEWHERE_BYTES = 2**26
# Of one program. Compiling a kernel that loses is not counted: it is kept for the next time.
BUDGET_SECONDS = 0.5
ROUNDS = 7
# The way that the cost model prefers is left only for one that is faster by more than noise.
LEAST_GAIN = 1.05

_TILES = {name: tile for tile, name in NAMES.items() if tile is not None}
_known: dict[Path, Verdict] = {}
_lock = threading.RLock()


def timer(graph: Graph, machine: Machine, options: Options, *, training: bool) -> Timer | None:
    """What times ways for the program of a graph; None where the cost model decides alone.

    Raises ArgumentError for a STRIATE_TUNE that is neither "on" nor "off".
    """
    switch = os.environ.get("STRIATE_TUNE", "").strip().lower() or "on"
    if switch not in {"on", "off"}:
        raise ArgumentError(f"STRIATE_TUNE={switch!r} must be 'on' or 'off'; or unset it")
    wanted = not training if options.tune is None else options.tune
    folder = cache.folder()
    if switch == "off" or not wanted or folder is None:
        return None
    return _Tuner(machine, folder, training, cold=leaves_caches(graph, machine))


class _Tuner:
    def __init__(self, machine: Machine, folder: Path, training: bool, cold: bool) -> None:
        self.machine, self.folder = machine, folder
        self.training, self.cold = training, cold
        self.left = BUDGET_SECONDS

    def __call__(
        self, node: Node, shape: ConvShape, first: Candidate, second: Candidate
    ) -> Verdict:
        """The remembered verdict, or a new one."""
        images = shape.n if self.training else 1
        what = _what(node, shape, images, first, second, self.cold)
        path = self.folder / f"{cache.key(what, self.machine)}.json"
        with _lock:
            if path not in _known:
                found = read(path)
                if found is None:
                    found = keep(path, what, self._measure(node, images, first, second))
                _known[path] = found
            return _known[path]

    @cached_property
    def _elsewhere(self) -> np.ndarray[Any, Any]:
        """What is read before each measurement, so that weights are as far away as in a net."""
        return np.ones(ELSEWHERE_BYTES // 4 if self.cold else 1, np.float32)

    def _measure(self, node: Node, images: int, first: Candidate, second: Candidate) -> Verdict:
        if self.left <= 0:
            return Verdict(first.tile, {})
        try:
            runs = [_Run(node, images, way, self.machine) for way in (first, second)]
        except UnsupportedError:  # no clock on this system
            return Verdict(first.tile, {})
        seconds = [math.inf, math.inf]
        for _ in range(ROUNDS):
            began = time.perf_counter()
            for i, run in enumerate(runs):
                self._elsewhere.max()
                seconds[i] = min(seconds[i], run())
            self.left -= time.perf_counter() - began
            if self.left <= 0:
                break
        tile = second.tile if seconds[0] > LEAST_GAIN * seconds[1] else first.tile
        return Verdict(tile, {first.tile: seconds[0], second.tile: seconds[1]})


def _what(
    node: Node, shape: ConvShape, images: int, first: Candidate, second: Candidate, cold: bool
) -> str:
    """All that a verdict depends on, beside the machine."""
    op = conv_of(node)
    forward = isinstance(op, Conv2d)
    rows, cols = (shape.out_h, shape.out_w) if forward else (shape.h, shape.w)
    tiles = images * -(-rows // 4) * -(-cols // 4)
    rivals = " or ".join(sorted((first.name, second.name)))
    size = f"2^{max(0, tiles - 1).bit_length()} tiles"
    state = "cold" if cold else "warm"
    kernel = f"{shape.kh}×{shape.kw}/{shape.stride[0]}"
    if shape.dilation[0] > 1:
        kernel += f" dilation {shape.dilation[0]}"
    return f"{type(op).__name__} {kernel} {shape.ci}→{shape.co}, {size}, {state}: {rivals}"


class _Run:
    """A call runs the convolution of a node, computed in one way, and gives its seconds."""

    def __init__(self, node: Node, images: int, way: Candidate, machine: Machine) -> None:
        rng = np.random.default_rng(0)
        graph = _twin(node, images, rng)
        program = plan(graph, machine, 1, options=Options(way.name))
        arrays = [rng.standard_normal(v.shape, np.float32) for v in graph.inputs]
        self.watch = Executable(program, alone=True).stopwatch(*arrays)
        tasks = [task for task in program.tasks for _ in task.steps]
        self.steps = [i for i, task in enumerate(tasks) if conv_of(task.node) is not None]
        self.watch.each()

    def __call__(self) -> float:
        return float(self.watch.each()[self.steps].sum())


def _twin(node: Node, images: int, rng: np.random.Generator) -> Graph:
    """The node alone, for so many images; its weights are a parameter, packed once."""
    kinds = node.op.operands if isinstance(node.op, FusedConv) else ()
    per_image = ["full", "weights", *kinds]
    with Trace() as trace:
        inputs = []
        for number, (value, kind) in enumerate(zip(node.inputs, per_image, strict=True)):
            if kind == "weights":
                weights = Param("weights", rng.standard_normal(value.shape, np.float32))
                inputs.append(weights.as_value())
                continue
            shape = (images, *value.shape[1:]) if kind == "full" else value.shape
            inputs.append(trace.input(f"x{number}", shape))
        types = node.op.infer(*(v.type for v in inputs))
        return trace.graph(*Node(node.op, tuple(inputs), types, "").outputs())


# ------------------------------------------------------------------ on disk


def read(path: Path) -> Verdict | None:
    """The verdict in a file; None if it is missing or damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        seconds = {_TILES[name]: float(value) for name, value in found["seconds"].items()}
        tile = _TILES[found["better"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    sound = not seconds or (len(seconds) == 2 and tile in seconds)
    return Verdict(tile, seconds) if sound else None


def keep(path: Path, what: str, verdict: Verdict) -> Verdict:
    """Write a verdict unless another process was first; returns the one that counts.

    To the nanosecond, so that it reads the same from the file.
    """
    verdict = Verdict(verdict.tile, {t: round(value, 9) for t, value in verdict.seconds.items()})
    seconds = {NAMES[tile]: value for tile, value in verdict.seconds.items()}
    content = {"what": what, "better": NAMES[verdict.tile], "seconds": seconds}
    temporary = None
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=".tmp", dir=path.parent)
        temporary = Path(name)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(content, file)
        try:
            path.hardlink_to(temporary)
        except OSError:  # it is there, or this file system has no links
            found = read(path)
            if found is not None:
                return found
            temporary.replace(path)
    except OSError as error:
        cache.warn_unwritable(path.parent, error)
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()
    return verdict
