"""`striate predict MODEL FILE…`: which classes do pictures show?"""

from __future__ import annotations

import csv
import glob
import io
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from striate.cli._app import common, leave
from striate.cli._evaluation import TrainedModel, load_model
from striate.cli._kernels import kernel_options
from striate.cli._output import note, print_json
from striate.errors import ArgumentError, DataError
from striate.io.atomic import write_atomic

if TYPE_CHECKING:
    from striate.data import BadPicture

BATCH = 64


@click.command(epilog="Example: striate predict runs/train-1/best.safetensors new/ --top 3")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--top", type=click.IntRange(min=1), default=1, show_default=True, metavar="K",
              help="Classes named for each picture.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False),
              help="Write the predictions to this .csv or .jsonl file.")  # fmt: skip
@kernel_options
@common
def predict(
    model: Path,
    files: Sequence[str],
    top: int,
    out: Path | None,
    as_json: bool,
    **wishes: Any,
) -> None:
    """Name the most probable classes of pictures.

    FILE is a picture, a folder (searched with all its sub-folders), a pattern like 'new/*.png', or
    - for paths on standard input, one a line. A picture that cannot be read is named on standard
    error, the others go on, and the exit code is 1.
    """
    if out is not None and out.suffix not in {".csv", ".jsonl"}:
        raise ArgumentError(f"--out {out}: the name must end in .csv or .jsonl")
    trained = load_model(model)
    trained.net.plan(**wishes)
    bad: list[BadPicture] = []
    found = []
    for prediction in _predictions(trained, _paths(files), top, bad):
        found.append(prediction)
        if not as_json and out is None:
            shown = "  ".join(f"{t['class']} {t['probability']:.1%}" for t in prediction["top"])
            click.echo(f"{prediction['path']}  {shown}")
    if out is not None:
        write_atomic(out, [_as_file(found, out.suffix).encode()])
        note(f"{len(found)} predictions written to {out}")
    if as_json:
        unreadable = [picture._asdict() for picture in bad]
        print_json({"model": str(model), "predictions": found, "unreadable": unreadable})
    if bad:
        leave(1)


def _paths(files: Sequence[str]) -> Iterator[Path]:
    """The pictures that the arguments stand for, in order."""
    for name in files:
        if name == "-":
            lines = (line.rstrip("\r\n") for line in sys.stdin)
            yield from (Path(line) for line in lines if line)
        elif Path(name).is_dir():
            yield from _in_folder(Path(name))
        elif not Path(name).exists() and glob.has_magic(name):
            matches = sorted(glob.glob(name, recursive=True))  # noqa: PTH207 - patterns may be absolute
            if not matches:
                raise DataError(f"{name}: no file matches")
            yield from (Path(match) for match in matches if Path(match).is_file())
        else:
            yield Path(name)


def _in_folder(folder: Path) -> list[Path]:
    from striate.data.picture import SUFFIXES

    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not found:
        raise DataError(f"{folder}: no picture is in it ({' '.join(sorted(SUFFIXES))})")
    return found


def _predictions(
    model: TrainedModel, paths: Iterator[Path], top: int, bad: list[BadPicture]
) -> Iterator[dict[str, Any]]:
    """A prediction for each picture that can be read; the others are told and added to `bad`."""
    from striate.data import BadPicture, read_image

    batch: list[tuple[Path, np.ndarray]] = []
    for path in paths:
        try:
            picture = model.recipe.fit(read_image(path, model.recipe.channels))
        except DataError as error:
            bad.append(BadPicture(str(path), str(error).removeprefix(f"{path}: ")))
            note(f"striate: {path}: {bad[-1].reason}")
            continue
        if batch and (len(batch) == BATCH or not _alike(batch[0][1], picture)):
            yield from _run(model, batch, top)
            batch = []
        batch.append((path, picture))
    if batch:
        yield from _run(model, batch, top)


def _alike(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two pictures fit into one batch."""
    return (one.shape, one.dtype) == (other.shape, other.dtype)


def _run(
    model: TrainedModel, batch: list[tuple[Path, np.ndarray]], top: int
) -> Iterator[dict[str, Any]]:
    pictures = np.stack([picture for _, picture in batch])
    scores = model.net(model.recipe.input(pictures)).astype(np.float64)
    probabilities = scores
    if not model.probabilities:
        # softmax: p_i = exp(s_i − max s) / Σ_j exp(s_j − max s)
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        probabilities = weights / weights.sum(axis=1, keepdims=True)
    for (path, _), row in zip(batch, probabilities, strict=True):
        order = np.argsort(-row, kind="stable")[:top]
        best = [{"class": model.classes[i], "probability": float(row[i])} for i in order]
        yield {"path": str(path), "top": best}


def _as_file(found: list[dict[str, Any]], suffix: str) -> str:
    if suffix == ".jsonl":
        return "".join(json.dumps(prediction, ensure_ascii=False) + "\n" for prediction in found)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    ranks = range(1, 1 + max((len(prediction["top"]) for prediction in found), default=1))
    writer.writerow(["path", *(f"{what}{i}" for i in ranks for what in ("class", "probability"))])
    for prediction in found:
        cells = [cell for t in prediction["top"] for cell in (t["class"], t["probability"])]
        writer.writerow([prediction["path"], *cells])
    return text.getvalue()
