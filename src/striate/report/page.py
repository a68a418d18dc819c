"""Pages: templates of this package filled with values, in one file without outer parts."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from striate import __version__
from striate.io.atomic import write_atomic

if TYPE_CHECKING:
    from jinja2 import Environment


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("striate.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(template: str, **values: Any) -> str:
    """The page of a template in `report/templates`. Text is escaped; charts are not."""
    from markupsafe import Markup

    def marked(value: Any) -> Any:
        if isinstance(value, str) and value.startswith("<figure>"):
            return Markup(value)  # noqa: S704 - made by `charts`, which escapes what it is given
        if isinstance(value, list):
            return [marked(item) for item in value]
        return value

    values = {name: marked(value) for name, value in values.items()}
    return _environment().get_template(template).render(version=__version__, **values)


def write_page(path: Path, text: str) -> None:
    """Write a page so that whoever opens it finds the old one or the new one."""
    write_atomic(path, [text.encode()])
