# ruff: noqa: ARG002 - a hook is given what Keras's hooks are given
"""What happens beside training: Keras's hooks, and the callbacks that most runs want."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from striate.errors import ArgumentError
from striate.io.model import save
from striate.train.history import Logs

if TYPE_CHECKING:
    from striate.train.trainer import Trainer

Arrays = dict[str, np.ndarray[Any, Any]]


class Callback:
    """Base class: override what you need.

    `epoch` and `batch` count from 0; `logs` holds what is known by then: after a batch `loss`,
    `accuracy` (for class labels) and `size`; after an epoch the columns of log.csv.

    Attributes:
        trainer: the `Trainer` that runs it, set before `on_train_begin`.
    """

    trainer: Trainer

    def on_train_begin(self, logs: Logs) -> None:
        """Before the first epoch; on a resumed run too (`trainer.epoch` says where it goes on)."""

    def on_train_end(self, logs: Logs) -> None:
        """After the last epoch; not if training stopped with an error."""

    def on_epoch_begin(self, epoch: int, logs: Logs) -> None:
        """Before the first batch of an epoch."""

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """After an epoch and its validation."""

    def on_batch_begin(self, batch: int, logs: Logs) -> None:
        """Before a step."""

    def on_batch_end(self, batch: int, logs: Logs) -> None:
        """After a step."""

    def on_test_begin(self, logs: Logs) -> None:
        """Before a pass over the validation set."""

    def on_test_batch_end(self, outputs: Any, y: Any) -> None:
        """After a batch of validation: what the net gave for it (n, …), and its targets."""

    def on_interrupt(self, logs: Logs) -> None:
        """After the step in which Ctrl-C or SIGTERM came, before InterruptedTraining is raised."""

    def on_error(self) -> None:
        """When an error leaves `fit`, InterruptedTraining among them."""

    def state_dict(self) -> tuple[dict[str, Any], Arrays]:
        """JSON values and arrays that a resumed run needs."""
        return {}, {}

    def load_state_dict(self, values: dict[str, Any], arrays: Arrays) -> None:
        """Take back what `state_dict` gave."""


class Monitor:
    """Compares the values of one log entry: smaller is better for losses, larger for the rest."""

    def __init__(self, name: str, min_delta: float = 0.0, mode: str = "auto") -> None:
        if mode not in {"auto", "min", "max"}:
            raise ArgumentError(f"mode must be 'auto', 'min' or 'max', got {mode!r}")
        self.name = name
        self.min_delta = abs(min_delta)
        smaller = mode == "min" or (mode == "auto" and "loss" in name)
        self.sign = -1.0 if smaller else 1.0
        self.best: float | None = None

    def read(self, logs: Logs) -> float:
        """The monitored value. Raises ArgumentError naming what there is instead."""
        if self.name not in logs:
            raise ArgumentError(
                f"there is no {self.name!r} to monitor; the logs have {', '.join(logs)}"
            )
        return logs[self.name]

    def improved(self, value: float) -> bool:
        """Whether `value` is the best so far, by more than `min_delta`; then it is kept."""
        if math.isnan(value):
            return False
        if self.best is None or self.sign * (value - self.best) > self.min_delta:
            self.best = value
            return True
        return False


class EarlyStopping(Callback):
    """Stop when the monitored value has not improved for `patience` epochs in a row.

    Args:
        monitor: a column of log.csv.
        patience: so many epochs without improvement, at least 1, end the run, as in Keras.
        min_delta: what counts as an improvement: more than this.
        mode: "min", "max" or "auto" ("min" where the name contains "loss").
        restore_best: put the weights of the best epoch back at the end.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        patience: int = 10,
        min_delta: float = 0.0,
        *,
        mode: str = "auto",
        restore_best: bool = False,
    ) -> None:
        if patience < 0:
            raise ArgumentError(f"EarlyStopping: patience must not be negative, got {patience}")
        self.monitor = Monitor(monitor, min_delta, mode)
        self.patience = patience
        self.restore_best = restore_best
        self.wait = 0
        self.best_state: Arrays = {}

    def on_train_begin(self, logs: Logs) -> None:
        """Forget an earlier run; a resumed one gets its state back through `load_state_dict`."""
        if not self.trainer.resumed:
            self.monitor.best, self.wait, self.best_state = None, 0, {}

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """Count, and ask the trainer to stop after `patience` epochs without improvement."""
        if self.monitor.improved(self.monitor.read(logs)):
            self.wait = 0
            if self.restore_best:
                with self.trainer.step.averaged():
                    self.best_state = self.trainer.net.state_dict()
            return
        self.wait += 1
        if self.wait >= max(1, self.patience):
            self.trainer.stop = True

    def on_train_end(self, logs: Logs) -> None:
        """Put the best weights back, if asked for."""
        if self.restore_best and self.best_state:
            self.trainer.net.load_state_dict(self.best_state)

    def state_dict(self) -> tuple[dict[str, Any], Arrays]:
        """The best value, the epochs since, the best weights."""
        return {"best": self.monitor.best, "wait": self.wait}, self.best_state

    def load_state_dict(self, values: dict[str, Any], arrays: Arrays) -> None:
        """Take back what `state_dict` gave."""
        self.monitor.best, self.wait, self.best_state = values["best"], values["wait"], arrays


