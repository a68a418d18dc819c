"""What a data set is to the trainer, and the plain one that lies in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from striate.data.picture import Samples, stack
from striate.data.recipe import Recipe
from striate.errors import ArgumentError, DataError

Indices = ArrayLike
"""Which pictures: integers (n,) from 0 to len(dataset) − 1."""

_CHUNK = 64  # pictures that statistics are taken of at a time


class Dataset(Protocol):
    """Labelled pictures of known classes, with the recipe that makes them inputs."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; a label is a position in this tuple."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """(N,) class of every picture; read-only."""

    @property
    def recipe(self) -> Recipe:
        """The preprocessing of `raw` and `load`."""

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.labels)

    def raw(self, indices: Indices) -> Samples:
        """Return pictures at the recipe's channels and size, not yet normalised.

        Returns:
            (n, h, w, c) uint8, or float32 with 1 for white where a picture is not 8-bit.

        Raises:
            DataError: a picture cannot be read, or their sizes differ.
        """

    def with_recipe(self, recipe: Recipe) -> Dataset:
        """Return the same pictures and labels with another recipe."""

    def load(self, indices: Indices) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return (inputs, labels): (n, c, h, w) float32, normalised, and (n,) int64.

        Nothing is augmented. Errors are those of `raw`.
        """
        index = as_index(indices, len(self))
        return self.recipe.normalise(self.raw(index)), self.labels[index]

    def subset(self, indices: Indices) -> Dataset:
        """Return the data set of these pictures, in this order, with the same classes."""
        return Subset(self, indices)


class Subset(Dataset):
    """Some pictures of another data set; pixels are not copied."""

    def __init__(self, whole: Dataset, indices: Indices) -> None:
        self._whole = whole
        self._index = as_index(indices, len(whole))
        self._labels = _read_only(whole.labels[self._index])

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes of the whole data set."""
        return self._whole.classes

    @property
    def labels(self) -> NDArray[np.int64]:
        """(N,) class of every picture; read-only."""
        return self._labels

    @property
    def recipe(self) -> Recipe:
        """The preprocessing of the whole data set."""
        return self._whole.recipe

    def raw(self, indices: Indices) -> Samples:
        """Return pictures (n, h, w, c), see `Dataset.raw`."""
        return self._whole.raw(self._index[as_index(indices, len(self))])

    def with_recipe(self, recipe: Recipe) -> Subset:
        """Return the same pictures and labels with another recipe."""
        return Subset(self._whole.with_recipe(recipe), self._index)


class ArrayDataset(Dataset):
    """Labelled pictures in one array.

    Args:
        pictures: (N, H, W) or (N, H, W, C), uint8 or float32 (1 is white); not copied.
        labels: (N,) integers from 0 to len(classes) − 1.
        classes: names of the classes.
        recipe: the preprocessing; None takes channels and size from the array.

    Raises:
        DataError: the shapes or labels do not fit together.
    """

    def __init__(
        self,
        pictures: Samples,
        labels: ArrayLike,
        classes: Sequence[str],
        recipe: Recipe | None = None,
    ) -> None:
        if pictures.ndim == 3:
            pictures = pictures[..., None]
        if pictures.ndim != 4 or pictures.shape[3] not in {1, 3}:
            raise DataError(
                f"pictures have shape {pictures.shape}; expected (N, H, W), (N, H, W, 1 or 3)"
            )
        if pictures.dtype not in {np.dtype(np.uint8), np.dtype(np.float32)}:
            raise DataError(f"pictures have dtype {pictures.dtype}; expected uint8 or float32")
        given = np.asarray(labels)
        if given.shape != (len(pictures),) or given.dtype.kind not in "iu":
            raise DataError(
                f"labels are {given.dtype} {given.shape}; expected {len(pictures)} integers"
            )
        if len(given) and not 0 <= given.min() <= given.max() < len(classes):
            raise DataError(
                f"labels run from {given.min()} to {given.max()}, but there are "
                f"{len(classes)} classes"
            )
        self._pictures = pictures
        self._labels = _read_only(given.astype(np.int64))
        self._classes = tuple(classes)
        _, h, w, channels = pictures.shape
        self._recipe = recipe or Recipe(channels, (h, w))

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self._classes

    @property
    def labels(self) -> NDArray[np.int64]:
        """(N,) class of every picture; read-only."""
        return self._labels

    @property
    def recipe(self) -> Recipe:
        """The preprocessing of `raw` and `load`."""
        return self._recipe

    def raw(self, indices: Indices) -> Samples:
        """Return pictures (n, h, w, c), see `Dataset.raw`."""
        found = self._pictures[as_index(indices, len(self))]
        channels, size, _ = self._recipe.geometry
        if channels == found.shape[3] and size in {None, found.shape[1:3]}:
            return found
        return stack([self._recipe.fit(picture) for picture in found])

    def with_recipe(self, recipe: Recipe) -> ArrayDataset:
        """Return the same pictures and labels with another recipe."""
        return ArrayDataset(self._pictures, self._labels, self._classes, recipe)


