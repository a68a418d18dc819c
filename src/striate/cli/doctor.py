"""`striate doctor`: one page about this machine for a bug report."""

from __future__ import annotations

import click

from striate.cli._app import common
from striate.cli._output import print_json


@click.command(epilog="Example: striate doctor --json > machine.json")
@common
def doctor(as_json: bool) -> None:
    """Say what matters here: machine, threads, kernel cache, denormals, peak, versions."""
    from striate.report.machine import format_facts, machine_facts

    facts = machine_facts()
    if as_json:
        print_json(facts)
    else:
        click.echo(format_facts(facts))
