# ruff: noqa: ARG002 - a hook is given what Keras's hooks are given
"""Callbacks that tell how training goes: tables in files, a live bar on the terminal."""

from __future__ import annotations

import csv
import io
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from striate.io.atomic import write_atomic
from striate.train.callbacks import Callback
from striate.train.history import COLUMNS, Logs

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class _EpochFile(Callback):
    """A text file with one line for each finished epoch.

    It is written anew, whole, after each epoch: it is small, and so no line is ever half there. On
    a resumed run the lines of whole epochs stay as they are, and those after it are dropped.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.lines: list[str] = []

    def on_train_begin(self, logs: Logs) -> None:
        """Read what is to stay."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.lines = []
        if self.trainer.epoch > 0 and self.path.exists():
            kept = self.path.read_text(encoding="utf-8").splitlines()
            self.lines = [line for line in kept if self._epoch_of(line) <= self.trainer.epoch]

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """Add a line."""
        self.lines.append(self._line(logs))
        text = "".join(f"{line}\n" for line in [*self._head(), *self.lines])
        write_atomic(self.path, [text.encode()])

    def _head(self) -> list[str]:
        return []

    def _line(self, logs: Logs) -> str:
        raise NotImplementedError

    def _epoch_of(self, line: str) -> float:
        """The epoch of a line, counted from 1; infinity for a line that holds none."""
        raise NotImplementedError


class CSVLogger(_EpochFile):
    """A comma-separated table with the columns `COLUMNS`; what was not measured is left empty."""

    def _head(self) -> list[str]:
        return [",".join(COLUMNS)]

    def _line(self, logs: Logs) -> str:
        text = io.StringIO()
        csv.writer(text, lineterminator="").writerow([logs.get(name, "") for name in COLUMNS])
        return text.getvalue()

    def _epoch_of(self, line: str) -> float:
        first = line.split(",", 1)[0]
        return int(first) if first.isdigit() else float("inf")


class JSONLines(_EpochFile):
    """One JSON object a line, with the names of `COLUMNS`; what was not measured is left out."""

    def _line(self, logs: Logs) -> str:
        return json.dumps(logs)

    def _epoch_of(self, line: str) -> float:
        try:
            return float(json.loads(line)["epoch"])
        except (ValueError, KeyError, TypeError):
            return float("inf")


class ProgressBar(Callback):
    """A live bar on a terminal, one plain line an epoch anywhere else.

    Args:
        file: where to; default standard error, so that standard output stays for results.

    Colour follows NO_COLOR and the terminal.
    """

    def __init__(self, file: TextIO | None = None) -> None:
        self.file = file
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._images = 0
        self._began = 0.0

    @property
    def _stream(self) -> TextIO:
        return self.file or sys.stderr

    def on_epoch_begin(self, epoch: int, logs: Logs) -> None:
        """Start the bar of an epoch, if there is a terminal."""
        if not self._stream.isatty():
            return
        self._images, self._began = 0, time.perf_counter()
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.progress import TimeRemainingColumn as TimeLeft

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeLeft(),
            TextColumn("{task.fields[text]}"),
            console=Console(file=self._stream),
            transient=True,
        )
        self._task = self._bar.add_task(
            f"epoch {epoch + 1}/{self.trainer.epochs}",
            total=self.trainer.batches_per_epoch,
            completed=self.trainer.batch,
            text="",
        )
        self._bar.start()

    def on_batch_end(self, batch: int, logs: Logs) -> None:
        """Move the bar."""
        if self._bar is not None and self._task is not None:
            self._images += int(logs["size"])
            speed = self._images / (time.perf_counter() - self._began)
            running = {**self.trainer.running_logs(), "images_per_second": speed}
            self._bar.update(self._task, advance=1, text=_measures(running))

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """Replace the bar by one line."""
        self._close()
        self._stream.write(f"epoch {epoch + 1}/{self.trainer.epochs}  {_measures(logs)}\n")
        self._stream.flush()

    def on_error(self) -> None:
        """Leave the terminal as it was."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _measures(logs: Logs) -> str:
    shown = {
        "train_loss": "loss {:.4f}",
        "train_accuracy": "accuracy {:.4f}",
        "val_loss": "val_loss {:.4f}",
        "val_accuracy": "val_accuracy {:.4f}",
        "lr": "lr {:.3g}",
        "seconds": "{:.1f} s",
        "images_per_second": "{:.0f} images/s",
    }
    return "  ".join(form.format(logs[name]) for name, form in shown.items() if name in logs)
