"""Pictures, training and probes that the studies share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from striate import engine
from striate.data import load
from striate.graph import Graph, Trace, gradients
from striate.graph.symbol import Symbol
from striate.nn.module import Module
from striate.nn.tracing import symbolic_call
from striate.train.losses import loss_function
from striate.train.optim import Optimizer
from striate.train.step import compile_step

Array = np.ndarray[Any, Any]


class Clothes(NamedTuple):
    """Pictures (n, 1, 28, 28) of clothing, float32 with 0 for the ground, and labels (n,)."""

    x: Array
    y: Array
    test_x: Array
    test_y: Array


def clothes(count: int = 5000, test: int = 1000) -> Clothes:
    """The first pictures of the built-in sample, ten classes in turns, scaled to 0 … 1."""
    sample = load("fashion-mnist-sample")
    x, y = sample.train.load(range(count))
    test_x, test_y = sample.test.load(range(test))
    return Clothes(x, y, test_x, test_y)


def shifted(x: Array, rows: int, cols: int) -> Array:
    """Pictures moved down and to the right; what moves in is 0, what moves out is lost."""
    h, w = x.shape[2:]
    out = np.zeros_like(x)
    out[:, :, max(rows, 0) : h + min(rows, 0), max(cols, 0) : w + min(cols, 0)] = x[
        :, :, max(-rows, 0) : h + min(-rows, 0), max(-cols, 0) : w + min(-cols, 0)
    ]
    return out


FOUR_WAYS = ((1, 0), (-1, 0), (0, 1), (0, -1))
"""Unit shifts down, up, right and left."""


def train(
    net: Module,
    x: Array,
    y: Array,
    optimizer: Optimizer,
    *,
    steps: int,
    batch: int = 64,
    seed: int = 0,
    watch: Callable[[int], object] | None = None,
) -> list[float]:
    """Train on batches in random order; gives the loss of each step.

    A loss that is not finite ends the training; it is the last in the list. `watch` is called
    after each step with the number of steps done.
    """
    rng = np.random.default_rng(seed)
    step = compile_step(net, optimizer=optimizer)
    losses: list[float] = []
    order: list[int] = []
    while len(losses) < steps and (not losses or math.isfinite(losses[-1])):
        if len(order) < batch:
            order = rng.permutation(len(x)).tolist()
        index, order = order[:batch], order[batch:]
        losses.append(step(x[index], y[index]))
        if watch is not None:
            watch(len(losses))
    return losses


def accuracy(net: Module, x: Array, y: Array) -> float:
    """Share of pictures whose class has the highest score, in evaluation mode."""
    scores = net.eval().plan(tune=False)(x)
    return float((scores.argmax(1) == y).mean())


def layer_probe(
    net: Module, shape: tuple[int, ...], names: Sequence[str]
) -> Callable[[Array], list[Array]]:
    """From pictures of this shape to the outputs of named layers, in training mode.

    Batch norm goes by the batch, and nothing of the net is updated.
    """
    with Trace() as trace:
        _, calls = symbolic_call(net, trace, [shape], training=True)
        found = {call.path: call.output for call in calls if isinstance(call.output, Symbol)}
        graph = Graph(tuple(trace.inputs), tuple(found[name].as_value() for name in names))
    program = engine.build(graph, training=True, tune=False)
    return lambda x: list(program(x))


def weight_gradients(net: Module, x: Array, y: Array, names: Sequence[str]) -> list[Array]:
    """Gradients of the cross-entropy for named weights, in training mode."""
    params = dict(net.named_parameters())
    with Trace() as trace:
        output, _ = symbolic_call(net, trace, [x.shape], training=True)
        target = trace.input("target", y.shape, "i32")
        loss = loss_function("cross_entropy")(output, target)
        found = gradients(loss, [params[name] for name in names])
        graph = Graph(tuple(trace.inputs), tuple(g for g in found if g is not None))
    return list(engine.build(graph, training=True, tune=False)(x, y.astype(np.int32)))


def input_gradient(net: Module, x: Array, seed: Array) -> Array:
    """Gradient of Σ seed · net(x) for the input x, in evaluation mode.

    Convolutions are computed directly: Winograd's sums leave rounding errors where it is 0.
    """
    with Trace() as trace:
        output, _ = symbolic_call(net, trace, [x.shape], training=False)
        weight = trace.input("seed", seed.shape)
        (found,) = gradients((output * weight).sum(), [trace.inputs[0]])
        assert found is not None
        graph = Graph(tuple(trace.inputs), (found,))
    (gradient,) = engine.build(graph, algorithm="direct")(x, seed)
    return gradient
