"""What a study gives, and the look that their pictures share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Okabe-Ito: told apart by every kind of colour vision; markers tell them apart in print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")


@dataclass(frozen=True)
class Study:
    """A claim, what was measured, and whether the claim shows.

    Attributes:
        name: as in `STUDIES`.
        claim: the sentence that was put to the test.
        figures: what was measured, by name.
        verdict: one or two sentences with the figures that decide.
        holds: whether the claim shows.
        draw: draws the picture into a matplotlib figure.
    """

    name: str
    claim: str
    figures: Mapping[str, float]
    verdict: str
    holds: bool
    draw: Callable[[Any], None]

    def save(self, path: Path) -> None:
        """Write the picture as a PNG file, which appears whole or not at all."""
        from matplotlib.figure import Figure

        from striate.report.curves import write_png

        figure = Figure(figsize=(10, 3.6), dpi=80, layout="constrained")
        self.draw(figure)
        write_png(figure, path)


def style(index: int) -> dict[str, Any]:
    """Colour and marker of the line with this number."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "marker": MARKERS[index % len(MARKERS)],
        "markersize": 4,
    }


def show(axes: Any, picture: Any, title: str, *, signed: bool = False) -> None:
    """A matrix as grey pixels, or with `signed` from blue over white to red around 0."""
    limit = abs(picture).max() or 1.0
    scale = {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit} if signed else {"cmap": "gray"}
    axes.imshow(picture, interpolation="nearest", **scale)
    axes.set_title(title, fontsize=9)
    axes.set_xticks([])
    axes.set_yticks([])
