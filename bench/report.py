"""The tables, as text for a terminal and as Markdown for the documentation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.layers import Row
from bench.training import StepRow

BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"
LAYER_HEAD = (
    "layer",
    "direction",
    "kernel",
    "threads",
    "GFLOP/s",
    "spread",
    "of peak",
    "wanted",
    "PyTorch",
    "ratio",
    "max error",
)
STEP_HEAD = ("training step", "threads", "ms", "spread", "PyTorch ms", "ratio")


def _layer_cells(row: Row) -> tuple[str, ...]:
    mark = "" if row.share >= row.wanted else " ✗"
    return (
        row.layer,
        row.direction,
        row.algorithm,
        str(row.threads),
        f"{row.gflops:.0f}",
        f"{row.spread[0]:.0f}–{row.spread[1]:.0f}",
        f"{row.share:.2f}{mark}",
        f"{row.wanted:.2f}",
        f"{row.torch_gflops:.0f}",
        f"{row.ratio:.2f}",
        f"{row.error:.0e}",
    )


def _step_cells(row: StepRow) -> tuple[str, ...]:
    low, high = row.ours_spread
    return (
        row.work,
        str(row.threads),
        f"{row.ours_ms:.2f}",
        f"{low:.2f}–{high:.2f}",
        f"{row.torch_ms:.2f}",
        f"{row.ratio:.2f}",
    )


def _facts(facts: dict[str, Any]) -> str:
    peaks = ", ".join(f"{t} thread(s) {p:.0f}" for t, p in facts["peak"].items())
    return (
        f"{facts['cpu']} ({facts['isa']}), FMA peak in GFLOP/s: {peaks}; Striate "
        f"{facts['striate']}, PyTorch {facts['torch']} (eager, channels-last), Python "
        f"{facts['python']}; medians of {facts['rounds']} interleaved rounds"
    )


def aligned(head: tuple[str, ...], cells: Sequence[tuple[str, ...]]) -> str:
    """A table in columns: the first two to the left, the others to the right."""
    table = [head, *cells]
    widths = [max(len(line[i]) for line in table) for i in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if i < 2 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in table
    )


def markdown(head: tuple[str, ...], cells: Sequence[tuple[str, ...]]) -> str:
    """The same as a Markdown table."""
    lines = ["| " + " | ".join(line) + " |" for line in (head, *cells)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])


def as_text(facts: dict[str, Any], rows: Sequence[Row], steps: Sequence[StepRow]) -> str:
    """Aligned columns."""
    parts = [_facts(facts)]
    for head, cells in (
        (LAYER_HEAD, [_layer_cells(r) for r in rows]),
        (STEP_HEAD, [_step_cells(s) for s in steps]),
    ):
        parts.append(aligned(head, cells))
    parts.append("✗: below the wanted share of the peak. Ratio: PyTorch's time ÷ ours.")
    return "\n\n".join(parts)


def as_markdown(facts: dict[str, Any], rows: Sequence[Row], steps: Sequence[StepRow]) -> str:
    """The same as Markdown tables."""
    parts = [f"Machine: {_facts(facts)}. Command: `{facts['command']}`."]
    for head, cells in (
        (LAYER_HEAD, [_layer_cells(r) for r in rows]),
        (STEP_HEAD, [_step_cells(s) for s in steps]),
    ):
        parts.append(markdown(head, cells))
    return "\n\n".join(parts)


def write_between_marks(path: Path, text: str, marks: tuple[str, str] = (BEGIN, END)) -> None:
    """Replace what stands between the marks of a Markdown file.

    Raises ValueError if the file has no marks.
    """
    old = path.read_text()
    begin, end = marks
    if begin not in old or end not in old:
        raise ValueError(f"{path} has no marks {begin} … {end}")
    before, after = old.split(begin)[0], old.split(end)[1]
    path.write_text(f"{before}{begin}\n{text}\n{end}{after}")
