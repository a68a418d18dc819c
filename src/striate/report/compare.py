"""Runs beside one another: curves over each other, final numbers, settings that differ."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from striate.errors import DataError
from striate.report.charts import Series, line_chart
from striate.report.page import render

PANELS = (
    ("Validation loss", "val_loss", False),
    ("Validation accuracy", "val_accuracy", True),
    ("Training loss", "train_loss", False),
    ("Training accuracy", "train_accuracy", True),
    ("Learning rate", "lr", False),
    ("Images a second", "images_per_second", False),
)


@dataclass(frozen=True)
class Run:
    """A run folder as it was left.

    Attributes:
        name: of the folder.
        history: the columns of log.csv, one value an epoch; what was not measured is left out.
        settings: config.toml.
    """

    name: str
    history: dict[str, list[float]]
    settings: dict[str, Any]

    def results(self) -> dict[str, float | int | None]:
        """The final numbers; None for what was not measured."""
        column = self.history
        accuracy, loss = column.get("val_accuracy"), column.get("val_loss")
        best = None if accuracy is None else max(accuracy)
        return {
            "epochs": len(column["epoch"]),
            "best_val_accuracy": best,
            "best_epoch": None if accuracy is None else accuracy.index(max(accuracy)) + 1,
            "val_accuracy": None if accuracy is None else accuracy[-1],
            "val_loss": None if loss is None else loss[-1],
            "train_loss": column["train_loss"][-1],
            "seconds": sum(column["seconds"]),
            "images_per_second": column["images_per_second"][-1],
        }


def read_history(path: Path) -> dict[str, list[float]]:
    """The columns of a log.csv that are filled; {} if no epoch is finished. Raises DataError."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    try:
        columns = {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}
        return {name: [float(v) for v in col] for name, col in columns.items() if all(col)}
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: this is no log of a training run ({error})") from error


def differing(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """Setting → its value in each run, of those that are not the same in all (None: not set)."""
    names = dict.fromkeys(name for run in runs for name in run.settings)
    found = {name: [run.settings.get(name) for run in runs] for name in names}
    return {name: values for name, values in found.items() if any(v != values[0] for v in values)}


def comparison_page(runs: Sequence[Run]) -> str:
    """The page; runs are told apart by colour, in the order given."""
    charts = [
        line_chart(
            title,
            [
                Series(run.name, run.history["epoch"], run.history[column])
                for run in runs
                if column in run.history
            ],
            percent=percent,
        )
        for title, column, percent in PANELS
        if any(column in run.history for run in runs)
    ]
    names = [run.name for run in runs]
    results = [run.results() for run in runs]
    table = [(name, [_text(name, result[name]) for result in results]) for name in results[0]]
    common = {
        name: value for name, value in runs[0].settings.items() if name not in differing(runs)
    }
    return render(
        "compare.html",
        title=" and ".join(names) if len(names) < 4 else f"{len(names)} runs",
        names=names,
        charts=charts,
        results=table,
        differing=list(differing(runs).items()),
        common=list(common.items()),
    )


def _text(name: str, value: float | None) -> str:
    """A final number as people read it."""
    if value is None:
        return "–"
    if "accuracy" in name:
        return f"{value:.2%}"
    if "loss" in name:
        return f"{value:.4f}"
    return f"{value:.1f}" if name == "seconds" else f"{value:,.0f}"
