"""The safetensors format: named tensors and string metadata in one file, nothing executable.

Layout: an 8-byte little-endian header length, a JSON header, the tensors' bytes. The header maps
each name to `{"dtype", "shape", "data_offsets": [begin, end]}`, with offsets into the bytes after
the header, and `__metadata__` to a map from strings to strings. The tensors fill the rest of the
file with no hole and no overlap.
Format: https://huggingface.co/docs/safetensors (metadata parsing).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from striate.errors import DTypeError, FormatError
from striate.io.atomic import write_atomic

Arrays = dict[str, np.ndarray[Any, Any]]

HEADER_LIMIT = 100 * 1024 * 1024  # the format's own limit, in bytes
CHECKSUM = "striate.checksum"  # metadata key of our content checksum

_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",  # NumPy has no bfloat16: read as its 16 bits, then widened to float32
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "|u1",
    "BOOL": "|b1",
}
_NAMES = {np.dtype(code): name for name, code in _DTYPES.items() if name != "BF16"}


def write_safetensors(
    path: str | os.PathLike[str],
    arrays: Mapping[str, np.ndarray[Any, Any]],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write `arrays` and `metadata`, with a SHA-256 of both under `striate.checksum`.

    The file is whole or absent (see `write_atomic`). Raises DTypeError for a dtype that the
    format does not have, WriteError if the file cannot be written.
    """
    contiguous = {name: _little_endian(name, array) for name, array in arrays.items()}
    header: dict[str, Any] = {}
    strings = dict(metadata or {})
    strings[CHECKSUM] = content_checksum(contiguous, strings)
    header["__metadata__"] = strings
    begin = 0
    for name, array in contiguous.items():
        end = begin + array.nbytes
        header[name] = {
            "dtype": _NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [begin, end],
        }
        begin = end
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that every tensor of 8-byte numbers starts aligned
    write_atomic(path, _chunks(text, contiguous))


def _chunks(header: bytes, arrays: Arrays) -> Iterator[bytes | memoryview]:
    yield len(header).to_bytes(8, "little")
    yield header
    for array in arrays.values():
        yield array.tobytes()


