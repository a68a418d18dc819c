"""`striate evaluate MODEL DATA`: how good is a trained model, and on which classes?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np

from striate.cli._app import Name, common
from striate.cli._data import evaluation_data
from striate.cli._evaluation import Evaluation, load_model, measure
from striate.cli._kernels import kernel_options
from striate.cli._output import note, percent, print_json, table
from striate.train.metrics import per_class

# A matrix of more classes does not fit a terminal; the commonest mistakes are listed instead.
PRINTED_CLASSES = 12


@click.command(
    epilog="Example: striate evaluate runs/train-1/best.safetensors fashion-mnist-sample"
)
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("data")
@click.option(
    "--split",
    type=Name(["train", "val", "test"]),
    help="Part to measure on. [default: test, else val, else all]",
)
@click.option(
    "--confusion",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Draw the confusion matrix into this PNG file.",
)
@kernel_options
@common
def evaluate(
    model: Path,
    data: str,
    split: str | None,
    confusion: Path | None,
    as_json: bool,
    **wishes: Any,
) -> None:
    """Measure MODEL on DATA: a folder of pictures or a built-in set.

    Classes are matched by name.
    """
    trained = load_model(model)
    trained.net.plan(**wishes)
    pictures, labels, bad = evaluation_data(data, split, trained.recipe, trained.classes)
    for picture in bad:
        note(f"striate: {picture.path}: {picture.reason}; left out")
    found = measure(trained.net, pictures, labels, len(trained.classes))
    if confusion is not None:
        from striate.report.confusion import draw_confusion

        title = f"{model.name} on {data}: {found.accuracy:.2%}"
        draw_confusion(found.matrix, trained.classes, confusion, title)
    if as_json:
        rows = zip(trained.classes, per_class(found.matrix), strict=True)
        print_json(
            {
                "model": str(model),
                "data": data,
                "count": found.count,
                "accuracy": found.accuracy,
                "top5": found.top5,
                "per_class": [{"name": name, **scores} for name, scores in rows],
                "classes": list(trained.classes),
                "confusion": found.matrix.tolist(),
                "unreadable": [picture._asdict() for picture in bad],
                "seconds": found.seconds,
            }
        )
    else:
        click.echo(_text(found, trained.classes))


def _text(found: Evaluation, classes: tuple[str, ...]) -> str:
    rows = [
        (name, percent(s["precision"]), percent(s["recall"]), percent(s["f1"]), s["count"])
        for name, s in zip(classes, per_class(found.matrix), strict=True)
    ]
    if len(classes) <= PRINTED_CLASSES:
        numbers = [str(i) for i in range(len(classes))]
        lines = [(i, name, *found.matrix[i]) for i, name in enumerate(classes)]
        mistakes = table(["", "true \\ predicted", *numbers], lines)
    else:
        mistakes = _commonest_mistakes(found.matrix, classes)
    speed = found.count / max(found.seconds, 1e-9)
    total = (
        f"accuracy {found.accuracy:.2%}, top 5 {found.top5:.2%} "
        f"({found.count} pictures, {speed:.0f} a second)"
    )
    scores = table(["class", "precision", "recall", "f1", "count"], rows)
    return f"{total}\n\n{scores}\n\n{mistakes}"


def _commonest_mistakes(matrix: np.ndarray, classes: tuple[str, ...]) -> str:
    wrong = matrix - np.diag(np.diag(matrix))
    order = np.argsort(-wrong, axis=None, kind="stable")[:10]
    pairs = [divmod(int(i), len(classes)) for i in order if wrong.flat[i] > 0]
    rows = [(classes[row], classes[column], wrong[row, column]) for row, column in pairs]
    return table(["true class", "taken for", "times"], rows) if rows else "no mistakes"
