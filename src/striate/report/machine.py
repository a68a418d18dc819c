"""What `striate doctor` says: the machine, the threads, the kernel cache, the versions."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from striate import __version__
from striate.errors import CacheError

PACKAGES = (
    "numpy", "llvmlite", "pillow", "safetensors", "click", "rich", "matplotlib",
    "onnx", "mpi4py", "torch",
)  # fmt: skip
VARIABLES = (
    "STRIATE_NUM_THREADS", "OMP_NUM_THREADS", "STRIATE_TARGET", "STRIATE_CACHE", "STRIATE_TUNE",
    "NO_COLOR",
)  # fmt: skip
# Halfway into the denormal range of float32, whose smallest normal number is 2⁻¹²⁶ ≈ 1.18e-38.
DENORMAL = np.float32(1e-40)

Facts = dict[str, Any]


def machine_facts() -> Facts:
    """Everything about this machine that a bug report needs, as JSON values.

    Measures the peak of fused multiply-adds, which takes about a second.
    """
    return {
        "versions": _versions(),
        "machine": _machine(),
        "threads": _threads(),
        "cache": _cache(),
        "denormals": _denormals(),
        "peak": _peak(),
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def _versions() -> Facts:
    facts: Facts = {"striate": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            facts[name] = version(name)
        except PackageNotFoundError:
            facts[name] = None
    return facts


def _machine() -> Facts:
    from striate.jit.target import machine

    target = machine()
    return {
        "system": platform.platform(),
        "processor": _processor_name(),
        "llvm_cpu": target.cpu,
        "instruction_set": target.isa,
        "vector_floats": target.lanes,
        "vector_registers": target.registers,
        "l1_bytes": target.l1_bytes,
        "l2_bytes": target.l2_bytes,
    }


def _processor_name() -> str:
    """The name that the processor gives itself."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _threads() -> Facts:
    from striate.jit.pool import cgroup_quota, get_num_threads

    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    return {
        "used": get_num_threads(),
        "processors": os.cpu_count(),
        "affinity": affinity,
        "cgroup_quota": cgroup_quota(),
    }


def _cache() -> Facts:
    from striate.jit import cache

    try:
        folder = cache.folder()
    except CacheError as error:
        return {"state": "unusable", "reason": str(error)}
    if folder is None:
        return {"state": "off"}
    sizes = [file.stat().st_size for file in folder.glob("*.o")]
    return {"state": "on", "folder": str(folder), "kernels": len(sizes), "bytes": sum(sizes)}


def _denormals() -> Facts:
    """Whether kernels flush denormals to zero, and whether the caller's thread still keeps them."""
    import striate.functional as F

    x = np.full((1, 1, 1, 1), DENORMAL, np.float32)
    flushed = bool(F.conv2d(x, np.ones((1, 1, 1, 1), np.float32)) == 0)
    kept = bool(x[0, 0, 0, 0] * np.float32(1) != 0)
    return {"flushed_in_kernels": flushed, "kept_by_numpy": kept}


def _peak() -> Facts:
    from striate.engine import measure_peak
    from striate.jit.pool import get_num_threads

    return {"gflops": round(measure_peak(), 1), "threads": get_num_threads()}


def format_facts(facts: Facts) -> str:
    """The facts as lines of text, one a fact, in blocks."""
    lines: list[str] = []
    for block, content in facts.items():
        lines.append(block)
        for name, value in content.items():
            shown = "not installed" if value is None and block == "versions" else value
            lines.append(f"  {name.replace('_', ' '):<20} {_text(shown)}")
        if not content:
            lines.append("  nothing set")
    return "\n".join(lines)


def _text(value: object) -> str:
    if value is None:
        return "no limit"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
