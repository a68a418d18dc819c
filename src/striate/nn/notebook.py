"""Modules in notebooks."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from striate.nn.module import Module


def html_tree(name: str, module: Module) -> str:
    """A module and what is inside as nested lists that fold, for notebooks."""
    from html import escape

    title = f"{name}: " if name else ""
    children = list(module.named_children())
    if not children:
        return f"<div>{escape(f'{title}{module!r}')}</div>"
    head = f"{title}{module._get_name()}({module.extra_repr()})"
    text = f"{escape(head)}, {module.num_parameters():,} weights"
    inside = "".join(html_tree(child, inner) for child, inner in children)
    # a net is open, the stages inside are closed
    return (
        f"<details{'' if name else ' open'}><summary>{text}</summary>"
        f'<div style="margin-left:1.5em">{inside}</div></details>'
    )
