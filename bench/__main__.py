"""`python -m bench`: everything side by side. `--help` shows the options."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from bench.cases import CASES, SECTIONS, Case
from bench.isa import SWITCHES, limited, switches
from bench.rows import Book, Row, name, write

if TYPE_CHECKING:
    from bench.process import Crew

NAMES = tuple(section.name for section in SECTIONS if section.name != "memory")
PEERS = ("torch", "torch-nhwc", "torch-compile", "onnxruntime", "openvino", "ncnn", "jax")
# A guess at the seconds of a row, for the time that is left; what was measured corrects it.
SECONDS = {"layer": 3.0, "infer": 25.0, "train": 50.0, "accuracy": 150.0}
INTERRUPTED = 130  # as a shell says it of Ctrl-C


class Item(NamedTuple):
    """A row to be measured, by its key, and how."""

    kind: str
    section: str
    title: str
    threads: int
    do: Callable[[], list[Row]]


class Progress:
    """Says on standard error which row is being measured, and how long the rest will take."""

    def __init__(self, items: list[Item]) -> None:
        self.left = [SECONDS[item.kind] for item in items]
        self.count, self.done, self.start = len(items), 0.0, time.monotonic()

    def row(self, item: Item) -> None:
        """The next row begins."""
        scale = (time.monotonic() - self.start) / self.done if self.done else 1.0
        minutes = scale * sum(self.left) / 60
        at = self.count - len(self.left) + 1
        title = name(item.section, item.title, item.threads)
        click.echo(f"[{at}/{self.count}, {minutes:.0f} min left] {title}", err=True)
        self.done += self.left.pop(0)


def say(text: str) -> None:
    """Something within a row."""
    click.echo(f"    {text}", err=True)


def chosen(only: tuple[str, ...], nets: tuple[str, ...], match: str) -> list[Case]:
    """The cases of these sections, nets and titles; all where nothing is said."""
    return [
        case
        for case in CASES
        if (not only or case.section in only)
        and (not nets or case.net in nets)
        and match in case.title
    ]


def items_of(
    cases: list[Case], threads: list[int], peers: list[str], quick: bool, crew: Crew
) -> list[Item]:
    """A row for each case and number of threads."""
    from bench.measure import FULL, QUICK, measure

    def item(case: Case, count: int) -> Item:
        effort = QUICK if quick else FULL
        return Item(
            *(case.work, case.section, case.title, count),
            lambda: measure(case, count, peers, effort, crew),
        )

    return [item(case, count) for case in cases for count in threads]


def accuracy_items(threads: int, peers: list[str], book: Book) -> list[Item]:
    """The race to an accuracy; none, and a note, where its pictures are missing."""
    from bench import accuracy
    from striate import data
    from striate.errors import StriateError

    recipe = accuracy.Recipe()
    try:
        data.load(recipe.data)
    except StriateError as error:
        book.facts["left_out"].append(f"time to an accuracy was left out: {error}")
        return []

    def do() -> list[Row]:
        return [accuracy.measure(recipe, threads, peers, say)]

    return [Item("accuracy", "accuracy", accuracy.title(recipe), threads, do)]


def measure_all(items: list[Item], book: Book) -> bool:
    """Measure and keep what the book does not hold yet; False if Ctrl-C ended it."""
    from bench.process import ContenderError

    known = {row.key for row in book.rows}
    items = [i for i in items if (i.section, i.title, i.threads) not in known]
    progress = Progress(items)
    try:
        for item in items:
            progress.row(item)
            try:
                for row in item.do():
                    book.add(row)
            except ContenderError as error:
                book.failed[name(item.section, item.title, item.threads)] = str(error)
                say(str(error))
    except KeyboardInterrupt:
        return False
    finally:
        book.save()
    return True


def put(book: Book, page: Path) -> None:
    """Tables and chart into the page; the chart and the figures beside it have its name."""
    from bench.chart import draw
    from bench.tables import MARKS, as_markdown, write_between_marks

    image = f"images/{page.stem}.png"
    draw(book.rows, page.parent / image)
    write(page.with_suffix(".json"), book.to_json())
    write_between_marks(page, as_markdown(book, image), MARKS)


def _peers(_: click.Context, __: click.Parameter, value: str) -> list[str]:
    peers = [p for p in value.split(",") if p]
    for peer in peers:
        if peer not in PEERS:
            raise click.BadParameter(f"no peer {peer!r}; there are {', '.join(PEERS)}")
    return peers


def _page(_: click.Context, __: click.Parameter, page: Path | None) -> Path | None:
    """Wrong pages are told now, not after the last row."""
    from bench.tables import MARKS, check_marks

    if page is not None:
        try:
            check_marks(page, MARKS)
        except (OSError, ValueError) as error:
            raise click.BadParameter(str(error)) from error
    return page


@click.command()
@click.option("--only", multiple=True, type=click.Choice(NAMES), help="Only these sections.")
@click.option("--net", "nets", multiple=True, help="Only these networks.")
@click.option("--match", default="", help="Only rows with this text in their title.")
@click.option("--threads", multiple=True, type=click.IntRange(1), default=(1, 2), show_default=True)
@click.option("--peers", default=",".join(PEERS), show_default=True, callback=_peers)
@click.option("--quick", is_flag=True, help="Fewer and shorter rounds, for a first look.")
@click.option("--isa", type=click.Choice(list(SWITCHES)), default="native", show_default=True,
              help="Limit everyone to an instruction set; peers that have no switch "
              "are left out.")  # fmt: skip
@click.option("--json", "path", type=Path, default=Path("runs/bench.json"), show_default=True,
              help="Where the figures go after each row.")  # fmt: skip
@click.option("--resume", is_flag=True, help="Go on with what an earlier run has left there.")
@click.option("--write", "page", type=Path, callback=_page,
              help="Put tables and chart into this page, figures beside it.")  # fmt: skip
def main(
    only: tuple[str, ...],
    nets: tuple[str, ...],
    match: str,
    threads: tuple[int, ...],
    peers: list[str],
    quick: bool,
    isa: str,
    path: Path,
    resume: bool,
    page: Path | None,
) -> None:
    """Measure Striate beside every peer that is installed, and print what falls short first.

    Example: python -m bench --quick --only infer --net resnet18 --threads 2
    """
    os.environ.update(switches(isa))  # before anything asks for the machine; workers inherit it
    import striate as st
    from bench.facts import facts
    from bench.measure import installed
    from bench.process import Crew
    from bench.tables import as_text

    counts = sorted({min(count, st.get_num_threads()) for count in threads})
    there, missing = installed(peers)
    there, unlimited = limited(there, isa)
    command = "make bench" if isa == "native" else f"python -m bench --isa {isa}"
    book = Book(facts(counts, "quick" if quick else "full", isa, command), path)
    if resume:
        try:
            book.resume()
        except ValueError as error:
            raise click.UsageError(str(error)) from error
    book.facts["left_out"] = [*missing, *unlimited]
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))
    with closing(Crew()) as crew:
        items = items_of(chosen(only, nets, match), counts, there, quick, crew)
        if not (nets or match) and (not only or "accuracy" in only):
            items += accuracy_items(counts[-1], there, book)
        whole = measure_all(items, book)
    click.echo(as_text(book))
    if page is not None:
        put(book, page)
    if not whole:
        click.echo(f"stopped; --resume goes on with {path}", err=True)
        raise SystemExit(INTERRUPTED)
    if book.failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
