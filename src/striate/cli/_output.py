"""Printing: JSON objects and plain tables."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import click


def print_json(value: Any) -> None:
    """Print one JSON object on standard output; NaN and infinity become null."""
    click.echo(as_json_text(value))


def as_json_text(value: Any) -> str:
    """One JSON object in one line; NaN and infinity become null."""
    return json.dumps(_finite(value), ensure_ascii=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def note(text: str) -> None:
    """Say something beside the result, on standard error."""
    click.echo(text, err=True)


def reading_progress() -> Callable[[int, int], None] | None:
    """A counter of pictures read, on standard error; None where that is no terminal."""
    if not sys.stderr.isatty():
        return None

    def show(done: int, total: int) -> None:
        end = "\n" if done == total else ""
        sys.stderr.write(f"\rreading pictures {done}/{total}{end}")
        sys.stderr.flush()

    return show


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns two spaces apart: text to the left, numbers to the right."""
    cells = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    numeric = [
        all(isinstance(row[i], (int, float)) or _is_number(str(row[i])) for row in rows)
        for i in range(len(head))
    ]
    lines = (
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ).rstrip()
        for row in cells
    )
    return "\n".join(lines)


def _is_number(text: str) -> bool:
    try:
        float(text.rstrip("%"))
    except ValueError:
        return text == "–"
    return True


def percent(share: float) -> str:
    """A share as a percentage with two decimals; a dash for NaN."""
    return "–" if math.isnan(share) else f"{share:.2%}"
