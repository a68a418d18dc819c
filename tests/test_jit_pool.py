import ctypes
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from striate.errors import ArgumentError
from striate.ir.runner import HAND, IDLE, LARGE_PART, MOST_PARTS
from striate.jit.pool import Pool
from striate.jit.target import machine
from tests.native_steps import Control, Count, Meet, Reverse, Scale, Scratch, Steps, chain

ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="no futex")
STRATEGIES = [pytest.param(True, id="futex", marks=ON_LINUX), pytest.param(False, id="portable")]
FLUSH = 0x8040  # flush-to-zero and denormals-are-zero
needs_x86 = pytest.mark.skipif(not machine().triple.startswith("x86"), reason="an x86 register")


@pytest.fixture(params=STRATEGIES)
def futex(request):
    return request.param


@pytest.fixture
def make_pool():
    """Pools that are closed at the end of the test."""
    made = []

    def make(threads, **options):
        made.append(Pool(threads, **options))
        return made[-1]

    yield make
    for pool in made:
        pool.close()


def asleep(pool):
    """How many workers sleep in the kernel."""
    states = []
    for worker in pool._workers:
        stat = Path(f"/proc/self/task/{worker.native_id}/stat").read_text()
        states.append(stat.rpartition(")")[2].split()[0])
    return states.count("S")


def hand(pool):
    """The parts that are left, from and to, and the turn."""
    word = ctypes.c_uint64.from_address(pool._state + HAND).value
    return word & 0xFFFF, word >> 16 & 0xFFFF, word >> 32


def wait_until(condition, seconds=300):
    stop = time.monotonic() + seconds
    while not condition() and time.monotonic() < stop:
        time.sleep(0.001)
    assert condition()


# -- walking ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_each_step_sees_what_all_threads_did_before(make_pool, futex, threads):
    pool = make_pool(threads, futex=futex)
    steps, x = chain(20)
    for i in range(1, 6):
        steps.run(pool)
        np.testing.assert_array_equal(x, np.arange(1000) + 20 * i)


@pytest.mark.parametrize(("threads", "runs"), [(1, 5000), (2, 3000), (3, 1000), (7, 100)])
def test_thousands_of_short_runs(make_pool, futex, threads, runs):
    """Every part runs every step exactly once, also when the next run comes at once."""
    pool = make_pool(threads, futex=futex)
    count = np.zeros(16 * threads, np.int32)
    steps = Steps((Count(), (count,), ()), parts=threads)
    for _ in range(runs):
        steps.run(pool)
    assert count[::16].tolist() == [runs] * threads
    assert set(count[1::16]) == {threads}


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
def test_many_small_steps_of_any_parts(make_pool, futex, threads):
    """Whatever a step is worth, every part runs once, after all of the step before."""
    pool, rng = make_pool(threads, futex=futex), np.random.default_rng(threads)
    for length, runs in [(400, 20), (3, 200), (1, 200)]:
        parts = rng.integers(1, LARGE_PART * (4 * threads + 3), length)
        parts[rng.random(length) < 0.5] = 1
        x, y = np.arange(30, dtype=np.float32), np.zeros(30, np.float32)
        pairs = [((x, y), (y, x))[i % 2] for i in range(length)]
        steps = Steps(*((Reverse(), pair, (30,)) for pair in pairs), parts=parts)
        for i in range(1, runs + 1):
            x[:] = np.arange(30)
            steps.run(pool)
            want = np.arange(30) if length % 2 == 0 else np.arange(30)[::-1]
            np.testing.assert_array_equal(x if length % 2 == 0 else y, want + length)
            assert hand(pool)[:2] == (IDLE & 0xFFFF, IDLE >> 16), i


