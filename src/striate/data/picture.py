"""Reading one picture into an array, whatever its file holds.

An array of samples is (H, W, C) and either uint8 (0 is black, 255 is white) or float32 (0 is
black, 1 is white). Transparent pictures lie on white: that is what viewers and web pages show,
and a drawing in black ink on a transparent ground would vanish on black.
"""

from __future__ import annotations

import os
import stat
import threading
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from striate.errors import ArgumentError, DataError
from striate.pixels import as_unit_float

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 178_956_970
"""Most pixels a picture may declare: above it, Pillow too speaks of a decompression bomb."""

SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"))
"""Endings, in lower case, of the files that count as pictures."""

# No other decoder of Pillow's is ever tried: some start programs (EPS), others are fragile.
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "PPM")

Samples = NDArray[Any]


class BadPicture(NamedTuple):
    """A picture that could not be read, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Header:
    """What the head of a picture file declares: size in pixels, and whether it has colour."""

    height: int
    width: int
    colour: bool


def read_image(path: str | os.PathLike[str], channels: int) -> Samples:
    """Read a PNG, JPEG, BMP, TIFF, WebP, PPM or PGM file.

    The orientation noted by a camera is applied; of a file with several pictures the first is
    taken. 16-bit grey is divided by 65535; float TIFFs are taken as they are. Pillow reduces
    16-bit colour to 8 bits, and the transparent level that a 16-bit grey PNG may name is not
    heeded. Colour becomes grey by ITU-R BT.601, and grey is repeated to colour.

    Args:
        path: the file.
        channels: 1 for grey, 3 for red, green, blue.

    Returns:
        (H, W, channels): uint8 for 8-bit and 1-bit files, else float32.

    Raises:
        DataError: the file is missing, empty, no picture, damaged, declares more than
            `MAX_PIXELS`, or holds NaN or infinity.
        ArgumentError: `channels` is neither 1 nor 3.
    """
    with _QUIET:
        image = _open(path)
        try:
            with image:
                return from_pillow(image, channels)
        except DataError as error:
            raise DataError(f"{os.fspath(path)}: {error}") from error


def read_header(path: str | os.PathLike[str]) -> Header:
    """Read size and kind of a picture from its first bytes, decoding nothing.

    Raises:
        DataError: as `read_image`, as far as the head shows it.
    """
    with _QUIET, _open(path) as image:
        width, height = image.size
        # A PNG may keep its orientation behind the pixels, so for PNG only what is read already.
        known = image.format != "PNG" or "exif" in image.info
        if known and image.format != "TIFF" and _orientation(image) >= 5:
            width, height = height, width
        return Header(height, width, _has_colour(image))


def from_pillow(image: Image.Image, channels: int) -> Samples:
    """Convert a Pillow image just as `read_image` converts its file.

    Returns:
        (H, W, channels): uint8, or float32 for 16-bit and float images.

    Raises:
        DataError: the image is damaged, has no pixels, or holds NaN or infinity.
        ArgumentError: `channels` is neither 1 nor 3.
    """
    _check_channels(channels)
    with _QUIET:
        try:
            image.load()
            samples = _samples(image)
            orientation = _orientation(image)
        except (DataError, MemoryError):
            raise
        except Exception as error:  # a hostile file makes decoders raise anything
            raise DataError(f"the picture is damaged or cut off ({_why(error)})") from error
    return _with_channels(_upright(samples, orientation), channels)


def from_array(array: Samples, channels: int) -> Samples:
    """Convert an array of samples to `channels` channels by the rules of `read_image`.

    Args:
        array: (H, W) or (H, W, C) with C = 1 grey, 2 grey and alpha, 3 colour, 4 colour and
            alpha; bool, uint8, uint16 (divided by 65535), or float (1 is white).
        channels: 1 or 3.

    Raises:
        DataError: another shape or dtype, no pixels, or NaN or infinity.
        ArgumentError: `channels` is neither 1 nor 3.
    """
    _check_channels(channels)
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in {1, 2, 3, 4}:
        raise DataError(
            f"a picture is an array (H, W) or (H, W, C) with 1 to 4 channels, not {array.shape}"
        )
    if 0 in array.shape:
        raise DataError(f"the picture has no pixels: its shape is {array.shape}")
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * np.uint8(255)
    elif array.dtype != np.uint8:
        array = _as_float(array)
    return _with_channels(array, channels)


def stack(pictures: list[Samples]) -> Samples:
    """Stack pictures (h, w, c) of one size to (n, h, w, c): uint8 if all are, else float32."""
    if any(picture.dtype != np.uint8 for picture in pictures):
        pictures = [as_unit_float(picture) for picture in pictures]
    return np.stack(pictures)


# ------------------------------------------------------------------------------ opening


class _Quiet:
    """Keeps Pillow's warnings from the user while any thread is inside.

    `warnings.catch_warnings` in each of several threads would restore the filters in the wrong
    order, so the first thread in sets the filter, and the last one out puts the old ones back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._saved: warnings.catch_warnings[None] | None = None

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._saved is None:
                self._saved = warnings.catch_warnings()
                self._saved.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")

    def __exit__(self, *exc: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0 and self._saved is not None:
                self._saved.__exit__(None, None, None)
                self._saved = None


_QUIET = _Quiet()


def _open(path: str | os.PathLike[str]) -> Image.Image:
    """Open the file and check what its head declares."""
    from PIL import Image, UnidentifiedImageError

    name = os.fspath(path)
    try:
        status = os.stat(path)  # noqa: PTH116  takes bytes and str alike
    except (OSError, ValueError) as error:
        raise DataError(f"{name}: the file cannot be read ({_why(error)})") from error
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{name}: this is no regular file")
    if status.st_size == 0:
        raise DataError(f"{name}: the file is empty")
    try:
        image = Image.open(path, formats=_FORMATS)
    except MemoryError:
        raise
    except UnidentifiedImageError as error:
        raise DataError(
            f"{name}: this is no picture that can be read ({', '.join(_FORMATS)})"
        ) from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{name}: the picture declares more than {MAX_PIXELS:,} pixels") from error
    except OSError as error:
        raise DataError(f"{name}: the file cannot be read ({_why(error)})") from error
    except Exception as error:  # a hostile file makes decoders raise anything
        raise DataError(f"{name}: the head of the picture is damaged ({_why(error)})") from error
    width, height = image.size
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        image.close()
        raise DataError(
            f"{name}: the picture declares {width} × {height} pixels; "
            f"1 to {MAX_PIXELS:,} are accepted"
        )
    return image


def _why(error: BaseException) -> str:
    """Return the error's text on one line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())


def _check_channels(channels: int) -> None:
    if channels not in {1, 3}:
        raise ArgumentError(f"channels is {channels!r}; pictures are read with 1 or 3")


# ------------------------------------------------------------------------------ samples


def _has_colour(image: Image.Image) -> bool:
    if image.mode == "P" and image.palette is not None:
        order, entries = image.palette.getdata()  # image.getpalette() would decode the pixels
        if order == "RGB" and len(entries) % 3 == 0:
            palette = np.frombuffer(bytes(entries), np.uint8).reshape(-1, 3)
            return bool((palette != palette[:, :1]).any())
    return image.mode not in {"1", "L", "LA", "La", "I", "F"} and not image.mode.startswith("I;")


def _samples(image: Image.Image) -> Samples:
    """Return (H, W, 1 to 4) samples of a loaded image, by its mode."""
    mode = image.mode
    if "transparency" in image.info and mode in {"1", "L", "RGB", "P"}:
        image = image.convert("LA" if mode in {"1", "L"} else "RGBA")
    elif mode in {"La", "PA", "RGBa"}:
        image = image.convert("LA" if mode == "La" else "RGBA")
    elif mode in {"P", "CMYK", "YCbCr", "LAB", "HSV", "RGBX"}:
        image = image.convert("RGB")
    array = np.asarray(image)
    if image.mode == "1":
        array = array.astype(np.uint8) * np.uint8(255)
    elif image.mode == "I" or image.mode.startswith("I;"):
        low, high = int(array.min()), int(array.max())
        if low < 0 or high > 65535:
            raise DataError(
                f"integer samples run from {low} to {high}; convert the picture to 8 or 16 bits"
            )
        array = _as_float(array.astype(np.uint16))
    elif image.mode == "F":
        array = _as_float(array)
    elif image.mode not in {"L", "LA", "RGB", "RGBA"}:
        raise DataError(f"pictures of Pillow's mode {mode} are not supported; convert it to RGB")
    return array if array.ndim == 3 else array[:, :, None]


def _as_float(array: Samples) -> NDArray[np.float32]:
    """Return float32 with 1 for white; uint16 is divided by 65535, floats stay as they are."""
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:
        return array.astype(np.float32) / np.float32(65535)
    if array.dtype.kind != "f":
        raise DataError(f"a picture has dtype uint8, uint16, float or bool, not {array.dtype}")
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, and is refused
        array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise DataError("the picture holds NaN or infinity")
    return array


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 (upright) to 8.

    Damaged EXIF data say nothing about the pixels, so such a picture counts as upright.
    Pillow turns TIFFs itself and forgets their tag, so it must be asked after loading.
    """
    try:
        value = image.getexif().get(0x0112, 1)
    except Exception:  # noqa: BLE001  damaged metadata make parsers raise anything
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _upright(samples: Samples, orientation: int) -> Samples:
    """Undo a camera's orientation (EXIF 2.32, tag 0x0112): first flips, then the transposition."""
    # orientation: 1 none, 2 ↔, 3 both, 4 ↕, 5 transpose, 6 quarter right, 7 transverse, 8 left
    if orientation in {3, 4, 6, 7}:
        samples = samples[::-1]
    if orientation in {2, 3, 7, 8}:
        samples = samples[:, ::-1]
    if orientation >= 5:
        samples = samples.transpose(1, 0, 2)
    return np.ascontiguousarray(samples)


def _with_channels(samples: Samples, channels: int) -> Samples:
    """Lay transparent pictures on white, then make colour grey or grey colour."""
    if samples.shape[2] in {2, 4}:
        samples = _on_white(samples[:, :, :-1], samples[:, :, -1:])
    if channels == 1 and samples.shape[2] == 3:
        samples = _luma(samples)
    elif channels == 3 and samples.shape[2] == 1:
        samples = np.repeat(samples, 3, axis=2)
    return np.ascontiguousarray(samples)


def _on_white(samples: Samples, alpha: Samples) -> Samples:
    # v = v·a + white·(1 − a)
    if samples.dtype == np.uint8:
        a = alpha.astype(np.uint16)
        # at most 255·255 + 127, so uint16 holds it
        return ((samples * a + 255 * (255 - a) + 127) // 255).astype(np.uint8)
    return samples * alpha + (np.float32(1) - alpha)


def _luma(samples: Samples) -> Samples:
    # ITU-R BT.601: Y = 0.299 R + 0.587 G + 0.114 B, in units of 1/65536 for bytes
    red, green, blue = samples[:, :, 0:1], samples[:, :, 1:2], samples[:, :, 2:3]
    if samples.dtype == np.uint8:
        total = red.astype(np.uint32) * 19595
        total += green.astype(np.uint32) * 38470
        total += blue.astype(np.uint32) * 7471
        return ((total + 32768) >> 16).astype(np.uint8)
    return np.float32(0.299) * red + np.float32(0.587) * green + np.float32(0.114) * blue
