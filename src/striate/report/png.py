"""Pictures in pages: PNG files made of arrays, as data addresses, and mosaics of many."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
GREY, COLOUR = 0, 2  # PNG colour types


def encode_png(picture: Bytes) -> bytes:
    """(h, w) or (h, w, 1) grey, (h, w, 3) colour, uint8 → a PNG file."""
    if picture.ndim == 3 and picture.shape[2] == 1:
        picture = picture[:, :, 0]
    h, w = picture.shape[:2]
    kind = GREY if picture.ndim == 2 else COLOUR
    # each row begins with its filter: 0, none
    rows = np.zeros((h, 1 + w * (1 if kind == GREY else 3)), np.uint8)
    rows[:, 1:] = picture.reshape(h, -1)
    head = struct.pack(">IIBBBBB", w, h, 8, kind, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(rows.tobytes(), 6)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, data) for name, data in parts)


def _chunk(name: bytes, data: bytes) -> bytes:
    check = zlib.crc32(name + data)
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", check)


def data_address(picture: Bytes) -> str:
    """The picture as an address that holds it, for `<img src=…>`."""
    return "data:image/png;base64," + base64.b64encode(encode_png(picture)).decode()


def as_bytes(samples: NDArray[Any]) -> Bytes:
    """uint8 as it is; floats, 0 black and 1 white, clipped and rounded to uint8."""
    if samples.dtype == np.uint8:
        return samples
    pictures: Bytes = np.rint(np.clip(samples, 0, 1) * 255).astype(np.uint8)
    return pictures


def shrunk(pictures: NDArray[Any], most: int) -> Bytes:
    """(n, h, w, c) samples whose longer side is at most `most`: means of k×k pixels, or all.

    What is left over at the right and below, fewer than k pixels, is cut off.
    """
    n, h, w, c = pictures.shape
    k = -(-max(h, w) // most)
    if k == 1 or min(h, w) < k:
        return as_bytes(pictures)
    rows, cols = h // k, w // k
    blocks = as_bytes(pictures)[:, : rows * k, : cols * k].reshape(n, rows, k, cols, k, c)
    means: Bytes = np.rint(blocks.mean(axis=(2, 4))).astype(np.uint8)
    return means


def mosaic(pictures: NDArray[Any], columns: int = 8, gap: int = 1) -> Bytes:
    """(n, h, w, c) samples side by side, `columns` a row, grey lines of `gap` pixels between."""
    n, h, w, c = pictures.shape
    columns = min(columns, n)
    rows = -(-n // columns)
    sheet = np.full((rows * (h + gap) - gap, columns * (w + gap) - gap, c), 128, np.uint8)
    for i, picture in enumerate(as_bytes(pictures)):
        y, x = i // columns * (h + gap), i % columns * (w + gap)
        sheet[y : y + h, x : x + w] = picture
    return sheet
