"""A folder of pictures, one folder a class."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from striate.data.base import Dataset, Indices, as_index
from striate.data.decode import BUDGET, Files, Progress
from striate.data.picture import BadPicture, Samples
from striate.data.recipe import Recipe
from striate.data.scan import SPLITS, Scan, find_splits, scan
from striate.errors import DataError


class FolderDataset(Dataset):
    """The pictures of one folder of class folders; made by `ImageFolder`.

    The first use of `labels`, `len`, `raw` or `load` decodes all pictures once.
    """

    def __init__(self, found: Scan, files: Files, recipe: Recipe | None) -> None:
        self._scan = found
        self._files = files
        self._recipe = recipe
        self._note: str | None = None
        self._labels: NDArray[np.int64] | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self._scan.classes

    @property
    def recipe(self) -> Recipe:
        """The preprocessing; without one given, made from the heads of all pictures."""
        if self._recipe is None:
            self._recipe, self._note = self._files.default_recipe()
        return self._recipe

    @property
    def labels(self) -> NDArray[np.int64]:
        """(N,) class of every picture that can be read; read-only."""
        if self._labels is None:
            good = self._files.good(self.recipe)
            self._labels = np.array(self._scan.labels, dtype=np.int64)[good]
            self._labels.setflags(write=False)
        return self._labels

    @property
    def paths(self) -> tuple[Path, ...]:
        """The file of every picture that can be read, in the order of `labels`."""
        return tuple(self._scan.paths[i] for i in self._files.good(self.recipe))

    @property
    def bad(self) -> list[BadPicture]:
        """Pictures that cannot be read, and why; empty until the pictures are decoded."""
        return list(self._files.bad)

    @property
    def ignored(self) -> int:
        """How many files are no pictures, going by their endings."""
        return self._scan.ignored

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should know; complete once the pictures are decoded."""
        unreadable = {path for path, _ in self._files.bad}
        readable = {
            label
            for label, path in zip(self._scan.labels, self._scan.paths, strict=True)
            if str(path) not in unreadable
        }
        lost = sorted(set(self._scan.labels) - readable)
        return (
            *self._scan.warnings,
            *([self._note] if self._note else []),
            *(f"class {self.classes[i]!r} has no picture that can be read" for i in lost),
        )

    def prepare(self, progress: Progress | None = None) -> None:
        """Decode all pictures now, if that was not done yet.

        Args:
            progress: called with (pictures done, pictures in all) every few pictures.

        Raises:
            DataError: no picture can be read, one does not fit the recipe, or sizes differ and
                the recipe has none.
        """
        self._files.good(self.recipe, progress)

    def raw(self, indices: Indices) -> Samples:
        """Return pictures (n, h, w, c), see `Dataset.raw`."""
        good = self._files.good(self.recipe)
        return self._files.raw(as_index(indices, len(good)), self.recipe)

    def with_recipe(self, recipe: Recipe) -> FolderDataset:
        """Return the same pictures with another recipe.

        What is decoded is shared if channels, size and resize rule are the same.
        """
        return FolderDataset(self._scan, self._files, recipe)


class ImageFolder(Dataset):
    """The pictures of `path/<class>/**/`, or of `path/train/…`, `path/val/…`, `path/test/…`.

    The names of the class folders, sorted as strings, are the classes. Of a folder that is
    divided (`splits` is not empty) the classes are those of `train/`, and one part at a time is
    used: take it with `split`. The folder is searched at once. The pictures are decoded when
    they are first needed, or by `prepare`; those that cannot be read are left out and listed in
    `bad`. Decoded pictures are kept if they need no more than `budget`, else each batch decodes
    its own.

    Args:
        path: the folder.
        recipe: the preprocessing. None takes 3 channels if any picture has colour, else 1, and
            the size that all pictures share. If they share none: a square, its side the median
            of the pictures' shorter sides but 64 at most, resize "crop"; `warnings` says so.
        classes: names of the classes, in order, if they come from elsewhere (a model).
        budget: bytes of memory for decoded pictures, by default 1 GiB, for each part.
        workers: threads that decode; None takes one for each CPU that the process may use.

    Raises:
        DataError: the folder is missing, empty, has no class folders, one class only, a class
            without pictures, or a class that `classes` (for val and test: train/) lacks.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        recipe: Recipe | None = None,
        *,
        classes: Sequence[str] | None = None,
        budget: int = BUDGET,
        workers: int | None = None,
    ) -> None:
        self.path = Path(path)
        self._parts: dict[str, FolderDataset] = {}
        folders, self._notes = find_splits(self.path)
        # A folder that is not divided is one part without a name.
        for name, folder in (folders or {"": self.path}).items():
            found = scan(folder, classes)
            classes = found.classes
            files = Files(found.paths, budget, workers)
            self._parts[name] = FolderDataset(found, files, recipe)

    @property
    def splits(self) -> tuple[str, ...]:
        """The parts that are there, of "train", "val", "test"; () if the folder is not divided."""
        return () if "" in self._parts else tuple(self._parts)

    def split(self, name: str) -> FolderDataset:
        """Return one part of a divided folder.

        Without a recipe given, every part takes the one made from the pictures of train/.

        Args:
            name: "train", "val" ("valid" and "validation" mean the same) or "test".

        Raises:
            DataError: there is no such part.
        """
        part = SPLITS.get(name, name)
        if not part or part not in self._parts:
            there = ", ".join(self.splits) or "none (use the folder itself, or split_stratified)"
            raise DataError(f"{self.path}: there is no part {name!r}; parts: {there}")
        found = self._parts[part]
        if found._recipe is None:
            found._recipe = self._parts["train"].recipe
        return found

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in all parts the same."""
        return next(iter(self._parts.values())).classes

    @property
    def bad(self) -> list[BadPicture]:
        """Pictures of all parts that cannot be read; empty until they are decoded."""
        return [bad for part in self._parts.values() for bad in part.bad]

    @property
    def ignored(self) -> int:
        """How many files of all parts are no pictures, going by their endings."""
        return sum(part.ignored for part in self._parts.values())

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should know of all parts; complete once the pictures are decoded."""
        return (*self._notes, *(text for part in self._parts.values() for text in part.warnings))

    @property
    def labels(self) -> NDArray[np.int64]:
        """(N,) class of every picture that can be read; read-only."""
        return self._whole.labels

    @property
    def recipe(self) -> Recipe:
        """The preprocessing, see `FolderDataset.recipe`."""
        return self._whole.recipe

    @property
    def paths(self) -> tuple[Path, ...]:
        """The file of every picture that can be read, in the order of `labels`."""
        return self._whole.paths

    def prepare(self, progress: Progress | None = None) -> None:
        """Decode all pictures now, see `FolderDataset.prepare`."""
        self._whole.prepare(progress)

    def raw(self, indices: Indices) -> Samples:
        """Return pictures (n, h, w, c), see `Dataset.raw`."""
        return self._whole.raw(indices)

    def with_recipe(self, recipe: Recipe) -> FolderDataset:
        """Return the same pictures with another recipe, see `FolderDataset.with_recipe`."""
        return self._whole.with_recipe(recipe)

    @property
    def _whole(self) -> FolderDataset:
        if "" not in self._parts:
            raise DataError(
                f"{self.path}: the folder is divided into {', '.join(self.splits)}; "
                f"take one, like split({self.splits[0]!r})"
            )
        return self._parts[""]
