"""Gradient norms and dead units of a net, measured beside training and without touching it."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from striate import engine
from striate.engine.options import Options
from striate.graph import Graph, Trace, Value, gradients
from striate.graph.symbol import Symbol
from striate.nn import layers_act
from striate.nn.module import Module
from striate.nn.tracing import Call, as_inputs, symbolic_call
from striate.train.losses import as_target, loss_function
from striate.train.step import COST_MODEL


class Measured(NamedTuple):
    """What a net does on the batch of a probe.

    Attributes:
        gradients: layer → norm of the gradient of all its weights, √Σ g².
        dead: layer before an activation → (dead units, units). A unit is a channel; it is dead if
            its activation is one and the same number everywhere in the batch.
    """

    gradients: dict[str, float]
    dead: dict[str, tuple[int, int]]


class Probe:
    """A program of its own for the gradient of the loss on one batch that stays the same.

    It runs in training mode on the net's present weights, gives sums of squares and extremes only,
    and leaves every weight, statistic and dropout key as it is.

    Args:
        net: the module that is trained.
        x: (N, C, H, W) images or `Pixels`. y: (N,) labels.
        label_smoothing, class_weights, options: those of the training step.

    Attributes:
        flops: of forward and backward pass of one image, convolutions and dense layers only.
    """

    def __init__(
        self,
        net: Module,
        x: Any,
        y: npt.ArrayLike,
        *,
        label_smoothing: float = 0.0,
        class_weights: npt.ArrayLike | None = None,
        options: Options = COST_MODEL,
    ) -> None:
        inputs, kinds = as_inputs((x,))
        target = as_target(y)
        self._arrays = [*inputs, target]
        loss_of = loss_function("cross_entropy", label_smoothing, class_weights)
        trained = [(name, param) for name, param in net.named_parameters() if param.trainable]
        with Trace() as trace:
            output, calls = symbolic_call(net, trace, kinds, training=True)
            loss = loss_of(output, trace.input("target", target.shape, "i32"))
            found = gradients(loss, [param.as_value() for _, param in trained])
            norms = {
                name: (g * g).sum()
                for (name, _), g in zip(trained, found, strict=True)
                if g is not None
            }
            extremes = {name: _extremes(value) for name, value in _activations(calls).items()}
            # Neither assignments nor host updates: running statistics and dropout keys stay.
            values = [*norms.values(), *(v for pair in extremes.values() for v in pair)]
            graph = Graph(tuple(trace.inputs), tuple(values))
        self._norms, self._units = list(norms), list(extremes)
        self._run = engine.build(graph, training=True, **vars(options))
        self.flops = 2 * graph.macs() // len(target)

    def measure(self) -> Measured:
        """Run the probe on the net as it is now."""
        results = self._run(*self._arrays)
        squares: dict[str, float] = {}
        for name, square in zip(self._norms, results, strict=False):
            layer = name.rpartition(".")[0] or name
            squares[layer] = squares.get(layer, 0.0) + float(square)
        rest = results[len(self._norms) :]
        dead = {}
        for i, name in enumerate(self._units):
            # greatest == smallest, where the second is given as max(−x)
            same = np.equal(rest[2 * i], np.negative(rest[2 * i + 1]))
            dead[name] = (int(same.sum()), same.size)
        return Measured({layer: math.sqrt(s) for layer, s in squares.items()}, dead)


def _activations(calls: list[Call]) -> dict[str, Value]:
    """The output of every activation under the name of the layer that ran last before it."""
    found: dict[str, Value] = {}
    before = "input"
    for call in calls:
        if next(call.module.children(), None) is not None or not isinstance(call.output, Symbol):
            continue
        if type(call.module).__module__ != layers_act.__name__:
            before = call.path
        elif type(call.module).__name__ != "Softmax":
            found[before] = call.output.as_value()
    return found


def _extremes(value: Value) -> tuple[Value, Value]:
    """max(x) and max(−x) over everything but channels."""
    axes = tuple(axis for axis in range(value.ndim) if axis != 1)
    return value.max(axes), (-value).max(axes)
