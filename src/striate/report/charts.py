"""Charts as SVG text: lines, points under a roof, tables of shades.

Colours are custom properties of the page's style sheet (`--s0` … `--s7`, `--ink`, `--line`), so
that one chart suits a dark and a light page. A chart is as wide as its place; text is 12 units of
the 420 that it is wide, so a phone shows it at some 10 pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 420, 260
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 36
COLOURS = 8


class Series(NamedTuple):
    """One line: its name, and a point for each x whose y is finite."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    dashed: bool = False


@dataclass(frozen=True)
class Axis:
    """Numbers from `low` to `high` on pixels from `begin` to `end`."""

    low: float
    high: float
    begin: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """The pixel of a value."""
        low, high, value = (
            (math.log10(v) for v in (self.low, self.high, value))
            if self.log
            else (self.low, self.high, value)
        )
        return self.begin + (self.end - self.begin) * (value - low) / (high - low)

    def ticks(self) -> list[float]:
        """Round numbers within: 1, 2 or 5 times a power of ten; of a long logarithm the powers."""
        if self.log:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            every = max(1, -(-(last - first) // 6))
            leading = (1, 2, 5) if last - first < 4 else (1,)
            marks = [d * 10.0**k for k in range(first, last + 1, every) for d in leading]
            return [mark for mark in marks if self.low <= mark <= self.high]
        span = self.high - self.low
        unit = 10.0 ** math.floor(math.log10(span / 4))
        step = next(unit * k for k in (1, 2, 5, 10) if span / (unit * k) <= 6)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [k * step for k in range(first, last + 1)]


def _axis(values: Sequence[float], begin: float, end: float, log: bool, whole: bool) -> Axis:
    """An axis that holds all values; with `whole` of whole numbers."""
    low, high = min(values), max(values)
    if log:
        return Axis(low / 1.1, high * 1.1, begin, end, log=True)
    if low == high:
        room = 0.5 if whole else max(abs(low) * 0.1, 1e-9)
        return Axis(low - room, high + room, begin, end)
    room = 0.0 if whole else (high - low) * 0.05
    return Axis(low - room, high + room, begin, end)


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    x_label: str = "epoch",
    log_x: bool = False,
    log_y: bool = False,
    percent: bool = False,
    marks: Sequence[tuple[str, float]] = (),
) -> str:
    """Lines over one another, with a legend if there are several.

    Args:
        title: what y is; also what a screen reader says.
        series: the lines; points that are not finite (or, on a logarithm, not above 0) are left
            out.
        x_label: below the axis.
        log_x: whether the axis across is logarithmic.
        log_y: the axis up, likewise.
        percent: y from 0 to 1 written as a percentage.
        marks: (name, x) of vertical lines.
    """
    drawn = [_drawable(line, log_x, log_y) for line in series]
    xs = [x for line in drawn for x in line.x]
    ys = [y for line in drawn for y in line.y]
    if not xs:
        return f'<p class="none">{escape(title)}: nothing measured</p>'
    whole = not log_x and all(x == round(x) for x in xs)
    across = _axis(xs, LEFT, WIDTH - RIGHT, log_x, whole)
    up = _axis(ys, HEIGHT - BOTTOM, TOP, log_y, whole=False)
    parts = _frame(across, up, x_label, percent, whole)
    for name, x in marks:
        at = across.at(x)
        parts.append(f'<line class="mark" x1="{at:.1f}" y1="{TOP}" x2="{at:.1f}" y2="{up.begin}"/>')
        side = "end" if at > WIDTH / 2 else "start"
        shift = -4 if side == "end" else 4
        parts.append(
            f'<text x="{at + shift:.1f}" y="{TOP + 12}" text-anchor="{side}">{escape(name)}</text>'
        )
    for i, line in enumerate(drawn):
        points = " ".join(
            f"{across.at(x):.1f},{up.at(y):.1f}" for x, y in zip(line.x, line.y, strict=True)
        )
        dash = ' stroke-dasharray="5 4"' if line.dashed else ""
        colour = f"var(--s{i % COLOURS})"
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}"{dash}/>')
        if len(line.x) <= 40:
            parts += [
                f'<circle cx="{across.at(x):.1f}" cy="{up.at(y):.1f}" r="2.5" fill="{colour}">'
                f"<title>{escape(line.name)}, {escape(x_label)} {_number(x)}: "
                f"{_label(y, percent)}</title></circle>"
                for x, y in zip(line.x, line.y, strict=True)
            ]
    return _figure(title, parts, [line.name for line in series], HEIGHT)


def _drawable(line: Series, log_x: bool, log_y: bool) -> Series:
    kept = [
        (x, y)
        for x, y in zip(line.x, line.y, strict=True)
        if math.isfinite(x)
        and math.isfinite(y)
        and not (log_x and x <= 0)
        and not (log_y and y <= 0)
    ]
    return line._replace(x=[x for x, _ in kept], y=[y for _, y in kept])


def _frame(across: Axis, up: Axis, x_label: str, percent: bool, whole: bool) -> list[str]:
    """Grid lines with their numbers, and the name of the axis across."""
    parts = []
    for value in up.ticks():
        y = up.at(value)
        parts.append(
            f'<line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{across.end}" y2="{y:.1f}"/>'
        )
        text = _label(value, percent)
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
    for value in across.ticks():
        if whole and value != round(value):
            continue
        x = across.at(value)
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{up.begin}"/>')
        parts.append(
            f'<text x="{x:.1f}" y="{up.begin + 16}" text-anchor="middle">{_number(value)}</text>'
        )
    middle = (across.begin + across.end) / 2
    parts.append(
        f'<text x="{middle:.0f}" y="{HEIGHT - 4}" text-anchor="middle">{escape(x_label)}</text>'
    )
    return parts


