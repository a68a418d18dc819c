"""The options by which a command says how convolutions are computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from striate.arith.winograd import ALGORITHMS
from striate.cli._app import Name

F = TypeVar("F", bound=Callable[..., Any])

KERNEL_OPTIONS = (
    click.option("--algorithm", type=Name(list(ALGORITHMS)), default="auto", show_default=True,
                 help="Of 3x3 convolutions: auto (the fastest), direct, winograd-f2, winograd-f4."),
    click.option("--max-relative-error", type=click.FloatRange(0, min_open=True), metavar="X",
                 help="Largest error of a layer to expect, relative to the RMS of its outputs; "
                 "faster ways beyond it are left out. [default: no bound]"),
)  # fmt: skip


def kernel_options(command: F) -> F:
    """--algorithm and --max-relative-error, two arguments of `Module.plan`."""
    for option in reversed(KERNEL_OPTIONS):
        command = option(command)
    return command
