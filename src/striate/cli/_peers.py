"""`striate bench MODEL --peers`: the comparison lives in the source checkout, beside `src`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import click

from striate.cli._app import leave
from striate.cli._model import Shape, open_model
from striate.cli._output import print_json
from striate.errors import ArgumentError

COMMANDS = "pip install -e '.[bench]' and then striate bench MODEL --peers"


def measure_beside_peers(
    model: str | None,
    shape: Shape | None,
    batch: int,
    training: bool,
    seconds: float,
    as_json: bool,
) -> None:
    """Print the row of a registered network.

    Raises ArgumentError without a network's name, and where there is no source checkout.
    """
    from striate import engine
    from striate.cli._build import usual_stem

    if model is None:
        raise ArgumentError("--peers needs MODEL, the name of a network; make bench measures all")
    if Path(model).is_file():
        raise ArgumentError(f"--peers compares networks by name, and {model} is a file")
    _, used = open_model(model, shape)
    stem = usual_stem(model, used[1:])
    arguments = [model, "--input", ",".join(map(str, used)), "--batch", str(batch)]
    arguments += ["--threads", str(engine.get_num_threads()), "--seconds", str(seconds)]
    arguments += [*(["--stem", stem] if stem else []), *(["--train"] if training else [])]
    root = _checkout()
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(  # noqa: S603 - our own program, and names that were checked
        [sys.executable, "-m", "bench.one", *arguments, "--json" if as_json else "--text"],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
        text=True,
        check=False,
    )
    if done.returncode:
        leave(done.returncode)
    if as_json:
        print_json(json.loads(done.stdout))
    else:
        click.echo(done.stdout, nl=False)


def _checkout() -> Path:
    """The source checkout that this package runs from."""
    import striate

    root = Path(striate.__file__).parents[2]
    if not (root / "bench" / "one.py").is_file():
        raise ArgumentError(
            "--peers needs a source checkout, where the peers' nets are: in a clone of Striate's "
            f"repository run {COMMANDS}"
        )
    if find_spec("torch") is None:
        raise ArgumentError(f"--peers: no peer is installed here; in {root} run {COMMANDS}")
    return root
