"""Compiling many kernels at once, in processes.

LLVM takes one lock for every call and writing its text holds Python's own, so threads cannot
compile side by side. Short-lived processes can: each is a bare Python that imports `jit.worker`
and nothing of the caller's, so a script needs no main guard. The caller's thread compiles too,
and whatever a process fails to do, so that nothing depends on whether one can be started.
"""

from __future__ import annotations

import contextlib
import pickle
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from striate.arith.machine import Machine
from striate.jit import worker
from striate.kernels.spec import KernelSpec

# A process must import LLVM first, some 0.1 s: about what this many kernels take to compile.
KERNELS_FOR_A_PROCESS = 4
# Seconds without an answer after which a process counts as lost. A kernel takes 0.3 s at most.
PATIENCE = 60.0


def object_codes(specs: Sequence[KernelSpec], machine: Machine, processes: int) -> list[bytes]:
    """Object files of these kernels, made by up to `processes` processes, this one among them.

    Raises what `kernel_code` raises for a kernel that cannot be compiled.
    """
    from striate.jit.compile import kernel_code

    # The longest first, so that all end together. A long description is a long kernel, as a rule;
    # but all that has a filtering unrolls the transforms of Winograd's method.
    named = [repr(spec) for spec in specs]
    order = sorted(range(len(specs)), key=lambda i: ("filtering=" not in named[i], -len(named[i])))
    waiting = deque(order)
    done: dict[int, bytes] = {}
    count = min(processes, len(specs) // KERNELS_FOR_A_PROCESS) - 1 if _startable() else 0
    helpers = [_Helper(specs, machine, waiting, done) for _ in range(count)]
    try:
        for helper in helpers:
            helper.start()
        while True:
            try:
                i = waiting.popleft()
            except IndexError:
                break
            done[i] = kernel_code(specs[i], machine)
        for helper in helpers:
            helper.wait(PATIENCE)
    finally:
        for helper in helpers:
            helper.end()
    for i in range(len(specs)):
        if i not in done:
            done[i] = kernel_code(specs[i], machine)
    return [done[i] for i in range(len(specs))]


def _startable() -> bool:
    """Whether `sys.executable` is a Python: a program that embeds one would be started anew."""
    frozen = getattr(sys, "frozen", False)
    return not frozen and Path(sys.executable or "").name.lower().startswith(("python", "pypy"))


def _command() -> list[str]:
    """A Python without the user's settings, with this one's import path."""
    flags = ["-I", "-S", *(["-B"] if sys.dont_write_bytecode else [])]
    if sys.pycache_prefix is not None:
        flags += ["-X", f"pycache_prefix={sys.pycache_prefix}"]
    root = str(Path(__file__).resolve().parent.parent.parent)
    path = [root, *(entry for entry in sys.path if entry)]
    code = "import sys; sys.path[:] = sys.argv[1:]; from striate.jit.worker import main; main()"
    return [sys.executable, *flags, "-c", code, *path]


class _Helper(threading.Thread):
    """One process, and the thread that hands it kernels and takes their object files."""

    def __init__(
        self,
        specs: Sequence[KernelSpec],
        machine: Machine,
        waiting: deque[int],
        done: dict[int, bytes],
    ) -> None:
        super().__init__(name="striate-compile", daemon=True)
        self._specs, self._machine, self._waiting, self._done = specs, machine, waiting, done
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start both; where one cannot be had (memory, permission), this helper does nothing."""
        with contextlib.suppress(OSError, RuntimeError):
            self._process = subprocess.Popen(  # noqa: S603  # our own code, nothing of a user's
                _command(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )
            super().start()

    def run(self) -> None:
        """Hand out kernels until none waits or the process is gone."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        while True:
            try:
                i = self._waiting.popleft()
            except IndexError:
                return
            try:
                request = pickle.dumps((self._specs[i], self._machine))
            except (pickle.PicklingError, AttributeError, TypeError):  # a class inside a function
                continue
            try:
                worker.send(process.stdin, request)
                answer = worker.receive(process.stdout)
            except (OSError, ValueError):  # it died, or its pipe is closed
                return
            if answer is None:
                return
            if answer[:1] == worker.DONE:
                self._done[i] = answer[1:]

    def wait(self, seconds: float | None = None) -> None:
        """Until nothing is left to hand out and the last answer is here."""
        if self.ident is not None:
            self.join(seconds)

    def end(self) -> None:
        """End the process, whatever it does at present."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        self.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
