"""Networks of other libraries as modules of ours, straight from memory."""

from __future__ import annotations

import importlib
import io
import warnings
from typing import Any, cast

import numpy as np

from striate.errors import ArgumentError, UnsupportedError
from striate.nn.module import Module

OPSET = 17  # the newest that PyTorch's exporter without onnxscript is sure of


def from_torch(module: Any, example_input: Any) -> Module:
    """A `torch.nn.Module` as a module of ours, with its weights, by way of ONNX in memory.

        net = st.from_torch(torchvision.models.resnet18(), np.zeros((1, 3, 224, 224), np.float32))

    The module is run once on the example, in evaluation mode, and what it does is written down:
    Python that depends on the numbers in a picture is fixed as the example has it (PyTorch warns).

    Args:
        module: what to convert; it is not changed.
        example_input: an array or tensor (n, c, h, w), or a tuple of such for several inputs. The
            first axis of each is free afterwards, the others stay as they are here.

    Returns: the net in evaluation mode, as `striate.onnx.load` gives it. Its layers' names are
    ONNX's; to load weights into a net of `models.create` see `load_weights`.

    Raises:
        ArgumentError: `module` is no `torch.nn.Module`, or the example no arrays.
        UnsupportedError: PyTorch cannot export it, or Striate does not read what it exports.
        ImportError: torch or onnx is missing (`pip install torch 'striate[onnx]'`).
    """
    return _as_module(_export(module, example_input))


def _export(module: Any, example_input: Any) -> bytes:
    """The bytes of an ONNX model."""
    try:
        torch: Any = importlib.import_module("torch")
    except ImportError as error:
        raise ImportError("from_torch needs PyTorch: pip install torch") from error
    if not isinstance(module, torch.nn.Module):
        raise ArgumentError(f"from_torch takes a torch.nn.Module, got {type(module).__name__}")
    given = example_input if isinstance(example_input, tuple) else (example_input,)
    inputs = tuple(_as_tensor(torch, x) for x in given)
    names = ["input"] if len(inputs) == 1 else [f"input_{i}" for i in range(len(inputs))]
    out = io.BytesIO()
    training = module.training
    try:
        with warnings.catch_warnings():
            # PyTorch's newer exporter needs onnxscript besides; this one needs nothing.
            warnings.simplefilter("ignore", DeprecationWarning)
            torch.onnx.export(
                module.eval(),
                inputs,
                out,
                input_names=names,
                dynamic_axes={name: {0: "batch"} for name in names},
                opset_version=OPSET,
                dynamo=False,
            )
    except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UnsupportedError(f"PyTorch cannot export this module to ONNX: {reason}") from error
    finally:
        module.train(training)
    return out.getvalue()


def _as_tensor(torch: Any, x: Any) -> Any:
    if isinstance(x, torch.Tensor):
        return x
    array = np.asarray(x)
    if array.dtype.kind not in "biuf":
        raise ArgumentError(f"example_input must be arrays of numbers, got {type(x).__name__}")
    floats = array.dtype.kind == "f"
    return torch.from_numpy(np.array(array, np.float32 if floats else array.dtype))


def _as_module(content: bytes) -> Module:
    from striate import onnx

    return cast(Module, onnx.load(content))
