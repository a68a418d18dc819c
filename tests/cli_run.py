"""What the tests of the command line share: running it in this process, and pictures to give it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

import striate
from striate.cli import app
from striate.cli._app import run


class Outcome(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The one line of a failed command."""
        lines = [line for line in self.err.splitlines() if line.startswith("striate: error: ")]
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err
        return lines[0].removeprefix("striate: error: ")


# For commands run in a process of their own: the package that this process tests.
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(striate.__file__).parents[1])}

Cli = Callable[..., Outcome]


@pytest.fixture
def cli(capsys, monkeypatch, tmp_path) -> Cli:
    """Run a command in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = run(app, [str(argument) for argument in arguments])
        return Outcome(code, *capsys.readouterr())

    return call


def make_pictures(
    root: Path, classes: Sequence[str] = ("across", "down"), count: int = 5, side: int = 8
) -> Path:
    """Grey pictures, one folder a class: stripes across or down, one of them bright."""
    rng = np.random.default_rng(0)
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(count):
            picture = rng.integers(0, 60, (side, side)).astype(np.uint8)
            line = (slice(None), i % side) if number % 2 else (i % side, slice(None))
            picture[line] = 250
            Image.fromarray(picture).save(root / name / f"{i}.png")
    return root


SMALL = ("--epochs", 2, "--batch-size", 4, "--lr", 0.01)
_runs: dict[str, Path] = {}


@pytest.fixture
def trained(tmp_path_factory) -> Path:
    """A run folder, `run`, beside the pictures it was trained on, `pictures`; not to be changed."""
    if "run" not in _runs:
        folder = tmp_path_factory.mktemp("trained")
        pictures = make_pictures(folder / "pictures")
        arguments = ["train", pictures, *SMALL, "--out", folder / "run"]
        assert run(app, [str(argument) for argument in arguments]) == 0
        _runs["run"] = folder / "run"
    return _runs["run"]
