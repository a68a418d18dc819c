"""`python -m bench.one NETWORK`: one network beside its peers; `striate bench --peers` runs it."""

from __future__ import annotations

from contextlib import closing

import click

import striate as st
from bench.cases import TWINS, Case
from bench.facts import facts
from bench.measure import PACKAGES, Effort, contenders, installed, measure
from bench.process import ContenderError, Crew
from bench.rows import Book
from bench.tables import as_text

ROUNDS = 5


@click.command()
@click.argument("net", type=click.Choice(TWINS))
@click.option("--input", "shape", required=True, help="C,H,W of one picture.")
@click.option("--stem", help="Of networks that have a choice.")
@click.option("--batch", type=click.IntRange(1), default=1)
@click.option("--threads", type=click.IntRange(1), required=True)
@click.option("--train", is_flag=True, help="Training steps instead of inference.")
@click.option("--seconds", type=click.FloatRange(0), default=2.0, help="For each contender.")
@click.option("--json/--text", "as_json", default=False)
def main(
    net: str,
    shape: str,
    stem: str | None,
    batch: int,
    threads: int,
    train: bool,
    seconds: float,
    as_json: bool,
) -> None:
    """Time it, and print the row; there is no target for it."""
    channels, height, width = map(int, shape.split(","))
    work = "train" if train else "infer"
    arguments = {"num_classes": st.models.options(net)["num_classes"], "in_channels": channels}
    arguments |= {"stem": stem} if stem else {}
    case = Case(
        section=work,
        title=f"{net}, {height}×{width}, batch {batch}",
        work=work,
        net=net,
        arguments=tuple(arguments.items()),
        shape=(batch, channels, height, width),
        wanted=0.0,
    )
    there, missing = installed(list(PACKAGES))
    if not contenders(case, there):
        raise click.ClickException("no peer is installed")
    known = facts([threads], "one", "native", f"striate bench {net} --peers")
    book = Book(known | {"left_out": missing})
    with closing(Crew()) as crew:
        try:
            for row in measure(case, threads, there, Effort(ROUNDS, 0.0, seconds / ROUNDS), crew):
                book.add(row)
        except ContenderError as error:
            raise click.ClickException(str(error)) from error
    click.echo(book.to_json() if as_json else as_text(book))


if __name__ == "__main__":
    main()
