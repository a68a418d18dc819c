"""How many threads: what is asked for, what the machine and its container allow."""

import io
import os
import threading
import time

import numpy as np
import pytest

from striate.engine import get_num_threads, set_num_threads
from striate.errors import ArgumentError
from striate.jit import pool as pools
from striate.jit.pool import available_threads
from tests.native_steps import Count, Steps, chain


@pytest.fixture
def threads_restored():
    before = get_num_threads()
    yield
    set_num_threads(before)


@pytest.mark.usefixtures("threads_restored")
@pytest.mark.parametrize("n", [0, -1, 1.5, "2", True, None, [2]])
def test_numbers_of_threads_that_are_none(n):
    before = get_num_threads()
    with pytest.raises(ArgumentError, match=r"set_num_threads: n=.* whole number of at least 1"):
        set_num_threads(n)
    assert get_num_threads() == before


@pytest.mark.usefixtures("threads_restored")
@pytest.mark.parametrize("n", [1, 2, np.int64(3), 7])
def test_numbers_of_threads(n):
    set_num_threads(n)
    assert get_num_threads() == n
    count = np.zeros(16 * n, np.int32)
    Steps((Count(), (count,), ()), parts=n).run(pools.pool())
    assert count[::16].tolist() == [1] * n


@pytest.mark.usefixtures("threads_restored")
def test_a_new_number_ends_the_old_threads():
    set_num_threads(3)
    steps, _ = chain(2)
    steps.run(pools.pool())
    old, workers = pools.pool(), list(pools.pool()._workers)
    set_num_threads(2)
    assert len(workers) == 2
    assert not any(worker.is_alive() for worker in workers)
    # A program that had taken the old pool just before runs alone, and starts no threads.
    count = np.zeros(48, np.int32)
    Steps((Count(), (count,), ())).run(old)
    assert count[[0, 1, 16]].tolist() == [1, 1, 0]
    assert old._workers == []


@pytest.mark.usefixtures("threads_restored")
def test_the_number_changes_while_others_compute():
    chains, stop = [chain(4) for _ in range(3)], threading.Event()
    runs = [0, 0, 0]

    def work(number):
        while not stop.is_set():
            chains[number][0].run(pools.pool())
            runs[number] += 1

    callers = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for caller in callers:
        caller.start()
    for i in range(40):
        set_num_threads(1 + i % 3)
        time.sleep(0.002)
    stop.set()
    for caller in callers:
        caller.join()
    for (_, x), times in zip(chains, runs, strict=True):
        np.testing.assert_array_equal(x, np.arange(1000) + 4 * times)
    pools.pool().close()
    assert not [t for t in threading.enumerate() if t.name.startswith("striate-")]


@pytest.fixture
def machine_of_twelve(monkeypatch):
    """Twelve processors, no limits; returns how to set files and variables."""
    files = {}

    def fake_open(path):
        if path not in files:
            raise FileNotFoundError(path)
        return io.StringIO(files[path])

    for name in ("STRIATE_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pools, "open", fake_open, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(12)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    return files


V2 = "/sys/fs/cgroup/cpu.max"
V1_QUOTA, V1_PERIOD = "/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"


@pytest.mark.parametrize(
    ("files", "threads"),
    [
        ({}, 12),
        ({V2: "max 100000\n"}, 12),
        ({V2: "400000 100000\n"}, 4),
        ({V2: "250000 100000\n"}, 2),
        ({V2: "50000 100000\n"}, 1),
        ({V2: "9900000 100000\n"}, 12),
        ({V2: "nonsense\n"}, 12),
        ({V1_QUOTA: "-1\n", V1_PERIOD: "100000\n"}, 12),
        ({V1_QUOTA: "300000\n", V1_PERIOD: "100000\n"}, 3),
        ({V1_QUOTA: "300000\n"}, 12),
    ],
    ids=str,
)
def test_container_limits(machine_of_twelve, files, threads):
    machine_of_twelve.update(files)
    assert available_threads() == threads


def test_affinity_mask(machine_of_twelve, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 7}, raising=False)
    assert available_threads() == 2
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert available_threads() == 64
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert available_threads() == 1


def test_environment(machine_of_twelve, monkeypatch):
    for text, threads in [("3", 3), ("5,2", 5), ("0", 12), ("many", 12), ("", 12)]:
        monkeypatch.setenv("OMP_NUM_THREADS", text)
        assert available_threads() == threads
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("STRIATE_NUM_THREADS", " 20 ")
    assert available_threads() == 20
    for text in ("0", "-2", "many", "1.5"):
        monkeypatch.setenv("STRIATE_NUM_THREADS", text)
        with pytest.raises(ArgumentError, match=f"STRIATE_NUM_THREADS='{text}' must be"):
            available_threads()
