"""What the argument DATA stands for: a folder of pictures or the name of a built-in set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from striate.cli._app import nearest
from striate.cli._output import note, reading_progress
from striate.errors import DataError

if TYPE_CHECKING:
    from striate.cli._settings import Settings
    from striate.data import BadPicture, Dataset, FolderDataset, ImageFolder, Recipe


@dataclass(frozen=True)
class TrainingData:
    """Pictures to learn from and to measure with, and what could not be read."""

    train: Dataset
    valid: Dataset
    bad: list[BadPicture]


def open_folder_or_name(
    data: str, recipe: Recipe | None = None, classes: Sequence[str] | None = None
) -> tuple[str, ImageFolder | None]:
    """The folder that `data` names, opened, or None if it is the name of a built-in set.

    Raises DataError, with the nearest name, if it is neither.
    """
    from striate import data as sets

    path = Path(data).expanduser()
    if path.exists():
        return str(path), sets.ImageFolder(path, recipe, classes=classes)
    if data in sets.list():
        return data, None
    known = sets.list()
    raise DataError(
        f"{data}: there is no such folder, and no built-in data set of that name"
        f"{nearest(data, known) or '; built-in are ' + ', '.join(known)}"
    )


def training_data(settings: Settings) -> TrainingData:
    """The two parts of a data set, decoded, with the recipe that the settings ask for.

    Mean and deviation of the recipe are those of the training part.
    """
    from striate import data as sets

    name, folder = open_folder_or_name(settings.data)
    train: Dataset
    valid: Dataset
    if folder is None:
        builtin = sets.load(name)
        train, valid = builtin.train, builtin.test
        recipe = _recipe(settings, train.recipe)
        train, valid = train.with_recipe(recipe), valid.with_recipe(recipe)
    else:
        train, valid = _folder_parts(folder, settings)
        for warning in folder.warnings:
            note(f"note: {warning}")
    recipe = sets.fit_recipe(train)
    bad = [] if folder is None else folder.bad
    return TrainingData(train.with_recipe(recipe), valid.with_recipe(recipe), bad)


def _recipe(settings: Settings, found: Recipe) -> Recipe:
    """The recipe that fits the pictures, with what the user has asked for in its place."""
    return replace(
        found,
        channels=settings.channels or found.channels,
        size=settings.image_size or found.size,
        # "none" would refuse every picture of another size in prediction
        resize=settings.resize or "crop",
        mean=(),
        std=(),
    )


def _folder_parts(folder: ImageFolder, settings: Settings) -> tuple[Dataset, Dataset]:
    from striate.data import split_stratified

    whole = folder.split("train") if folder.splits else folder
    recipe = _recipe(settings, whole.recipe)
    pictures = whole.with_recipe(recipe)
    pictures.prepare(reading_progress())
    if "val" in folder.splits:
        valid = folder.split("val").with_recipe(recipe)
        valid.prepare(reading_progress())
        return pictures, valid
    learn, measure = split_stratified(pictures.labels, settings.val_split, settings.seed)
    if len(measure) == 0:
        raise DataError(f"{folder.path}: no class has the two pictures that a split needs")
    return pictures.subset(learn), pictures.subset(measure)


def evaluation_data(
    data: str, split: str | None, recipe: Recipe, classes: Sequence[str]
) -> tuple[Dataset, np.ndarray, list[BadPicture]]:
    """The part of a data set to measure on, with its labels as positions in `classes`.

    Without `split` it is test/, else val/, else the whole folder; of a built-in set the test part.
    """
    from striate import data as sets

    name, folder = open_folder_or_name(data, recipe, classes)
    if folder is not None:
        wanted = split or next((p for p in ("test", "val", "train") if p in folder.splits), None)
        chosen: FolderDataset | ImageFolder = folder.split(wanted) if wanted else folder
        chosen.prepare(reading_progress())
        for warning in folder.warnings:
            note(f"note: {warning}")
        return chosen, chosen.labels, folder.bad
    builtin = sets.load(name)
    if split not in {None, "train", "test"}:
        raise DataError(f"{name}: there is no part {split!r}; parts: train, test")
    part = builtin.train if split == "train" else builtin.test
    unknown = [known for known in builtin.classes if known not in classes]
    if unknown:
        raise DataError(f"{name}: the model does not know its classes {', '.join(unknown)}")
    positions = np.array([list(classes).index(known) for known in builtin.classes])
    return part.with_recipe(recipe), positions[part.labels], []
