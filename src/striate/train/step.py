"""`compile_step`: forward, loss, backward and update as one program."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import striate.functional as F
from striate import engine
from striate.engine.options import Options
from striate.errors import ArgumentError, CheckpointError, ShapeError, TraceError
from striate.graph import Graph, Param, Trace, Value, gradients
from striate.graph.ops.eltwise import Map, select
from striate.graph.symbol import Symbol
from striate.nn.module import Module
from striate.nn.tracing import Programs, as_inputs, symbolic_call
from striate.train.losses import Loss, as_target, loss_function
from striate.train.optim import SGD, Optimizer

Array = np.ndarray[Any, Any]
Inputs = npt.ArrayLike | Sequence[npt.ArrayLike]

# Training knows few shapes (the last batch, a few image sizes), and its plans are long.
PROGRAMS_KEPT = 8
# Nothing is timed, so a run that is resumed, on another machine even, makes the same choices.
COST_MODEL = Options(tune=False)
FLOAT_MAX = float(np.finfo(np.float32).max)


class Result(NamedTuple):
    """Loss of a batch, and what the net gave for it (float32)."""

    loss: float
    outputs: Array


class _Program(NamedTuple):
    graph: Graph
    run: engine.Executable
    scalars: tuple[str, ...]
    stateful: bool


class _Batch:
    """Inputs and targets as the programs take them."""

    def __init__(self, x: Inputs, y: npt.ArrayLike) -> None:
        self.inputs, self.kinds = as_inputs(x if isinstance(x, tuple) else (x,))
        self.target = as_target(y)

    @property
    def key(self) -> tuple[Any, ...]:
        return (*self.kinds, self.target.shape, self.target.dtype.char)


class _Compiled:
    """What steps and evaluations share: programs by input shape, and the loss."""

    def __init__(
        self,
        net: Module,
        loss: Loss,
        label_smoothing: float,
        class_weights: npt.ArrayLike | None,
        options: Options,
    ) -> None:
        self.net = net
        self.options = options
        self._loss = loss_function(loss, label_smoothing, class_weights)
        self._labels = loss == "cross_entropy"
        self._programs = Programs[_Program](PROGRAMS_KEPT)

    def _forward(self, trace: Trace, batch: _Batch, training: bool) -> tuple[Value, Value]:
        """Trace the net and its loss."""
        output, _ = symbolic_call(self.net, trace, batch.kinds, training)
        if not isinstance(output, Symbol):
            raise TraceError(f"training takes a net of one output; got {type(output).__name__}")
        dtype = "i32" if batch.target.dtype == np.int32 else "f32"
        target = trace.input("target", batch.target.shape, dtype)
        loss = self._loss(output, target)
        if loss.shape != ():
            raise ShapeError(f"the loss must be one number of shape (), got shape {loss.shape}")
        return loss, output.as_value()

    def _check(self, batch: _Batch, graph: Graph) -> None:
        if self._labels and batch.target.ndim == 1:
            F.check_labels(batch.target, graph.outputs[1].shape[1])


class Step(_Compiled):
    """A training step as one program; see `compile_step`.

    Attributes:
        net: the module it trains.
        optimizer: the rule.
        steps: how many steps have been done.
        lr: the rate of the next step; set it at any time, nothing is compiled.
        momentum: likewise (Adam: beta1).
    """

    def __init__(
        self,
        net: Module,
        loss: Loss,
        optimizer: Optimizer,
        clip_norm: float | None,
        label_smoothing: float,
        class_weights: npt.ArrayLike | None,
        ema: float | None,
        checkpoint: bool,
        options: Options,
    ) -> None:
        super().__init__(net, loss, label_smoothing, class_weights, options)
        if clip_norm is not None and not clip_norm > 0:
            raise ArgumentError(f"clip_norm must be above 0, got {clip_norm}")
        if ema is not None and not 0 <= ema < 1:
            raise ArgumentError(f"ema must lie in [0, 1), got {ema}")
        self.optimizer = optimizer
        self.steps = 0
        self.lr = optimizer.lr
        self._momentum = optimizer.momentum
        self._clip_norm = clip_norm
        self._ema_decay = ema
        self._checkpoint = checkpoint
        self._slots: dict[str, Param] = {}
        self._averages: dict[str, Param] = {}
        if ema is not None:
            for name, param in self._averaged_params():
                self._averages[name] = Param(f"ema.{name}", param.data, trainable=False)

    @property
    def momentum(self) -> float:
        """Momentum (Adam: beta1) of the next step."""
        return self._momentum

    @momentum.setter
    def momentum(self, value: float) -> None:
        if not self.optimizer.has_momentum:
            raise ArgumentError(f"{self.optimizer!r} has no momentum to change")
        self._momentum = value

    def __call__(self, x: Inputs, y: npt.ArrayLike) -> float:
        """Do one step; returns the loss of the batch before the update. See `compile_step`."""
        return self.run(x, y).loss

    def run(self, x: Inputs, y: npt.ArrayLike) -> Result:
        """Do one step; returns the loss and the net's output for the batch, before the update."""
        program, arrays = self._prepared(x, y)
        loss, outputs = self._programs.call(program, arrays)
        value = float(loss)
        if math.isfinite(value):
            self.steps += 1
        return Result(value, outputs)

    def executable(self, x: Inputs, y: npt.ArrayLike) -> tuple[engine.Executable, list[Array]]:
        """For measuring: the program of such a batch, and the arrays that it takes."""
        program, arrays = self._prepared(x, y)
        return program.run, arrays

    # ------------------------------------------------------------------ the program

    def _prepared(self, x: Inputs, y: npt.ArrayLike) -> tuple[_Program, list[Array]]:
        """The program of a batch, and its inputs: the batch, then the optimiser's numbers."""
        batch = _Batch(x, y)
        program = self._program(batch)
        self._check(batch, program.graph)
        scalars = self.optimizer.scalars(self.steps, self.lr, self._momentum)
        numbers = [np.array(scalars[name], np.float32) for name in program.scalars]
        return program, [*batch.inputs, batch.target, *numbers]

    def _program(self, batch: _Batch) -> _Program:
        trained = tuple(param.trainable for param in self.net.parameters())
        key = (batch.key, trained, self.net.signature(modes=False))
        return self._programs.get(key, lambda: self._make(batch))

    def _make(self, batch: _Batch) -> _Program:
        graph, names = self._trace(batch)
        run = engine.build(graph, training=True, checkpoint=self._checkpoint, **vars(self.options))
        return _Program(graph, run, names, stateful=True)

    def footprint(self, x: Inputs, y: npt.ArrayLike) -> engine.Footprint:
        """The memory that a step on such a batch takes; planned, not compiled."""
        graph, _ = self._trace(_Batch(x, y))
        return engine.footprint(
            graph, training=True, checkpoint=self._checkpoint, options=self.options
        )

    def _trace(self, batch: _Batch) -> tuple[Graph, tuple[str, ...]]:
        """The graph of a step, and which numbers of the optimiser it takes as inputs."""
        with Trace() as trace:
            loss, output = self._forward(trace, batch, training=True)
            names = tuple(self.optimizer.scalars(self.steps, self.lr, self._momentum))
            scalars = {name: trace.input(name, ()) for name in names}
            self._update(trace, loss, scalars)
            self._average(trace)
            # A loss that is NaN or infinite changes nothing: the weights stay for a diagnosis.
            finite = abs(loss) <= FLOAT_MAX
            trace.assigns = [
                (param, select(finite, value, param) if value.dtype == "f32" else value)
                for param, value in trace.assigns
            ]
            return trace.graph(loss, output), names

    def _update(self, trace: Trace, loss: Value, scalars: Mapping[str, Value]) -> None:
        """Gradient, clipping and the optimiser's rule for every trainable weight."""
        trained = [(n, p) for n, p in self.net.named_parameters() if p.trainable]
        found = gradients(loss, [param.as_value() for _, param in trained])
        pairs = [(*pair, g) for pair, g in zip(trained, found, strict=True) if g is not None]
        if not pairs:
            raise ArgumentError("the loss depends on no trainable weight of the net")
        grads = [g for _, _, g in pairs]
        if self._clip_norm is not None:
            grads = clip(grads, self._clip_norm)
        for (name, param, _), g in zip(pairs, grads, strict=True):
            slots = {slot: self._slot(f"{name}.{slot}", param) for slot in self.optimizer.slots}
            state = {slot: buffer.as_value() for slot, buffer in slots.items()}
            with trace.scope(f"optimizer.{name}"):
                new, changed = self.optimizer.update(param.as_value(), g, state, scalars)
                trace.assign(param, new)
                for slot, value in changed.items():
                    trace.assign(slots[slot], value)

    def _slot(self, name: str, param: Param) -> Param:
        if name not in self._slots:
            self._slots[name] = Param(name, np.zeros(param.shape, np.float32), trainable=False)
        return self._slots[name]

    # ------------------------------------------------------------------ averaged weights

    def _averaged_params(self) -> Iterator[tuple[str, Param]]:
        """Everything that is averaged: float weights and statistics."""
        for name, param in itertools.chain(self.net.named_parameters(), self.net.named_buffers()):
            if param.dtype == "f32":
                yield name, param

    def _average(self, trace: Trace) -> None:
        """average ← ema · average + (1 − ema) · new value."""
        if self._ema_decay is None:
            return
        assigned = dict(trace.assigns)
        for name, param in self._averaged_params():
            if param in assigned and name in self._averages:
                average = self._averages[name]
                kept = average * self._ema_decay
                trace.assign(average, kept + assigned[param] * (1 - self._ema_decay))

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the net has the averaged weights and statistics; without `ema` its own."""
        params = {n: p for n, p in self._averaged_params() if n in self._averages}
        own = {name: np.array(param.data) for name, param in params.items()}
        for name, param in params.items():
            param.assign(self._averages[name].data)
        try:
            yield
        finally:
            for name, param in params.items():
                param.assign(own[name])

    # ------------------------------------------------------------------ state

    def state_dict(self) -> tuple[dict[str, Any], dict[str, Array]]:
        """Everything beside the net that the next step depends on: JSON values and arrays."""
        values = {"steps": self.steps, "lr": self.lr, "momentum": self._momentum}
        arrays = {f"optimizer.{name}": np.array(p.data) for name, p in self._slots.items()}
        arrays.update({f"ema.{name}": np.array(p.data) for name, p in self._averages.items()})
        return values, arrays

    def load_state_dict(self, values: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
        """Take back what `state_dict` gave. Raises CheckpointError if it does not fit the net."""
        params = dict(self.net.named_parameters())
        for key, array in arrays.items():
            kind, _, name = key.partition(".")
            if kind == "ema" and name in self._averages:
                self._averages[name].assign(array)
                continue
            owner, _, slot = name.rpartition(".")
            if kind != "optimizer" or owner not in params or slot not in self.optimizer.slots:
                raise CheckpointError(
                    f"state {key!r} does not belong to this net and {self.optimizer!r}"
                )
            self._slot(name, params[owner]).assign(array)
        self.steps = int(values["steps"])
        self.lr = float(values["lr"])
        self._momentum = float(values["momentum"])


class Evaluation(_Compiled):
    """Loss and output of a batch in evaluation mode, whatever the net's mode is."""

    def __init__(
        self,
        net: Module,
        loss: Loss = "cross_entropy",
        *,
        label_smoothing: float = 0.0,
        class_weights: npt.ArrayLike | None = None,
        options: Options = COST_MODEL,
    ) -> None:
        super().__init__(net, loss, label_smoothing, class_weights, options)

    def run(self, x: Inputs, y: npt.ArrayLike) -> Result:
        """Loss and outputs of one batch; nothing of the net changes."""
        batch = _Batch(x, y)
        key = (batch.key, self.net.signature(modes=False))
        program = self._programs.get(key, lambda: self._make(batch))
        self._check(batch, program.graph)
        loss, outputs = self._programs.call(program, [*batch.inputs, batch.target])
        return Result(float(loss), outputs)

    def _make(self, batch: _Batch) -> _Program:
        with Trace() as trace:
            graph = trace.graph(*self._forward(trace, batch, training=False))
        run = engine.build(graph, training=False, **vars(self.options))
        return _Program(graph, run, (), stateful=False)


