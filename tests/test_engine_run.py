"""Running programs: the same bits whatever the threads, the batch and the caller."""

import gc
import threading

import numpy as np
import pytest

import striate as st
from striate import nn
from striate.engine import (
    build,
    cache_info,
    constants,
    get_num_threads,
    run,
    set_num_threads,
)
from striate.graph import Trace, gradients
from striate.graph.ops.conv import Conv2d
from striate.graph.ops.eltwise import m
from striate.graph.value import Param
from striate.jit import pool as jit_pool
from striate.nn.tracing import symbolic_call
from tests.small_nets import inference, param, picture, small_net, training

SAME = Conv2d((1, 1), ((1, 1), (1, 1)))


@pytest.fixture
def threads():
    """A function that sets the number of threads; it is as before when the test ends."""
    before = get_num_threads()
    yield set_num_threads
    set_num_threads(before)


# -- sizes -----------------------------------------------------------------------------------------


def test_two_hundred_sizes_compile_nothing():
    net = small_net()
    build(inference(net, (2, 3, 17, 14)))(picture(2, 3, 17, 14))
    before = cache_info().compiled + cache_info().loaded
    rng = np.random.default_rng(2)
    for _ in range(200):
        shape = (int(rng.integers(1, 9)), 3, *(int(i) for i in rng.integers(6, 40, 2)))
        (y,) = build(inference(net, shape))(picture(*shape))
        assert y.shape == (shape[0], 5)
    assert cache_info().compiled + cache_info().loaded == before


def test_batch_sizes_in_training_compile_nothing():
    net = small_net()
    labels = np.arange(40) % 5
    build(training(net, (4, 3, 12, 10)), training=True)(picture(4, 3, 12, 10), labels[:4])
    before = cache_info().compiled + cache_info().loaded
    for n in range(2, 40):
        size = (8 + n % 7, 8 + n % 5)
        graph = training(net, (n, 3, *size))
        loss, *_ = build(graph, training=True)(picture(n, 3, *size), labels[:n])
        assert np.isfinite(loss)
    assert cache_info().compiled + cache_info().loaded == before


@pytest.mark.parametrize("channels", [4, 20])
@pytest.mark.parametrize("size", [1, 3])
def test_an_empty_batch_gives_empty_results_and_gradients_of_zero(channels, size):
    w = param("w", channels, channels, size, size)
    with Trace() as trace:
        x = trace.input("x", (0, channels, 6, 5))
        y = Conv2d()(x, w)
        graph = trace.graph(y, *gradients((y * y).sum(), [x, w]))
    y, dx, dw = build(graph)(np.zeros((0, channels, 6, 5), np.float32))
    assert y.shape == (0, channels, 7 - size, 6 - size)
    assert dx.shape == (0, channels, 6, 5)
    np.testing.assert_array_equal(dw, np.zeros(w.shape))


# -- bits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [12, 40])
def test_any_number_of_threads_gives_the_same_bits(threads, channels):
    net = small_net(channels)
    x, labels = picture(9, 3, 21, 18), np.arange(9) % 5
    state = net.state_dict()
    results = []
    for n in (1, 2, 3, 5, 7):
        threads(n)
        net.load_state_dict(state)
        outputs = build(training(net, x.shape), training=True)(x, labels)
        results.append((*outputs, *build(inference(net, x.shape))(x)))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert a.tobytes() == b.tobytes()


def test_a_program_runs_with_other_threads_than_it_was_planned_for(threads):
    net = small_net()
    x, labels = picture(5, 3, 21, 18), np.arange(5)
    threads(3)
    program = build(training(net, x.shape), training=True)
    results = []
    for n in (3, 1, 2, 7):
        threads(n)
        results.append(b"".join(a.tobytes() for a in program(x, labels)))
    assert len(set(results)) == 1


