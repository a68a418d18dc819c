"""Nothing that only Linux has is used while importing, and without it the results are the same."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, importlib.metadata, os, sys, tempfile, threading
import numpy as np
import numpy.testing  # asks for the platform's configuration
import llvmlite.binding, llvmlite.ir  # these choose their files by the real platform

sys.platform = {platform!r}
for name in {missing!r}:
    if hasattr(os, name):
        delattr(os, name)

from striate import engine
from striate.graph import Trace
from striate.graph.ops.conv import Conv2d
from striate.graph.ops.eltwise import m
from striate.graph.value import Param
from striate.jit.pool import pool

rng = np.random.default_rng(0)
w = Param("w", rng.integers(-3, 4, (33, 5, 3, 3)).astype(np.float32))
with Trace() as trace:
    x = trace.input("x", (4, 5, 17, 16))
    y = m("relu", Conv2d((1, 1), ((1, 1), (1, 1)))(x, w))
    graph = trace.graph(y, y.sum((2, 3)))
image = rng.integers(-3, 4, (4, 5, 17, 16)).astype(np.float32)
padded = np.pad(image, ((0, 0), (0, 0), (1, 1), (1, 1)))
want = sum(
    np.einsum("nchw,oc->nohw", padded[:, :, a : a + 17, b : b + 16], w.data[:, :, a, b])
    for a in range(3) for b in range(3)
)
for threads in (1, 2, 3):
    engine.set_num_threads(threads)
    for _ in range(3):
        full, summed = engine.build(graph)(image)
        np.testing.assert_array_equal(full, np.maximum(want, 0))
        np.testing.assert_array_equal(summed, np.maximum(want, 0).sum((2, 3)))
    assert pool().threads == threads and len(pool()._workers) == threads - 1
print("futex" if pool().futex else "portable")
"""
LINUX_ONLY = ("sched_getaffinity", "register_at_fork", "getuid", "fork", "sched_setaffinity")


def run(platform, missing, cache):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM.format(platform=platform, missing=missing)],
        env={**os.environ, "STRIATE_CACHE": str(cache)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("platform", ["win32", "darwin"])
def test_elsewhere(tmp_path, platform):
    assert run(platform, LINUX_ONLY, tmp_path) == "portable"


@pytest.mark.skipif(sys.platform != "linux", reason="the strategy of Linux")
def test_here(tmp_path):
    assert run("linux", (), tmp_path) == "futex"


ALL_ROOMS = """
import sys
before = set(sys.modules)
import striate.engine, striate.jit.pool, striate.jit.load, striate.jit.target, striate.jit.cache
import striate.jit.compile, striate.engine.reference, striate.engine.lower
heavy = {"llvmlite.binding", "PIL", "matplotlib", "rich", "safetensors", "platformdirs", "scipy"}
print(*sorted(heavy & set(sys.modules)))
"""


def test_importing_loads_nothing_heavy():
    done = subprocess.run(
        [sys.executable, "-c", ALL_ROOMS], capture_output=True, text=True, timeout=600, check=True
    )
    assert done.stdout.split() == []
