# ruff: noqa: ARG002 - a hook is given what Keras's hooks are given
"""Callbacks that tell other programs how training goes: TensorBoard and MLflow."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from striate.train.callbacks import Callback
from striate.train.history import Logs


def _settings(callback: Callback, more: Mapping[str, Any]) -> dict[str, Any]:
    """What a run is made with, as far as the trainer knows, and what the user adds."""
    trainer = callback.trainer
    arch = trainer.net.arch
    known = {
        "model": type(trainer.net).__name__ if arch is None else arch["name"],
        "parameters": trainer.net.num_parameters(),
        "optimizer": repr(trainer.step.optimizer),
        "schedule": type(trainer.schedule).__name__,
        "epochs": trainer.epochs,
        "batch_size": trainer.batch_size,
        "seed": trainer.seed,
    }
    return {**known, **more}


class TensorBoard(Callback):
    """Write event files that `tensorboard --logdir FOLDER` shows.

    The scalars are the columns of log.csv but `epoch`, one point an epoch, numbered from 1; the
    settings are a text called "settings". A resumed run writes on in a file of its own.

    Args:
        folder: where to; made if it is not there.
        settings: JSON-like values to note beside those of the trainer.

    Raises ImportError if tensorboard is missing (`pip install 'striate[tensorboard]'`).
    """

    def __init__(self, folder: str | Path, settings: Mapping[str, Any] | None = None) -> None:
        try:
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ImportError as error:
            raise ImportError(
                "callbacks.TensorBoard needs tensorboard: pip install 'striate[tensorboard]'"
            ) from error
        self.folder = Path(folder)
        self.settings = dict(settings or {})
        self._make = EventFileWriter
        self._writer: Any = None

    def on_train_begin(self, logs: Logs) -> None:
        """Open the file and note the settings."""
        from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.compat.proto.types_pb2 import DT_STRING

        self._writer = self._make(str(self.folder))
        rows = [f"|{name}|{value}|" for name, value in _settings(self, self.settings).items()]
        text = "\n".join(["|setting|value|", "|-|-|", *rows])
        plugin = SummaryMetadata.PluginData(plugin_name="text")
        tensor = TensorProto(dtype=DT_STRING, string_val=[text.encode()])
        metadata = SummaryMetadata(plugin_data=plugin)
        value = Summary.Value(tag="settings", metadata=metadata, tensor=tensor)
        self._write(self.trainer.epoch, [value])

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """A point of every curve."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        named = {name: value for name, value in logs.items() if name != "epoch"}
        values = [Summary.Value(tag=name, simple_value=value) for name, value in named.items()]
        self._write(epoch + 1, values)

    def on_train_end(self, logs: Logs) -> None:
        """Close the file."""
        self._close()

    def on_error(self) -> None:
        """Close the file."""
        self._close()

    def _write(self, step: int, values: list[Any]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        event = Event(wall_time=time.time(), step=step, summary=Summary(value=values))
        self._writer.add_event(event)
        self._writer.flush()

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class MLflow(Callback):
    """Record a run with MLflow: settings as parameters, the columns of log.csv as metrics.

    The step of a metric is the epoch, from 1. A run that ends with an error is marked FAILED, one
    stopped by Ctrl-C KILLED. A resumed `fit` is a run of its own, unless `run_id` says which.

    Args:
        experiment: its name; made if it is not there.
        tracking_uri: a server or folder ("http://…", "file:mlruns"); default: MLflow's own
            (`MLFLOW_TRACKING_URI`).
        run_name: shown in MLflow.
        run_id: of a run to go on with, instead of a new one.
        settings: values to note beside those of the trainer.

    Attributes:
        run_id: of the run, from `on_train_begin` on.

    Raises ImportError if mlflow is missing (`pip install 'striate[mlflow]'`).
    """

    def __init__(
        self,
        experiment: str = "striate",
        *,
        tracking_uri: str | None = None,
        run_name: str | None = None,
        run_id: str | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        try:
            from mlflow.tracking import MlflowClient
        except ImportError as error:
            raise ImportError(
                "callbacks.MLflow needs mlflow: pip install 'striate[mlflow]'"
            ) from error
        self.experiment = experiment
        self.run_name = run_name
        self.run_id: Any = run_id  # a text, once the run has begun
        self.settings = dict(settings or {})
        self._going_on = run_id is not None
        self._interrupted = False
        self._client = MlflowClient(tracking_uri=tracking_uri)

    def on_train_begin(self, logs: Logs) -> None:
        """Begin the run and note the settings."""
        from mlflow.entities import Param

        self._interrupted = False
        if self._going_on:
            self._client.update_run(self.run_id, status="RUNNING")
            return
        found = self._client.get_experiment_by_name(self.experiment)
        number = found.experiment_id if found else self._client.create_experiment(self.experiment)
        self.run_id = self._client.create_run(number, run_name=self.run_name).info.run_id
        values = _settings(self, self.settings).items()
        params = [Param(name, str(value)[:6000]) for name, value in values]
        self._client.log_batch(self.run_id, params=params)

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """A value of every metric."""
        from mlflow.entities import Metric

        now = round(time.time() * 1000)
        named = {name: value for name, value in logs.items() if name != "epoch"}
        metrics = [Metric(name, float(value), now, epoch + 1) for name, value in named.items()]
        self._client.log_batch(self.run_id, metrics=metrics)

    def on_train_end(self, logs: Logs) -> None:
        """Mark the run as finished."""
        self._client.set_terminated(self.run_id, "FINISHED")

    def on_interrupt(self, logs: Logs) -> None:
        """Mark the run as stopped by the user."""
        self._interrupted = True

    def on_error(self) -> None:
        """Mark the run as failed, or as stopped."""
        if self.run_id is not None:
            self._client.set_terminated(self.run_id, "KILLED" if self._interrupted else "FAILED")
