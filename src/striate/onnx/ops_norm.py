"""Normalisation and dropout."""

from __future__ import annotations

from typing import Any

import numpy as np

import striate.functional as F
from striate.errors import ShapeError
from striate.graph import Param, Value, current_trace
from striate.graph.ops.axismap import AveragePool1d
from striate.graph.ops.eltwise import m
from striate.graph.ops.leaf import ParamLeaf
from striate.graph.ops.norm import BatchNorm
from striate.graph.ops.shape import Broadcast, normalise_axis
from striate.onnx.axes import along
from striate.onnx.handling import Call, handler
from striate.onnx.value import BOOL, Array

EPSILON = 1e-5


@handler("BatchNormalization", since=6)
def batch_normalization(call: Call) -> Any:
    """(X - mean) / sqrt(var + epsilon) · scale + B for each channel.

    When training, mean and variance are X's own, and the further outputs are

        running = old · momentum + new · (1 - momentum)      (with the biased variance)

    Before opset 14 they are followed by X's own.
    """
    eps = call.real("epsilon", EPSILON)
    if not call.integer("spatial", 1):
        return _of_elements(call, eps)
    x, scale, bias, mean, var = (call.symbol(i) for i in range(5))
    momentum = call.real("momentum", 0.9)
    image = _as_image(x)
    if not _trains(call):
        if call.training and None not in (_param(mean), _param(var)):
            return _fine_tuned(image, scale, bias, mean, var, eps, momentum).reshape(x.shape)
        return F.batch_norm(image, mean, var, scale, bias, eps=eps).reshape(x.shape)
    y, own_mean, own_var = BatchNorm(eps).apply(image, scale, bias)
    moved = [
        old * momentum + new * (1 - momentum) for old, new in ((mean, own_mean), (var, own_var))
    ]
    outputs = (y.reshape(x.shape), *moved, own_mean, own_var)
    return outputs if call.opset < 14 else outputs[:3]


def _trains(call: Call) -> bool:
    """Whether the file says that the node uses the statistics of its input."""
    if call.opset < 7:
        return not call.integer("is_test", 0)
    if call.opset < 14:
        return sum(map(bool, call.node.outputs)) > 1
    return bool(call.integer("training_mode", 0))


def _as_image(x: Value) -> Value:
    """(N, C) and (N, C, H, W) as they are, anything else as (N, C, …, last)."""
    if x.ndim < 2:
        raise ShapeError(f"BatchNormalization takes (N, C, …), got shape {x.shape}")
    if x.ndim in (2, 4):
        return x
    rest = x.shape[2:]
    return x.reshape(*x.shape[:2], int(np.prod(rest[:-1])), rest[-1])


def _param(value: Value) -> Param | None:
    op = value.node.op
    return op.param if isinstance(op, ParamLeaf) else None


def _fine_tuned(
    x: Value, scale: Value, bias: Value, mean: Value, var: Value, eps: float, momentum: float
) -> Value:
    """In a module that is being trained: by x's own statistics, towards which the running go."""
    y, *new = BatchNorm(eps).apply(x, scale, bias)
    trace = current_trace()
    assert trace is not None
    for old, value in zip((mean, var), new, strict=True):
        param = _param(old)
        assert param is not None
        trace.assign(param, old * momentum + value * (1 - momentum))
    return y


def _of_elements(call: Call, eps: float) -> Value:
    """With spatial=0 every element of an image has statistics of its own (until opset 8)."""
    x, scale, bias, mean, var = (call.symbol(i) for i in range(5))
    if call.opset > 8 or sum(map(bool, call.node.outputs)) > 1:
        raise call.unsupported("spatial=0 in training", "spatial=1")
    factor = scale * m("rsqrt", var + eps)
    return x * factor + (bias - mean * factor)


def _seeded(call: Call, ratio: float) -> Any:
    """With a seed the elements kept are always the same: those of NumPy's generator, as in onnx."""
    # The reference implementation's own generator: no other gives its numbers.
    random = np.random.RandomState(call.integer("seed"))
    kept = random.uniform(0, 1, call.shape(0)) >= ratio
    return call.symbol(0) * (kept / (1 - ratio)).astype(np.float32), kept


@handler("Dropout", since=6, known=(1, 2))
def dropout(call: Call) -> Any:
    """X itself, unless the node or the module is in training mode; and which elements are kept."""
    if call.opset < 12:
        ratio = call.real("ratio", 0.5)
        trains = call.opset < 7 and not call.integer("is_test", 0)
    else:
        ratio = float(call.array(1).reshape(())) if call.given(1) else 0.5
        trains = call.given(2) and bool(call.array(2).reshape(()))
    x = call.item(0)
    drops = (trains or call.training) and ratio > 0
    if drops and call.has("seed"):
        return _seeded(call, ratio)
    if drops and len(call.node.outputs) > 1 and call.node.outputs[1]:
        raise call.unsupported("its mask when training", "the first output")
    y = F.dropout(call.symbol(0), ratio) if drops else x
    kept: Array = np.ones(x.shape, BOOL)
    # Until opset 9 the mask has the type of x.
    return y, kept if call.opset >= 10 else kept.astype(x.dtype)


# ---------------------------------------------------------------------------- within one image


@handler("InstanceNormalization", since=6)
def instance_normalization(call: Call) -> Any:
    """By the statistics of each plane; scale and B are (C,)."""
    return _by_groups(call, call.shape(0)[1], call.symbol(1), call.symbol(2))


@handler("GroupNormalization", since=18)
def group_normalization(call: Call) -> Any:
    """By the statistics of each group of channels; scale and bias: (C,), in opset 18 (groups,)."""
    scale, bias, groups = call.symbol(1), call.symbol(2), call.integer("num_groups")
    if call.opset < 21 and groups:
        each = call.shape(0)[1] // groups
        scale, bias = (
            Broadcast((groups, each))(v.reshape(groups, 1)).reshape(groups * each)
            for v in (scale, bias)
        )
    return _by_groups(call, groups, scale, bias)


def _by_groups(call: Call, groups: int, scale: Value, bias: Value) -> Value:
    """Group normalisation of images with any number of axes."""
    x = call.symbol(0)
    image = x if x.ndim in (2, 4) else x.reshape(*x.shape[:2], 1, -1)
    y: Value = F.group_norm(image, groups, scale, bias, call.real("epsilon", EPSILON))
    return y.reshape(x.shape)


@handler("LayerNormalization", since=17)
def layer_normalization(call: Call) -> Any:
    """By the statistics of all axes from `axis` on; also gives them: Y, Mean, InvStdDev."""
    x = call.symbol(0)
    first = normalise_axis(call.integer("axis", -1), x.ndim)
    axes = tuple(range(first, x.ndim))
    mean = x.mean(axes, keepdims=True)
    apart = x - mean
    variance = (apart * apart).mean(axes, keepdims=True)
    inverse = m("rsqrt", variance + call.real("epsilon", EPSILON))
    y = apart * inverse * call.symbol(1)
    return y + call.symbol(2) if call.given(2) else y, mean, inverse


@handler("LRN")
def local_response_normalization(call: Call) -> Any:
    """x / (bias + alpha / size · Σ x²)^beta over `size` neighbouring channels."""
    x, size = call.symbol(0), call.integer("size")
    sides = ((size - 1) // 2, size // 2)
    window = AveragePool1d(x.shape[1], size, 1, sides, divisor=1)
    total = along(x * x, 1, window) * (call.real("alpha", 1e-4) / size)
    return x / (total + call.real("bias", 1.0)) ** call.real("beta", 0.75)
