"""Finding the pictures of a folder; nothing is opened."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from striate.data.picture import SUFFIXES
from striate.errors import DataError

SPLITS = {
    "train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
}  # fmt: skip
"""Folder names that stand for a part of a data set, and the name of that part."""

_EXPECTED = "expected FOLDER/<class>/picture.png …"


@dataclass(frozen=True)
class Scan:
    """The pictures of a folder of class folders.

    Attributes:
        classes: names of the classes.
        paths: the pictures, class after class, sorted as strings within a class.
        labels: the class of each path.
        ignored: how many files are no pictures, going by their endings.
        warnings: what the user should know.
    """

    classes: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    ignored: int
    warnings: tuple[str, ...]


def find_splits(root: Path) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Return the folders for train, val and test if `root` is divided so, else {}; and warnings.

    It is if it has `train/` and one of `val/ valid/ validation/ test/`, or nothing but
    `train/`; a class may be called "train".

    Raises:
        DataError: `root` is no folder, has two folders for one part, or parts without `train/`.
    """
    folders = _folders(root)
    names = [folder.name for folder in folders]
    parts: dict[str, Path] = {}
    for folder in folders:
        part = SPLITS.get(folder.name)
        if part in parts and "train" in names:
            raise DataError(
                f"{root}: both {parts[part].name}/ and {folder.name}/ are there; keep one"
            )
        if part is not None:
            parts[part] = folder
    if "train" in parts and (len(parts) > 1 or len(folders) == 1):
        others = [folder.name for folder in folders if folder not in parts.values()]
        notes = (f"{root}: folders {_some(others)} are no part of it and not used",) * bool(others)
        return {name: parts[name] for name in ("train", "val", "test") if name in parts}, notes
    if parts and "train" not in parts and len(parts) == len(folders) and _folders(folders[0]):
        raise DataError(
            f"{root}: found {', '.join(names)}, but no train/; give one of these folders itself, "
            "or add train/"
        )
    return {}, ()


def scan(root: Path, classes: Sequence[str] | None = None) -> Scan:
    """Find the pictures of `root/<class>/**/`.

    Links are followed. Names that begin with a dot are passed over. Class names are compared
    and kept in Unicode's composed form (NFC), so that a folder copied from another system
    still has the same classes.

    Args:
        root: the folder.
        classes: the classes to find, for a folder that belongs to another one or to a model;
            None takes every subfolder as a class, sorted as strings.

    Raises:
        DataError: there is nothing usable, or a class folder that `classes` does not name.
    """
    folders = {_class_name(folder): folder for folder in _folders(root)}
    if len(folders) != len(_folders(root)):
        raise DataError(f"{root}: two class folders have the same name but for Unicode's forms")
    loose, ignored = _loose(root)
    if not folders:
        found = f"{len(loose)} pictures, {ignored} other files" if loose or ignored else "nothing"
        raise DataError(f"{root}: found no class folders ({found}); {_EXPECTED}")
    names = _classes(root, sorted(folders), classes)
    paths: list[Path] = []
    labels: list[int] = []
    warnings: list[str] = []
    for label, name in enumerate(names):
        if name not in folders:
            warnings.append(f"{root}: class {name!r} has no folder here")
            continue
        pictures, others = _pictures(folders[name])
        if not pictures:
            what = f"{others} other files" if others else "nothing"
            raise DataError(
                f"{folders[name]}: class {name!r} has no pictures ({what}); add pictures that end "
                f"in {' '.join(sorted(SUFFIXES))}, or take the folder away"
            )
        paths += pictures
        labels += [label] * len(pictures)
        ignored += others
    if loose:
        warnings.append(f"{root}: {len(loose)} pictures outside the class folders are not used")
    return Scan(tuple(names), tuple(paths), tuple(labels), ignored, tuple(warnings))


def _classes(root: Path, found: list[str], expected: Sequence[str] | None) -> list[str]:
    if expected is None:
        if len(found) == 1:
            raise DataError(
                f"{root}: found one class only, {found[0]!r}; telling classes apart needs two; "
                f"{_EXPECTED}"
            )
        return found
    names = [unicodedata.normalize("NFC", name) for name in expected]
    unknown = [name for name in found if name not in names]
    if unknown:
        raise DataError(
            f"{root}: classes {_some(unknown)} are unknown; known are {_some(names)}; rename or "
            "take away these folders"
        )
    return names


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:10])
    return shown if len(names) <= 10 else f"{shown} and {len(names) - 10} more"


def _class_name(folder: Path) -> str:
    try:
        folder.name.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{folder.parent}: the class folder {os.fsencode(folder.name)!r} has a name that is "
            "not UTF-8; rename it"
        ) from error
    return unicodedata.normalize("NFC", folder.name)


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except NotADirectoryError as error:
        raise DataError(f"{folder}: this is a file; give a folder, {_EXPECTED}") from error
    except OSError as error:
        raise DataError(f"{folder}: the folder cannot be read ({error.strerror})") from error


def _folders(root: Path) -> list[Path]:
    return [path for path in _entries(root) if path.is_dir()]


def _loose(root: Path) -> tuple[list[Path], int]:
    """Return the pictures that lie in `root` itself, and how many other files do."""
    # A link that leads nowhere counts: it is a picture that cannot be read.
    files = [
        path
        for path in _entries(root)
        if path.is_file() or (path.is_symlink() and not path.exists())
    ]
    pictures = [path for path in files if path.suffix.lower() in SUFFIXES]
    return pictures, len(files) - len(pictures)


def _pictures(
    folder: Path, above: frozenset[tuple[int, int]] = frozenset()
) -> tuple[list[Path], int]:
    """Return the pictures in `folder` and below, and how many other files are there.

    `above` identifies the folders on the way here: a link back to one of them is not followed.
    """
    status = folder.stat()
    here = (status.st_dev, status.st_ino)
    if here in above:
        return [], 0
    pictures, others = _loose(folder)
    for below in _folders(folder):
        more, ignored = _pictures(below, above | {here})
        pictures += more
        others += ignored
    return sorted(pictures, key=os.fspath), others
