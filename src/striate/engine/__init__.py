"""Turns a graph into something that runs: the only place that chooses.

`build` is what everything above uses. Programs are planned for the machine and thread count of
this process; their results do not depend on either thread count or batch.
"""

from __future__ import annotations

from collections.abc import Callable

from striate.engine.memory import Footprint, footprint_of
from striate.engine.options import DEFAULT, Options
from striate.engine.peak import measure_peak
from striate.engine.pieces import Pieces, planned
from striate.engine.plan import passes, plan
from striate.engine.program import Program
from striate.engine.run import Executable
from striate.engine.tune import timer
from striate.graph import Graph
from striate.jit import collector
from striate.jit.load import CacheInfo, cache_info
from striate.jit.pool import get_num_threads, set_num_threads
from striate.jit.target import machine


def build(
    graph: Graph,
    *,
    training: bool = False,
    algorithm: str = "auto",
    max_relative_error: float | None = None,
    tune: bool | None = None,
    checkpoint: bool = False,
) -> Executable:
    """A callable from the graph's input arrays to a tuple of its outputs.

    Each call runs the graph's host updates, then the native program, which also assigns the
    graph's parameters. `training=True` says that parameters change at each run, so nothing that
    depends on them is kept. `checkpoint=True` computes the forward pass again, in segments, where
    the assignments need it. The others are the fields of `Options`.

    Raises ArgumentError for an option outside its range, and for a bound that no way meets.
    """
    options = Options(algorithm, max_relative_error, tune)
    return Executable(_plan(graph, training, options, checkpoint=checkpoint))


def build_batch(
    graph: Graph,
    trace: Callable[[int], Graph],
    *,
    algorithm: str = "auto",
    max_relative_error: float | None = None,
    tune: bool | None = None,
) -> Executable | Pieces:
    """The same for a batch of images in inference, which may be run piece by piece.

    `trace(n)` gives the graph for n images; see `engine.pieces`.
    """
    options = Options(algorithm, max_relative_error, tune)
    threads = get_num_threads()
    program = _plan(graph, False, options)
    found = planned(
        graph, program, machine(), threads, trace, lambda g, n: _plan(g, False, options, threads=n)
    )
    if len(found.cut.sizes) == 1:
        return Executable(program)
    made = {n: Executable(p, alone=found.cut.dealt) for n, p in found.programs.items()}
    return Pieces(found.cut, made, Executable(found.rest) if found.rest else None)


def _plan(
    graph: Graph,
    training: bool,
    options: Options,
    *,
    checkpoint: bool = False,
    threads: int | None = None,
) -> Program:
    with collector.paused():
        return plan(
            graph,
            machine(),
            threads or get_num_threads(),
            training=training,
            options=options,
            timer=timer(graph, machine(), options, training=training or bool(graph.assigns)),
            checkpoint=checkpoint,
        )


def footprint(
    graph: Graph,
    *,
    training: bool = False,
    checkpoint: bool = False,
    options: Options = DEFAULT,
    trace: Callable[[int], Graph] | None = None,
) -> Footprint:
    """The memory that `build(graph, …)` and its runs will take; nothing is compiled or timed.

    With `trace`, that of `build_batch(graph, trace)`.
    """
    threads = get_num_threads()

    def planning(graph: Graph, threads: int) -> Program:
        return plan(
            graph, machine(), threads, training=training, options=options, checkpoint=checkpoint
        )

    program = planning(graph, threads)
    whole = footprint_of(program, threads)
    if trace is None:
        return whole
    found = planned(graph, program, machine(), threads, trace, planning)
    piece = footprint_of(found.programs[found.cut.sizes[0]], threads)
    arena = piece.arena * (threads if found.cut.dealt else 1)
    if found.rest is not None:
        later = footprint_of(found.rest, threads)
        arena = max(arena, later.arena) + later.inputs
    return whole._replace(arena=arena)


def describe(
    graph: Graph,
    *,
    training: bool = False,
    algorithm: str = "auto",
    max_relative_error: float | None = None,
    tune: bool | None = None,
) -> str:
    """What `striate inspect --plan` prints of a graph that is built with the same arguments.

    The graph after each pass, how each convolution is computed and why, and the program.
    """
    program = _plan(graph, training, Options(algorithm, max_relative_error, tune))
    changing = training or bool(graph.assigns)
    shown = passes(graph, machine(), program.choices, changing=changing)
    parts = [f"--- {name} ---\n{placed.graph}" for name, placed in shown]
    choices = "\n".join(map(str, program.choices)) or "none"
    parts.append(
        f"--- ways of convolutions: cost in multiply-adds, error of the RMS ---\n{choices}"
    )
    return "\n\n".join([*parts, f"--- program for {machine().isa} ---\n{program}"])


__all__ = [
    "CacheInfo",
    "Executable",
    "Footprint",
    "Options",
    "Pieces",
    "build",
    "build_batch",
    "cache_info",
    "describe",
    "footprint",
    "get_num_threads",
    "measure_peak",
    "set_num_threads",
]
