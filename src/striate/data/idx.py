"""The idx format of the MNIST family: a magic number, sizes, then bytes."""

from __future__ import annotations

import gzip
import lzma
import math
import os
import struct
import zlib
from pathlib import Path
from typing import IO, cast

import numpy as np
from numpy.typing import NDArray

from striate.errors import DataError, FormatError

_LIMIT = 1 << 31  # bytes that a file may declare


def read_idx(path: str | os.PathLike[str], axes: int) -> NDArray[np.uint8]:
    """Read an idx file of unsigned bytes; one that ends in `.gz` or `.xz` is unpacked.

    Layout (all integers big-endian, 32 bits): 0, 0, 8 (unsigned byte), number of axes in one
    byte each; the size of each axis; the bytes in row-major order.

    Args:
        path: the file.
        axes: how many axes it must have: 1 for labels, 3 for pictures.

    Raises:
        FormatError: the file is of another kind, shorter or longer than it declares, or its
            packing is damaged.
        DataError: the file is missing or cannot be read.
    """
    name = os.fspath(path)
    try:
        with _open(path) as stream:
            return _parse(stream, name, axes)
    except (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error) as error:
        raise FormatError(f"{name}: the file is damaged or cut off ({error})") from error
    except OSError as error:
        raise DataError(f"{name}: the file cannot be read ({error.strerror or error})") from error


def write_idx(array: NDArray[np.uint8]) -> bytes:
    """Return the idx file, not packed, of an array of unsigned bytes."""
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return head + np.ascontiguousarray(array, dtype=np.uint8).tobytes()


def _open(path: str | os.PathLike[str]) -> IO[bytes]:
    suffix = Path(path).suffix
    if suffix == ".gz":
        return cast("IO[bytes]", gzip.open(path, "rb"))
    if suffix == ".xz":
        return cast("IO[bytes]", lzma.open(path, "rb"))
    return Path(path).open("rb")


def _parse(stream: IO[bytes], name: str, axes: int) -> NDArray[np.uint8]:
    magic, expected = stream.read(4), bytes((0, 0, 8, axes))
    if magic != expected:
        raise FormatError(
            f"{name}: the file begins with {magic.hex(' ') or 'nothing'}; an idx file of bytes "
            f"with {axes} axes begins with {expected.hex(' ')}"
        )
    sizes = stream.read(4 * axes)
    if len(sizes) != 4 * axes:
        raise FormatError(f"{name}: the file ends within its head")
    shape = struct.unpack(f">{axes}I", sizes)
    count = math.prod(shape)
    if count > _LIMIT:
        raise FormatError(f"{name}: the file declares {shape}, more than {_LIMIT:,} bytes")
    data = stream.read(count)
    if len(data) != count:
        raise FormatError(f"{name}: the file declares {shape} but holds {len(data):,} bytes only")
    if stream.read(1):
        raise FormatError(f"{name}: the file declares {shape} but more bytes follow")
    return np.frombuffer(data, dtype=np.uint8).reshape(shape)