def roofline_chart(
    title: str, points: Sequence[tuple[str, str, float, float]], peak: float, bandwidth: float
) -> str:
    """Speed over arithmetic intensity on logarithmic axes, below what the machine can do.

        roof(I) = min(peak, bandwidth · I)

    Args:
        title: what is shown.
        points: (name, kind, FLOPs a byte, GFLOP/s), both above 0.
        peak: GFLOP/s.
        bandwidth: GB/s.
    """
    ridge = peak / bandwidth
    xs = [ridge / 4, ridge * 4, *(point[2] for point in points)]
    ys = [peak, *(point[3] for point in points)]
    across = _axis(xs, LEFT, WIDTH - RIGHT, log=True, whole=False)
    low = min(bandwidth * across.low, *ys)
    up = _axis([low, max(ys)], HEIGHT - BOTTOM, TOP, log=True, whole=False)
    parts = _frame(across, up, "FLOPs a byte", percent=False, whole=False)
    roof = [(across.low, bandwidth * across.low), (ridge, peak), (across.high, peak)]
    text = " ".join(f"{across.at(x):.1f},{up.at(y):.1f}" for x, y in roof)
    parts.append(f'<polyline points="{text}" fill="none" stroke="var(--ink)"/>')
    kinds = list(dict.fromkeys(kind for _, kind, _, _ in points))
    parts += [
        f'<circle cx="{across.at(x):.1f}" cy="{up.at(y):.1f}" r="4" fill-opacity="0.75" '
        f'fill="var(--s{kinds.index(kind) % COLOURS})"><title>{escape(name)} ({escape(kind)}): '
        f"{y:.1f} GFLOP/s at {x:.2f} FLOPs a byte</title></circle>"
        for name, kind, x, y in points
    ]
    return _figure(title, parts, kinds, HEIGHT)


def shade_chart(
    title: str,
    rows: Sequence[str],
    columns: Sequence[str],
    shade: Callable[[int, int], float],
    text: Callable[[int, int], str],
    *,
    numbers: bool = True,
    colour: Callable[[int, int], int] = lambda _row, _column: 0,
    axes: tuple[str, str] = ("", ""),
) -> str:
    """A table of cells, the stronger the colour the larger the value.

    Args:
        title: what is shown.
        rows: their names.
        columns: their names.
        shade: (row, column) → 0 … 1.
        text: (row, column) → the value, shown in the cell or on pointing at it.
        numbers: whether values are written into the cells.
        colour: (row, column) → number of the colour.
        axes: what rows and columns are.
    """
    left = 14 + 6.4 * max(map(len, rows))
    top = 14 + 6.4 * max(map(len, columns)) * (0.75 if len(columns) > 1 else 0)
    right = RIGHT + (3 * len(columns[-1]) if len(columns[-1]) > 3 else 0)  # its slanted name
    side = max(6.0, (WIDTH - left - right) / len(columns))
    tall = min(max(side, 12.0), 26.0)
    height = top + tall * len(rows) + 20
    width = max(float(WIDTH), left + side * len(columns) + right)
    parts = []
    for j, name in enumerate(columns):
        x = left + side * (j + 0.5) + 4
        if j % max(1, math.ceil(11 / side)) == 0:
            turn = f'transform="rotate(-60 {x:.1f} {top - 5:.1f})"'
            parts.append(f'<text x="{x:.1f}" y="{top - 5:.1f}" {turn}>{escape(name)}</text>')
    for i, name in enumerate(rows):
        y = top + tall * i
        parts.append(
            f'<text x="{left - 5:.1f}" y="{y + tall / 2 + 4:.1f}" text-anchor="end">'
            f"{escape(name)}</text>"
        )
        for j in range(len(columns)):
            strength, label = shade(i, j), text(i, j)
            parts.append(
                f'<rect x="{left + side * j:.1f}" y="{y:.1f}" width="{side:.1f}" '
                f'height="{tall:.1f}" fill="var(--s{colour(i, j)})" '
                f'fill-opacity="{strength:.3f}"><title>{escape(name)}, {escape(columns[j])}: '
                f"{escape(label)}</title></rect>"
            )
            if numbers and label:
                kind = ' class="on"' if strength > 0.6 else ""
                parts.append(
                    f'<text{kind} x="{left + side * (j + 0.5):.1f}" y="{y + tall / 2 + 4:.1f}" '
                    f'text-anchor="middle" font-size="{10 if side > 24 else 8}">'
                    f"{escape(label)}</text>"
                )
    row_name, column_name = axes
    if row_name:
        note = f"rows: {row_name}, columns: {column_name}"
        parts.append(f'<text x="4" y="{height - 5:.1f}">{escape(note)}</text>')
    return _figure(title, parts, [], height, width)


def _figure(
    title: str, parts: Sequence[str], legend: Sequence[str], height: float, width: float = WIDTH
) -> str:
    names = "".join(
        f'<span><i style="background:var(--s{i % COLOURS})"></i>{escape(name)}</span>'
        for i, name in enumerate(legend)
    )
    below = f'<div class="legend">{names}</div>' if len(legend) > 1 else ""
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><svg viewBox="0 0 {width:.0f} '
        f'{height:.0f}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>{below}'
        "</figure>"
    )


def _label(value: float, percent: bool) -> str:
    return f"{value * 100:.4g} %" if percent else _number(value)


def _number(value: float) -> str:
    """Short: 0.0001 → "1e-4", 12000 → "12000"."""
    if value == 0:
        return "0"
    if not 1e-3 <= abs(value) < 1e5:
        mantissa, _, power = f"{value:.2e}".partition("e")
        return f"{float(mantissa):g}e{int(power)}"
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"
