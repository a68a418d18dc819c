"""`python -m bench.neighbour`: what a program that takes one core costs a net on all of them.

A neighbour is a busy loop pinned to the last core. A fair scheduler leaves half of that core, so
with c cores the work that took `quiet` can be done in quiet · c / (c − ½): the column "ideal".
The calls with and without the neighbour alternate.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
import numpy as np

import striate as st

BUSY = "while True: pass"
SETTLE_SECONDS = 0.05


@contextmanager
def neighbour(core: int) -> Iterator[None]:
    """A busy loop on this core."""
    command = [sys.executable, "-c", f"import os; os.sched_setaffinity(0, {{{core}}})\n{BUSY}"]
    with subprocess.Popen(command) as process:
        try:
            time.sleep(SETTLE_SECONDS)
            yield
        finally:
            process.kill()


def seconds_a_call(call: Callable[[], object], seconds: float) -> float:
    """Mean over as many calls as fill `seconds`: the time slices of a scheduler are long."""
    call()
    calls, start = 0, time.perf_counter()
    while time.perf_counter() < start + seconds:
        call()
        calls += 1
    return (time.perf_counter() - start) / calls


@click.command()
@click.argument("nets", nargs=-1)
@click.option("--rounds", default=7, show_default=True, help="Medians are over these.")
@click.option("--seconds", default=0.5, show_default=True, help="Time of a round.")
@click.option("--size", default=224, show_default=True, help="Height and width of the picture.")
def main(nets: tuple[str, ...], rounds: int, seconds: float, size: int) -> None:
    """Time NETS (default: resnet18) at batch 1, quiet and beside a busy loop on one core."""
    cores = sorted(os.sched_getaffinity(0))
    st.set_num_threads(len(cores))
    click.echo(f"{'net':16} {'quiet':>9} {'neighbour':>10} {'ideal':>9}  ratio to ideal")
    for name in nets or ("resnet18",):
        net = st.models.create(name).eval()
        x = np.random.default_rng(0).standard_normal((1, 3, size, size)).astype(np.float32)
        quiet, beside = [], []
        for _ in range(rounds):
            quiet.append(seconds_a_call(lambda: net(x), seconds))  # noqa: B023
            with neighbour(cores[-1]):
                beside.append(seconds_a_call(lambda: net(x), seconds))  # noqa: B023
        alone, shared = statistics.median(quiet), statistics.median(beside)
        ideal = alone * len(cores) / (len(cores) - 0.5)
        click.echo(
            f"{name:16} {alone * 1e3:6.2f} ms {shared * 1e3:7.2f} ms {ideal * 1e3:6.2f} ms"
            f"  {shared / ideal:.2f}"
        )


if __name__ == "__main__":
    main()
