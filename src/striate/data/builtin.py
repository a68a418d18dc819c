"""Data sets that can be asked for by name."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from striate.data.base import ArrayDataset
from striate.data.idx import read_idx
from striate.errors import DataError, FormatError

FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
"""The classes of Fashion-MNIST, in the order of its labels."""

_SAMPLE = Path(__file__).parent / "sets" / "fashion-mnist-sample"
_DEBIAN = Path("/usr/share/datasets/fashion-mnist")


@dataclass(frozen=True)
class BuiltinSet:
    """A data set with its two parts.

    Attributes:
        name: what `load` was asked for.
        train: pictures to learn from.
        test: pictures to measure with.
        licence: the text of its licence.
    """

    name: str
    train: ArrayDataset
    test: ArrayDataset
    licence: str

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.train.classes


def load(name: str) -> BuiltinSet:
    """Return a built-in data set; grey pictures of 28 × 28 pixels in 10 classes.

    "fashion-mnist-sample" (5,000 training and 1,000 test pictures) comes with Striate.
    "fashion-mnist" (60,000 and 10,000) is read from `$STRIATE_DATA/fashion-mnist`, or from
    where the Debian package `dataset-fashion-mnist` puts it.

    Args:
        name: one of `striate.data.list()`.

    Raises:
        DataError: the name is unknown, or the files are missing.
        FormatError: a file is damaged or of another kind.
    """
    if name not in _SETS:
        near = difflib.get_close_matches(name, _SETS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(_SETS)}"
        raise DataError(f"there is no built-in data set {name!r}; {hint}")
    return _SETS[name]()


def names() -> tuple[str, ...]:
    """Return the names of the built-in data sets."""
    return tuple(_SETS)


@cache
def _fashion_sample() -> BuiltinSet:
    def part(file: str) -> ArrayDataset:
        # The file holds class after class, equally many of each (see
        # scripts/make_fashion_sample.py); here they take turns, so that the first n pictures
        # are a sample too.
        pictures = read_idx(_SAMPLE / file, axes=3)
        count = len(FASHION_CLASSES)
        if pictures.shape[1:] != (28, 28) or len(pictures) % count:
            raise FormatError(f"{_SAMPLE / file}: shape {pictures.shape} is not as expected")
        turns = pictures.reshape(count, -1, 28, 28).transpose(1, 0, 2, 3).reshape(-1, 28, 28)
        labels = np.tile(np.arange(count), len(turns) // count)
        return ArrayDataset(turns, labels, FASHION_CLASSES)

    train, test = part("train-images-idx3-ubyte.xz"), part("test-images-idx3-ubyte.xz")
    return BuiltinSet("fashion-mnist-sample", train, test, _fashion_licence())


def _fashion() -> BuiltinSet:
    folder = _fashion_folder()
    train = read_fashion_part(folder, "train")
    test = read_fashion_part(folder, "t10k")
    return BuiltinSet("fashion-mnist", train, test, _fashion_licence())


def _fashion_folder() -> Path:
    own = os.environ.get("STRIATE_DATA")
    places = [*([Path(own) / "fashion-mnist"] if own else []), _DEBIAN]
    for place in places:
        if place.is_dir():
            return place
    raise DataError(
        f"fashion-mnist is not on this machine (looked in {', '.join(map(str, places))}); "
        "run `apt-get install dataset-fashion-mnist`, or put its four idx files into a folder "
        "fashion-mnist and name the folder above it in STRIATE_DATA"
    )


def read_fashion_part(folder: Path, part: str) -> ArrayDataset:
    """Read `<part>-images-idx3-ubyte` and `<part>-labels-idx1-ubyte`, with `.gz` or without.

    Raises:
        DataError: a file is missing.
        FormatError: a file is damaged, or the two do not belong together.
    """

    def read(kind: str, axes: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        plain = folder / f"{part}-{kind}-idx{axes}-ubyte"
        packed = plain.with_name(f"{plain.name}.gz")
        for path in (packed, plain):
            if path.is_file():
                return read_idx(path, axes)
        raise DataError(f"{packed}: the file is missing (nor is it there without .gz)")

    pictures, labels = read("images", 3), read("labels", 1)
    if pictures.shape[1:] != (28, 28) or len(pictures) != len(labels) or not len(labels):
        raise FormatError(
            f"{folder}: {part} has pictures {pictures.shape} and {len(labels)} labels; "
            "expected (n, 28, 28) and n"
        )
    if labels.max() >= len(FASHION_CLASSES):
        raise FormatError(f"{folder}: {part} has a label {labels.max()}; expected 0 to 9")
    return ArrayDataset(pictures, labels, FASHION_CLASSES)


def _fashion_licence() -> str:
    return (_SAMPLE / "LICENSE").read_text(encoding="utf-8")


_SETS: dict[str, Callable[[], BuiltinSet]] = {
    "fashion-mnist-sample": _fashion_sample,
    "fashion-mnist": _fashion,
}
