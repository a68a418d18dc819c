"""Striate: convolutional neural networks on CPUs, trained and run on kernels made from Python.

    import striate as st
    from striate import nn
    import striate.functional as F

Names are loaded when they are first used, so `import striate` is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from striate.errors import (
    ArgumentError,
    CacheError,
    CheckpointError,
    CompileError,
    DataError,
    DTypeError,
    FormatError,
    InterruptedTraining,
    NonFiniteError,
    ShapeError,
    StriateError,
    TraceError,
    UnsupportedError,
    WriteError,
)

if TYPE_CHECKING:
    from striate import (
        callbacks,
        data,
        functional,
        models,
        nn,
        onnx,
        optim,
        schedule,
        sklearn,
    )
    from striate.engine import cache_info, get_num_threads, set_num_threads
    from striate.functional import concat
    from striate.interop import from_torch
    from striate.io.model import load, save
    from striate.io.weights import load_weights, read_weights
    from striate.nn.init import manual_seed
    from striate.pixels import Pixels
    from striate.report.show import show
    from striate.report.summary import summary
    from striate.train.history import History
    from striate.train.precise import precise_batch_norm
    from striate.train.step import compile_step
    from striate.train.trainer import Trainer

__version__ = "0.1.0"

_MODULES = (
    "callbacks",
    "data",
    "functional",
    "models",
    "nn",
    "onnx",
    "optim",
    "schedule",
    "sklearn",
)

# Public name → the module that holds it.
_NAMES = {
    "History": "striate.train.history",
    "Pixels": "striate.pixels",
    "Trainer": "striate.train.trainer",
    "cache_info": "striate.engine",
    "compile_step": "striate.train.step",
    "concat": "striate.functional",
    "from_torch": "striate.interop",
    "get_num_threads": "striate.engine",
    "load": "striate.io.model",
    "load_weights": "striate.io.weights",
    "manual_seed": "striate.nn.init",
    "precise_batch_norm": "striate.train.precise",
    "read_weights": "striate.io.weights",
    "save": "striate.io.model",
    "set_num_threads": "striate.engine",
    "show": "striate.report.show",
    "summary": "striate.report.summary",
}

__all__ = [
    "ArgumentError",
    "CacheError",
    "CheckpointError",
    "CompileError",
    "DTypeError",
    "DataError",
    "FormatError",
    "History",
    "InterruptedTraining",
    "NonFiniteError",
    "Pixels",
    "ShapeError",
    "StriateError",
    "TraceError",
    "Trainer",
    "UnsupportedError",
    "WriteError",
    "__version__",
    "cache_info",
    "callbacks",
    "compile_step",
    "concat",
    "data",
    "from_torch",
    "functional",
    "get_num_threads",
    "load",
    "load_weights",
    "manual_seed",
    "models",
    "nn",
    "onnx",
    "optim",
    "precise_batch_norm",
    "read_weights",
    "save",
    "schedule",
    "set_num_threads",
    "show",
    "sklearn",
    "summary",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"striate.{name}")
    if name not in _NAMES:
        raise AttributeError(f"module 'striate' has no attribute {name!r}")
    value = getattr(importlib.import_module(_NAMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
