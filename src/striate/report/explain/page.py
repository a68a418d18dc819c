"""The page: a template, a style sheet and a script of ours, and the record as JSON, in one file."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from importlib.resources import files
from typing import Any, TypeAlias

from striate import __version__

Record: TypeAlias = "dict[str, Any]"


def render(record: Record) -> str:
    """HTML that loads nothing: its policy forbids every request, and no code comes from outside."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("striate.report.explain"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(count=_count, times=_times, seconds=_seconds, field=_field)
    parts = files("striate.report.explain") / "templates"
    return environment.get_template("page.html.j2").render(
        record=record,
        tree=_tree([*enumerate(record["layers"])], 0),
        version=__version__,
        style=(parts / "page.css").read_text("utf-8"),
        script=(parts / "page.js").read_text("utf-8"),
        data=_json(record),
    )


def _json(record: Record) -> str:
    """JSON that may stand inside a script element."""
    text = json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _tree(layers: Sequence[tuple[int, Record]], level: int) -> list[Record]:
    """Layers that follow each other under one name as a stage; the others by themselves."""

    def part(item: tuple[int, Record]) -> str:
        parts = _parts(item[1]["path"])
        return parts[level] if len(parts) > level + 1 else ""

    nodes: list[Record] = []
    for name, run in itertools.groupby(layers, part):
        items = list(run)
        if name:
            nodes.append({
                "name": name,
                "count": len(items),
                "params": sum(layer["params"] for _, layer in items),
                "macs": sum(layer["macs"] for _, layer in items),
                "seconds": sum(layer["seconds"] or 0.0 for _, layer in items),
                "shape": items[-1][1]["shape"],
                "nodes": _tree(items, level + 1),
            })  # fmt: skip
        else:
            nodes += [{"index": i, "layer": layer, "name": _last(layer)} for i, layer in items]
    return nodes


def _parts(path: str) -> list[str]:
    """Of "layer1.0.conv1", or of "/layer1/conv1/Conv" as ONNX files have them."""
    return [part for part in re.split(r"/" if "/" in path else r"\.", path) if part] or [path]


def _last(layer: Record) -> str:
    return _parts(layer["path"])[-1] + str(layer["title"]).removeprefix(layer["path"])


def _count(value: float) -> str:
    """1234567 → "1.23 M"."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f}"


def _times(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape)) or "1"


def _seconds(value: float | None) -> str:
    if not value:
        return ""
    return f"{value * 1e3:.2f} ms" if value >= 1e-3 else f"{value * 1e6:.3g} µs"


def _field(field: Record | None) -> str:
    return "" if field is None else _times(field["size"])
