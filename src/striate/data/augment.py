"""Random changes to training pictures: crop, flip, rotation, brightness."""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from striate.data._random import Use, uniform
from striate.data.picture import Samples
from striate.errors import ArgumentError
from striate.pixels import as_unit_float

_DRAWS = 5  # random numbers a picture: crop row, crop column, flip, angle, brightness
_PIXELS = 1 << 18  # pixels rotated at a time, which bounds the memory for coordinates


@dataclass(frozen=True)
class Augment:
    """A recipe of random changes, made in this order and before normalisation.

    Nothing is on by default, and no data set turns anything on: a flipped digit or letter is
    another sign. What happens to a picture depends on the seed, the epoch and its position in
    the data set only, not on the batch it is in.

    Attributes:
        crop: pad every side by this many black pixels, then cut the old size out anywhere.
        flip: mirror left and right, every second time.
        rotate: turn about the centre by an angle drawn from ±rotate degrees, bilinear; what
            comes in from outside is black.
        brightness: multiply by a factor drawn from 1 ± brightness, then clip to 0..1.

    Raises:
        ArgumentError: a field is out of range.
    """

    crop: int = 0
    flip: bool = False
    rotate: float = 0.0
    brightness: float = 0.0

    def __post_init__(self) -> None:
        if type(self.crop) is not int or self.crop < 0:
            raise ArgumentError(f"augment: crop is {self.crop!r}; give pixels, 0 or more")
        if type(self.flip) is not bool:
            raise ArgumentError(f"augment: flip is {self.flip!r}; give True or False")
        if not 0 <= self.rotate <= 180:
            raise ArgumentError(f"augment: rotate is {self.rotate!r}; give degrees from 0 to 180")
        if not 0 <= self.brightness <= 1:
            raise ArgumentError(f"augment: brightness is {self.brightness!r}; give 0 to 1")

    @classmethod
    def parse(cls, text: str) -> Augment:
        """Read a name ("none", "light", "standard", "strong") or a list of changes.

        A list is like "crop=4,flip,rotate=10,brightness=0.2". `str()` writes it.

        Raises:
            ArgumentError: a name is unknown (the nearest is named) or a value out of range.
        """
        words = [word.strip() for word in text.split(",")]
        if words[0] in NAMED and len(words) == 1:
            return NAMED[words[0]]
        known = [field.name for field in fields(cls)]
        values: dict[str, int | float | bool] = {}
        for word in words:
            name, equals, number = (part.strip() for part in word.partition("="))
            if name not in known:
                choices = [*NAMED, *known] if len(words) == 1 else known
                near = difflib.get_close_matches(name, choices, n=1)
                hint = f" (did you mean {near[0]!r}?)" if near else ""
                raise ArgumentError(
                    f"augment: {name!r} in {text!r} is unknown{hint}; "
                    f"give one of {', '.join(NAMED)}, or a list of {', '.join(known)}"
                )
            if name in values:
                raise ArgumentError(f"augment: {name!r} comes twice in {text!r}")
            if (name == "flip") == bool(equals):
                raise ArgumentError(
                    f"augment: {word!r} in {text!r} cannot be read; write it like "
                    "'crop=4', 'flip', 'rotate=10', 'brightness=0.2'"
                )
            values[name] = True if name == "flip" else _number(name, number, text)
        return cls(**values)  # type: ignore[arg-type]

    def __str__(self) -> str:
        """Return what `parse` reads back to an equal value; "none" if nothing is on."""
        words = [
            field.name if field.name == "flip" else f"{field.name}={getattr(self, field.name)}"
            for field in fields(self)
            if getattr(self, field.name)
        ]
        return ",".join(words) or "none"

    def draw(self, count: int, seed: int, epoch: int) -> NDArray[np.float64]:
        """Return the random numbers of an epoch for a data set of `count` pictures.

        Row i belongs to picture i. The rows are the same for every recipe.
        """
        return uniform(count, _DRAWS, Use.AUGMENT, seed, epoch)

    def apply(self, raw: Samples, draws: NDArray[np.float64]) -> Samples:
        """Change each picture by its random numbers; `raw` itself is not changed.

        Args:
            raw: (n, h, w, c) uint8, or float32 with 1 for white.
            draws: the rows of `draw` that belong to these pictures.

        Returns:
            The same shape. uint8 stays uint8 unless the change makes numbers between the
            levels (rotation, brightness); then float32 with 1 for white.

        Raises:
            ArgumentError: `crop` is as large as the picture.
        """
        if self.crop or self.flip:
            raw = self._cropped(raw, draws)
        if self.rotate:
            raw = _rotated(as_unit_float(raw), (2 * draws[:, 3] - 1) * self.rotate)
        if self.brightness:
            factor = 1 + (2 * draws[:, 4] - 1) * self.brightness
            bright = as_unit_float(raw) * factor.astype(np.float32)[:, None, None, None]
            raw = np.clip(bright, 0, 1)
        return raw

    def _cropped(self, raw: Samples, draws: NDArray[np.float64]) -> Samples:
        n, h, w, _ = raw.shape
        pad = self.crop
        if pad >= min(h, w):
            raise ArgumentError(f"augment: crop={pad} is too large for pictures of {h}×{w} pixels")
        padded = np.pad(raw, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
        # shift = ⌊u · (2·pad + 1)⌋, each of 0..2·pad equally likely
        shift = (draws[:, :2] * (2 * pad + 1)).astype(np.int64)
        rows = shift[:, 0, None] + np.arange(h)
        columns = shift[:, 1, None] + np.arange(w)
        if self.flip:
            mirrored = draws[:, 2] < 0.5
            columns[mirrored] = columns[mirrored, ::-1]
        out: Samples = padded[np.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]
        return out


NAMED = {
    "none": Augment(),
    "light": Augment(crop=2, flip=True),
    "standard": Augment(crop=4, flip=True),
    "strong": Augment(crop=4, flip=True, rotate=15.0, brightness=0.2),
}
"""The recipes that have a name."""


def _number(name: str, number: str, text: str) -> float:
    try:
        return int(number) if name == "crop" else float(number)
    except ValueError as error:
        raise ArgumentError(f"augment: {name}={number!r} in {text!r} is no number") from error


def _rotated(x: NDArray[np.float32], degrees: NDArray[np.float64]) -> NDArray[np.float32]:
    """Turn (n, h, w, c) pictures anticlockwise about their centres, bilinear, black outside."""
    n, h, w, _ = x.shape
    out = np.empty_like(x)
    step = max(1, _PIXELS // (h * w))
    for start in range(0, n, step):
        part = slice(start, start + step)
        out[part] = _rotated_part(x[part], degrees[part])
    return out


def _rotated_part(x: NDArray[np.float32], degrees: NDArray[np.float64]) -> NDArray[np.float32]:
    n, h, w, _ = x.shape
    # math's functions, for an array's could round by its length
    turns = [math.radians(angle) for angle in degrees]
    cos = np.array([math.cos(turn) for turn in turns])[:, None, None]
    sin = np.array([math.sin(turn) for turn in turns])[:, None, None]
    dy = (np.arange(h) - (h - 1) / 2)[:, None]
    dx = (np.arange(w) - (w - 1) / 2)[None, :]
    # A pixel comes from the place that the turn carries to it, rows counted downwards:
    # y = cy + cos·dy + sin·dx,   x = cx − sin·dy + cos·dx
    source_y = (h - 1) / 2 + cos * dy + sin * dx
    source_x = (w - 1) / 2 - sin * dy + cos * dx
    top, left = np.floor(source_y), np.floor(source_x)
    fy = (source_y - top).astype(np.float32)[..., None]
    fx = (source_x - left).astype(np.float32)[..., None]
    # A black border of one pixel stands for all that lies outside.
    framed = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    picture = np.arange(n)[:, None, None]

    def corner(down: int, right: int) -> NDArray[np.float32]:
        rows = np.clip(top.astype(np.int64) + 1 + down, 0, h + 1)
        columns = np.clip(left.astype(np.int64) + 1 + right, 0, w + 1)
        found: NDArray[np.float32] = framed[picture, rows, columns]
        return found

    upper = corner(0, 0) * (1 - fx) + corner(0, 1) * fx
    lower = corner(1, 0) * (1 - fx) + corner(1, 1) * fx
    out: NDArray[np.float32] = upper * (1 - fy) + lower * fy
    return out
