# ruff: noqa: ARG002 - a hook is given what Keras's hooks are given
"""The report of a training run: one page, written anew after every epoch."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from striate.data import Augment, Loader
from striate.errors import WriteError
from striate.pixels import Pixels, as_unit_float
from striate.report.answers import Answers, most_confused, worst_pictures
from striate.report.course import (
    Record,
    confusion_chart,
    curves,
    dead_chart,
    gradient_chart,
    shares_of_peak,
)
from striate.report.page import render, write_page
from striate.report.png import data_address, mosaic, shrunk
from striate.train.callbacks import Arrays, Callback
from striate.train.history import Logs
from striate.train.probe import Probe

if TYPE_CHECKING:
    from striate.data import Dataset

Array = np.ndarray[Any, Any]

PROBED = 32  # pictures of the batch that gradients are measured on
LARGEST = 128  # pixels of the longer side of a picture on the page
ONGOING = ": training; the page loads itself anew"
PEAK_SECONDS = 0.005  # an epoch, for measuring the machine's peak
SHOWN = 32  # pictures of the mosaic


class TrainingReport(Callback):
    """Writes `report.html` after every epoch: how the net learns, what it confuses, what it sees.

    Args:
        path: the page.
        train, valid: the data sets of the run.
        settings: the resolved configuration, to be shown.
        command: what repeats the run.
        title: of the page.
        augment: that of the run.
        label_smoothing, class_weights: those of the run, for the gradients.

    Gradients come from a program of their own on one batch, once an epoch (see
    `striate.train.probe`); the training step is as without the report, and so are its bits.
    """

    def __init__(
        self,
        path: Path,
        train: Dataset,
        valid: Dataset,
        *,
        settings: Mapping[str, Any],
        command: str,
        title: str,
        augment: Augment | None = None,
        label_smoothing: float = 0.0,
        class_weights: Array | None = None,
    ) -> None:
        self.path = path
        self._train, self._valid = train, valid
        self._settings, self._command, self._title = dict(settings), command, title
        self._augment = augment
        self._loss = {"label_smoothing": label_smoothing, "class_weights": class_weights}
        self._pass = Answers()  # the pass over the validation set that is going on
        self._answers = Answers()  # that of the last whole epoch
        self._probe: Probe | None = None
        self.records: list[Record] = []

    # ------------------------------------------------------------------ hooks

    def on_train_begin(self, logs: Logs) -> None:
        """Keep the records of the epochs that stay."""
        if not self.trainer.resumed:
            self.records = []
        self.records = [r for r in self.records if r["epoch"] <= self.trainer.epoch]

    def on_test_begin(self, logs: Logs) -> None:
        """Begin anew."""
        self._pass = Answers()

    def on_test_batch_end(self, outputs: Array, y: Array) -> None:
        """Keep what the page shows of a batch of validation."""
        self._pass.add(outputs, y)

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """Measure, and write the page."""
        from striate.engine import measure_peak

        self._answers = self._pass
        if self._probe is None:
            self._begin()
        assert self._probe is not None
        found = self._probe.measure()
        self.records.append(
            Record(
                epoch=epoch + 1,
                gradients=found.gradients,
                dead=found.dead,
                step_seconds=logs["seconds"] / self.trainer.batches_per_epoch,
                gflops=self._probe.flops * logs["images_per_second"] / 1e9,
                peak=measure_peak(seconds=PEAK_SECONDS),
            )
        )
        done = epoch + 1 >= self.trainer.epochs or self.trainer.stop
        self._write("" if done else ONGOING)

    def on_error(self) -> None:
        """Say on the page that the run has stopped."""
        if self.records and len(self._answers):
            with contextlib.suppress(WriteError):  # the error that is on its way matters more
                self._write(": stopped")

    def state_dict(self) -> tuple[dict[str, Any], Arrays]:
        """The records of all epochs."""
        return {"records": self.records}, {}

    def load_state_dict(self, values: dict[str, Any], arrays: Arrays) -> None:
        """Take back what `state_dict` gave."""
        self.records = values["records"]

    def _begin(self) -> None:
        # Spread over the data set, for a folder is sorted by class.
        index = np.linspace(0, len(self._train) - 1, min(PROBED, len(self._train))).astype(int)
        x = self._train.recipe.input(self._train.raw(index))
        self._probe = Probe(
            self.trainer.net,
            x,
            self._train.labels[index],
            options=self.trainer.step.options,
            **self._loss,  # type: ignore[arg-type]  # a dict of two kinds of values
        )

    # ------------------------------------------------------------------ the page

    def _write(self, state: str) -> None:
        history = self.trainer.history.history
        last = self.records[-1]
        epoch, epochs = last["epoch"], self.trainer.epochs
        matrix, classes = self._matrix(), self._valid.classes
        text = render(
            "training.html",
            title=self._title,
            refresh=state == ONGOING,
            state=f"{epoch} of {epochs} epochs{state}",
            tiles=_tiles(history, self.records),
            curves=curves(history, self.records),
            confusion=confusion_chart(matrix, classes),
            counted=len(self._answers),
            epoch=epoch,
            pairs=most_confused(matrix, classes),
            worst=self._worst(),
            mosaic=self._mosaic(epoch),
            probed=min(PROBED, len(self._train)),
            gradients=gradient_chart(self.records),
            dead=dead_chart(self.records),
            command=self._command,
            settings=[(name, value) for name, value in self._settings.items() if value is not None],
        )
        write_page(self.path, text)

    def _matrix(self) -> Array:
        from striate.train.metrics import confusion_matrix

        answers = self._answers
        return confusion_matrix(answers.labels, answers.predicted, len(self._valid.classes))

    def _worst(self) -> list[dict[str, Any]]:
        """The pictures whose loss is greatest, with what the net took them for."""
        answers, classes = self._answers, self._valid.classes
        labels, predicted, losses = answers.labels, answers.predicted, answers.losses
        paths = getattr(self._valid, "paths", None)
        shots = []
        for i in worst_pictures(losses):
            picture = shrunk(self._valid.raw([i]), LARGEST)[0]
            shots.append(
                {
                    "picture": data_address(picture),
                    "true": classes[labels[i]],
                    "predicted": classes[predicted[i]],
                    "loss": float(losses[i]),
                    "share": math.exp(-losses[i]),
                    "name": paths[i].name if paths else f"picture {i}",
                }
            )
        return shots

    def _mosaic(self, epoch: int) -> dict[str, Any]:
        """The first pictures of the epoch, as the loader has given them to the net."""
        trainer, recipe = self.trainer, self._train.recipe
        loader = Loader(
            self._train,
            trainer.batch_size,
            shuffle=True,
            seed=trainer.seed,
            augment=self._augment,
            prefetch=0,
            raw=True,
        )
        x, _ = next(iter(loader.epoch(epoch - 1)))
        if isinstance(x, Pixels):
            pictures: Array = x.samples[:SHOWN]
        else:
            mean, std = (np.reshape(v, (-1, 1, 1)) for v in (recipe.mean, recipe.std))
            pictures = as_unit_float((x[:SHOWN] * std + mean).transpose(0, 2, 3, 1))
        means = ", ".join(f"{v:.3f}" for v in recipe.mean)
        stds = ", ".join(f"{v:.3f}" for v in recipe.std)
        return {
            "picture": data_address(mosaic(shrunk(pictures, LARGEST))),
            "epoch": epoch,
            "augment": str(self._augment) if self._augment is not None else "augmentation: none",
            "normalise": f"(x − {means}) / {stds} by channel",
        }


def _tiles(
    history: Mapping[str, Sequence[float]], records: Sequence[Record]
) -> list[tuple[str, str]]:
    found = []
    if "val_accuracy" in history:
        best = max(history["val_accuracy"])
        at = history["val_accuracy"].index(best) + 1
        found.append((f"{best:.2%}", f"best validation accuracy (epoch {at})"))
    if "val_loss" in history:
        found.append((f"{history['val_loss'][-1]:.4f}", "validation loss"))
    found += [
        (f"{history['train_loss'][-1]:.4f}", "training loss"),
        (f"{sum(history['seconds']):.1f} s", "training, all epochs"),
        (f"{history['images_per_second'][-1]:,.0f}", "images a second"),
        (f"{1e3 * records[-1]['step_seconds']:.2f} ms", "a step"),
        (f"{shares_of_peak(records)[-1]:.0%}", "of the peak of multiply-adds"),
    ]
    return found
