"""`python -m bench`: the side-by-side table. `--help` shows the options."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict
from pathlib import Path

import click
import torch

import striate as st
from bench import layers, training
from bench.report import as_markdown, as_text, write_between_marks
from striate import engine
from striate.jit.target import machine


@click.command()
@click.option("--quick", is_flag=True, help="Fewer and shorter rounds, for a first look.")
@click.option("--threads", multiple=True, type=int, default=(1, 2), show_default=True)
@click.option("--json", "json_path", type=Path, help="Also write the figures to this file.")
@click.option(
    "--write", type=Path, help="Put the tables into this Markdown file, between its marks."
)
def main(quick: bool, threads: tuple[int, ...], json_path: Path | None, write: Path | None) -> None:
    """Measure layers and training steps beside PyTorch, interleaved, and print the table.

    Example: python -m bench --quick --threads 1
    """
    rounds, seconds = (3, 0.02) if quick else (9, 0.08)
    peaks: dict[int, float] = {}
    rows, steps = [], []
    usable = engine.get_num_threads()
    for count in (t for t in threads if t <= usable):
        st.set_num_threads(count)
        torch.set_num_threads(count)
        peaks[count] = engine.measure_peak(count, 0.3)
        for layer, direction, way in layers.cases():
            click.echo(f"{count} thread(s) · {layer} · {direction} · {way}", err=True)
            rows.append(layers.measure(layer, direction, way, count, rounds, seconds))
        click.echo(f"{count} thread(s) · training step", err=True)
        steps.append(training.measure(count, rounds, 4 * seconds))
    facts = {
        "cpu": machine().cpu,
        "isa": machine().isa,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "striate": st.__version__,
        "peak": peaks,
        "command": "make bench",
        "rounds": rounds,
    }
    click.echo(as_text(facts, rows, steps))
    if json_path is not None:
        content = {
            "facts": facts,
            "layers": [asdict(r) for r in rows],
            "training": [asdict(s) for s in steps],
        }
        json_path.write_text(json.dumps(content, indent=1) + "\n")
    if write is not None:
        write_between_marks(write, as_markdown(facts, rows, steps))


if __name__ == "__main__":
    main()
