"""The course of a training run as a picture."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from striate.io.atomic import write_atomic

if TYPE_CHECKING:
    from striate.train.range_test import RangeTest

# Blue and orange of the Okabe-Ito palette: told apart by every kind of colour vision,
# and by their line style in print without colour.
TRAINING = {"color": "#0072B2", "linestyle": "--", "marker": "o", "markersize": 3}
VALIDATION = {"color": "#D55E00", "linestyle": "-", "marker": "s", "markersize": 3}
RATE = {"color": "#009E73", "linestyle": "-", "marker": "o", "markersize": 3}


def draw_curves(history: Mapping[str, Sequence[float]], path: Path, title: str = "") -> None:
    """Draw loss, accuracy and learning rate over the epochs into the PNG file `path`.

    Args:
        history: `History.history`: one list a column of `log.csv`, one value an epoch; a panel
            shows the columns that are there. Accuracies are from 0 to 1.
        path: the file to write; it appears whole or not at all.
        title: one line above the picture.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    figure = Figure(figsize=(12, 4), dpi=120, layout="constrained")
    loss, accuracy, rate = figure.subplots(1, 3)
    _lines(loss, history, "loss")
    _lines(accuracy, history, "accuracy")
    accuracy.yaxis.set_major_formatter(PercentFormatter(1.0))
    rate.plot(history["epoch"], history["lr"], **RATE)
    rate.set_title("learning rate")
    for axes in (loss, accuracy, rate):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    figure.suptitle(title, fontweight="bold")
    write_png(figure, path)


def _lines(axes: Any, history: Mapping[str, Sequence[float]], what: str) -> None:
    for name, label, style in (
        (f"train_{what}", "training", TRAINING),
        (f"val_{what}", "validation", VALIDATION),
    ):
        if name in history:
            axes.plot(history["epoch"], history[name], label=label, **style)
    axes.set_title(what)
    axes.legend()


def draw_range_test(result: RangeTest, path: Path, title: str = "") -> None:
    """Draw the losses of a range test over the rate, with its suggestions, into the PNG `path`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.plot(result.rates, result.losses, color="#0072B2", alpha=0.35, label="loss of a batch")
    axes.plot(result.rates, result.smooth, color="#0072B2", label="running mean")
    for name, rate, colour in (
        ("valley", result.valley, "#D55E00"),
        ("steepest", result.steepest, "#009E73"),
    ):
        if rate is not None:
            axes.axvline(rate, color=colour, linestyle="--", label=f"{name} {rate:.2g}")
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("loss")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend()
    write_png(figure, path)


def write_png(figure: Any, path: Path) -> None:
    """Write a figure so that `path` appears whole or not at all."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    picture = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(picture, format="png")
    write_atomic(path, [picture.getbuffer()])
