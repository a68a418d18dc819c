"""Hooks of MkDocs: run the Python of a page and put what it has found into the text.

- The ```python blocks of a page run from top to bottom in one namespace, in an empty folder. What
  a block prints is shown below it. Pages with the same blocks, two languages, run once.
- `{{ name }}` in the text becomes the value of that name when the last block has run, formatted as
  by `str.format`: `{{ loss:.2f }}`, `{{ sizes[0] }}`, `{{ x.shape }}`. A matplotlib figure becomes
  a picture: `![what it shows]({{ figure }})`.
- `studies` holds what `make studies` has measured: `{{ studies[pooling][max_distance_shift_1] }}`.
- Links to files of the repository outside the guide become their path.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import io
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure

GUIDE = Path(__file__).parent.parent / "docs" / "guide"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
PLACE = re.compile(r"\{\{ ?(.+?) ?\}\}")
LINK = re.compile(r"\[([^\]]+)\]\((\.\./[^)#]+)(#[^)]*)?\)")


class Ran(NamedTuple):
    """The names that the blocks of a page have left, and what each block has printed."""

    names: dict[str, Any]
    printed: list[str]


@functools.cache
def run(blocks: tuple[str, ...]) -> Ran:
    """Run blocks of Python one after the other in an empty folder."""
    names: dict[str, Any] = {"__name__": "__main__"}
    printed = []
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            for block in blocks:
                with contextlib.redirect_stdout(io.StringIO()) as out:
                    exec(compile(block, "<page>", "exec"), names)  # noqa: S102 - our own pages
                printed.append(out.getvalue())
        finally:
            os.chdir(before)
    return Ran(names, printed)


@functools.cache
def studies() -> dict[str, dict[str, Any]]:
    """Figures of the studies by name, as `make studies` has written them."""
    found = json.loads((GUIDE / "studies" / "figures.json").read_text(encoding="utf-8"))
    return {row["name"]: row["figures"] for row in found["studies"]}


def fill(text: str, names: dict[str, Any]) -> str:
    """`{{ name }}` replaced by values. Raises KeyError for a name that no block has left."""
    values = {"studies": studies(), **{k: shown(v) for k, v in names.items()}}
    return PLACE.sub(lambda place: f"{{{place[1]}}}".format_map(values), text)


def shown(value: Any) -> Any:
    """A figure as a `data:` address, so that a page needs no other file; all else as it is."""
    if not isinstance(value, Figure):
        return value
    picture = io.BytesIO()
    value.savefig(picture, format="png", dpi=90)
    return f"data:image/png;base64,{base64.b64encode(picture.getvalue()).decode()}"


def render(markdown: str) -> str:
    """The text of a page with results, numbers and pictures in it."""
    found = run(tuple(BLOCK.findall(markdown)))
    parts = []
    end = 0
    for match in FENCED.finditer(markdown):
        parts += [fill(markdown[end : match.start()], found.names), match[0]]
        end = match.end()
        if match[0].startswith("```python\n"):
            printed = found.printed[sum(part.startswith("```python\n") for part in parts) - 1]
            if printed:
                parts.append(f"\n\n```text\n{printed.rstrip()}\n```")
    return "".join([*parts, fill(markdown[end:], found.names)])


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by MkDocs with the text of each page."""
    return LINK.sub(lambda link: f"{link[1]} (`{repository_path(link[2])}`)", render(markdown))


def repository_path(target: str) -> str:
    """Where a link out of the guide leads, from the root of the repository."""
    return os.path.relpath((GUIDE / target).resolve(), GUIDE.parent.parent)