def clip(grads: Sequence[Value], limit: float) -> list[Value]:
    """Gradients scaled so that their common norm is at most `limit` (torch clip_grad_norm_).

    g ← g · min(1, limit / (norm + 1e-6)), norm = √Σ g² over all elements of all gradients
    """
    squares = [(g * g).sum() for g in grads]
    total = squares[0]
    for square in squares[1:]:
        total = total + square
    factor = Map("min")(limit / (total**0.5 + 1e-6), 1.0)
    return [g * factor for g in grads]


def compile_step(
    net: Module,
    loss: Loss = "cross_entropy",
    optimizer: Optimizer | None = None,
    *,
    clip_norm: float | None = None,
    label_smoothing: float = 0.0,
    class_weights: npt.ArrayLike | None = None,
    ema: float | None = None,
    checkpoint: bool = False,
    algorithm: str = "auto",
    max_relative_error: float | None = None,
    tune: bool = False,
) -> Step:
    """Make forward, loss, backward and update of a net one native program.

        step = compile_step(net, optimizer=SGD(lr=0.1, momentum=0.9))
        loss = step(x, y)

    Every module runs in training mode, whatever `net.training` says. `net(x)` and
    `net.state_dict()` see every update at once. A new input shape makes one more program over the
    same weights and state. A step whose loss is NaN or infinite changes no weight, statistic or
    optimiser state.

    Args:
        net: the module to train.
        loss: "cross_entropy" (y: integers (N,) or probabilities (N, classes)), "mse", "bce" (with
            logits; y 0 … 1), or a function `loss(output, target)` of symbols giving one number.
        optimizer: default `SGD(lr=0.1, momentum=0.9)`.
        clip_norm: largest norm of all gradients together; larger ones are scaled down to it.
        label_smoothing: for cross-entropy, as in PyTorch.
        class_weights: for cross-entropy: (classes,), as PyTorch's `weight`.
        ema: decay of an exponential moving average of weights and statistics, such as 0.999;
            `with step.averaged():` puts it into the net for a while.
        checkpoint: trade time for memory: keep little of the forward pass, and compute it again
            segment by segment in the backward pass. The results are the same bits.
        algorithm: of 3×3 convolutions of stride 1, and of their gradients: "auto" for the cheapest,
            "direct", "winograd-f2" or "winograd-f4".
        max_relative_error: bound for the largest error that is expected of a layer's outputs and
            input gradients, relative to their RMS; ways beyond it are left out. Of the ways of a
            weight gradient, a sum over the batch, the one that errs least is taken if none is
            within the bound.
        tune: whether ways of nearly equal cost are timed once on this machine. Off, a run goes on
            from its checkpoint to the bit anywhere; on, where the kernel cache has been kept.

    Returns: a `Step`: `step(x, y)` → loss as a float; `x` is an array or `st.Pixels`, or a tuple of
    them for a `forward` of several inputs. Changing `step.lr` compiles nothing.

    Raises:
        ArgumentError: an argument outside its range; a label that is no class of the net.
        ShapeError: shapes that do not fit, with the layer's path.
    """
    optimizer = optimizer or SGD(lr=0.1, momentum=0.9)
    options = Options(algorithm, max_relative_error, tune)
    return Step(
        net, loss, optimizer, clip_norm, label_smoothing, class_weights, ema, checkpoint, options
    )
