"""Striate as a backend of the `onnx` package, by which its own tests run."""

from __future__ import annotations

from typing import Any

from onnx.backend.base import Backend, BackendRep

from striate.onnx.module import OnnxModule
from striate.onnx.read import convert


class Prepared(BackendRep):
    """A model that is ready to run."""

    def __init__(self, net: OnnxModule) -> None:
        self.net = net

    def run(self, inputs: Any, **_: Any) -> tuple[Any, ...]:
        """The outputs for inputs in the graph's order, or by name."""
        outputs = self.net(**inputs) if isinstance(inputs, dict) else self.net(*inputs)
        return outputs if isinstance(outputs, tuple) else (outputs,)


class StriateBackend(Backend):
    """`prepare`, `run_model` and `supports_device`, as `onnx.backend.base.Backend` says."""

    @classmethod
    def prepare(cls, model: Any, device: str = "CPU", **_: Any) -> Prepared:
        """Read a `ModelProto`. Raises FormatError and UnsupportedError."""
        assert cls.supports_device(device), device
        return Prepared(OnnxModule(convert(model)))

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """CPU only."""
        return device.partition(":")[0] == "CPU"


prepare = StriateBackend.prepare
run_model = StriateBackend.run_model
supports_device = StriateBackend.supports_device
