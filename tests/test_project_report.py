"""The pictures of a run: they are drawn for every size, and say what they should."""

import warnings

import numpy as np
import pytest
from PIL import Image

from striate.report.confusion import draw_confusion
from striate.report.curves import draw_curves


def size(path):
    with Image.open(path) as picture:
        picture.load()
        return picture.size


@pytest.mark.parametrize("epochs", [1, 2, 40])
def test_curves(tmp_path, epochs):
    falling = [1 / (i + 1) for i in range(epochs)]
    names = ("train_loss", "val_loss", "train_accuracy", "val_accuracy", "lr")
    history = dict.fromkeys(names, falling) | {"epoch": list(range(1, epochs + 1))}
    draw_curves(history, tmp_path / "c.png", "title")
    assert size(tmp_path / "c.png") == (1440, 480)
    assert [file.name for file in tmp_path.iterdir()] == ["c.png"]


def test_curves_without_validation(tmp_path):
    history = {
        "epoch": [1, 2],
        "train_loss": [2, 1],
        "train_accuracy": [0, 1],
        "lr": [1, 1],
    }
    draw_curves(history, tmp_path / "c.png")
    assert size(tmp_path / "c.png") == (1440, 480)


@pytest.mark.parametrize("classes", [2, 24, 25, 49, 200])
def test_confusion(tmp_path, classes):
    matrix = np.diag(np.full(classes, 7))
    matrix[0, 1] = 3
    names = [f"a class with a long name {i}" for i in range(classes)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_confusion(matrix, names, tmp_path / "c.png", "title")
    assert min(size(tmp_path / "c.png")) >= 500


def test_confusion_of_an_empty_class(tmp_path):
    draw_confusion(np.array([[3, 1], [0, 0]]), ["a", "b"], tmp_path / "c.png")
    assert size(tmp_path / "c.png")[0] > 500
