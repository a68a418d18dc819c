"""Statistics over batch, height and width, and batch normalisation in training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from striate.errors import DTypeError, ShapeError
from striate.graph.ops.eltwise import m
from striate.graph.ops.leaf import SizeConst
from striate.graph.ops.reduce import Reduce
from striate.graph.ops.shape import Broadcast
from striate.graph.value import Array, Node, Op, TensorType, Value


def _channels(x: TensorType) -> int:
    if x.dtype != "f32":
        raise DTypeError(f"channel statistics take f32, got {x}")
    if len(x.shape) != 4:
        raise ShapeError(f"channel statistics take images (N, C, H, W), got {x.shape}")
    if _count(x.shape) < 2:
        raise ShapeError(
            "batch norm in training needs more than 1 value per channel, got images of shape "
            f"{x.shape}: use a larger batch or image, or drop the last incomplete batch"
        )
    return x.shape[1]


def _count(shape: tuple[int, ...]) -> int:
    return shape[0] * shape[2] * shape[3]


def _statistics(x: Array) -> tuple[Array, Array]:
    """Mean and biased variance, (1, C, 1, 1) in float64, the variance from centred values."""
    wide = x.astype(np.float64)
    with np.errstate(all="ignore"):
        return wide.mean((0, 2, 3), keepdims=True), wide.var((0, 2, 3), keepdims=True)


def per_channel(v: Value) -> Value:
    """(C,) as (1, C, 1, 1)."""
    return v.reshape(1, v.size, 1, 1)


def stats_gradient(
    x: Value, mean: Value, g_mean: Value | None, g_var: Value | None
) -> Value | None:
    """Gradient for x through its statistics, all of shape (1, C, 1, 1), over m elements.

    d mean / dx = 1 / m;   d var / dx = 2 (x - mean) / m
    """
    scale = SizeConst(1 / _count(x.shape))()
    parts = []
    if g_mean is not None:
        parts.append(g_mean * scale)
    if g_var is not None:
        parts.append((x - mean) * (g_var * 2.0 * scale))
    if not parts:
        return None
    total = parts[0] if len(parts) == 1 else parts[0] + parts[1]
    return total if total.shape == x.shape else Broadcast(x.shape)(total)


@dataclass(frozen=True)
class ChannelStats(Op):
    """Mean and biased variance of x (N, C, H, W) over N, H and W, each (1, C, 1, 1)."""

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        """Two of (1, C, 1, 1)."""
        return (TensorType((1, _channels(inputs[0]), 1, 1)),) * 2

    def numpy(self, *arrays: Array) -> tuple[Array, ...]:
        """In float64, rounded once."""
        (x,) = arrays
        mean, var = _statistics(x)
        return mean.astype(x.dtype), var.astype(x.dtype)

    def grad(self, node: Node, *g: Value | None) -> tuple[Value | None, ...]:
        """See `stats_gradient`."""
        return (stats_gradient(node.inputs[0], Value(node, 0), *g),)


@dataclass(frozen=True)
class BatchNorm(Op):
    """Normalise x (N, C, H, W) by its own statistics: y, mean, biased variance.

    y = (x - mean) / sqrt(var + eps) · weight + bias, per channel; weight and bias are (C,), and
    so are the outputs mean and var.
    """

    eps: float = 1e-5

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        """x's type, and (C,) twice. Raises ShapeError for a single value per channel."""
        x, weight, bias = inputs
        c = _channels(x)
        for name, t in (("weight", weight), ("bias", bias)):
            if t != TensorType((c,)):
                raise ShapeError(f"batch norm: {name} must have shape ({c},), got {t}")
        return x, TensorType((c,)), TensorType((c,))

    def numpy(self, *arrays: Array) -> tuple[Array, ...]:
        """In float64, rounded once."""
        x, weight, bias = arrays
        mean, var = _statistics(x)
        column = (1, -1, 1, 1)
        with np.errstate(all="ignore"):
            scale = weight.reshape(column) / np.sqrt(var + self.eps)
            y = (x - mean) * scale + bias.reshape(column)
        return tuple(a.astype(x.dtype) for a in (y, mean.reshape(-1), var.reshape(-1)))

    def expand(self, node: Node) -> tuple[Value, ...]:
        """The same three outputs made of ChannelStats and maps."""
        x, weight, bias = node.inputs
        mean, var = ChannelStats().apply(x)
        scale = m("rsqrt", var + self.eps) * per_channel(weight)
        y = (x - mean) * scale + per_channel(bias)
        return y, mean.reshape(weight.shape), var.reshape(weight.shape)

    def grad(self, node: Node, *g: Value | None) -> tuple[Value | None, ...]:
        """With x̂ = (x - mean)·inv, inv = 1 / sqrt(var + eps), over m elements per channel:

        db = Σ g;   dw = Σ g·x̂;   dx = w·inv·(g - db / m - x̂·dw / m)

        plus what flows in through mean and var.
        """
        x, weight, _ = node.inputs
        dy, g_mean, g_var = g
        mean, var = per_channel(Value(node, 1)), per_channel(Value(node, 2))
        dx = stats_gradient(
            x, mean, *(None if v is None else per_channel(v) for v in (g_mean, g_var))
        )
        if dy is None:
            return dx, None, None
        inv = m("rsqrt", var + self.eps)
        normal = (x - mean) * inv
        db = Reduce("sum", (0, 2, 3))(dy)
        dw = Reduce("sum", (0, 2, 3))(dy * normal)
        scale = SizeConst(1 / _count(x.shape))()
        through_y = per_channel(weight) * inv * (dy - db * scale - normal * (dw * scale))
        dx = through_y if dx is None else through_y + dx
        return dx, dw.reshape(weight.shape), db.reshape(weight.shape)
