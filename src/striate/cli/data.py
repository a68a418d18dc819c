"""`striate data DATA`: what there is in a folder of pictures or a built-in set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from striate.cli._app import common
from striate.cli._data import open_folder_or_name
from striate.cli._output import note, print_json, reading_progress, table
from striate.io.atomic import write_atomic

if TYPE_CHECKING:
    from striate.data import Dataset
    from striate.report.dataset import Contents

LISTED = 10  # sizes, copies and unreadable pictures; --json has all


@click.command(epilog="Example: striate data pictures/ --mosaic mosaic.png")
@click.argument("data")
@click.option("--mosaic", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Draw a row of pictures for each class into this PNG file.")  # fmt: skip
@common
def data(data: str, mosaic: Path | None, as_json: bool) -> None:
    """Look through DATA, a folder of pictures as for striate train or a built-in set.

    Pictures for each class and part, sizes, mean and standard deviation as training takes them,
    copies (the same pixels, also across train and val), and what cannot be read.
    """
    from striate import data as sets
    from striate.report.dataset import class_mosaic, examine, parts_of
    from striate.report.png import encode_png

    name, folder = open_folder_or_name(data)
    parts: dict[str, Dataset]
    if folder is None:
        builtin = sets.load(name)
        parts = {"train": builtin.train, "test": builtin.test}
    else:
        divided = parts_of(folder)
        for part in divided.values():
            part.prepare(reading_progress())
        parts = dict(divided)
        for warning in folder.warnings:
            note(f"note: {warning}")
    found = examine(parts, [] if folder is None else folder.bad, reading_progress())
    if mosaic is not None:
        write_atomic(mosaic, [encode_png(class_mosaic(next(iter(parts.values()))))])
    if as_json:
        print_json({"data": name, **found.to_dict(), "mosaic": mosaic and str(mosaic)})
    else:
        click.echo(_text(found))
        if mosaic is not None:
            click.echo(f"mosaic      {mosaic}")


def _text(found: Contents) -> str:
    parts = list(found.counts)
    classes = list(dict.fromkeys(name for part in found.counts.values() for name in part))
    rows = [(name, *(found.counts[part].get(name, 0) for part in parts)) for name in classes]
    rows.append(("all classes", *(sum(found.counts[part].values()) for part in parts)))
    kind = "grey" if found.channels == 1 else "colour"
    sizes = ", ".join(f"{h}×{w} ({n})" for (h, w), n in found.sizes[:LISTED])
    means, stds = (", ".join(f"{v:.4f}" for v in values) for values in (found.mean, found.std))
    lines = [
        table(("class", *parts), rows),
        "",
        f"sizes       {sizes}{_more(found.sizes)} (height×width)",
        f"pixels      {kind}, mean {means}, standard deviation {stds} ({parts[0]}, 0 to 1)",
        f"duplicates  {_copies(found)}",
        f"unreadable  {len(found.unreadable) or 'none'}",
    ]
    lines += [f"  {bad.path}: {bad.reason}" for bad in found.unreadable[:LISTED]]
    return "\n".join(lines)


def _copies(found: Contents) -> str:
    if not found.copies:
        return "none"
    extra = sum(len(copies.names) - 1 for copies in found.copies)
    across = sum(len(copies.parts) > 1 for copies in found.copies)
    contrary = sum(len(copies.classes) > 1 for copies in found.copies)
    text = f"{extra} pictures are copies; groups across parts: {across}, across classes: {contrary}"
    # what falsifies results first
    order = sorted(found.copies, key=lambda c: -(len(c.parts) > 1) - (len(c.classes) > 1))
    lines = [
        f"  {' = '.join(copies.names[:4])}{_more(copies.names, 4)}" for copies in order[:LISTED]
    ]
    return "\n".join([text, *lines])


def _more(
    items: list[object] | list[str] | list[tuple[tuple[int, int], int]], shown: int = LISTED
) -> str:
    return f" and {len(items) - shown} more" if len(items) > shown else ""
