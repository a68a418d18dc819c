"""Files of Keras by their documented layout, and what its layers compute, in NumPy and float64."""

from __future__ import annotations

import io
import json
import zipfile
from typing import Any

import numpy as np

rng = np.random.default_rng


def layer(kind: str, name: str, weights: dict[str, np.ndarray] | None = None, **config: Any) -> Any:
    """One layer: class name, configuration, weights in Keras's order."""
    return kind, {"name": name, **config}, weights or {}


def write_h5(path, layers, shape, *, keras3=False, kind="Sequential"):
    """A whole model of Keras 2."""
    import h5py

    first = {"class_name": "InputLayer", "config": {"batch_input_shape": shape, "name": "input_1"}}
    entries = [{"class_name": k, "config": c} for k, c, _ in layers]
    config = {"class_name": kind, "config": {"name": "net", "layers": [first, *entries]}}
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps(config)
        file.attrs["keras_version"] = "2.15.0"
        group = file.create_group("model_weights")
        for _, c, weights in layers:
            own = group.create_group(c["name"])
            end = "" if keras3 else ":0"
            names = [f"{c['name']}/{w}{end}" for w in weights]
            own.attrs["weight_names"] = [name.encode() for name in names]
            for name, array in zip(names, weights.values(), strict=True):
                own[name] = array
    return path


def write_keras(path, layers, shape, paths):
    """A model of Keras 3; `paths` gives each layer's folder, None for one without weights."""
    import h5py

    entries = [{"module": "keras.layers", "class_name": k, "config": c} for k, c, _ in layers]
    first = {"class_name": "InputLayer", "config": {"batch_shape": shape, "name": "input_layer"}}
    config = {"class_name": "Sequential", "config": {"name": "net", "layers": [first, *entries]}}
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        for folder, (_, _, weights) in zip(paths, layers, strict=True):
            if folder is not None:
                group = file.create_group(f"layers/{folder}/vars")
                for i, array in enumerate(weights.values()):
                    group[str(i)] = array
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.5.0"}))
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("model.weights.h5", content.getvalue())
    return path


# ------------------------------------------------------------------ meaning, channels last


def windows(x, kernel, stride, padding, dilation, fill):
    """(n, oh, ow, kh, kw, c): every window of images; "same" has its excess at the end."""
    pads = []
    for n, k, s, d in zip(x.shape[1:3], kernel, stride, dilation, strict=True):
        extent = d * (k - 1) + 1
        total = max((-(-n // s) - 1) * s + extent - n, 0) if padding == "same" else 0
        pads.append((total // 2, total - total // 2))
    x = np.pad(x, [(0, 0), *pads, (0, 0)], constant_values=fill)
    counts = [
        (n - d * (k - 1) - 1) // s + 1
        for n, k, s, d in zip(x.shape[1:3], kernel, stride, dilation, strict=True)
    ]
    out = np.empty((len(x), *counts, *kernel, x.shape[3]))
    for i in range(counts[0]):
        for j in range(counts[1]):
            rows = i * stride[0] + np.arange(kernel[0]) * dilation[0]
            cols = j * stride[1] + np.arange(kernel[1]) * dilation[1]
            out[:, i, j] = x[:, rows][:, :, cols]
    return out


def activate(x, name):
    if name in {None, "linear"}:
        return x
    if name == "softmax":
        e = np.exp(x - x.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)
    return {
        "relu": lambda: np.maximum(x, 0),
        "relu6": lambda: np.clip(x, 0, 6),
        "tanh": lambda: np.tanh(x),
        "sigmoid": lambda: 1 / (1 + np.exp(-x)),
        "swish": lambda: x / (1 + np.exp(-x)),
        "elu": lambda: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
        "leaky_relu": lambda: np.where(x > 0, x, 0.2 * x),
    }[name]()


def two(value):
    return (value, value) if isinstance(value, int) else tuple(value)


def run_layer(x, kind, c, w):
    w = {name: array.astype(float) for name, array in w.items()}
    if kind in {"Conv2D", "DepthwiseConv2D", "SeparableConv2D"}:
        at = windows(x, two(c["kernel_size"]), two(c.get("strides", 1)), c.get("padding", "valid"),
                     two(c.get("dilation_rate", 1)), 0)  # fmt: skip
        if kind == "Conv2D":
            groups = c.get("groups", 1)
            parts = zip(np.split(at, groups, -1), np.split(w["kernel"], groups, -1), strict=True)
            y = np.concatenate([np.einsum("nijhwc,hwco->nijo", a, k) for a, k in parts], -1)
        else:
            kernel = w.get("depthwise_kernel", w.get("kernel"))
            y = np.einsum("nijhwc,hwcm->nijcm", at, kernel).reshape(*at.shape[:3], -1)
        if kind == "SeparableConv2D":
            y = y @ w["pointwise_kernel"][0, 0]
        y = y + w.get("bias", 0)
    elif kind == "Dense":
        y = x @ w["kernel"] + w.get("bias", 0)
    elif kind == "BatchNormalization":
        scale = w.get("gamma", 1) / np.sqrt(w["moving_variance"] + c.get("epsilon", 1e-3))
        y = (x - w["moving_mean"]) * scale + w.get("beta", 0)
    elif kind in {"MaxPooling2D", "AveragePooling2D"}:
        size = two(c.get("pool_size", 2))
        stride = size if c.get("strides") is None else two(c["strides"])
        at = windows(x, size, stride, c.get("padding", "valid"), (1, 1), np.nan)
        y = (np.nanmax if kind == "MaxPooling2D" else np.nanmean)(at, (3, 4))
    elif kind in {"GlobalAveragePooling2D", "GlobalMaxPooling2D"}:
        y = (np.mean if "Average" in kind else np.max)(x, (1, 2), keepdims=c.get("keepdims", False))
    elif kind == "Flatten":
        y = x.reshape(len(x), -1)
    elif kind == "ZeroPadding2D":
        y = np.pad(x, [(0, 0), *map(two, two(c["padding"])), (0, 0)])
    elif kind == "Rescaling":
        y = x * c["scale"] + c.get("offset", 0)
    elif kind == "ReLU":
        y = np.clip(x, 0, c.get("max_value") or np.inf)
    elif kind == "LeakyReLU":
        y = np.where(x > 0, x, x * c.get("negative_slope", c.get("alpha", 0.3)))
    elif kind == "Softmax":
        y = activate(x, "softmax")
    else:
        assert kind in {"Dropout", "Activation"}
        y = x
    return activate(y, c.get("activation"))


def run(layers, x):
    """What Keras's net gives in evaluation: (n, h, w, c) → …, float64."""
    x = x.astype(float)
    for kind, config, weights in layers:
        x = run_layer(x, kind, config, weights)
    return x
