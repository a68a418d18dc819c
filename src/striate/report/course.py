"""Charts of the course of a training run, of what was measured after each epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np

from striate.report.charts import Series, line_chart, shade_chart

Array = np.ndarray[Any, Any]

NUMBERED_CLASSES = 14  # more leave no room for numbers in the cells
COLUMNS = 40  # epochs beside one another, the rest is thinned out


class Record(TypedDict):
    """What was measured after an epoch.

    Attributes:
        epoch: counted from 1.
        gradients: layer → norm. dead: layer → (dead units, units); see `striate.train.probe`.
        step_seconds: mean time of a step, with the wait for its pictures.
        gflops: direct FLOPs of forward and backward pass by the time of the epoch's steps, in 10⁹.
        peak: of the machine, in GFLOP/s, as measured just after.
    """

    epoch: int
    gradients: dict[str, float]
    dead: dict[str, tuple[int, int]]
    step_seconds: float
    gflops: float
    peak: float


def shares_of_peak(records: Sequence[Record]) -> list[float]:
    """Of the highest peak measured: at any one time others may have used the processors."""
    peak = max(record["peak"] for record in records)
    return [record["gflops"] / peak for record in records]


def curves(history: Mapping[str, Sequence[float]], records: Sequence[Record]) -> list[str]:
    """Charts over the epochs: loss, accuracy, learning rate, time of a step, share of the peak."""
    epochs = history["epoch"]

    def both(what: str) -> list[Series]:
        return [
            Series(label, epochs, history[name], dashed)
            for name, label, dashed in (
                (f"train_{what}", "training", True),
                (f"val_{what}", "validation", False),
            )
            if name in history
        ]

    measured = [float(r["epoch"]) for r in records]
    return [
        line_chart("Loss", both("loss")),
        line_chart("Accuracy", both("accuracy"), percent=True),
        line_chart("Learning rate", [Series("rate", epochs, history["lr"])]),
        line_chart(
            "Milliseconds a step",
            [Series("time", measured, [1e3 * r["step_seconds"] for r in records])],
        ),
        line_chart(
            "Share of the peak of multiply-adds",
            [Series("share", measured, shares_of_peak(records))],
            percent=True,
        ),
    ]


def confusion_chart(matrix: Array, classes: Sequence[str]) -> str:
    """Counts by true class (rows) and predicted class, shaded by the share of the true class."""
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    return shade_chart(
        "Confusion matrix",
        [_short(name) for name in classes],
        [_short(name) for name in classes],
        lambda i, j: math.sqrt(share[i, j]),  # so that small shares show
        lambda i, j: str(matrix[i, j]) if matrix[i, j] else "",
        numbers=len(classes) <= NUMBERED_CLASSES,
        colour=lambda i, j: 0 if i == j else 1,
        axes=("true class", "predicted class"),
    )


def _short(name: str) -> str:
    return name if len(name) <= 14 else name[:13] + "…"


def _thinned(records: Sequence[Record]) -> list[Record]:
    """At most `COLUMNS` records, the last among them."""
    every = -(-len(records) // COLUMNS)
    return list(records[::-1][::every][::-1])


def gradient_chart(records: Sequence[Record]) -> str:
    """Norms of gradients, a row a layer and a column an epoch, shaded by their logarithm."""
    shown = _thinned(records)
    layers = list(shown[-1]["gradients"])
    logs = np.array(
        [[math.log10(max(r["gradients"].get(n, 0.0), 1e-12)) for r in shown] for n in layers]
    )
    low, high = float(logs.min()), float(logs.max())
    return shade_chart(
        f"Gradient norm by layer, 10^{low:.1f} (pale) to 10^{high:.1f}",
        layers,
        [str(r["epoch"]) for r in shown],
        lambda i, j: 0.08 + 0.92 * (logs[i, j] - low) / max(high - low, 1e-9),
        lambda i, j: f"{shown[j]['gradients'].get(layers[i], 0.0):.2g}",
        numbers=len(shown) <= 8,
        colour=lambda _i, _j: 2,
        axes=("layers, first to last", "epochs"),
    )


def dead_chart(records: Sequence[Record]) -> str:
    """Share of dead units, a row for each activation and a column an epoch; "" without any."""
    shown = _thinned(records)
    layers = list(shown[-1]["dead"])
    if not layers:
        return ""

    def share(i: int, j: int) -> float:
        dead, units = shown[j]["dead"].get(layers[i], (0, 1))
        return dead / units

    return shade_chart(
        "Dead units after each activation",
        [f"{name} ({shown[-1]['dead'][name][1]})" for name in layers],
        [str(r["epoch"]) for r in shown],
        share,
        lambda i, j: str(shown[j]["dead"].get(layers[i], (0, 1))[0]),
        numbers=len(shown) <= 14,
        colour=lambda _i, _j: 1,
        axes=("layer before the activation (units)", "epochs"),
    )
