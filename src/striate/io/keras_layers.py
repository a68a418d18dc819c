"""From one Keras layer to ours: its configuration and its weights, channels first.

Keras holds images as (n, h, w, c), kernels as (h, w, in, out), dense weights as (in, out).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from striate import nn
from striate.errors import FormatError, UnsupportedError
from striate.graph import Value
from striate.nn.module import Module, Tensor

Array = np.ndarray[Any, Any]
Config = Mapping[str, Any]
Weights = Mapping[str, Array]


class Rescaling(Module):
    """scale · x + offset."""

    def __init__(self, scale: float, offset: float) -> None:
        super().__init__()
        self.scale = scale
        self.offset = offset

    def forward(self, x: Value) -> Value:
        """Elementwise."""
        return x * self.scale + self.offset


class BatchNormFeatures(nn.BatchNorm2d):
    """Batch normalisation of features (n, num_features)."""

    def forward(self, x: Tensor) -> Tensor:
        """(n, num_features) → the same shape."""
        return super().forward(x.reshape(*x.shape, 1, 1)).flatten(1)


@dataclass
class State:
    """What a layer gets: its channels or features, and what is known of the picture.

    Attributes:
        channels: channels of an image, or features.
        size: (h, w) of an image, where known; None for features.
        grid: (h, w, c) of the images that a Flatten has made these features of, if Keras's order
            (h, w, c) is not ours (c, h, w).
    """

    channels: int
    size: tuple[int | None, int | None] | None
    grid: tuple[int, int, int] | None = None


def convert(kind: str, config: Config, weights: Weights, state: State) -> list[Module]:
    """Our layers for one of Keras's; `state` is brought to what they give.

    Raises: UnsupportedError for a layer or an option that is not in the table; FormatError for
    weights that do not fit the configuration.
    """
    if kind not in _LAYERS:
        raise UnsupportedError(
            f"there is no layer {kind}; there are {', '.join(SUPPORTED)}. A net with others can "
            "come through ONNX (tf2onnx, striate.onnx.load)"
        )
    if config.get("data_format") not in {None, "channels_last"}:
        raise UnsupportedError(f"data_format={config['data_format']!r}; only 'channels_last' is")
    layers = _LAYERS[kind](config, weights, state)
    activation = config.get("activation") if kind != "Activation" else None
    return [*layers, *_activation(activation)]


# ------------------------------------------------------------------ layers with weights


def _conv(config: Config, weights: Weights, state: State) -> list[Module]:
    groups, filters = int(config.get("groups", 1)), int(config["filters"])
    size = _pair(config, "kernel_size")
    kernel = _weight(weights, "kernel", (*size, state.channels // groups, filters))
    conv = _window_layer(config, state, filters, groups)
    conv.weight.assign(kernel.transpose(3, 2, 0, 1))
    _bias(conv, weights, filters)
    state.channels = filters
    return [conv]


def _depthwise(config: Config, weights: Weights, state: State) -> list[Module]:
    """Kernel (h, w, in, multiplier): output in · multiplier + m is ours of group `in`."""
    ci, multiplier = state.channels, int(config.get("depth_multiplier", 1))
    name = "depthwise_kernel" if "depthwise_kernel" in weights else "kernel"  # Keras 2, 3
    kernel = _weight(weights, name, (*_pair(config, "kernel_size"), ci, multiplier))
    conv = _window_layer(config, state, ci * multiplier, ci)
    conv.weight.assign(kernel.transpose(2, 3, 0, 1).reshape(conv.weight.shape))
    _bias(conv, weights, ci * multiplier)
    state.channels = ci * multiplier
    return [conv]


def _separable(config: Config, weights: Weights, state: State) -> list[Module]:
    """A depthwise convolution without bias, then a 1×1 convolution."""
    filters = int(config["filters"])
    first = {name: array for name, array in weights.items() if name == "depthwise_kernel"}
    (depthwise,) = _depthwise({**config, "use_bias": False}, first, state)
    kernel = _weight(weights, "pointwise_kernel", (1, 1, state.channels, filters))
    conv = nn.Conv2d(state.channels, filters, 1, bias=bool(config.get("use_bias", True)))
    conv.weight.assign(kernel.transpose(3, 2, 0, 1))
    _bias(conv, weights, filters)
    state.channels = filters
    return [depthwise, conv]


def _window_layer(config: Config, state: State, filters: int, groups: int) -> nn.Conv2d:
    """A convolution still without weights; `state.size` becomes that of its output."""
    kernel, dilation = _pair(config, "kernel_size"), _pair(config, "dilation_rate", 1)
    stride = _windows(config, state, "strides", kernel, dilation, 1)
    return nn.Conv2d(
        state.channels,
        filters,
        kernel,
        stride=stride,
        padding=str(config.get("padding", "valid")),
        dilation=dilation,
        groups=groups,
        bias=bool(config.get("use_bias", True)),
    )


def _dense(config: Config, weights: Weights, state: State) -> list[Module]:
    """On images a dense layer works on the channels of each pixel: a 1×1 convolution."""
    units, bias = int(config["units"]), bool(config.get("use_bias", True))
    kernel = _weight(weights, "kernel", (state.channels, units))
    layer: nn.Conv2d | nn.Linear
    if state.size is not None:
        layer = nn.Conv2d(state.channels, units, 1, bias=bias)
        layer.weight.assign(kernel.T[:, :, None, None])
    else:
        layer = nn.Linear(state.channels, units, bias=bias)
        layer.weight.assign(_ordered(kernel, state).T)
    _bias(layer, weights, units)
    state.channels, state.grid = units, None
    return [layer]


def _batch_norm(config: Config, weights: Weights, state: State) -> list[Module]:
    """Keras's momentum is the weight of the old value, PyTorch's that of the new one."""
    axis = config.get("axis", -1)
    axis = axis[0] if isinstance(axis, list) and len(axis) == 1 else axis
    if axis not in ({-1, 3} if state.size is not None else {-1, 1}):
        raise UnsupportedError(f"axis={axis!r} of BatchNormalization; only the channels are")
    mean = _weight(weights, "moving_mean", (state.channels,))  # as many as there are channels
    kind = nn.BatchNorm2d if state.size is not None else BatchNormFeatures
    scale, center = bool(config.get("scale", True)), bool(config.get("center", True))
    layer = kind(
        state.channels,
        eps=float(config.get("epsilon", 1e-3)),
        momentum=1 - float(config.get("momentum", 0.99)),
        affine=scale or center,
        bias=center,
    )
    parts = {
        "gamma": layer.weight if scale else None,
        "beta": layer.bias,
        "moving_mean": layer.running_mean,
        "moving_variance": layer.running_var,
    }
    for name, param in parts.items():
        if param is not None:
            param.assign(_ordered(_weight(weights, name, (state.channels,)), state))
    if layer.weight is not None and not scale:
        layer.weight.assign(np.ones_like(mean))
        layer.weight.trainable = False  # there is only a shift
    return [layer]


def _weight(weights: Weights, name: str, shape: tuple[int, ...]) -> Array:
    if name not in weights:
        raise FormatError(f"there is no weight {name}; there are {', '.join(weights) or 'none'}")
    if weights[name].shape != shape:
        raise FormatError(f"its {name} has shape {weights[name].shape}; expected {shape}")
    return weights[name]


def _bias(layer: nn.Conv2d | nn.Linear, weights: Weights, count: int) -> None:
    if layer.bias is not None:
        layer.bias.assign(_weight(weights, "bias", (count,)))


def _ordered(array: Array, state: State) -> Array:
    """Rows in our order (c, h, w), where Keras's are those of a Flatten of (h, w, c)."""
    if state.grid is None:
        return array
    rest = array.shape[1:]
    return np.moveaxis(array.reshape(*state.grid, *rest), 2, 0).reshape(array.shape)


