"""Parked threads that walk programs together.

Workers are Python threads inside a native loop: they never come back to Python while they work,
spin for some 50 µs after a program, then sleep in the kernel (futex). Where there is no futex the
workers wait on a Python semaphore between programs, which costs some microseconds more a program
and nothing within one. Who takes which part of a step: see `striate.ir.runner`.

One pool for the whole process. A second caller, or a call from inside a worker, does not wait: it
runs its program on its own thread alone, with the same bits.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import sys
import threading
from collections.abc import Callable

from striate.errors import ArgumentError
from striate.ir.runner import HAND, IDLE, LARGEST_PARTS, MOST_PARTS, STATE_BYTES, THREADS, Runner
from striate.jit.load import runner

_VOID_P, _I64, _I32 = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32
# A thread that loses its processor holds one part meanwhile: so parts are small, but not too small
# to be worth taking.
PARTS_A_THREAD = 4


def available_threads() -> int:
    """Threads that this process may use: affinity mask, cgroup quota, environment; at least 1.

    Raises ArgumentError for a STRIATE_NUM_THREADS that is no number of threads.
    """
    for name in ("STRIATE_NUM_THREADS", "OMP_NUM_THREADS"):
        text = os.environ.get(name, "").split(",")[0].strip()
        if text.isdecimal() and int(text) > 0:
            return int(text)
        if text and name == "STRIATE_NUM_THREADS":
            raise ArgumentError(
                f"{name}={text!r} must be a whole number of at least 1; or unset it"
            )
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    quota = cgroup_quota()
    return max(1, min(count, quota) if quota else count)


def cgroup_quota() -> int | None:
    """Whole processors that the container may use; None without a limit."""
    try:
        with open("/sys/fs/cgroup/cpu.max") as file:
            quota, period = file.read().split()[:2]
        return None if quota == "max" else max(1, int(quota) // int(period))
    except (OSError, ValueError):
        pass
    try:
        with open("/sys/fs/cgroup/cpu/cpu.cfs_quota_us") as file:
            used = int(file.read())
        with open("/sys/fs/cgroup/cpu/cpu.cfs_period_us") as file:
            return max(1, used // int(file.read())) if used > 0 else None
    except (OSError, ValueError):
        return None


class Pool:
    """`threads` threads, the caller's among them."""

    def __init__(self, threads: int, *, futex: bool | None = None) -> None:
        self.threads = threads
        self.futex = sys.platform == "linux" if futex is None else futex
        addresses = runner(Runner(self.futex))
        self._run = ctypes.CFUNCTYPE(None, _VOID_P, _I64)(addresses[0])
        self._begin = ctypes.CFUNCTYPE(None, _VOID_P, _VOID_P, _I64)(addresses[1])
        self._work = ctypes.CFUNCTYPE(None, _VOID_P, _I32)(addresses[2])
        if self.futex:
            self._end = ctypes.CFUNCTYPE(None, _VOID_P)(addresses[3])
        self._memory = ctypes.create_string_buffer(STATE_BYTES + 64)
        start = ctypes.addressof(self._memory)
        self._state = start + -start % 64
        self._reset()
        self._workers: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._semaphores: list[threading.Semaphore] = []
        self._open = False  # workers that wait on a semaphore may go on waiting

    def run(self, steps: int, count: int, threads: int | None = None) -> None:
        """Walk `count` steps of the table at address `steps`.

        `threads=1` keeps to the caller's thread. Otherwise all threads of the pool are used, or
        the caller's alone while another caller has them.
        """
        if count == 0:
            return
        if self.threads == 1 or threads == 1 or not self._lock.acquire(blocking=False):
            self._run(steps, count)
            return
        try:
            if not self._workers:
                self._start()
            try:
                self._begin(self._state, steps, count)
                for semaphore in self._semaphores:
                    semaphore.release()
            finally:  # an interrupt comes after the program, not while others are still in it
                self._work(self._state, 0)
        finally:
            self._lock.release()

    def _start(self) -> None:
        target: Callable[[int], None] = self._native_worker if self.futex else self._python_worker
        if not self.futex:
            self._semaphores = [threading.Semaphore(0) for _ in range(1, self.threads)]
        self._open = True
        for number in range(1, self.threads):
            worker = threading.Thread(
                target=target, args=(number,), name=f"striate-{number}", daemon=True
            )
            try:
                worker.start()
            except RuntimeError as error:
                self._stop()
                raise ArgumentError(
                    f"only {number} of {self.threads} threads can be started here ({error}); ask "
                    "for fewer with set_num_threads or STRIATE_NUM_THREADS"
                ) from error
            self._workers.append(worker)

    def _native_worker(self, number: int) -> None:
        self._work(self._state, number)

    def _python_worker(self, number: int) -> None:
        while True:
            self._semaphores[number - 1].acquire()
            if not self._open:
                return
            self._work(self._state, number)

    def close(self) -> None:
        """Let the workers end. The pool can be used again afterwards (they are started anew)."""
        with self._lock:
            self._stop()

    def retire(self) -> None:
        """Close for good: a caller that still holds this pool runs on its own thread."""
        with self._lock:
            self._stop()
            self.threads = 1

    def _stop(self) -> None:
        workers, self._workers = self._workers, []
        self._open = False
        if self.futex:
            self._end(self._state)
        for semaphore in self._semaphores:
            semaphore.release()
        for worker in workers:
            worker.join()
        self._reset()

    def _reset(self) -> None:
        ctypes.memset(self._state, 0, STATE_BYTES)
        ctypes.c_int64.from_address(self._state + HAND).value = IDLE
        most = min(self.threads * PARTS_A_THREAD, LARGEST_PARTS)
        ctypes.c_int32.from_address(self._state + MOST_PARTS).value = most
        ctypes.c_int32.from_address(self._state + THREADS).value = min(self.threads, LARGEST_PARTS)


_pool: Pool | None = None
_wanted: int | None = None  # threads of the pool to come; None: all that are available
_guard = threading.Lock()


def pool() -> Pool:
    """The process's pool, made at first use."""
    global _pool
    if _pool is None:
        with _guard:
            if _pool is None:
                _pool = Pool(_wanted or available_threads())
    return _pool


def get_num_threads() -> int:
    """Threads that programs run on."""
    return _pool.threads if _pool is not None else _wanted or available_threads()


def set_num_threads(n: int) -> None:
    """Use `n` threads from now on (n ≥ 1). Results do not depend on it, not by a bit.

    Raises ArgumentError for n < 1.
    """
    global _pool
    if isinstance(n, bool) or not hasattr(n, "__index__") or n < 1:
        raise ArgumentError(f"set_num_threads: n={n!r} must be a whole number of at least 1")
    with _guard:
        old, _pool = _pool, Pool(int(n))
    if old is not None:
        old.retire()


def _forget_after_fork() -> None:
    """The child of a fork has none of the parent's threads: it makes a pool of its own."""
    global _pool, _wanted, _guard
    if _pool is not None:
        _wanted, _pool = _pool.threads, None
    _guard = threading.Lock()


def _close_at_exit() -> None:
    if _pool is not None:
        with contextlib.suppress(Exception):
            _pool.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)
atexit.register(_close_at_exit)
