"""Calling programs: results, inputs, several callers at once, memory."""

import gc
import threading
import tracemalloc

import numpy as np
import pytest

import striate as st
from striate.engine import arena, build, describe, get_num_threads, measure_peak, set_num_threads
from striate.errors import ArgumentError, ShapeError
from striate.graph import Trace
from striate.graph.ops.conv import Conv2d
from striate.graph.ops.reduce import Reduce
from tests.small_nets import inference, picture, small_net

SAME = Conv2d((1, 1), ((1, 1), (1, 1)))


@pytest.fixture
def threads():
    """A function that sets the number of threads; it is as before when the test ends."""
    before = get_num_threads()
    yield set_num_threads
    set_num_threads(before)


# -- callers ---------------------------------------------------------------------------------------


def test_results_are_the_callers_own():
    with Trace() as trace:
        x = trace.input("x", (3, 50))
        graph = trace.graph(x * 2.0, Reduce("sum", (1,))(x), x)
    program = build(graph)
    given = picture(3, 50)
    kept = given.copy()
    results = program(given)
    copies = [r.copy() for r in results]
    for seed in range(5):
        program(picture(3, 50, seed=seed))
    for r, copy in zip(results, copies, strict=True):
        np.testing.assert_array_equal(r, copy)
        assert r.flags.owndata
        assert r.flags.writeable
        r[...] = -1
    np.testing.assert_array_equal(given, kept)
    np.testing.assert_array_equal(program(given)[0], copies[0])


@pytest.mark.parametrize("size", [(2, 3, 9, 8), (4, 3, 64, 60)], ids=["small", "large"])
def test_calls_from_four_threads(threads, size):
    threads(2)
    net = small_net()
    shapes = [size, (size[0] + 1, *size[1:])]
    programs = [build(inference(net, s)) for s in shapes]
    images = [picture(*s, seed=i) for i in range(4) for s in shapes]
    cases = [(programs[shapes.index(x.shape)], x) for x in images]
    fresh = {s: build(inference(net, s)) for s in shapes}
    wanted = [fresh[x.shape](x)[0].tobytes() for x in images]
    wrong = []

    def work(number):
        for i in range(30):
            case = (number + i) % len(cases)
            program, x = cases[case]
            if program(x)[0].tobytes() != wanted[case]:
                wrong.append(case)

    callers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert wrong == []


# -- inputs ----------------------------------------------------------------------------------------


def doubled(*shape, dtype="f32"):
    with Trace() as trace:
        x = trace.input("x", shape, dtype)
        return build(trace.graph(x * 2.0 if dtype == "f32" else x))


def unaligned(x):
    return np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(np.float32).reshape(x.shape)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.astype(np.float64),
        lambda x: x.astype(np.float16),
        lambda x: x.astype(">f4"),
        lambda x: x.astype(np.int64),
        lambda x: x.astype(np.uint8),
        np.asfortranarray,
        lambda x: np.repeat(x, 2, axis=1)[:, ::2],
        lambda x: x[::-1][::-1],
        lambda x: x.T.copy().T,
        unaligned,
    ],
    ids=["float64", "float16", "big-endian", "int64", "uint8", "Fortran", "strided", "reversed",
         "transposed", "unaligned"],
)  # fmt: skip
def test_inputs_of_any_kind(change):
    x = np.arange(40, dtype=np.float32).reshape(5, 8)
    given = change(x)
    given.flags.writeable = False
    (y,) = doubled(5, 8)(given)
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y, x * 2)


def test_inputs_that_do_not_fit():
    program = doubled(5, 8)
    with pytest.raises(ShapeError, match=r"input 0 has shape \(5, 9\), expected \(5, 8\)"):
        program(np.zeros((5, 9), np.float32))
    with pytest.raises(ShapeError, match=r"input 0 has shape \(8, 5\), expected \(5, 8\)"):
        program(np.zeros((8, 5), np.float32))
    x = np.zeros((5, 8), np.float32)
    for arrays in ((), (x, x), (x, x, x)):
        with pytest.raises(ShapeError, match=f"expected 1 inputs, got {len(arrays)}"):
            program(*arrays)
    np.testing.assert_array_equal(program(x + 1)[0], 2)


def test_a_number_is_an_input():
    (y,) = doubled()(np.float32(3.5))
    assert y.shape == ()
    assert y == 7


# -- for people who look --------------------------------------------------------------------------


def test_a_plan_can_be_read():
    net = small_net()
    text = describe(inference(net, (1, 3, 16, 16)))
    for part in ("--- traced ---", "--- fused ---", "--- laid out ---", "--- program for "):
        assert part in text
    assert "once for each version of the parameters:" in text
    assert "each run:" in text
    assert "nhwc" in text


def test_unknown_algorithms():
    graph = inference(small_net(), (1, 3, 16, 16))
    with pytest.raises(
        ArgumentError, match=r"algorithm='fft' is not known; choose one of auto, direct"
    ):
        build(graph, algorithm="fft")


@pytest.mark.parametrize("count", [None, 1, 2])
def test_the_peak_is_a_number(threads, count):
    threads(2)
    assert 0 < measure_peak(count, seconds=0.0) < 1e6


# -- memory ----------------------------------------------------------------------------------------


def test_memory_stays_flat_over_many_shapes():
    """More shapes than programs are kept: what the second round holds is what the first held."""
    net = small_net().eval()
    sizes = [(1 + i % 5, 3, 30 + i % 37, 30 + i % 31) for i in range(80)]
    held = []
    tracemalloc.start()
    for _ in range(2):
        for shape in sizes:
            net(picture(*shape))
        gc.collect()
        held.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert held[1] - held[0] < 2**18
    assert len(arena._free) <= arena.KEPT


def test_training_can_stop_and_go_on_with_other_threads(threads):
    """The same steps give the same bits, whatever is set in between."""
    states = []
    for change in (False, True):
        np.random.default_rng(0)
        net = small_net()
        rng = np.random.default_rng(3)
        net.load_state_dict(
            {
                name: rng.uniform(0.2, 0.4, array.shape).astype(array.dtype)
                for name, array in net.state_dict().items()
            }
        )
        step = st.compile_step(net, optimizer=st.optim.SGD(lr=0.1, momentum=0.9))
        losses = []
        for i in range(6):
            if change:
                threads(1 + i % 3)
            n = 4 + i % 2
            losses.append(step(picture(n, 3, 12, 12, seed=i), np.arange(n) % 5))
        states.append((losses, [a.tobytes() for a in net.state_dict().values()]))
    assert states[0] == states[1]
