"""The confusion matrix as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from striate.report.curves import write_png

# More classes than this leave no room for a number in a cell of the picture.
NUMBERED_CLASSES = 24


def draw_confusion(matrix: np.ndarray, names: Sequence[str], path: Path, title: str = "") -> None:
    """Draw a confusion matrix (classes, classes), row = true class, into the PNG file `path`.

    Colour is the share of the true class (each row adds up to 1), spread so that small shares
    show; numbers are counts. Beyond 24 classes the numbers are left out, beyond 48 only every
    k-th name is written.
    """
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    classes = len(names)
    side = float(np.clip(3.0 + 0.42 * classes, 5.0, 16.0))
    figure = Figure(figsize=(side + 1.2, side), dpi=120, layout="constrained")
    axes = figure.subplots()
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    picture = axes.imshow(share, cmap="Blues", norm=PowerNorm(0.5, vmin=0.0, vmax=1.0))
    every = -(-classes // 48)
    ticks = list(range(0, classes, every))
    labels = [_short(names[i]) for i in ticks]
    axes.set_xticks(ticks, labels, rotation=90, fontsize=8)
    axes.set_yticks(ticks, labels, fontsize=8)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.set_title(title)
    figure.colorbar(picture, ax=axes, shrink=0.8, label="share of the true class")
    if classes <= NUMBERED_CLASSES:
        for row, column in np.argwhere(matrix > 0):
            colour = "white" if share[row, column] > 0.4 else "black"
            text = str(matrix[row, column])
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=7)
    write_png(figure, path)


def _short(name: str) -> str:
    return name if len(name) <= 20 else name[:19] + "…"
