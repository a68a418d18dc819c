"""Measured rows: ratios, what falls short of its target, and the file that keeps them."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.cases import SECTIONS, TARGETS, TITLES
from bench.timing import Timing

OURS = "striate"
FORMAT = 1  # of the JSON file
BUSY = 0.85  # of the peak: a row measured with less says so


@dataclass(frozen=True)
class Row:
    """One line of the tables.

    Attributes:
        section, title, threads: what was measured; together they name the row.
        values: of each contender, the least is best: seconds, or bytes in the section "memory".
        wanted: the least ratio.
        flops: of one call, of the direct convolutions; 0 where they are not counted.
        peak: GFLOP/s of multiply-adds on registers, measured between the rounds: the median.
        notes: what to know, such as a contender that failed.
    """

    section: str
    title: str
    threads: int
    values: dict[str, Timing]
    wanted: float
    flops: int = 0
    peak: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, str, int]:
        """What names the row."""
        return self.section, self.title, self.threads

    def fastest(self, peers: Sequence[str] | None = None) -> str | None:
        """The best of all peers, or of these; None if none of them was measured."""
        there = [p for p in self.values if p != OURS and (peers is None or p in peers)]
        return min(there, key=lambda peer: self.values[peer].median, default=None)

    def ratio(self, peers: Sequence[str] | None = None) -> float:
        """The best peer's value ÷ ours; NaN without a peer."""
        best = self.fastest(peers)
        return self.values[best].median / self.values[OURS].median if best else math.nan

    @property
    def short(self) -> bool:
        """Whether it misses its target; never so without a peer."""
        return self.ratio() < self.wanted

    @property
    def share(self) -> float:
        """Of the peak, in FLOPs of the direct convolution; NaN where they are not counted."""
        if not self.flops or not self.peak:
            return math.nan
        return self.flops / self.values[OURS].median / 1e9 / self.peak

    def to_dict(self) -> dict[str, Any]:
        """Plain values, with the ratio."""
        ratio = self.ratio()
        return asdict(self) | {"ratio": None if math.isnan(ratio) else ratio, "short": self.short}

    @staticmethod
    def from_dict(content: dict[str, Any]) -> Row:
        """Of what `to_dict` gives."""
        values = {peer: Timing(*value) for peer, value in content["values"].items()}
        rest = {name: content[name] for name in ("section", "title", "threads", "wanted")}
        more = {name: content[name] for name in ("flops", "peak")}
        return Row(values=values, notes=tuple(content["notes"]), **rest, **more)


@dataclass(frozen=True)
class Mean:
    """A target over a whole section."""

    section: str
    what: str
    threads: int
    ratio: float
    wanted: float
    rows: int

    @property
    def short(self) -> bool:
        """Whether it is missed."""
        return self.ratio < self.wanted


def means(rows: Sequence[Row]) -> list[Mean]:
    """Geometric means of the ratios, for each number of threads; what falls short comes first."""
    found = []
    for section, what, wanted, peers in TARGETS:
        for threads in sorted({row.threads for row in rows}):
            ratios = [
                row.ratio(peers)
                for row in rows
                if (row.section, row.threads) == (section, threads) and row.fastest(peers)
            ]
            if ratios:
                mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
                found.append(Mean(section, what, threads, mean, wanted, len(ratios)))
    return sorted(found, key=lambda mean: not mean.short)


def ordered(rows: Sequence[Row]) -> list[Row]:
    """What falls short first; then by section, as measured."""
    names = [section.name for section in SECTIONS]
    return sorted(rows, key=lambda row: (not row.short, names.index(row.section)))


@dataclass
class Book:
    """All rows of a run, and where they are kept.

    Attributes:
        facts: the machine, versions, settings.
        rows: in the order of measuring.
        failed: the rows that could not be measured, by name, and why.
    """

    facts: dict[str, Any]
    path: Path | None = None
    rows: list[Row] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def add(self, row: Row) -> None:
        """Keep a row, on disk too; with a note if the machine had less to give than at first."""
        whole = self.facts["peak"].get(str(row.threads), 0.0)
        if row.peak and row.peak < BUSY * whole:
            found = f"multiply-add peak {row.peak:.0f} instead of {whole:.0f} GFLOP/s"
            note = f"{name(*row.key)}: the machine was busy, {found}"
            row = replace(row, notes=(*row.notes, note))
        self.rows.append(row)
        self.save()

    def save(self) -> None:
        """Write the file, whole or not at all."""
        if self.path is not None:
            write(self.path, self.to_json())

    def to_json(self) -> str:
        """Facts, rows and means."""
        content = {
            "format": FORMAT,
            "facts": self.facts,
            "rows": [row.to_dict() for row in ordered(self.rows)],
            "means": [asdict(mean) | {"short": mean.short} for mean in means(self.rows)],
            "failed": self.failed,
        }
        return json.dumps(content, indent=1, ensure_ascii=False) + "\n"

    def resume(self) -> None:
        """Take over the rows of a file that an earlier run has left.

        Raises ValueError, naming the first difference, if it is of another machine, other
        versions or other settings.
        """
        assert self.path is not None
        if not self.path.exists():
            return
        content = json.loads(self.path.read_text())
        if content.get("format") != FORMAT:
            raise ValueError(f"{self.path} has another format; measure anew, without --resume")
        for name in self.facts:
            if (
                name not in {"date", "peak", "left_out"}
                and content["facts"].get(name) != self.facts[name]
            ):
                old, new = content["facts"].get(name), self.facts[name]
                raise ValueError(f"{self.path} is of another run: {name} was {old}, is {new}")
        self.facts["peak"] = content["facts"]["peak"] | self.facts["peak"]
        self.rows = [Row.from_dict(row) for row in content["rows"]]


def write(path: Path, text: str) -> None:
    """A whole file or none: an interrupted run must not leave half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.tmp{os.getpid()}")
    new.write_text(text)
    new.replace(path)


def name(section: str, title: str, threads: int) -> str:
    """As progress and errors call a row."""
    return f"{TITLES[section]}: {title}, {threads} thread(s)"
