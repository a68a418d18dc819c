"""`striate report RUN [RUN2 …]`: compare training runs on one page."""

from __future__ import annotations

from pathlib import Path

import click

from striate.cli._app import common
from striate.cli._output import print_json, table
from striate.cli._settings import CONFIG, read_config
from striate.errors import DataError

LOG = "log.csv"


@click.command(epilog="Example: striate report runs/train-1 runs/train-2 --out compare.html")
@click.argument(
    "runs", nargs=-1, required=True, metavar="RUN…",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
)  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Write a page with curves, numbers and settings (HTML).")  # fmt: skip
@common
def report(runs: tuple[Path, ...], out: Path | None, as_json: bool) -> None:
    """Compare the training runs in the folders RUN: final numbers, and settings that differ.

    With --out also the curves over one another, as a page. Each run has a page of its own,
    report.html in its folder.
    """
    from striate.report.compare import Run, comparison_page, differing, read_history
    from striate.report.page import write_page

    found = []
    for name, folder in zip(_names(runs), runs, strict=True):
        for file in (LOG, CONFIG):
            if not (folder / file).is_file():
                raise DataError(f"{folder}: there is no {file}; give the folder of a training run")
        history = read_history(folder / LOG)
        if not history:
            raise DataError(f"{folder}: no epoch of this run is finished")
        found.append(Run(name, history, read_config(folder / CONFIG)))
    if out is not None:
        write_page(out, comparison_page(found))
    results, settings = [run.results() for run in found], differing(found)
    if as_json:
        listed = [
            {"run": str(folder), **result, "settings": run.settings}
            for folder, result, run in zip(runs, results, found, strict=True)
        ]
        print_json({"runs": listed, "differing": settings, "page": out and str(out)})
        return
    head = ("", *(run.name for run in found))
    rows = [(name, *(_short(result[name]) for result in results)) for name in results[0]]
    rows += [
        (name, *("–" if v is None else v for v in values)) for name, values in settings.items()
    ]
    click.echo(table(head, rows))
    if out is not None:
        click.echo(f"page: {out}")


def _names(runs: tuple[Path, ...]) -> list[str]:
    """Names of the folders; the whole paths if two have the same name."""
    names = [run.resolve().name for run in runs]
    return names if len(set(names)) == len(names) else [str(run) for run in runs]


def _short(value: float | None) -> str:
    return "–" if value is None else f"{value:.5g}"
