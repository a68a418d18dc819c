"""Sequential CNNs that Keras saved, read without Keras: `.keras` and `.h5` files.

* `.h5` (Keras 2, and 3 on demand): attribute `model_config` (JSON); group `model_weights/LAYER`
  with the attribute `weight_names`, such as `conv2d/kernel:0`, which are paths inside it.
* `.keras` (Keras 3): a zip of `config.json` and `model.weights.h5`, where layer number i of a kind
  has `layers/KIND_i/vars/0`, `1`, … in the order in which it makes its weights.

Needs h5py (`pip install 'striate[keras]'`). Nothing in the file is executed.
"""

from __future__ import annotations

import io
import json
import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from striate import nn
from striate.errors import FormatError, StriateError, UnsupportedError
from striate.io.keras_layers import State, convert
from striate.io.pth import zip_errors
from striate.nn import init
from striate.nn.module import Module

Array = np.ndarray[Any, Any]
Layer = dict[str, Any]
# A layer and how many of its kind came before → its weights by name.
Reader = Callable[[Layer, int], dict[str, Array]]

# In which order a layer of Keras 3 makes its weights: trained ones, then the others.
_ORDER = {
    "Conv2D": ("kernel", "bias"),
    "DepthwiseConv2D": ("kernel", "bias"),
    "SeparableConv2D": ("depthwise_kernel", "pointwise_kernel", "bias"),
    "Dense": ("kernel", "bias"),
    "BatchNormalization": ("gamma", "beta", "moving_mean", "moving_variance"),
}


def load(path: str | os.PathLike[str]) -> nn.Sequential:
    """Read a `Sequential` model of Keras: architecture and weights.

    Args:
        path: a `.keras` file, or a `.h5` file of a whole model (`model.save`, not only weights).

    Returns: the net in evaluation mode. It takes images (N, C, H, W), where Keras takes
    (N, H, W, C): `net(x.transpose(0, 3, 1, 2))`. Features come in Keras's order, also behind a
    `Flatten`. Layers bear Keras's names.

    Raises:
        UnsupportedError: the model is not sequential, or has a layer or an option that Striate
            does not read; the message names it and what there is.
        FormatError: the file is damaged or of another kind.
        ImportError: h5py is missing.
        OSError: the file cannot be opened.
    """
    path = Path(path)
    h5py = _h5py()
    with path.open("rb") as file:
        head = file.read(4)
    try:
        if head.startswith(b"PK\x03\x04"):
            config, weights = _open_zip(path)
            with h5py.File(io.BytesIO(weights), "r") as file:
                return _build(config, _by_number(file))
        with h5py.File(path, "r") as file:
            if "model_config" not in file.attrs:
                raise FormatError("holds no model (model_config); save it by model.save(path)")
            config = json.loads(file.attrs["model_config"])
            return _build(config, _by_name(file["model_weights"]))
    except StriateError as error:
        raise type(error)(f"{path}: {error}") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FormatError(f"{path}: damaged, or no model of Keras: {error!r:.300}") from error


def _h5py() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise ImportError(
            "reading Keras's files needs h5py: pip install 'striate[keras]'"
        ) from error
    return h5py


def _open_zip(path: Path) -> tuple[Any, bytes]:
    """config.json and model.weights.h5. Keras does not compress, so nothing outgrows the file."""
    content = []
    with zip_errors(""), zipfile.ZipFile(path) as archive:
        for name in ("config.json", "model.weights.h5"):
            if name not in archive.namelist():
                raise FormatError(f"a zip file, but no model of Keras: there is no {name}")
            entry = archive.getinfo(name)
            if entry.file_size > path.stat().st_size:
                raise FormatError(f"refused: {name} would be larger than the file")
            content.append(archive.read(entry))
    return json.loads(content[0]), content[1]


# ------------------------------------------------------------------ weights


def _by_name(group: Any) -> Reader:
    """Weights of a `.h5` file of a whole model."""

    def read(layer: Layer, _: int) -> dict[str, Array]:
        found = group[layer["config"]["name"]]
        names = [
            n.decode() if isinstance(n, bytes) else str(n) for n in found.attrs["weight_names"]
        ]
        return {name.rsplit("/")[-1].partition(":")[0]: _array(found, name) for name in names}

    return read


