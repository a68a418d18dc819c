"""What a run depends on: machine, versions, settings."""

from __future__ import annotations

import datetime as dt
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import striate as st
from striate import engine
from striate.jit.target import machine

DISTRIBUTIONS = {
    "PyTorch": "torch",
    "ONNX Runtime": "onnxruntime",
    "OpenVINO": "openvino",
    "ncnn": "ncnn",
    "JAX": "jax",
}
PEAK_SECONDS = 0.3


def versions() -> dict[str, str]:
    """Of Striate and of the peers that are installed."""
    found = {"Striate": st.__version__}
    for name, distribution in DISTRIBUTIONS.items():
        try:
            found[name] = version(distribution)
        except PackageNotFoundError:
            continue
    return found


def facts(threads: list[int], effort: str, isa: str, command: str) -> dict[str, Any]:
    """For the head of the tables, and for knowing whether a run may be resumed."""
    return {
        "cpu": machine().cpu,
        "isa": machine().isa,
        "limited_to": isa,
        "python": platform.python_version(),
        "versions": versions(),
        "effort": effort,
        "command": command,
        "date": dt.datetime.now(dt.timezone.utc).date().isoformat(),
        "peak": {str(t): engine.measure_peak(t, PEAK_SECONDS) for t in threads},
    }
