"""The tables, as text for a terminal and as Markdown for the documentation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.cases import SECTIONS, TITLES
from bench.rows import OURS, Book, Mean, Row, means

MARKS = ("<!-- peers: begin -->", "<!-- peers: end -->")
HEAD = (
    *("work", "threads", "Striate", "spread", "of peak"),
    *("fastest peer", "its", "its spread", "ratio", "wanted", "others"),
)
MEAN_HEAD = ("over a section", "threads", "rows", "ratio", "wanted")
SHORT = " ✗"

Cells = tuple[str, ...]
Table = tuple[str, Cells, list[Cells]]  # title, head, lines


def number(value: float) -> str:
    """Three digits: 0.0123, 1.23, 12.3, 123, 1234."""
    if not value or math.isnan(value):
        return "–"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def unit(section: str) -> tuple[str, float]:
    """What the values of a section are shown in: name, and how many to the unit of `Row`."""
    return {"memory": ("MB", 1e-6), "accuracy": ("s", 1.0)}.get(section, ("ms", 1e3))


def _ratio(ratio: float, short: bool) -> str:
    return "–" if math.isnan(ratio) else f"{ratio:.2f}{SHORT if short else ''}"


def cells(row: Row, *, section: bool = False) -> Cells:
    """One line; with `section` its title names the section too."""
    name, factor = unit(row.section)
    shown = {peer: [number(factor * v) for v in value] for peer, value in row.values.items()}
    best = row.fastest()
    others = ", ".join(
        f"{peer} {value[0]}" for peer, value in shown.items() if peer not in {OURS, best}
    )
    ours, theirs = shown[OURS], shown[best] if best else ["–"] * 3
    share = "–" if math.isnan(row.share) else f"{row.share:.2f}"
    return (
        *(_title(row, section), str(row.threads), f"{ours[0]} {name}", _spread(ours), share),
        *(best or "none", theirs[0], _spread(theirs)),
        *(_ratio(row.ratio(), row.short), f"{row.wanted:.2f}", others),
    )


def _title(row: Row, section: bool) -> str:
    return f"{TITLES[row.section]}: {row.title}" if section else row.title


def _spread(shown: Sequence[str]) -> str:
    return f"{shown[1]}–{shown[2]}"


def _mean_cells(mean: Mean) -> Cells:
    title = f"{TITLES[mean.section]}: {mean.what}"
    ratio = _ratio(mean.ratio, mean.short)
    return title, str(mean.threads), str(mean.rows), ratio, f"{mean.wanted:.2f}"


def tables(rows: Sequence[Row]) -> list[Table]:
    """Targets over sections, what falls short of its target, then each section's other rows."""
    found: list[Table] = []
    over = means(rows)
    if over:
        found.append(("Targets over a section", MEAN_HEAD, [_mean_cells(m) for m in over]))
    short = [row for row in rows if row.short]
    if short:
        lines = [cells(row, section=True) for section in SECTIONS for row in _of(short, section[0])]
        found.append(("Short of their target", HEAD, lines))
    fine = [row for row in rows if not row.short]
    for name, title in SECTIONS:
        lines = [cells(row) for row in _of(fine, name)]
        if lines:
            found.append((title[0].upper() + title[1:], HEAD, lines))
    return found


def _of(rows: Sequence[Row], section: str) -> list[Row]:
    return [row for row in rows if row.section == section]


def notes(book: Book) -> list[str]:
    """What failed, what was left out, each once with how often."""
    counts: dict[str, int] = {}
    for row in book.rows:
        for note in row.notes:
            counts[note] = counts.get(note, 0) + 1
    said = [f"{note} ({count} rows)" if count > 1 else note for note, count in counts.items()]
    failed = [f"NOT MEASURED: {name}: {why}" for name, why in book.failed.items()]
    return [*failed, *book.facts.get("left_out", []), *said]


def describe(facts: dict[str, Any]) -> str:
    """Machine, versions and settings in a sentence."""
    peaks = ", ".join(f"{p:.0f} on {t} thread(s)" for t, p in facts["peak"].items())
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    return (
        f"{facts['cpu']} ({facts['isa']}), multiply-add peak measured in the run in GFLOP/s: "
        f"{peaks}; {versions}, Python {facts['python']}; medians of interleaved rounds, "
        f"{facts['date']}"
    )


def aligned(head: Cells, lines: Sequence[Cells]) -> str:
    """A table in columns: the first to the left, the others to the right."""
    table = [head, *lines]
    widths = [max(len(line[i]) for line in table) for i in range(len(head))]
    last = len(head) - 1
    return "\n".join(
        "  ".join(
            cell.ljust(w) if i in {0, last} else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in table
    )


def markdown(head: Cells, lines: Sequence[Cells]) -> str:
    """The same as a Markdown table."""
    table = ["| " + " | ".join(line) + " |" for line in (head, *lines)]
    return "\n".join([table[0], "|" + "---|" * len(head), *table[1:]])


def as_text(book: Book) -> str:
    """Everything, for a terminal."""
    found = [f"{title}\n{aligned(head, lines)}" for title, head, lines in tables(book.rows)]
    legend = "Ratio: the fastest peer's value ÷ ours. ✗: below what is wanted."
    return "\n\n".join([describe(book.facts), *found, legend, *notes(book)])


def as_markdown(book: Book, chart: str | None) -> str:
    """The same for the documentation; `chart` is the path of a picture to show."""
    parts = [f"Machine: {describe(book.facts)}. Command: `{book.facts['command']}`."]
    if chart is not None:
        parts.append(f"![Ratio of every row to the fastest peer]({chart})")
    parts += [f"### {title}\n\n{markdown(head, lines)}" for title, head, lines in tables(book.rows)]
    said = notes(book)
    return "\n\n".join([*parts, *(["\n".join(f"* {note}" for note in said)] if said else [])])


def write_between_marks(path: Path, text: str, marks: tuple[str, str]) -> None:
    """Replace what stands between the marks of a Markdown file; see `check_marks`."""
    before, after = check_marks(path, marks)
    begin, end = marks
    path.write_text(f"{before}{begin}\n{text}\n{end}{after}")


def check_marks(path: Path, marks: tuple[str, str]) -> tuple[str, str]:
    """What stands before and after the marks; raises ValueError if the file has none."""
    begin, end = marks
    old = path.read_text()
    if begin not in old or end not in old:
        raise ValueError(f"{path} has no marks {begin} … {end}")
    return old.split(begin)[0], old.split(end)[1]