def _by_number(file: Any) -> Reader:
    """Weights of `model.weights.h5`."""

    def read(layer: Layer, number: int) -> dict[str, Array]:
        kind, config = layer["class_name"], layer["config"]
        snake = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", kind)
        snake = re.sub(r"([a-z])([A-Z])", r"\1_\2", snake).lower()
        left_out = {
            "bias": not config.get("use_bias", True),
            "gamma": not config.get("scale", True),
            "beta": not config.get("center", True),
        }
        names = [name for name in _ORDER[kind] if not left_out.get(name)]
        folder = f"layers/{snake}{f'_{number}' if number else ''}/vars"
        return {name: _array(file, f"{folder}/{i}") for i, name in enumerate(names)}

    return read


def _array(group: Any, name: str) -> Array:
    """A dataset. It must lie in this file, whole: a link may lead to any file of the machine."""
    h5py = _h5py()
    found = group
    for part in name.split("/"):
        if not isinstance(found, h5py.Group) or part not in found:
            raise FormatError(f"there is no weight {group.name.rstrip('/')}/{name}")
        if not isinstance(found.get(part, getlink=True), h5py.HardLink):
            raise FormatError(f"refused: {name} is a link to another place")
        found = found[part]
    if not isinstance(found, h5py.Dataset) or found.dtype.kind not in "fiu":
        raise FormatError(f"{name} is no array of numbers")
    size = found.id.get_storage_size()
    if found.is_virtual or found.external or size != found.nbytes:
        raise FormatError(f"refused: {name} is compressed or not whole in this file")
    array: Array = found[()]
    if found.attrs.get("dtype") == "bfloat16":
        raise UnsupportedError(f"{name} is bfloat16; save the model in float32")
    return array.astype(np.float32)


# ------------------------------------------------------------------ layers


def _build(model: Any, read: Reader) -> nn.Sequential:
    """The net of a configuration."""
    if model["class_name"] != "Sequential":
        raise UnsupportedError(
            f"the model is a {model['class_name']}; only Sequential is read. Export it to ONNX "
            "(tf2onnx) and use striate.onnx.load"
        )
    layers = model["config"]
    layers = layers["layers"] if isinstance(layers, dict) else layers
    state: State | None = (
        _input_state(model["config"]) if isinstance(model["config"], dict) else None
    )
    counts: dict[str, int] = {}
    net: dict[str, Module] = {}
    with init.skipped():
        for layer in layers:
            kind, config = layer["class_name"], layer["config"]
            state = (None if net else _input_state(config)) or state
            if kind == "InputLayer":
                continue
            if state is None:
                raise FormatError("the model does not say which images it takes (build it first)")
            number = counts.get(kind, 0)
            counts[kind] = number + 1
            name = _attribute(config.get("name") or f"{kind.lower()}_{len(net)}")
            try:
                weights = read(layer, number) if kind in _ORDER else {}
                found = convert(kind, config, weights, state)
            except StriateError as error:
                raise type(error)(f"layer {name!r} ({kind}): {error}") from error
            for i, module in enumerate(found):
                part = name if i == 0 else f"{name}_{type(module).__name__.lower()}"
                if part in net:
                    raise FormatError(f"two layers are named {part!r}")
                net[part] = module
    if state is not None and state.grid is not None:
        raise UnsupportedError("a Flatten of images must be followed by a Dense layer")
    return nn.Sequential(net).eval()


def _attribute(name: object) -> str:
    """A layer's name as an attribute that hides none of a module's own."""
    plain = re.sub(r"\W", "_", str(name))
    return f"layer_{plain}" if hasattr(nn.Sequential, plain) or plain.startswith("_") else plain


def _input_state(config: Layer) -> State | None:
    """The images that a model takes: (batch, h, w, c)."""
    shape = next(
        (
            config[name]
            for name in ("batch_shape", "batch_input_shape", "build_input_shape")
            if config.get(name)
        ),
        None,
    )
    if shape is None:
        return None
    if len(shape) == 2 and isinstance(shape[1], int):
        return State(shape[1], None)
    if len(shape) != 4 or not isinstance(shape[3], int):
        raise UnsupportedError(
            f"the model takes arrays of shape {shape}; only (n, h, w, c) is read"
        )
    return State(shape[3], (shape[1], shape[2]))