def _little_endian(name: str, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    array = np.asarray(array)
    array = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(array.shape)
    if array.dtype not in _NAMES:
        raise DTypeError(f"tensor {name!r}: safetensors has no dtype {array.dtype}")
    return array


def content_checksum(arrays: Arrays, metadata: Mapping[str, str]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes, and over all other metadata."""
    digest = hashlib.sha256()
    others = {key: value for key, value in metadata.items() if key != CHECKSUM}
    digest.update(json.dumps(others, sort_keys=True).encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(json.dumps([name, array.dtype.str, list(array.shape)]).encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return f"sha256:{digest.hexdigest()}"


def read_safetensors(path: str | os.PathLike[str]) -> tuple[Arrays, dict[str, str]]:
    """Read a safetensors file of any origin.

    Returns: the tensors by name (bfloat16 widened to float32; arrays of the caller's own) and the
    metadata.

    Raises:
        FormatError: the file is truncated, damaged or of another kind; if Striate wrote it, also
            if any byte of it was altered. The message names file and reason.
        OSError: the file cannot be opened.
    """
    reading = Reading(path)
    # Copies, so that one small tensor does not keep the whole file in memory.
    copies = {name: array.copy() for name, array in reading.arrays().items()}
    reading.check()
    return copies, reading.metadata


class Reading:
    """A file whose tensors a thread reads and hashes while the caller does something else.

    Attributes:
        metadata: the strings of the header.
        shapes: those of the tensors, by name.

    Raises what `read_safetensors` raises, as soon as it is known.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(self._path.open("rb"))
            content, begun = _begin(file)
            header, body = _header(self._path, content)
            self.metadata: dict[str, str] = header.pop("__metadata__", {})
            strings = self.metadata.values() if isinstance(self.metadata, dict) else (None,)
            if not all(isinstance(v, str) for v in strings):
                raise FormatError(f"{path}: __metadata__ must map strings to strings")
            self._header, self._raw = header, _tensors(self._path, header, body)
            self.shapes = {name: array.shape for name, array in self._raw.items()}
            self._ours = any(key.startswith("striate.") for key in self.metadata)
            self._checksum: str | None = None
            self._problem: Exception | None = None
            self._read = threading.Event()
            # Reading and hashing let other threads run.
            self._thread = threading.Thread(target=self._work, args=(file, content[begun:]))
            self._thread.start()
            stack.pop_all()  # from here on the thread closes the file

    def _work(self, file: BinaryIO, rest: memoryview) -> None:
        try:
            with file:
                read = file.readinto(rest) if rest else 0  # type: ignore[attr-defined]
            if read < len(rest):
                self._problem = FormatError(f"{self._path}: truncated while it was read")
        except OSError as error:  # `arrays` raises it where it can be met
            self._problem = error
        finally:
            self._read.set()
        if self._ours and self._problem is None:
            self._checksum = content_checksum(self._raw, self.metadata)

    def arrays(self) -> Arrays:
        """The tensors by name, once they are read: views of one piece of memory, not yet checked.

        Call `check` before the numbers are used.
        """
        self._read.wait()
        if self._problem is not None:
            raise self._problem
        return {
            name: widen_bfloat16(array) if self._header[name]["dtype"] == "BF16" else array
            for name, array in self._raw.items()
        }

    def check(self) -> None:
        """Wait for the checksum. Raises FormatError if it does not fit."""
        self._thread.join()
        if self._problem is not None:
            raise self._problem
        if self._ours and self._checksum != self.metadata.get(CHECKSUM):
            raise FormatError(
                f"{self._path}: the content does not match its checksum; the file was altered"
            )


def _begin(file: BinaryIO) -> tuple[memoryview, int]:
    """Memory for the bytes of a file, and how many are read: those of the header at least.

    The memory is an array's: NumPy asks for large pages, which are quick to get. A pipe does not
    say how long it is, and is read to its end.
    """
    size = os.fstat(file.fileno()).st_size
    if size == 0:
        content = memoryview(file.read())
        return content, len(content)
    content = np.empty(size, np.uint8).data
    begun: int = file.readinto(content[:8])  # type: ignore[attr-defined]
    length = int.from_bytes(content[:8], "little")
    begun += file.readinto(content[8 : 8 + length])  # type: ignore[attr-defined]
    return content[: size if begun >= 8 else begun], begun


def _header(path: Path, content: memoryview) -> tuple[dict[str, Any], memoryview]:
    if len(content) < 8:
        raise FormatError(f"{path}: {len(content)} bytes are too few for a safetensors file")
    length = int.from_bytes(content[:8], "little")
    if length > HEADER_LIMIT:
        raise FormatError(f"{path}: not a safetensors file (it would have a {length}-byte header)")
    if length > len(content) - 8:
        raise FormatError(
            f"{path}: truncated: the header should have {length} bytes, {len(content) - 8} are left"
        )
    try:
        header = json.loads(bytes(content[8 : 8 + length]).decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: not a safetensors file (header: {error})") from error
    if not isinstance(header, dict):
        raise FormatError(f"{path}: not a safetensors file (the header is no JSON object)")
    return header, content[8 + length :]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name occurs twice")
    return result


def _tensors(path: Path, header: dict[str, Any], body: memoryview) -> Arrays:
    """Views of the tensors' bytes."""
    entries = [(*_entry(path, name, info), name) for name, info in header.items()]
    arrays: Arrays = {}
    position = 0
    for begin, end, dtype, shape, name in sorted(entries, key=lambda entry: entry[:2]):
        if begin != position:
            raise FormatError(f"{path}: tensor {name!r} begins at {begin} instead of {position}")
        if end > len(body):
            raise FormatError(
                f"{path}: truncated: tensor {name!r} ends at {end}, the data at {len(body)}"
            )
        try:
            arrays[name] = np.frombuffer(body[begin:end], dtype).reshape(shape)
        except ValueError as error:  # more axes, or a longer axis, than NumPy has
            raise FormatError(f"{path}: tensor {name!r}: {error}") from error
        position = end
    if position != len(body):
        raise FormatError(f"{path}: {len(body) - position} bytes belong to no tensor")
    return {name: arrays[name] for name in header}


def _entry(path: Path, name: str, info: object) -> tuple[int, int, np.dtype[Any], tuple[int, ...]]:
    """Check one tensor's record: (begin, end, dtype, shape)."""

    def natural(values: object, count: int | None = None) -> bool:
        return (
            isinstance(values, list)
            and (count is None or len(values) == count)
            and all(type(value) is int and value >= 0 for value in values)
        )

    if not isinstance(info, dict) or set(info) != {"dtype", "shape", "data_offsets"}:
        raise FormatError(f"{path}: tensor {name!r} has no dtype, shape and data_offsets")
    if info["dtype"] not in _DTYPES:
        raise FormatError(f"{path}: tensor {name!r} has the unknown dtype {info['dtype']!r}")
    if not natural(info["shape"]) or not natural(info["data_offsets"], 2):
        raise FormatError(f"{path}: tensor {name!r} has a bad shape or bad offsets")
    dtype = np.dtype(_DTYPES[info["dtype"]])
    begin, end = info["data_offsets"]
    shape = tuple(info["shape"])
    if end - begin != math.prod(shape) * dtype.itemsize:
        raise FormatError(
            f"{path}: tensor {name!r} of shape {shape} cannot lie in {end - begin} bytes"
        )
    return begin, end, dtype, shape


def widen_bfloat16(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The upper 16 bits of a float32 are a bfloat16."""
    return (array.astype("<u4") << 16).view("<f4")