@pytest.mark.parametrize("channels", [12, 40])
def test_any_number_of_parts_gives_the_same_bits(threads, monkeypatch, channels):
    net = small_net(channels)
    x, labels = picture(9, 3, 21, 18), np.arange(9) % 5
    state = net.state_dict()
    results = set()
    for n, parts, bytes_ in [(1, 1, 1), (2, 1, 1), (2, 4, 64), (3, 5, 1), (5, 40, 1), (5, 3, 4096)]:
        monkeypatch.setattr(run, "PART_BYTES", bytes_)
        monkeypatch.setattr(jit_pool, "PARTS_A_THREAD", parts)
        threads(n)
        net.load_state_dict(state)
        outputs = build(training(net, x.shape), training=True)(x, labels)
        outputs = (*outputs, *build(inference(net, x.shape))(x))
        results.add(b"".join(a.tobytes() for a in outputs))
    assert len(results) == 1


def test_large_steps_have_many_parts_and_small_ones_one():
    def worth(channels, size):
        graph = inference(nn.Conv2d(channels, channels, 3, padding=1), (1, channels, size, size))
        program = build(graph).program
        parts = run.parts_worth(program, program.tasks)
        return dict(zip([step.label for step in program.steps], parts, strict=True))

    small, large = worth(3, 8), worth(64, 56)
    assert set(small.values()) == {1}
    # 64 · 64 · 9 · 56 · 56 products, four of them like a byte, and what is read and written.
    (convolution,) = [parts for label, parts in large.items() if "64→64" in label]
    assert convolution >= 64 * 64 * 9 * 56 * 56 // 4 // run.PART_BYTES
    moving = [parts for label, parts in large.items() if "64→64" not in label]
    assert all(1 < parts <= 4 * 2 * 64 * 56 * 56 // run.PART_BYTES + 1 for parts in moving)


def test_a_program_of_small_steps_wakes_nobody(threads):
    threads(3)
    net = nn.Conv2d(3, 4, 3)
    build(inference(net, (1, 3, 8, 8)))(picture(1, 3, 8, 8))
    assert jit_pool.pool()._workers == []
    build(inference(net, (1, 3, 200, 200)))(picture(1, 3, 200, 200))
    assert len(jit_pool.pool()._workers) == 2


@pytest.mark.parametrize("channels", [12, 40])
def test_an_image_has_the_same_bits_in_any_batch(channels):
    net = small_net(channels)
    x = picture(9, 3, 22, 19)
    (whole,) = build(inference(net, x.shape))(x)
    for size in (1, 2, 5):
        program = build(inference(net, (size, *x.shape[1:])))
        for start in range(0, 9 - size + 1, size):
            (some,) = program(x[start : start + size])
            assert some.tobytes() == whole[start : start + size].tobytes()


def test_dense_rows_have_the_same_bits_in_any_batch():
    net = nn.Sequential(nn.Linear(300, 40), nn.ReLU(), nn.Linear(40, 10), nn.Softmax(1))
    x = picture(33, 300)
    (whole,) = build(inference(net, x.shape))(x)
    for size in (1, 3, 32):
        (some,) = build(inference(net, (size, 300)))(x[:size])
        assert some.tobytes() == whole[:size].tobytes()


def test_denormal_weights_count_as_zero_and_numpy_is_left_alone():
    w = Param("w", np.full((40, 3, 3, 3), 1e-40, np.float32))
    with Trace() as trace:
        graph = trace.graph(SAME(trace.input("x", (4, 3, 40, 40)), w))
    (y,) = build(graph)(np.full((4, 3, 40, 40), 1e20, np.float32))
    assert not y.any()
    assert np.float32(1e-40) * np.float32(0.5) > 0


# -- constants -------------------------------------------------------------------------------------


def counted_walks(program, monkeypatch):
    """The tables that a program walks, as a list that grows."""
    walks = []
    original = type(program)._walk

    def walk(self, table, workers):
        walks.append("constants" if table is self._constant_table else "run")
        original(self, table, workers)

    monkeypatch.setattr(type(program), "_walk", walk)
    return walks


def test_constants_are_computed_once_and_again_after_assign(monkeypatch):
    w, bias = param("w", 4, 3, 3, 3), param("b", 1, 4, 1, 1)
    with Trace() as trace:
        x = trace.input("x", (1, 3, 6, 6))
        graph = trace.graph(SAME(x, w) * m("rsqrt", bias * bias + 1.0))
    program = build(graph)
    walks = counted_walks(program, monkeypatch)
    image = picture(1, 3, 6, 6)
    first = program(image)[0]
    assert program(image)[0].tobytes() == first.tobytes()
    assert walks == ["constants", "run", "run"]
    w.assign(w.data * 2)
    np.testing.assert_array_equal(program(image)[0], first * 2)
    bias.assign(bias.data * 0)
    assert walks == ["constants", "run", "run", "constants", "run"]
    np.testing.assert_allclose(
        program(image)[0], 2 * first * np.sqrt(param("b", 1, 4, 1, 1).data ** 2 + 1), rtol=1e-5
    )
    assert walks[-2:] == ["constants", "run"]


def test_programs_share_packed_weights(monkeypatch):
    w = param("w", 40, 30, 3, 3)
    programs = []
    for n in (1, 2, 5):
        with Trace() as trace:
            programs.append(build(trace.graph(SAME(trace.input("x", (n, 30, 9, 9)), w))))
    contents = [set(map(id, p._contents.values())) for p in programs]
    assert contents[0] == contents[1] == contents[2]
    assert len(contents[0]) > 0
    walks = counted_walks(programs[0], monkeypatch)
    results = [p(picture(n, 30, 9, 9)) for p, n in zip(programs, (1, 2, 5), strict=True)]
    assert walks == ["constants", "run", "run", "run"]
    w.assign(-w.data)
    for p, n, before in zip(programs, (1, 2, 5), results, strict=True):
        np.testing.assert_array_equal(p(picture(n, 30, 9, 9))[0], -before[0])
    assert walks[4:] == ["constants", "run", "run", "run"]


def test_first_calls_from_four_threads_compute_constants_once(monkeypatch):
    w = param("w", 64, 32, 3, 3)
    programs = []
    for n in range(1, 5):
        with Trace() as trace:
            programs.append(build(trace.graph(SAME(trace.input("x", (n, 32, 9, 9)), w))))
    walks = counted_walks(programs[0], monkeypatch)
    start = threading.Barrier(4)

    def work(number):
        start.wait()
        programs[number](picture(number + 1, 32, 9, 9))

    callers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert walks.count("constants") == 1


def test_packed_weights_go_with_the_last_program():
    w = param("w", 8, 3, 3, 3)
    gc.collect()
    before = len(constants._contents), len(constants._interned)
    with Trace() as trace:
        program = build(trace.graph(SAME(trace.input("x", (1, 3, 9, 9)), w)))
    program(picture(1, 3, 9, 9))
    assert len(constants._contents) > before[0]
    del program, trace
    gc.collect()
    assert (len(constants._contents), len(constants._interned)) == before


def test_a_training_step_is_seen_by_inference():
    net = small_net()
    x, y = picture(8, 3, 12, 12), np.arange(8) % 5
    step = st.compile_step(net, optimizer=st.optim.SGD(lr=0.5))
    net.eval()
    before = net(x)
    step(x, y)
    after = net(x)
    assert (before != after).any()
    fresh = small_net()
    fresh.load_state_dict(net.state_dict())
    np.testing.assert_array_equal(fresh.eval()(x), after)


def test_dropout_keys_are_renewed_before_each_run():
    net = nn.Dropout(0.5)
    with Trace() as trace:
        output, _ = symbolic_call(net, trace, [(1000,)], True)
        program = build(trace.graph(output), training=True)
    masks = {program(np.ones(1000, np.float32))[0].tobytes() for _ in range(5)}
    assert len(masks) == 5