# ------------------------------------------------------------------ layers without weights


def _max_pool(config: Config, _: Weights, state: State) -> list[Module]:
    pool = _pair(config, "pool_size", 2)
    stride = _windows(config, state, "strides", pool, (1, 1), None)
    return [nn.MaxPool2d(pool, stride, str(config.get("padding", "valid")))]


def _average_pool(config: Config, _: Weights, state: State) -> list[Module]:
    """The mean is over the pixels inside the image."""
    pool = _pair(config, "pool_size", 2)
    stride = _windows(config, state, "strides", pool, (1, 1), None)
    padding = str(config.get("padding", "valid"))
    return [nn.AvgPool2d(pool, stride, padding, count_include_pad=False)]


def _global(layer: Callable[[int], Module]) -> Callable[[Config, Weights, State], list[Module]]:
    def pool(config: Config, _: Weights, state: State) -> list[Module]:
        _images(state)
        if config.get("keepdims"):
            state.size = (1, 1)
            return [layer(1)]
        state.size = None
        return [layer(1), nn.Flatten()]

    return pool


def _flatten(_: Config, __: Weights, state: State) -> list[Module]:
    if state.size is None:
        return []
    h, w = state.size
    if h is None or w is None:
        raise UnsupportedError("Flatten of images of unknown size; the file must say (h, w)")
    c = state.channels
    state.channels, state.size = h * w * c, None
    state.grid = (h, w, c) if c > 1 and h * w > 1 else None
    return [nn.Flatten()]


def _zero_padding(config: Config, _: Weights, state: State) -> list[Module]:
    h, w = _images(state)
    padding = config.get("padding", 1)
    sides = [padding, padding] if isinstance(padding, int) else list(padding)
    (top, bottom), (left, right) = (s if isinstance(s, (list, tuple)) else (s, s) for s in sides)
    state.size = (
        None if h is None else h + top + bottom,
        None if w is None else w + left + right,
    )
    return [nn.ZeroPad2d((left, right, top, bottom))]


