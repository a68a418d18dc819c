"""What there is in a set of pictures: counts, sizes, copies, and what cannot be read."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from striate.data import BadPicture, Dataset, FolderDataset, ImageFolder, fit_recipe, read_image
from striate.data.picture import read_header
from striate.report.png import Bytes, as_bytes, mosaic

Progress = Callable[[int, int], None]

IN_A_ROW = 10  # pictures of a class in the mosaic
CLASSES = 12  # shown in it


class Picture(NamedTuple):
    """One picture: where it is, its part and class, size and pixels."""

    name: str
    part: str
    label: str
    size: tuple[int, int]
    digest: bytes


class Copies(NamedTuple):
    """Pictures with the same pixels.

    Attributes:
        names: of the pictures.
        parts: those they are in; more than one: what is measured on has been learnt from.
        classes: those they are in; more than one: at least one label is wrong.
    """

    names: list[str]
    parts: list[str]
    classes: list[str]


@dataclass(frozen=True)
class Contents:
    """What `examine` has found.

    Attributes:
        counts: part → class → number of pictures that can be read.
        sizes: ((height, width), number), the commonest first.
        channels: 1 or 3, as training takes them.
        mean: of each channel over the training part, from 0 to 1, as training takes it.
        std: the deviation, likewise.
        copies: pictures with the same pixels, also where the files differ.
        unreadable: what cannot be read, and why.
    """

    counts: dict[str, dict[str, int]]
    sizes: list[tuple[tuple[int, int], int]]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    copies: list[Copies]
    unreadable: list[BadPicture]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "pictures": sum(sum(part.values()) for part in self.counts.values()),
            "parts": self.counts,
            "sizes": [{"height": h, "width": w, "count": n} for (h, w), n in self.sizes],
            "channels": self.channels,
            "mean": list(self.mean),
            "std": list(self.std),
            "duplicates": [copies._asdict() for copies in self.copies],
            "unreadable": [bad._asdict() for bad in self.unreadable],
        }


def parts_of(folder: ImageFolder) -> dict[str, FolderDataset | ImageFolder]:
    """The parts of a folder by name; "all" of one that is not divided."""
    parts: dict[str, FolderDataset | ImageFolder] = {"all": folder}
    return {name: folder.split(name) for name in folder.splits} if folder.splits else parts


def examine(
    parts: Mapping[str, Dataset], bad: Sequence[BadPicture], progress: Progress | None = None
) -> Contents:
    """Read every picture of a set.

    Args:
        parts: name → pictures, decoded already; the first is what is learnt from.
        bad: what could not be read.
        progress: called with (pictures done, pictures in all).
    """
    total = sum(len(part) for part in parts.values())
    pictures: list[Picture] = []
    for name, part in parts.items():
        for picture in _pictures(name, part):
            pictures.append(picture)
            if progress is not None and (len(pictures) % 64 == 0 or len(pictures) == total):
                progress(len(pictures), total)
    recipe = fit_recipe(next(iter(parts.values())))
    counts = {name: dict.fromkeys(part.classes, 0) for name, part in parts.items()}
    for picture in pictures:
        counts[picture.part][picture.label] += 1
    sizes = Counter(picture.size for picture in pictures).most_common()
    return Contents(
        counts, sizes, recipe.channels, recipe.mean, recipe.std, _copies(pictures), list(bad)
    )


def _pictures(part: str, pictures: Dataset) -> Iterator[Picture]:
    labels = [pictures.classes[label] for label in pictures.labels]
    if isinstance(pictures, (FolderDataset, ImageFolder)):
        for path, label in zip(pictures.paths, labels, strict=True):
            samples = read_image(path, 3 if read_header(path).colour else 1)
            yield _picture(str(path), part, label, samples)
    else:
        for i, label in enumerate(labels):
            yield _picture(f"{part}[{i}]", part, label, pictures.raw([i])[0])


def _picture(name: str, part: str, label: str, samples: np.ndarray) -> Picture:
    """The digest is of pixels, shape and type, so the same in PNG and BMP."""
    head = f"{samples.shape} {samples.dtype}".encode()
    digest = hashlib.blake2b(head + np.ascontiguousarray(samples).tobytes(), digest_size=16)
    return Picture(name, part, label, (samples.shape[0], samples.shape[1]), digest.digest())


def _copies(pictures: Sequence[Picture]) -> list[Copies]:
    """Those with the same pixels, in the order of the first of each."""
    groups: dict[bytes, list[Picture]] = {}
    for picture in pictures:
        groups.setdefault(picture.digest, []).append(picture)
    return [
        Copies(
            [picture.name for picture in group],
            list(dict.fromkeys(picture.part for picture in group)),
            list(dict.fromkeys(picture.label for picture in group)),
        )
        for group in groups.values()
        if len(group) > 1
    ]


def class_mosaic(pictures: Dataset) -> Bytes:
    """A row of pictures for each of the first classes, at the size that training brings them to."""
    rows = []
    for label in range(min(CLASSES, len(pictures.classes))):
        index = np.flatnonzero(pictures.labels == label)
        if len(index):
            chosen = index[np.linspace(0, len(index) - 1, IN_A_ROW).astype(int)]
            rows.append(as_bytes(pictures.raw(chosen)))
    return mosaic(np.concatenate(rows), columns=IN_A_ROW)