@pytest.mark.parametrize(("threads", "most"), [(2, 8), (3, 12)])
def test_a_step_has_a_part_for_each_thread_or_a_few_large_ones(make_pool, futex, threads, most):
    pool = make_pool(threads, futex=futex)
    assert ctypes.c_int32.from_address(pool._state + MOST_PARTS).value == most
    few, many = threads * LARGE_PART, most * LARGE_PART
    for worth in (1, 2, threads, few, few + LARGE_PART, many - 1, many, many + LARGE_PART, 2**40):
        count = np.zeros(16 * (most + 2), np.int32)
        Steps((Count(), (count,), ()), parts=worth).run(pool)
        parts = min(worth, max(threads, min(worth // LARGE_PART, most)))
        assert count[::16].tolist() == [1] * parts + [0] * (most + 2 - parts)
        assert set(count[1 : 16 * parts : 16]) == {parts}


def test_a_step_of_one_part_is_handed_to_nobody(make_pool, futex):
    pool = make_pool(3, futex=futex)
    turn = hand(pool)[2]
    steps, x = chain(100, parts=1)
    for i in range(1, 4):
        steps.run(pool)
        assert hand(pool)[2] == turn + 2 * i  # the program begins and ends
    np.testing.assert_array_equal(x, np.arange(1000) + 300)
    steps, x = chain(6, parts=[2, 1, 1, 5, 1, 1])
    steps.run(pool)
    assert hand(pool)[2] == turn + 6 + 4
    np.testing.assert_array_equal(x, np.arange(1000) + 6)


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
def test_scratch_memory_belongs_to_the_worker(make_pool, futex, threads):
    """Twenty parts share the scratch memory of a few threads."""
    pool = make_pool(threads, futex=futex)
    y, scratch = np.zeros(500, np.float32), np.zeros(64 * (threads + 1), np.float32)
    scratch[64 * threads :] = 7
    steps = Steps((Scratch(), (y, scratch), (500,)))
    for _ in range(50):
        y[:] = -1
        steps.run(pool)
        np.testing.assert_array_equal(y, np.arange(500) * (63 * 32))
    assert set(scratch[64 * threads :]) == {7}


def test_a_thread_that_does_not_come_is_not_waited_for(make_pool, futex, monkeypatch):
    """The others take its parts, in every step."""
    pool = make_pool(3, futex=futex)
    arrived, leave = threading.Event(), threading.Event()
    work = pool._work

    def late(state, number):
        if number == 2:
            arrived.set()
            leave.wait()
        work(state, number)

    monkeypatch.setattr(pool, "_work", late)
    steps, x = chain(100)
    steps.run(pool)
    assert arrived.wait(300)
    np.testing.assert_array_equal(x, np.arange(1000) + 100)
    for i in range(2, 20):
        steps.run(pool)
        np.testing.assert_array_equal(x, np.arange(1000) + 100 * i)
    leave.set()


def test_an_interrupt_comes_after_the_program(make_pool, futex, monkeypatch):
    pool = make_pool(3, futex=futex)
    begin = pool._begin

    def interrupted(*arguments):
        begin(*arguments)
        raise KeyboardInterrupt

    steps, x = chain(200)
    monkeypatch.setattr(pool, "_begin", interrupted)
    with pytest.raises(KeyboardInterrupt):
        steps.run(pool)
    np.testing.assert_array_equal(x, np.arange(1000) + 200)
    monkeypatch.undo()
    for i in range(2, 50):
        steps.run(pool)
        np.testing.assert_array_equal(x, np.arange(1000) + 200 * i)


def test_runs_without_steps_wake_nobody(make_pool, futex):
    pool = make_pool(3, futex=futex)
    pool.run(0, 0)
    assert pool._workers == []
    steps, x = chain(4)
    for _ in range(300):
        pool.run(0, 0)
        steps.run(pool)
    np.testing.assert_array_equal(x, np.arange(1000) + 1200)


def test_one_thread_on_request(make_pool, futex):
    pool = make_pool(3, futex=futex)
    count = np.zeros(48, np.int32)
    Steps((Count(), (count,), ())).run(pool, threads=1)
    assert count[[0, 1, 16, 32]].tolist() == [1, 1, 0, 0]
    assert pool._workers == []


# -- sleeping --------------------------------------------------------------------------------------


def test_workers_sleep_between_programs_and_wake(make_pool):
    if sys.platform != "linux":
        pytest.skip("no futex")
    pool = make_pool(3, futex=True)
    who, counter = np.zeros(3, np.int32), np.zeros(1, np.int32)
    steps = Steps((Meet(), (who, counter), ()), parts=3)
    for _ in range(30):
        who[:] = 7
        steps.run(pool)
        assert sorted(who) == [0, 1, 2]
        wait_until(lambda: asleep(pool) == 2)


def test_an_idle_pool_uses_no_processor(make_pool, futex):
    pool = make_pool(3, futex=futex)
    steps, _ = chain(10)
    steps.run(pool)
    time.sleep(0.02)
    before = time.process_time()
    time.sleep(1)
    assert time.process_time() - before < 0.005


# -- life and death --------------------------------------------------------------------------------


def test_close_ends_the_threads_and_the_pool_starts_again(make_pool, futex):
    pool = make_pool(3, futex=futex)
    pool.close()  # nothing has been started yet
    steps, x = chain(2)
    for i in range(1, 6):
        steps.run(pool)
        workers = list(pool._workers)
        assert [w.name for w in workers] == ["striate-1", "striate-2"]
        assert all(w.daemon for w in workers)
        pool.close()
        assert not any(w.is_alive() for w in workers)
        np.testing.assert_array_equal(x, np.arange(1000) + 2 * i)
    pool.close()


def test_threads_that_cannot_be_started(make_pool, futex, monkeypatch):
    pool = make_pool(5, futex=futex)
    start, started = threading.Thread.start, []

    def limited(self):
        if len(started) == 2:
            raise RuntimeError("can't start new thread")
        started.append(self)
        start(self)

    monkeypatch.setattr(threading.Thread, "start", limited)
    steps, x = chain(2)
    with pytest.raises(ArgumentError, match=r"only 3 of 5 threads .* set_num_threads"):
        steps.run(pool)
    assert not any(t.is_alive() for t in started)
    monkeypatch.undo()
    steps.run(pool)
    np.testing.assert_array_equal(x, np.arange(1000) + 2)


# -- several callers -------------------------------------------------------------------------------


def test_a_second_caller_runs_alone(make_pool, futex):
    pool = make_pool(3, futex=futex)
    count = np.zeros(48, np.int32)
    steps = Steps((Count(), (count,), ()), parts=3)
    with pool._lock:  # as during the run of another caller
        steps.run(pool)
    assert count[[0, 1, 16]].tolist() == [1, 1, 0]
    steps.run(pool)
    assert count[[0, 1, 16, 17, 32]].tolist() == [2, 3, 1, 3, 1]


def test_four_callers_at_once(make_pool, futex):
    pool = make_pool(2, futex=futex)
    chains = [chain(10) for _ in range(4)]

    def work(steps):
        for _ in range(30):
            steps.run(pool)

    callers = [threading.Thread(target=work, args=(steps,)) for steps, _ in chains]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    for _, x in chains:
        np.testing.assert_array_equal(x, np.arange(1000) + 300)


FORK = """
import os, sys
import numpy as np
from tests.native_steps import Reverse, Steps
from striate.engine import get_num_threads, set_num_threads
from striate.jit.pool import pool

def numbers():
    x, y = np.arange(1000, dtype=np.float32), np.zeros(1000, np.float32)
    steps = Steps((Reverse(), (x, y), (1000,)), (Reverse(), (y, x), (1000,)))
    for _ in range(10):
        steps.run(pool())
    return x.tobytes()

set_num_threads(3)
want = numbers()
child = os.fork()
if child == 0:
    ok = get_num_threads() == 3 and numbers() == want and len(pool()._workers) == 2
    set_num_threads(2)
    os._exit(0 if ok and numbers() == want and get_num_threads() == 2 else 1)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 0, status
assert numbers() == want and get_num_threads() == 3
grandchild = os.fork()
if grandchild == 0:
    os._exit(0)  # a child that never computes
assert os.waitpid(grandchild, 0)[1] == 0
print("both computed")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_parent_and_child_of_a_fork_compute():
    done = subprocess.run(
        [sys.executable, "-c", FORK], capture_output=True, text=True, timeout=600, check=False
    )
    assert (done.returncode, done.stdout) == (0, "both computed\n"), done.stderr


# -- denormal numbers ------------------------------------------------------------------------------


@needs_x86
@pytest.mark.parametrize("threads", [1, 3])
def test_flush_to_zero_inside_and_nowhere_else(make_pool, futex, threads):
    pool = make_pool(threads, futex=futex)
    inside, counter = np.zeros(16 * threads, np.int32), np.zeros(1, np.int32)
    before, after = np.zeros(16, np.int32), np.zeros(16, np.int32)
    read_outside = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 2, *[ctypes.c_int32] * 2)
    steps = Steps((Control(put=False), (inside, counter), ()), parts=threads)
    outside = [Steps((Control(put=False), (a, counter), ())) for a in (before, after)]

    def directly(table):
        kernel, buffers, sizes, _ = table.rows[0]
        read_outside(int(kernel))(int(buffers), int(sizes), 0, 1)

    # The caller rounds towards zero: that is kept, too.
    put = np.zeros(16, np.int32)
    put[0] = 0x7F80
    setting = Steps((Control(put=True), (put, counter), ()))
    directly(setting)
    directly(outside[0])
    counter[0] = 0
    steps.run(pool)
    directly(outside[1])
    put[0] = 0x1F80
    directly(setting)
    # The lowest six bits tell what has happened since they were last cleared.
    assert before[0] & ~0x3F == after[0] & ~0x3F == 0x7F80
    assert inside[0] & ~0x3F == 0x7F80 | FLUSH
    assert all(word & FLUSH == FLUSH for word in inside[::16])


@pytest.mark.parametrize("threads", [1, 3])
def test_kernels_flush_denormal_numbers_and_numpy_does_not(make_pool, futex, threads):
    pool = make_pool(threads, futex=futex)
    for number, factor in [(1e-40, 2.0**20), (1.5e-38, 0.5), (-1e-40, 3.0), (3.0, 2.0)]:
        x, y = np.full(16 * threads, number, np.float32), np.full(16 * threads, 7, np.float32)
        Steps((Scale(factor), (x, y), ()), parts=threads).run(pool)
        want = number * factor if number == 3.0 else 0.0
        assert y[::16].tolist() == [want] * threads
        assert np.float32(number) * np.float32(factor) != 0  # as it ought to be
