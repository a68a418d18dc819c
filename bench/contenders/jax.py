"""JAX: the training step in plain `jax.lax`, compiled once, with its old weights given away.

Images are NHWC and weights HWIO, which XLA likes best on CPUs.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bench.job import Array, Job, Learner, Sgd

Arrays = dict[str, Any]
LAYOUT = ("NHWC", "HWIO", "NHWC")
EPS, MOMENTUM = 1e-5, 0.1  # of batch normalisation
STATISTICS = ("running_mean", "running_var")


class Tape:
    """Layers by the names of their weights; `new` collects the running statistics."""

    def __init__(self, weights: Arrays, statistics: Arrays) -> None:
        self.weights, self.statistics = weights, statistics
        self.new: Arrays = {}

    def conv(self, name: str, x: Any, stride: int = 1, groups: int = 1) -> Any:
        """(n, h, w, ci) → (n, ⌈h / stride⌉, ⌈w / stride⌉, co)."""
        kernel = self.weights[f"{name}.weight"]
        pad = [(kernel.shape[0] // 2,) * 2] * 2
        y = lax.conv_general_dilated(
            x, kernel, (stride,) * 2, pad, dimension_numbers=LAYOUT, feature_group_count=groups
        )
        bias = self.weights.get(f"{name}.bias")
        return y if bias is None else y + bias

    def norm(self, name: str, x: Any) -> Any:
        """Batch normalisation by the statistics of this batch."""
        mean = x.mean((0, 1, 2))
        var = jnp.maximum((x * x).mean((0, 1, 2)) - mean * mean, 0.0)
        count = x.size // x.shape[3]
        found = (mean, var * (count / (count - 1)))
        for kind, value in zip(STATISTICS, found, strict=True):
            old = self.statistics[f"{name}.{kind}"]
            self.new[f"{name}.{kind}"] = (1 - MOMENTUM) * old + MOMENTUM * value
        scale = self.weights[f"{name}.weight"] * lax.rsqrt(var + EPS)
        return (x - mean) * scale + self.weights[f"{name}.bias"]

    def dense(self, name: str, x: Any) -> Any:
        """(n, k) → (n, m)."""
        return x @ self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]


def _halve(x: Any) -> Any:
    """Max pool 2 × 2."""
    n, h, w, c = x.shape
    return x.reshape(n, h // 2, 2, w // 2, 2, c).max((2, 4))


def _pool3(x: Any) -> Any:
    """Max pool 3 × 3 of stride 2."""
    pad = ((0, 0), (1, 1), (1, 1), (0, 0))
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), pad)


def _lenet_bn(t: Tape, x: Any, _: dict[str, Any]) -> Any:
    for i in (1, 2):
        x = _halve(jax.nn.relu(t.norm(f"bn{i}", t.conv(f"conv{i}", x))))
    x = x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)  # weights of fc1 are in NCHW order
    return t.dense("fc2", jax.nn.relu(t.dense("fc1", x)))


def _vgg11_bn(t: Tape, x: Any, _: dict[str, Any]) -> Any:
    at = 0
    for entry in (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"):
        if entry == "M":
            x, at = _halve(x), at + 1
            continue
        x = jax.nn.relu(t.norm(f"features.{at + 1}", t.conv(f"features.{at}", x)))
        at += 3
    return t.dense("classifier", x.mean((1, 2)))


def _resnet18(t: Tape, x: Any, arguments: dict[str, Any]) -> Any:
    large = arguments.get("stem", "224") == "224"
    x = jax.nn.relu(t.norm("bn1", t.conv("conv1", x, 2 if large else 1)))
    x = _pool3(x) if large else x
    for stage in range(1, 5):
        for block in range(2):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            y = jax.nn.relu(t.norm(f"{name}.bn1", t.conv(f"{name}.conv1", x, stride)))
            y = t.norm(f"{name}.bn2", t.conv(f"{name}.conv2", y))
            if f"{name}.downsample.0.weight" in t.weights:
                x = t.norm(f"{name}.downsample.1", t.conv(f"{name}.downsample.0", x, stride))
            x = jax.nn.relu(x + y)
    return t.dense("fc", x.mean((1, 2)))


# Table 2 of the paper: expansion factor, output channels, blocks, stride of the first block.
STAGES = (
    *((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)),
    *((6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)),
)


def _mobilenet_v2(t: Tape, x: Any, _: dict[str, Any]) -> Any:
    def conv_norm(name: str, x: Any, stride: int = 1, groups: int = 1) -> Any:
        return jnp.clip(t.norm(f"{name}.1", t.conv(f"{name}.0", x, stride, groups)), 0, 6)

    x, at = conv_norm("features.0", x, 2), 1
    for expansion, co, depth, first in STAGES:
        for i in range(depth):
            stride, y, part = first if i == 0 else 1, x, 0
            if expansion != 1:
                y, part = conv_norm(f"features.{at}.conv.0", x), 1
            y = conv_norm(f"features.{at}.conv.{part}", y, stride, y.shape[3])
            y = t.conv(f"features.{at}.conv.{part + 1}", y)
            y = t.norm(f"features.{at}.conv.{part + 2}", y)
            x = x + y if stride == 1 and x.shape[3] == co else y
            at += 1
    x = conv_norm(f"features.{at}", x).mean((1, 2))
    return t.dense("classifier.1", x)


NETS: dict[str, Callable[[Tape, Any, dict[str, Any]], Any]] = {
    "lenet-bn": _lenet_bn,
    "vgg11-bn": _vgg11_bn,
    "resnet18": _resnet18,
    "mobilenet_v2": _mobilenet_v2,
}


def _to_jax(weight: Array) -> Any:
    """OIHW → HWIO, (out, in) → (in, out); vectors as they are."""
    order = {4: (2, 3, 1, 0), 2: (1, 0)}.get(weight.ndim, tuple(range(weight.ndim)))
    return jnp.asarray(np.ascontiguousarray(weight.transpose(order)))


def _split(weights: dict[str, Array]) -> tuple[Arrays, Arrays]:
    """(what is learned, running statistics)."""
    kept = {k: _to_jax(v) for k, v in weights.items() if not k.endswith("num_batches_tracked")}
    statistics = {k: kept.pop(k) for k in list(kept) if k.endswith(STATISTICS)}
    return kept, statistics


def learner(job: Job, sgd: Sgd | None = None) -> Learner:
    """One compiled function: loss, gradients, update; as many threads as CPUs are allowed."""
    if job.net not in NETS:
        raise ValueError(f"{job.net} is not written in JAX")
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: job.threads])
    weights, statistics = _split(job.weights())
    sgd = sgd or Sgd()
    state = [weights, statistics, {k: jnp.zeros_like(v) for k, v in weights.items()}]

    def loss_of(weights: Arrays, statistics: Arrays, x: Any, y: Any) -> Any:
        tape = Tape(weights, statistics)
        logits = NETS[job.net](tape, x, job.arguments)
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1)
        return -chosen.mean(), tape.new

    @partial(jax.jit, donate_argnums=(0, 1, 2))
    def update(
        weights: Arrays, statistics: Arrays, moments: Arrays, x: Any, y: Any
    ) -> tuple[Arrays, Arrays, Arrays, Any]:
        graded = jax.value_and_grad(loss_of, has_aux=True)
        (loss, statistics), g = graded(weights, statistics, x, y)
        g = {k: g[k] + sgd.weight_decay * weights[k] for k in g}
        moments = {k: sgd.momentum * moments[k] + g[k] for k in g}
        return {k: weights[k] - sgd.lr * moments[k] for k in g}, statistics, moments, loss

    def step(batch: tuple[Any, Any]) -> float:
        *state[:], loss = update(*state, *batch)
        return float(loss)

    def load(x: Array, y: Array) -> tuple[Any, Any]:
        return jnp.asarray(np.ascontiguousarray(x.transpose(0, 2, 3, 1))), jnp.asarray(y, jnp.int32)

    def refuse(_: Any) -> Any:
        raise NotImplementedError("JAX is measured in training steps only")

    return Learner(load, step, refuse, refuse)