class Checkpoint(Callback):
    """Write `last.ckpt` after every epoch and `best.safetensors` whenever an epoch is the best.

    Both are whole or absent, and an older one stays until the new one is complete.

    Args:
        folder: where to; made if it is not there.
        monitor: a column of log.csv that says which epoch is the best; default: `val_accuracy`
            where there is one, else `val_loss`, else `train_loss`.
        mode: "min", "max" or "auto" ("min" where the name contains "loss").
        every_steps, every_seconds: also write `last.ckpt` in the middle of an epoch, after so many
            steps or seconds.
        meta: what `striate.save` is given for `best.safetensors`: classes, recipe …
    """

    def __init__(
        self,
        folder: str | Path,
        monitor: str | None = None,
        *,
        mode: str = "auto",
        every_steps: int | None = None,
        every_seconds: float | None = None,
        meta: dict[str, Any] | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.monitor = None if monitor is None else Monitor(monitor, mode=mode)
        self.mode = mode
        self.every_steps = every_steps
        self.every_seconds = every_seconds
        self.meta = dict(meta or {})
        self._steps = 0
        self._written = time.monotonic()

    def on_train_begin(self, logs: Logs) -> None:
        """Make the folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.monitor is not None and not self.trainer.resumed:
            self.monitor.best = None
        self._steps, self._written = 0, time.monotonic()

    def on_batch_end(self, batch: int, logs: Logs) -> None:
        """Write `last.ckpt` if it is time."""
        self._steps += 1
        due = self.every_steps is not None and self._steps >= self.every_steps
        if self.every_seconds is not None:
            due = due or time.monotonic() - self._written >= self.every_seconds
        if due:
            self._write_last()

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """Write `best.safetensors` if this epoch is the best, then `last.ckpt`."""
        if self.monitor is None:
            names = ("val_accuracy", "val_loss", "train_loss")
            self.monitor = Monitor(next(n for n in names if n in logs), mode=self.mode)
        if self.monitor.improved(self.monitor.read(logs)):
            with self.trainer.step.averaged():
                save(self.trainer.net, self.folder / "best.safetensors", **self.meta)
        self._write_last()

    def on_interrupt(self, logs: Logs) -> None:
        """Write `last.ckpt`, from which training goes on after the step that was done."""
        self._write_last()

    def _write_last(self) -> None:
        self.trainer.save_checkpoint(self.folder / "last.ckpt")
        self._steps, self._written = 0, time.monotonic()

    def state_dict(self) -> tuple[dict[str, Any], Arrays]:
        """The name and value of the best epoch's monitored entry."""
        if self.monitor is None:
            return {}, {}
        return {"monitor": self.monitor.name, "best": self.monitor.best}, {}

    def load_state_dict(self, values: dict[str, Any], arrays: Arrays) -> None:
        """Take back what `state_dict` gave."""
        if values:
            self.monitor = Monitor(values["monitor"], mode=self.mode)
            self.monitor.best = values["best"]
