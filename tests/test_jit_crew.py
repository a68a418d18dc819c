"""Compiling in several processes: the same bytes, and no dependence on whether they live."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest

from striate.errors import CompileError
from striate.jit import cache, crew, load, target
from striate.jit.compile import object_code
from striate.kernels.epilogue import NONE
from striate.kernels.gemm import Gemm
from tests.kernel_call import call
from tests.native_steps import Scale

SPECS = [Gemm(ci, 16, NONE) for ci in range(3, 11)]


def serial(specs=SPECS):
    machine = target.machine()
    return [object_code(spec.emit(machine), machine) for spec in specs]


@pytest.fixture
def started(monkeypatch):
    """The commands of the processes that were started, and the processes."""
    processes = []

    class Noted(subprocess.Popen):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            processes.append(self)

    monkeypatch.setattr(subprocess, "Popen", Noted)
    return processes


def ended(processes):
    return all(process.poll() is not None for process in processes)


def test_the_same_bytes_as_in_one_process(started):
    assert crew.object_codes(SPECS, target.machine(), 2) == serial()
    assert len(started) == 1
    assert ended(started)


def test_processes_do_their_share(monkeypatch, started):
    # Each process has its first kernel before this one takes any, and its answer is waited for.
    made = []
    receive = crew.worker.receive
    monkeypatch.setattr(crew.worker, "receive", lambda s: made.append(receive(s)) or made[-1])
    crew.object_codes(SPECS * 4, target.machine(), 3)
    assert len(started) == 2
    assert made
    assert all(answer[:1] == crew.worker.DONE for answer in made)


@pytest.mark.parametrize(("specs", "processes"), [(SPECS, 1), (SPECS[:7], 2), ([], 8)])
def test_no_process_for_little_work(started, specs, processes):
    assert crew.object_codes(specs, target.machine(), processes) == serial(specs)
    assert started == []


def test_no_more_processes_than_the_work_is_worth(started):
    crew.object_codes(SPECS, target.machine(), 64)
    assert len(started) == len(SPECS) // crew.KERNELS_FOR_A_PROCESS - 1


@pytest.mark.parametrize(
    "command",
    [
        [sys.executable, "-c", "raise SystemExit(1)"],
        [sys.executable, "-c", "import sys; sys.stdin.buffer.read(99); sys.stdout.write('x' * 20)"],
        ["/nowhere/python"],
    ],
    ids=["dies", "speaks nonsense", "cannot be started"],
)
def test_a_process_that_fails_costs_no_result(monkeypatch, command):
    monkeypatch.setattr(crew, "_command", lambda: command)
    assert crew.object_codes(SPECS, target.machine(), 2) == serial()


def test_kernels_that_cannot_travel_are_compiled_here():
    class Local(Gemm):
        pass

    specs = [Local(ci, 16, NONE) for ci in range(3, 11)]
    assert crew.object_codes(specs, target.machine(), 2) == serial(specs)


def test_no_thread_costs_no_result(monkeypatch, started):
    def refused(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("threading.Thread.start", refused)
    assert crew.object_codes(SPECS, target.machine(), 2) == serial()
    assert len(started) == 1
    assert ended(started)


def test_a_process_that_hangs_is_ended(monkeypatch, started):
    monkeypatch.setattr(crew, "PATIENCE", 0.1)
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    monkeypatch.setattr(crew, "_command", lambda: command)
    assert crew.object_codes(SPECS, target.machine(), 2) == serial()
    assert len(started) == 1
    assert ended(started)


@pytest.mark.parametrize("executable", ["", None, "/usr/bin/uwsgi"])
def test_a_program_that_embeds_python_is_not_started_again(monkeypatch, started, executable):
    monkeypatch.setattr(sys, "executable", executable)
    assert crew.object_codes(SPECS, target.machine(), 2) == serial()
    assert started == []


@dataclass(frozen=True)
class Broken:
    """A kernel whose text is no LLVM IR."""

    number: int

    def emit(self, _machine):
        return "this is not IR"


def test_the_error_of_a_kernel_is_raised_here(started):
    with pytest.raises(CompileError, match="not valid LLVM IR"):
        crew.object_codes([Broken(i) for i in range(8)], target.machine(), 2)
    assert ended(started)


def test_an_interruption_leaves_no_process(monkeypatch, started):
    def interrupted(text, machine):
        raise KeyboardInterrupt

    monkeypatch.setattr("striate.jit.compile.object_code", interrupted)
    with pytest.raises(KeyboardInterrupt):
        crew.object_codes(SPECS, target.machine(), 2)
    assert len(started) == 1
    assert ended(started)


@pytest.fixture
def empty(monkeypatch):
    """A process that knows no kernel yet."""
    for name in ("_addresses", "_runners"):
        monkeypatch.setattr(load, name, {})
    monkeypatch.setattr(load, "_counts", {"compiled": 0, "loaded": 0})


@pytest.mark.usefixtures("empty")
@pytest.mark.parametrize("kept", [True, False])
def test_prepared_kernels_are_compiled_once(monkeypatch, tmp_path, kept):
    monkeypatch.setenv("STRIATE_CACHE", str(tmp_path) if kept else "off")
    tmp_path.chmod(0o700)
    specs = [Scale(float(i)) for i in range(10)]
    load.prepare([*specs, *specs], 2)
    assert load.cache_info().compiled == 10
    assert len(list(tmp_path.glob("*.o"))) == (10 if kept else 0)
    load.prepare(specs, 2)
    x, y = np.full(16, 3, np.float32), np.zeros(16, np.float32)
    call(specs[2], [x, y], [0])
    assert y[0] == 6
    assert load.cache_info().compiled == 10
    assert load.cache_info().kept == 10


@pytest.mark.usefixtures("empty")
def test_a_damaged_file_is_compiled_anew(monkeypatch, tmp_path):
    tmp_path.chmod(0o700)
    monkeypatch.setenv("STRIATE_CACHE", str(tmp_path))
    (tmp_path / f"{cache.key(repr(Scale(2.0)), target.machine())}.o").write_bytes(b"damaged")
    load.prepare([Scale(2.0), Scale(3.0)], 2)
    assert load.cache_info() == load.CacheInfo(compiled=2, loaded=0, kept=2)
    monkeypatch.setattr(load, "_addresses", {})
    load.prepare([Scale(2.0), Scale(3.0), Scale(4.0)], 2)
    assert load.cache_info() == load.CacheInfo(compiled=3, loaded=2, kept=3)
    for factor in (2.0, 3.0, 4.0):
        x, y = np.full(16, 3, np.float32), np.zeros(16, np.float32)
        call(Scale(factor), [x, y], [0])
        assert y[0] == 3 * factor


SCRIPT = """
import json, sys, numpy as np
import striate as st
print("begin", file=sys.stderr)
x = np.zeros((1, 3, 32, 32), np.float32)
y = st.models.create("resnet18", stem="32").eval()(x)
print(json.dumps([st.cache_info().compiled, st.cache_info().loaded, y.tobytes().hex()]))
"""


def cold(tmp_path, **environment):
    """Run a script without a main guard: what it prints, and how often it began."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, **environment},
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(done.stdout), done.stderr.count("begin")


@pytest.mark.slow
def test_a_script_without_a_main_guard(tmp_path):
    alone, _ = cold(tmp_path, STRIATE_CACHE="off", STRIATE_NUM_THREADS="1")
    both, begun = cold(tmp_path, STRIATE_CACHE="off", STRIATE_NUM_THREADS="2")
    assert begun == 1
    assert both == alone
    assert both[0] > 2 * crew.KERNELS_FOR_A_PROCESS
