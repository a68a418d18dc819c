"""`striate study NAME|all`: the textbook's sentences, measured here and now."""

from __future__ import annotations

import time
from pathlib import Path

import click

from striate.cli._app import Name, common, leave
from striate.cli._output import print_json
from striate.studies import STUDIES

_LIST = "\n".join(f"  {name:<16} {about}" for name, about in STUDIES.items())


@click.command(
    help="Put a sentence of the textbooks to the test: run the study NAME, or all of them.\n\n"
    "Each takes half a minute on two cores, prints its verdict, saves a picture NAME.png, and "
    f"the exit code is 1 if the sentence does not show.\n\n\b\nStudies:\n{_LIST}",
    epilog="Example: striate study pooling --out pictures/",
)
@click.argument("name", metavar="NAME|all", type=Name([*STUDIES, "all"]))
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path(),
              help="Folder of the pictures, made if it is missing. [default: here]")  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True,
              help="What beginnings and numbers are drawn from.")  # fmt: skip
@common
def study(name: str, out: Path, seed: int, as_json: bool) -> None:
    """Run one study or all, print verdicts, save pictures."""
    from striate.studies import run

    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for each in STUDIES if name == "all" else [name]:
        start = time.perf_counter()
        found = run(each, seed)
        seconds = time.perf_counter() - start
        picture = out / f"{each}.png"
        found.save(picture)
        rows.append(
            {
                "name": each,
                "claim": found.claim,
                "holds": found.holds,
                "verdict": found.verdict,
                "figures": dict(found.figures),
                "picture": str(picture),
                "seconds": seconds,
            }
        )
        if not as_json:
            word = "it shows" if found.holds else "IT DOES NOT SHOW"
            click.echo(f"{each}: {found.claim}\n  {word}: {found.verdict}")
            click.echo(f"  {picture}, {seconds:.0f} s")
    if as_json:
        print_json({"seed": seed, "studies": rows})
    if not all(row["holds"] for row in rows):
        leave(1)
