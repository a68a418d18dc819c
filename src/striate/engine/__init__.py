"""Turns a graph into something that runs: the only place that chooses.

`build` is what everything above uses. Programs are planned for the machine and thread count of
this process; their results do not depend on either thread count or batch.
"""

from __future__ import annotations

from striate.engine.memory import Footprint, footprint_of
from striate.engine.peak import measure_peak
from striate.engine.plan import passes, plan
from striate.engine.run import Executable
from striate.graph import Graph
from striate.jit.load import CacheInfo, cache_info
from striate.jit.pool import get_num_threads, set_num_threads
from striate.jit.target import machine


def build(
    graph: Graph, *, training: bool = False, algorithm: str = "auto", checkpoint: bool = False
) -> Executable:
    """A callable from the graph's input arrays to a tuple of its outputs.

    Each call runs the graph's host updates, then the native program, which also assigns the
    graph's parameters. `training=True` says that parameters change at each run, so nothing that
    depends on them is kept. `algorithm` of 3×3 convolutions: "auto" for the one that the cost
    model of `arith.winograd` prefers, "direct", "winograd-f2" or "winograd-f4".
    `checkpoint=True` computes the forward pass again, in segments, where the assignments need it.

    Raises ArgumentError for another algorithm.
    """
    program = plan(
        graph,
        machine(),
        get_num_threads(),
        training=training,
        algorithm=algorithm,
        checkpoint=checkpoint,
    )
    return Executable(program)


def footprint(graph: Graph, *, training: bool = False, checkpoint: bool = False) -> Footprint:
    """The memory that `build(graph, …)` and its runs will take; nothing is compiled."""
    threads = get_num_threads()
    program = plan(graph, machine(), threads, training=training, checkpoint=checkpoint)
    return footprint_of(program, threads)


def describe(graph: Graph, *, training: bool = False) -> str:
    """The graph after each pass, and the program: what `striate inspect --plan` prints."""
    parts = [f"--- {name} ---\n{placed.graph}" for name, placed in passes(graph, machine())]
    program = plan(graph, machine(), get_num_threads(), training=training)
    return "\n\n".join([*parts, f"--- program for {machine().isa} ---\n{program}"])


__all__ = [
    "CacheInfo",
    "Executable",
    "Footprint",
    "build",
    "cache_info",
    "describe",
    "footprint",
    "get_num_threads",
    "measure_peak",
    "set_num_threads",
]
