"""The preprocessing of a picture: a value that is stored in the model file and applied again."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from striate.data import picture as pictures
from striate.data.picture import MAX_PIXELS, Samples
from striate.errors import ArgumentError, DataError, FormatError
from striate.pixels import Pixels, checked_factors, normalised

if TYPE_CHECKING:
    from PIL import Image

RESIZE_RULES = ("crop", "stretch", "none")


@dataclass(frozen=True)
class Recipe:
    """How a picture becomes the input of a network.

    In this order: channels, resize, x = v / 255 (or what brings white to 1), (x − mean) / std.
    Training and prediction call the same code, element by element, so the same picture gives
    the same bits in both, whatever batch it is in.

    Attributes:
        channels: 1 (grey) or 3 (red, green, blue).
        size: (height, width) in pixels, or None to leave every picture at its own size.
        resize: "crop" scales the picture until it just covers `size` and cuts the middle out;
            "stretch" changes the ratio of its sides; "none" refuses pictures of another size.
            Scaling is bilinear with antialiasing (Pillow's). Without `size` it has no effect.
        mean: one number a channel, where black is 0 and white is 1; () means 0.
        std: one number a channel, greater than 0; () means 1.

    Raises:
        ArgumentError: a field has a value that makes no sense.
    """

    channels: int
    size: tuple[int, int] | None = None
    resize: str = "crop"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if type(self.channels) is not int or self.channels not in {1, 3}:
            raise ArgumentError(f"Recipe: channels is {self.channels!r}; it must be 1 or 3")
        if self.resize not in RESIZE_RULES:
            raise ArgumentError(
                f"Recipe: resize is {self.resize!r}; it must be one of {', '.join(RESIZE_RULES)}"
            )
        object.__setattr__(self, "size", _checked_size(self.size))
        mean, std = checked_factors("Recipe", self.mean, self.std, self.channels)
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "std", std)

    @property
    def geometry(self) -> tuple[int, tuple[int, int] | None, str]:
        """(channels, size, resize): all that shapes the pixels before they become numbers."""
        return self.channels, self.size, self.resize

    def fit(self, picture: Image.Image | Samples) -> Samples:
        """Bring a picture to the recipe's channels and size, without making numbers of it.

        Args:
            picture: a Pillow image, or an array (H, W) or (H, W, C) of bool, uint8, uint16 or
                float (1 is white).

        Returns:
            (h, w, channels) uint8, or float32 with 1 for white if the picture is not 8-bit.

        Raises:
            DataError: the picture cannot be used, or has another size and `resize` is "none".
        """
        if isinstance(picture, np.ndarray):
            samples = pictures.from_array(picture, self.channels)
        else:
            samples = pictures.from_pillow(picture, self.channels)
        if self.size is None or samples.shape[:2] == self.size:
            return samples
        if self.resize == "none":
            raise DataError(
                f"the picture is {_text(samples.shape[:2])} pixels and the recipe takes "
                f"{_text(self.size)} only (resize='none'); resize it, or use 'crop' or 'stretch'"
            )
        return _resized(samples, self.size, crop=self.resize == "crop")

    def normalise(self, raw: Samples) -> NDArray[np.float32]:
        """Make numbers of fitted pictures: (n, h, w, c) uint8 or float32 → (n, c, h, w) float32.

        Raises:
            DataError: `raw` has another number of axes or channels.
        """
        if raw.ndim != 4 or raw.shape[3] != self.channels:
            raise DataError(
                f"normalise takes (n, h, w, {self.channels}) samples, not an array {raw.shape}"
            )
        return normalised(raw, self.mean, self.std)

    def input(self, raw: Samples) -> Pixels | NDArray[np.float32]:
        """Make what a net takes of fitted pictures: bytes stay bytes until its program reads them.

        A net gives the same bits for it as for `normalise(raw)`. Errors are those of `normalise`.
        """
        if raw.dtype == np.uint8 and raw.ndim == 4 and raw.shape[3] == self.channels:
            return Pixels(raw, self.mean, self.std)
        return self.normalise(raw)

    def apply(self, picture: Image.Image | Samples) -> NDArray[np.float32]:
        """Make one picture the input of a network: (channels, h, w) float32.

        Arguments and errors are those of `fit`.
        """
        x: NDArray[np.float32] = self.normalise(self.fit(picture)[None])[0]
        return x

    def to_json(self) -> str:
        """Return the recipe as one line of JSON; `from_json` gives back an equal recipe."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """Read what `to_json` wrote.

        Raises:
            FormatError: the text is no JSON object with exactly the fields of a recipe, or a
                value makes no sense.
        """
        try:
            found = json.loads(text)
        except (ValueError, RecursionError, TypeError) as error:
            raise FormatError(f"recipe: this is no JSON ({error})") from error
        names = {field.name for field in fields(cls)}
        if not isinstance(found, dict) or set(found) != names:
            what = sorted(found) if isinstance(found, dict) else type(found).__name__
            raise FormatError(f"recipe: found {what}; expected an object of {sorted(names)}")
        try:
            return cls(**found)
        except ArgumentError as error:
            raise FormatError(f"recipe: {error}") from error


def _checked_size(size: Any) -> tuple[int, int] | None:
    if size is None:
        return None
    sides = tuple(size) if isinstance(size, tuple | list) else ()
    if len(sides) != 2 or any(type(side) is not int or side < 1 for side in sides):
        raise ArgumentError(f"Recipe: size is {size!r}; it must be (height, width) or None")
    if sides[0] * sides[1] > MAX_PIXELS:
        raise ArgumentError(f"Recipe: size is {size!r}; more than {MAX_PIXELS:,} pixels")
    return sides


def _text(size: tuple[int, ...]) -> str:
    return f"{size[0]}×{size[1]} (height × width)"


def _resized(samples: Samples, size: tuple[int, int], *, crop: bool) -> Samples:
    """Scale to `size`; with `crop` only the largest centred box of the target's ratio is used.

    Cropping the source box and scaling it is the same as scaling the shorter side and cropping
    the result, but never makes a long thin picture larger than it is.
    """
    from PIL import Image

    (source_h, source_w), (h, w) = samples.shape[:2], size
    box = (0.0, 0.0, float(source_w), float(source_h))
    if crop:
        # scale = max(h / H, w / W); the box is (h / scale) × (w / scale) source pixels
        box_h = min(float(source_h), h * source_w / w)
        box_w = min(float(source_w), w * source_h / h)
        top, left = (source_h - box_h) / 2, (source_w - box_w) / 2
        box = (left, top, left + box_w, top + box_h)

    def scaled(plane: Samples) -> Samples:
        image = Image.fromarray(plane)
        return np.asarray(image.resize((w, h), Image.Resampling.BILINEAR, box=box))

    if samples.dtype == np.uint8 and samples.shape[2] == 3:
        return scaled(samples)
    planes = [scaled(np.ascontiguousarray(samples[:, :, i])) for i in range(samples.shape[2])]
    return np.stack(planes, axis=2)