def _rescaling(config: Config, _: Weights, __: State) -> list[Module]:
    scale, offset = config["scale"], config.get("offset", 0.0)
    if not isinstance(scale, (int, float)) or not isinstance(offset, (int, float)):
        raise UnsupportedError(f"Rescaling with scale={scale!r}; only one number is")
    return [Rescaling(float(scale), float(offset))]


def _relu(config: Config, _: Weights, __: State) -> list[Module]:
    highest, slope = config.get("max_value"), float(config.get("negative_slope") or 0)
    if highest not in {None, 6} or config.get("threshold") or (slope and highest):
        raise UnsupportedError(f"ReLU(max_value={highest}, negative_slope={slope}, threshold=…)")
    if slope:
        return [nn.LeakyReLU(slope)]
    return [nn.ReLU() if highest is None else nn.ReLU6()]


def _leaky_relu(config: Config, _: Weights, __: State) -> list[Module]:
    slope = config.get("negative_slope", config.get("alpha", 0.3))  # Keras 3, Keras 2
    return [nn.LeakyReLU(float(slope))]


def _softmax(config: Config, _: Weights, state: State) -> list[Module]:
    axis = config.get("axis", -1)
    if axis not in {-1, 3 if state.size is not None else 1}:
        raise UnsupportedError(f"Softmax over axis {axis!r}; only over the channels is")
    return [nn.Softmax(1)]


def _activation(name: object) -> list[Module]:
    """A function that a configuration names."""
    if isinstance(name, str) and name in _ACTIVATIONS:
        return _ACTIVATIONS[name]()
    if name is None:
        return []
    shown = name.get("class_name", name) if isinstance(name, dict) else name
    raise UnsupportedError(
        f"there is no activation {shown!r:.60}; there are {', '.join(_ACTIVATIONS)}"
    )


# ------------------------------------------------------------------ sizes


def _images(state: State) -> tuple[int | None, int | None]:
    if state.size is None:
        raise FormatError("it takes images, and gets features")
    return state.size


def _windows(
    config: Config,
    state: State,
    name: str,
    kernel: tuple[int, int],
    dilation: tuple[int, int],
    default: int | None,
) -> tuple[int, int]:
    """The stride; `state.size` becomes the number of windows: ⌈n / s⌉ or ⌊(n − extent) / s⌋ + 1."""
    stride = kernel if config.get(name, default) is None else _pair(config, name, default)
    padding = config.get("padding", "valid")
    if padding not in {"same", "valid"}:
        raise UnsupportedError(f"padding={padding!r}; only 'same' and 'valid' are")
    counts: list[int | None] = []
    for n, k, d, s in zip(_images(state), kernel, dilation, stride, strict=True):
        extent = 1 if padding == "same" else d * (k - 1) + 1
        counts.append(None if n is None else math.floor((n - extent) / s) + 1)
    state.size = (counts[0], counts[1])
    return stride


def _pair(config: Config, name: str, default: int | None = None) -> tuple[int, int]:
    value = config.get(name, default)
    both = tuple(value) if isinstance(value, (list, tuple)) else (value, value)
    if len(both) != 2 or not all(type(v) is int and 0 < v < 2**16 for v in both):
        raise FormatError(f"its {name} is {value!r:.60}; it must be one or two positive numbers")
    return both[0], both[1]


_ACTIVATIONS: dict[str, Callable[[], list[Module]]] = {
    "linear": list,
    "relu": lambda: [nn.ReLU()],
    "relu6": lambda: [nn.ReLU6()],
    "leaky_relu": lambda: [nn.LeakyReLU(0.2)],
    "elu": lambda: [nn.ELU()],
    "gelu": lambda: [nn.GELU()],
    "silu": lambda: [nn.SiLU()],
    "swish": lambda: [nn.SiLU()],
    "sigmoid": lambda: [nn.Sigmoid()],
    "tanh": lambda: [nn.Tanh()],
    "softmax": lambda: [nn.Softmax(1)],
}
_LAYERS: dict[str, Callable[[Config, Weights, State], list[Module]]] = {
    "Activation": lambda config, _, __: _activation(config["activation"]),
    "AveragePooling2D": _average_pool,
    "BatchNormalization": _batch_norm,
    "Conv2D": _conv,
    "Dense": _dense,
    "DepthwiseConv2D": _depthwise,
    "Dropout": lambda config, _, __: [nn.Dropout(float(config["rate"]))],
    "Flatten": _flatten,
    "GlobalAveragePooling2D": _global(nn.AdaptiveAvgPool2d),
    "GlobalMaxPooling2D": _global(nn.AdaptiveMaxPool2d),
    "LeakyReLU": _leaky_relu,
    "MaxPooling2D": _max_pool,
    "ReLU": _relu,
    "Rescaling": _rescaling,
    "SeparableConv2D": _separable,
    "Softmax": _softmax,
    "ZeroPadding2D": _zero_padding,
}
SUPPORTED = ("InputLayer", *_LAYERS)
