"""One picture: the ratio of every row to the fastest peer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.cases import SECTIONS
from bench.rows import Row

FINE, SHORT, WANTED = "#2f6f9f", "#c8502f", "#222222"
LINE_INCHES, WIDTH_INCHES, DPI = 0.16, 10.5, 90
TICKS = (0.5, 1, 2, 3, 5)


def draw(rows: Sequence[Row], path: Path) -> None:
    """Write the chart of the rows with the most threads: a dot a row, a tick at its target.

    Left half single layers, right half whole networks; a line at 1, where both are as fast.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    most = max((row.threads for row in rows), default=0)
    shown = [row for row in rows if row.threads == most and row.fastest()]
    layers = {"conv3x3", "layers"}
    halves = [
        [row for row in shown if row.section in layers],
        [row for row in shown if row.section not in layers],
    ]
    lines = max(len(half) + len({row.section for row in half}) for half in halves)
    height = 1.2 + LINE_INCHES * lines
    figure = Figure((WIDTH_INCHES, height), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, half in zip(figure.subplots(1, 2), halves, strict=True):
        _half(axes, half)
        axes.set_ylim(lines - 0.4, -0.6)
    marks = [
        Line2D([], [], marker="o", color=FINE, label="ratio"),
        Line2D([], [], marker="o", color=SHORT, label="short of its target"),
        Line2D([], [], marker="|", color=WANTED, linestyle="none", label="target"),
    ]
    figure.legend(handles=marks, fontsize=8, loc="outside lower center", ncols=3, frameon=False)
    threads = f"{most} thread{'s' if most > 1 else ''}"
    figure.suptitle(f"Ratio to the fastest peer, {threads} (right of 1: Striate is better)")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI, metadata={"Software": None})


def _half(axes: object, rows: Sequence[Row]) -> None:
    from matplotlib.axes import Axes
    from matplotlib.ticker import NullFormatter

    assert isinstance(axes, Axes)
    names: list[str] = []
    for name, title in SECTIONS:
        part = [row for row in rows if row.section == name]
        if not part:
            continue
        axes.text(0.0, len(names), title, transform=axes.get_yaxis_transform(), fontsize=8,
                  weight="bold", va="center")  # fmt: skip
        names.append("")
        for row in part:
            y, ratio = len(names), row.ratio()
            colour = SHORT if row.short else FINE
            axes.plot([1, ratio], [y, y], color=colour, linewidth=1)
            axes.plot(ratio, y, "o", color=colour, markersize=4)
            axes.plot(row.wanted, y, "|", color=WANTED, markersize=8)
            names.append(row.title)
    axes.set_xscale("log")
    axes.axvline(1, color="#888888", linewidth=0.8)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.tick_params(axis="y", length=0)
    largest = max([row.ratio() for row in rows], default=2.0)
    ticks = [t for t in TICKS if t <= max(3, 1.2 * largest)]
    axes.set_xlim(min([0.5, *(0.9 * row.ratio() for row in rows)]), max(3.3, 1.15 * largest))
    axes.set_xticks(ticks, [f"{t:g}" for t in ticks], fontsize=8)
    axes.xaxis.set_minor_formatter(NullFormatter())
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
