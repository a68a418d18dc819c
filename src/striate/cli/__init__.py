"""The command line: one file a command."""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import click

from striate import __version__
from striate.cli._app import Group, debug_option, run
from striate.cli.bench import bench
from striate.cli.convert import convert
from striate.cli.data import data
from striate.cli.doctor import doctor
from striate.cli.evaluate import evaluate
from striate.cli.explain import explain
from striate.cli.export import export
from striate.cli.inspect import inspect
from striate.cli.lr_find import lr_find
from striate.cli.predict import predict
from striate.cli.report import report
from striate.cli.study import study
from striate.cli.train import train


def _print_version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        click.echo(f"striate {__version__}")
        ctx.exit()


@click.group(
    cls=Group,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Example: striate train fashion-mnist-sample --epochs 3",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version.",
)
@debug_option
def app() -> None:
    """Train, run and inspect convolutional neural networks on CPUs."""


_COMMANDS = (
    data, lr_find, train, report, evaluate, predict, explain, inspect, convert, export, bench,
    study, doctor,
)  # fmt: skip
for _command in _COMMANDS:
    app.add_command(_command)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """A warning as one line, without the place in the source that Python would add."""
    click.echo(f"striate: warning: {' '.join(str(message).split())}", err=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    warnings.showwarning = _show_warning
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal may lack × or –: never stop there
            stream.reconfigure(errors="backslashreplace")
    sys.exit(run(app, arguments))
