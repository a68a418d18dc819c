"""Decoding many picture files with threads, and keeping the result if it is small enough."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from striate.data.picture import (
    BadPicture,
    Header,
    Samples,
    read_header,
    read_image,
    stack,
)
from striate.data.recipe import Recipe
from striate.errors import DataError
from striate.pixels import as_unit_float

BUDGET = 1 << 30
"""Bytes of decoded pictures that are kept in memory unless told otherwise."""

DEFAULT_SIDE = 64
"""Largest side of the default recipe where the pictures differ in size."""

Progress = Callable[[int, int], None]
"""Called with (pictures done, pictures in all)."""

Geometry = tuple[int, "tuple[int, int] | None", str]

_Found = TypeVar("_Found")


class Files:
    """The picture files of a data set, decoded once for each geometry asked for.

    Args:
        paths: the files.
        budget: bytes that decoded pictures may take in memory, all geometries together.
        workers: threads that decode; None takes one for each CPU that the process may use.
    """

    def __init__(self, paths: Sequence[Path], budget: int, workers: int | None) -> None:
        self.paths = tuple(paths)
        self.bad: list[BadPicture] = []
        self._budget = budget
        self._workers = workers or len(os.sched_getaffinity(0))
        self._lock = threading.Lock()
        self._good: NDArray[np.int64] | None = None
        # None stands for pictures that are decoded anew for each batch
        self._kept: dict[Geometry, Samples | None] = {}

    def good(self, recipe: Recipe, progress: Progress | None = None) -> NDArray[np.int64]:
        """Return the positions of the files that can be read, decoding all if need be.

        Raises:
            DataError: no file can be read, or one does not fit the recipe.
        """
        with self._lock:
            if recipe.geometry not in self._kept:
                self._decode(recipe, progress)
            assert self._good is not None
            return self._good

    def raw(self, indices: NDArray[np.int64], recipe: Recipe) -> Samples:
        """Return pictures (n, h, w, c); `indices` count the good files.

        Raises:
            DataError: a file that could be read before cannot be read now.
        """
        good = self.good(recipe)
        kept = self._kept[recipe.geometry]
        if kept is not None:
            return kept[indices]
        found: list[Samples] = []
        for picture in self._each([self.paths[i] for i in good[indices]], _reader(recipe)):
            if isinstance(picture, BadPicture):
                raise DataError(f"{picture.path}: it could be read before, but: {picture.reason}")
            found.append(picture)
        return stack(found)

    def default_recipe(self) -> tuple[Recipe, str | None]:
        """Return the recipe for these files as `ImageFolder` describes it, and a note on it.

        Raises:
            DataError: no file has a readable head.
        """
        found = list(self._each(self.paths, _header))
        headers = [head for head in found if isinstance(head, Header)]
        if not headers:
            raise self._all_bad(found)
        channels = 3 if any(head.colour for head in headers) else 1
        sizes = {(head.height, head.width) for head in headers}
        if len(sizes) == 1:
            return Recipe(channels, sizes.pop(), "none"), None
        shorter = sorted(min(head.height, head.width) for head in headers)
        side = min(shorter[(len(shorter) - 1) // 2], DEFAULT_SIDE)
        note = (
            f"the pictures have {len(sizes)} different sizes; they are scaled and cropped to "
            f"{side}×{side} pixels, for no size was given"
        )
        return Recipe(channels, (side, side), "crop"), note

    def _decode(self, recipe: Recipe, progress: Progress | None) -> None:
        used = sum(kept.nbytes for kept in self._kept.values() if kept is not None)
        keeper = _Keeper(len(self.paths), self._budget - used)
        good: list[int] = []
        bad: list[BadPicture] = []
        for i, picture in enumerate(self._each(self.paths, _reader(recipe), progress)):
            if isinstance(picture, BadPicture):
                bad.append(picture)
            else:
                keeper.add(picture, self.paths[i])
                good.append(i)
        if not good:
            raise self._all_bad(bad)
        if self._good is None:
            self._good = np.array(good, dtype=np.int64)
            self.bad.extend(bad)
        elif self._good.tolist() != good:
            raise DataError(
                f"{self.paths[0].parent}: other pictures can be read than a moment ago; "
                "the folder must not change while it is in use"
            )
        self._kept[recipe.geometry] = keeper.pictures()

    def _each(
        self,
        paths: Sequence[Path],
        read: Callable[[Path], _Found],
        progress: Progress | None = None,
    ) -> Iterator[_Found]:
        """Yield read(path) in the order of `paths`, a bounded number of them ahead."""
        step = 16 * self._workers
        with ThreadPoolExecutor(self._workers, "striate-decode") as pool:
            for start in range(0, len(paths), step):
                yield from pool.map(read, paths[start : start + step])
                if progress is not None:
                    progress(min(start + step, len(paths)), len(paths))

    def _all_bad(self, found: Sequence[Header | BadPicture]) -> DataError:
        first = next(item for item in found if isinstance(item, BadPicture))
        return DataError(
            f"none of {len(self.paths)} pictures can be read; the first is {first.path}: "
            f"{first.reason}"
        )


class _Keeper:
    """Gathers pictures of one size in one array, until they are too many for the budget."""

    def __init__(self, count: int, budget: int) -> None:
        self._count = count
        self._budget = budget
        self._array: Samples | None = None
        self._used = 0
        self._first: tuple[tuple[int, ...], Path] | None = None

    def add(self, picture: Samples, path: Path) -> None:
        if self._first is None:
            self._first = (picture.shape, path)
            if picture.nbytes * self._count <= self._budget:
                self._array = np.empty((self._count, *picture.shape), dtype=picture.dtype)
        shape, first = self._first
        if picture.shape != shape:
            raise DataError(
                f"{path} is {picture.shape[0]}×{picture.shape[1]} pixels (height × width), but "
                f"{first} is {shape[0]}×{shape[1]}; give the recipe a size"
            )
        if self._array is None:
            return
        if picture.dtype != self._array.dtype:
            if 4 * picture.size * self._count > self._budget:
                self._array = None
                return
            self._array = as_unit_float(self._array)
            picture = as_unit_float(picture)
        self._array[self._used] = picture
        self._used += 1

    def pictures(self) -> Samples | None:
        """Return the pictures (n, h, w, c), or None if they were too many to keep."""
        return None if self._array is None else self._array[: self._used]


def _reader(recipe: Recipe) -> Callable[[Path], Samples | BadPicture]:
    """Return a function that reads and fits a picture; unreadable ones come back as a record."""

    def read(path: Path) -> Samples | BadPicture:
        try:
            samples = read_image(path, recipe.channels)
        except DataError as error:
            return _bad(path, error)
        try:
            return recipe.fit(samples)
        except DataError as error:
            raise DataError(f"{path}: {error}") from error

    return read


def _header(path: Path) -> Header | BadPicture:
    try:
        return read_header(path)
    except DataError as error:
        return _bad(path, error)


def _bad(path: Path, error: DataError) -> BadPicture:
    return BadPicture(str(path), str(error).removeprefix(f"{path}: "))
