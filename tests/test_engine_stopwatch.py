"""Timing the steps of a program while it runs."""

import time

import numpy as np
import pytest

from striate import engine
from striate.graph import Param, Trace
from striate.graph.ops.eltwise import Map

ELEMENTS = 50_000  # enough for several threads to be used


@pytest.fixture(params=[1, 2])
def threads(request):
    before = engine.get_num_threads()
    engine.set_num_threads(request.param)
    yield request.param
    engine.set_num_threads(before)


def counter():
    """A program of three steps that counts its runs in a parameter."""
    runs = Param("runs", np.zeros(ELEMENTS, np.float32))
    with Trace() as trace:
        x = trace.input("x", (ELEMENTS,))
        big = Map("exp")(x).max((0,))
        trace.assign(runs, runs.as_value() + big / big)
        graph = trace.graph(big)
    return engine.build(graph, training=True), runs


def test_every_step_runs_once_and_all_times_fit_into_the_time_of_the_call(threads):
    executable, runs = counter()
    watch = executable.stopwatch(np.ones(ELEMENTS, np.float32))
    before = runs.data.copy()
    start = time.perf_counter()
    each = watch.each()
    stop = time.perf_counter()
    assert each.shape == (len(executable.program.steps),)
    assert (each >= 0).all()
    assert 0 < each.sum() < stop - start
    np.testing.assert_array_equal(runs.data, before + 1)
    start = time.perf_counter()
    whole = watch.whole()
    assert 0 < whole < time.perf_counter() - start
    np.testing.assert_array_equal(runs.data, before + 2)


def test_a_stopwatch_goes_on_after_the_program_was_called():
    executable, runs = counter()
    watch = executable.stopwatch(np.ones(ELEMENTS, np.float32))
    executable(np.full(ELEMENTS, 2, np.float32))
    before = runs.data.copy()
    watch.each()
    np.testing.assert_array_equal(runs.data, before + 1)


def test_a_clock_takes_nothing_beside_what_it_measures(threads):
    """The overhead of a clock is subtracted: it is itself the time of a step that does nothing."""
    executable, _ = counter()
    watch = executable.stopwatch(np.ones(ELEMENTS, np.float32))
    assert watch.overhead > 0
    watch.overhead = 1e3  # seconds: more than any step, so nothing is left, and nothing negative
    assert watch.whole() == 0
    assert (watch.each() == 0).all()