def fit_recipe(dataset: Dataset) -> Recipe:
    """Return the data set's recipe with `mean` and `std` measured on its pictures.

    Both are taken a channel over all pixels of all pictures, after scaling to 0..1, in one pass
    in float64; std is the population's. A channel that never changes gets std 1.

    Raises:
        DataError: the data set is empty, or a picture cannot be read.
    """
    if len(dataset) == 0:
        raise DataError("the data set has no pictures to take mean and deviation of")
    count, mean, square = 0, np.zeros(()), np.zeros(())
    for part in _moments(dataset):
        # Chan, Golub and LeVeque (1979): merging (count, mean, Σ(x − mean)²) of two parts
        n, part_mean, part_square = part
        delta = part_mean - mean
        square = square + part_square + delta**2 * (count * n / (count + n))
        mean = mean + delta * (n / (count + n))
        count += n
    std = np.sqrt(square / count)
    std = np.where(std < 1e-6, 1.0, std)
    return replace(dataset.recipe, mean=tuple(map(float, mean)), std=tuple(map(float, std)))


def _moments(
    dataset: Dataset,
) -> Iterator[tuple[int, NDArray[np.float64], NDArray[np.float64]]]:
    """Yield (pixels, mean, Σ(x − mean)²), per channel, of parts of the data set."""
    levels = np.arange(256) / 255.0
    for start in range(0, len(dataset), _CHUNK):
        raw = dataset.raw(np.arange(start, min(start + _CHUNK, len(dataset))))
        planes = raw.reshape(-1, raw.shape[3])
        if raw.dtype == np.uint8:
            # how often each of the 256 levels comes, (c, 256): whole numbers, so nothing is lost
            often = np.stack([np.bincount(plane, minlength=256) for plane in planes.T])
            mean = often @ levels / len(planes)
            square = (often * (levels - mean[:, None]) ** 2).sum(axis=1)
        else:
            wide = planes.astype(np.float64)
            mean = wide.mean(axis=0)
            square = ((wide - mean) ** 2).sum(axis=0)
        yield len(planes), mean, square


def as_index(indices: Indices, count: int) -> NDArray[np.int64]:
    """Return `indices` as int64 (n,).

    Raises:
        ArgumentError: they are no one-dimensional integers from 0 to count − 1.
    """
    index = np.asarray(indices)
    if index.size == 0:
        index = index.astype(np.int64)
    if index.ndim != 1 or index.dtype.kind not in "iu":
        raise ArgumentError(f"indices are {index.dtype} {index.shape}; expected integers (n,)")
    if len(index) and not 0 <= index.min() <= index.max() < count:
        raise ArgumentError(
            f"indices run from {index.min()} to {index.max()}, but there are {count} pictures"
        )
    return index.astype(np.int64, copy=False)


def _read_only(array: NDArray[np.int64]) -> NDArray[np.int64]:
    array = array.copy()
    array.setflags(write=False)
    return array
