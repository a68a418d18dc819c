"""`Trainer`: one readable loop over epochs and batches, with callbacks beside it."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from striate.errors import CheckpointError, InterruptedTraining, NonFiniteError
from striate.io.checkpoint import read_checkpoint, write_checkpoint
from striate.nn.module import Module
from striate.train.batches import Batches, as_batches
from striate.train.callbacks import Callback, Checkpoint
from striate.train.diagnose import explain_non_finite
from striate.train.history import History, Logs
from striate.train.losses import Loss
from striate.train.metrics import is_classification, top_k_correct
from striate.train.optim import Optimizer
from striate.train.schedule import Schedule
from striate.train.signals import StopSignals
from striate.train.step import Evaluation, Result, compile_step

Array = np.ndarray[Any, Any]


class _Meter:
    """Sums of one pass over data; loss and accuracy are means over samples."""

    def __init__(self) -> None:
        self.loss = 0.0
        self.correct = 0
        self.labelled = 0
        self.count = 0
        self.seconds = 0.0

    def add(self, result: Result, y: Array) -> Logs:
        """Count a batch; returns its own logs."""
        size = len(y)
        logs: Logs = {"loss": result.loss, "size": size}
        self.loss += result.loss * size
        self.count += size
        if is_classification(result.outputs, y):
            correct = top_k_correct(result.outputs, y)
            logs["accuracy"] = correct / size
            self.correct += correct
            self.labelled += size
        return logs

    def logs(self, prefix: str) -> Logs:
        """Mean loss and, if there were labels, accuracy."""
        logs: Logs = {f"{prefix}_loss": self.loss / self.count if self.count else math.nan}
        if self.labelled:
            logs[f"{prefix}_accuracy"] = self.correct / self.labelled
        return logs


class Trainer:
    """Trains a net: epochs, batches, schedule, validation, callbacks, checkpoints.

        history = Trainer(net, st.optim.SGD(0.1, momentum=0.9)).fit((x, y), (xv, yv), epochs=5)

    Args:
        net: the module to train.
        optimizer: default `SGD(lr=0.1, momentum=0.9)`.
        loss: see `compile_step`; validation uses the same loss.
        schedule: the rate of each step or epoch; default: constant.
        callbacks: objects with Keras's hooks; `Checkpoint`s are called last.
        batch_size, seed, augment: how batches are made of arrays and data sets; batches that are
            given ready (`striate.data.Loader`) have their own.
        clip_norm, label_smoothing, class_weights, ema, checkpoint, algorithm, max_relative_error:
            see `compile_step`; the last two hold for validation too. With `ema` the averaged
            weights are validated, kept as the best, and in the net after `fit`.

    Attributes:
        step: the compiled step; `step.lr` is the present rate.
        epoch: epochs finished. batch: steps done in the present one.
        epochs, batches_per_epoch: how many there will be.
        resumed: whether this `fit` goes on from a checkpoint.
        stop: set it to True in a callback and training ends after the present epoch.
        history: the logs so far.
    """

    def __init__(
        self,
        net: Module,
        optimizer: Optimizer | None = None,
        loss: Loss = "cross_entropy",
        *,
        schedule: Schedule | None = None,
        callbacks: Sequence[Callback] = (),
        batch_size: int = 32,
        seed: int = 0,
        augment: Any = None,
        clip_norm: float | None = None,
        label_smoothing: float = 0.0,
        class_weights: npt.ArrayLike | None = None,
        ema: float | None = None,
        checkpoint: bool = False,
        algorithm: str = "auto",
        max_relative_error: float | None = None,
    ) -> None:
        self.net = net
        self.step = compile_step(
            net,
            loss,
            optimizer,
            clip_norm=clip_norm,
            label_smoothing=label_smoothing,
            class_weights=class_weights,
            ema=ema,
            checkpoint=checkpoint,
            algorithm=algorithm,
            max_relative_error=max_relative_error,
        )
        self._evaluation = Evaluation(
            net,
            loss,
            label_smoothing=label_smoothing,
            class_weights=class_weights,
            options=self.step.options,
        )
        self.schedule = schedule
        # A checkpoint holds the state of the other callbacks after they have seen the epoch.
        self.callbacks = sorted(callbacks, key=lambda c: isinstance(c, Checkpoint))
        self.batch_size = batch_size
        self.seed = seed
        self.augment = augment
        self.epoch = self.batch = self.epochs = self.batches_per_epoch = 0
        self.resumed = self.stop = False
        self.history = History()
        self._meter = _Meter()
        self._signals = StopSignals()

    def fit(
        self,
        train: Any,
        valid: Any = None,
        *,
        epochs: int = 1,
        resume: str | os.PathLike[str] | None = None,
    ) -> History:
        """Train for `epochs` epochs, counted from the beginning of the run.

        Args:
            train: arrays (x, y), a data set, or batches such as `striate.data.Loader`.
            valid: the same, to measure on after each epoch.
            epochs: how many there are in all.
            resume: a checkpoint to go on from; the result is, bit for bit, that of a run which
                was never interrupted.

        Returns: the history of all epochs, also those before `resume`.

        Raises:
            NonFiniteError: the loss became NaN or infinite; the message names the first layer.
            InterruptedTraining: Ctrl-C or SIGTERM came; `Checkpoint`s have been written.
            CheckpointError: `resume` is missing or belongs to another run.
        """
        batches = as_batches(
            train, self.batch_size, shuffle=True, seed=self.seed, augment=self.augment
        )
        validation = None
        if valid is not None:
            validation = as_batches(valid, self.batch_size, shuffle=False, seed=0)
        self._begin(batches, epochs, resume)
        try:
            with StopSignals() as self._signals:
                self._call("on_train_begin", {})
                while self.epoch < epochs and not self.stop:
                    self._run_epoch(batches, validation)
        except BaseException:
            for callback in self.callbacks:
                callback.on_error()
            raise
        finally:
            self._signals = StopSignals()
        with self.step.averaged():
            final = self.net.state_dict()
        self.net.load_state_dict(final)
        self._call("on_train_end", {})
        return self.history

    def _begin(self, batches: Batches, epochs: int, resume: str | os.PathLike[str] | None) -> None:
        for callback in self.callbacks:
            callback.trainer = self
        self.epochs, self.batches_per_epoch = epochs, len(batches)
        self.epoch = self.batch = 0
        self.stop, self.resumed = False, resume is not None
        self.history, self._meter = History(), _Meter()
        if self.schedule is not None:
            total = epochs if self.schedule.by == "epoch" else epochs * len(batches)
            self.schedule.start(self.step.optimizer.lr, total)
        if resume is not None:
            self.load_checkpoint(resume)

    def _run_epoch(self, batches: Batches, validation: Batches | None) -> None:
        epoch = self.epoch
        self._call("on_epoch_begin", epoch, {})
        if self.batch < len(batches):  # else all steps were done before the run was broken off
            self._set_rate()
        started = time.perf_counter() - self._meter.seconds
        for x, y in batches.epoch(epoch, self.batch):
            self._call("on_batch_begin", self.batch, {})
            self._set_rate()
            result = self.step.run(x, y)
            if not math.isfinite(result.loss):
                raise NonFiniteError(
                    f"epoch {epoch + 1}, batch {self.batch + 1}: the loss is {result.loss}: "
                    f"{explain_non_finite(self.net, x, y)}"
                )
            logs = self._meter.add(result, np.asarray(y))
            self._meter.seconds = time.perf_counter() - started
            self.batch += 1
            self._call("on_batch_end", self.batch - 1, logs)
            if self._signals.received:
                self._interrupt()
        self._end_epoch(validation)

    def _end_epoch(self, validation: Batches | None) -> None:
        logs = self.running_logs()
        if validation is not None:
            logs.update(self.evaluate(validation))
            if self._signals.received:  # validation is cut short, and done again on resuming
                self._interrupt()
        if self.schedule is not None and self.schedule.monitor in logs:
            self.schedule.observe(logs[self.schedule.monitor])
        rate = {"lr": self.step.lr, "seconds": self._meter.seconds}
        speed = self._meter.count / max(self._meter.seconds, 1e-9)
        logs = {"epoch": self.epoch + 1, **logs, **rate, "images_per_second": speed}
        self.history.append(logs)
        self.epoch, self.batch, self._meter = self.epoch + 1, 0, _Meter()
        self._call("on_epoch_end", self.epoch - 1, logs)

    def _set_rate(self) -> None:
        """Rate and momentum of the next step."""
        if self.schedule is None:
            return
        steps = self.epoch * self.batches_per_epoch + self.batch
        t = self.epoch if self.schedule.by == "epoch" else steps
        self.step.lr = self.schedule.at(t)
        momentum = self.schedule.momentum_at(t)
        if momentum is not None:
            self.step.momentum = momentum

    def _interrupt(self) -> None:
        self._call("on_interrupt", {})
        raise InterruptedTraining(
            f"{self._signals.received} stopped training in epoch {self.epoch + 1} after batch "
            f"{self.batch} of {self.batches_per_epoch}"
        )

    def _call(self, hook: str, *arguments: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, hook)(*arguments)

    def running_logs(self) -> Logs:
        """Mean loss and accuracy of the present epoch so far."""
        return self._meter.logs("train")

    def evaluate(self, data: Any) -> Logs:
        """`val_loss` and, for class labels, `val_accuracy`; with `ema` of the averaged weights."""
        meter = _Meter()
        self._call("on_test_begin", {})
        with self.step.averaged():
            for x, y in as_batches(data, self.batch_size, shuffle=False, seed=0).epoch(0):
                result = self._evaluation.run(x, y)
                meter.add(result, np.asarray(y))
                self._call("on_test_batch_end", result.outputs, np.asarray(y))
                if self._signals.received:
                    break
        return meter.logs("val")

    # ------------------------------------------------------------------ checkpoints

    def save_checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Write everything that `fit(…, resume=path)` needs. Raises WriteError."""
        values, arrays = self.step.state_dict()
        arrays.update({f"net.{name}": np.array(p.data) for name, p in self._net_state().items()})
        state: dict[str, Any] = {
            "run": self._run_options(),
            "epoch": self.epoch,
            "batch": self.batch,
            "history": self.history.history,
            "meter": vars(self._meter),
            "step": values,
            "schedule": None if self.schedule is None else self.schedule.state_dict(),
            "callbacks": [],
        }
        for i, callback in enumerate(self.callbacks):
            callback_values, callback_arrays = callback.state_dict()
            state["callbacks"].append([type(callback).__name__, callback_values])
            arrays.update({f"callback{i}.{key}": a for key, a in callback_arrays.items()})
        write_checkpoint(path, arrays, state)

    def load_checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Take back what `save_checkpoint` wrote. Raises CheckpointError, FormatError."""
        arrays, state = read_checkpoint(path)
        try:
            self._restore(arrays, state)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: does not belong to this run: {error}") from error

    def _restore(self, arrays: dict[str, Array], state: dict[str, Any]) -> None:
        # A checkpoint that does not say how it computed is older than the choice.
        ours = self._run_options()
        theirs = {"algorithm": "auto", **state["run"]}
        for name, value in ours.items():
            if theirs.get(name) != value:
                raise CheckpointError(f"{name} is {value!r} here and {theirs.get(name)!r} there")
        net = self._net_state()
        saved = {k.removeprefix("net."): a for k, a in arrays.items() if k.startswith("net.")}
        if net.keys() != saved.keys():
            raise CheckpointError(f"the nets differ in {min(net.keys() ^ saved.keys())}")
        for name, param in net.items():
            param.assign(saved[name])
        step = {k: a for k, a in arrays.items() if k.startswith(("optimizer.", "ema."))}
        self.step.load_state_dict(state["step"], step)
        self.epoch, self.batch = state["epoch"], state["batch"]
        self.history.history = state["history"]
        vars(self._meter).update(state["meter"])
        if self.schedule is not None:
            self.schedule.load_state_dict(state["schedule"])
        left = list(self.callbacks)  # a callback that the run did not have yet starts afresh
        for i, (kind, values) in enumerate(state["callbacks"]):
            same = next((c for c in left if type(c).__name__ == kind), None)
            if same is not None:
                left.remove(same)
                prefix = f"callback{i}."
                own = {k.removeprefix(prefix): a for k, a in arrays.items() if k.startswith(prefix)}
                same.load_state_dict(values, own)

    def _net_state(self) -> dict[str, Any]:
        """Weights, statistics and dropout keys by name, each once."""
        return {**dict(self.net.named_parameters()), **dict(self.net.named_buffers(transient=True))}

    def _run_options(self) -> dict[str, Any]:
        """What must be the same for a checkpoint to fit."""
        return {
            "optimizer": repr(self.step.optimizer),
            "schedule": type(self.schedule).__name__,
            "batch_size": self.batch_size,
            "seed": self.seed,
            "batches_per_epoch": self.batches_per_epoch,
            "algorithm": self.step.options.algorithm,
            "max_relative_error": self.step.options.max_relative_error,
        }
