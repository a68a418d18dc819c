"""PyTorch's files of weights (`.pth`, `.pt`), read without PyTorch and without running anything.

`torch.save` writes one of two containers around a pickle in which a tensor is a view of a storage:

* since 1.6 a zip of stored entries: `NAME/data.pkl`, `NAME/data/KEY` (the bytes of a storage),
  `NAME/byteorder`;
* before, one stream: pickles of a magic number, a version, facts about the machine, the object, the
  list of storage keys; then for each key the count of elements (8 bytes) and the elements.

The pickle runs in `striate.io.pickles`, which calls only what `_MAKERS` lists: nothing of the file
is ever executed. Storages are read once, and tensors are views of them, so that no file can ask
for more memory than it has bytes (twice that for bfloat16).
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from striate.errors import FormatError
from striate.io.pickles import Name, Unpickler
from striate.io.safetensors import widen_bfloat16

Array = np.ndarray[Any, Any]

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
PICKLE_LIMIT = 32 * 1024 * 1024  # bytes; a net of ten thousand tensors needs two million

# PyTorch's dtype → NumPy's; bfloat16 is read as its 16 bits.
_DTYPES = {
    "float64": "f8",
    "float32": "f4",
    "float16": "f2",
    "bfloat16": "u2",
    "int64": "i8",
    "int32": "i4",
    "int16": "i2",
    "int8": "i1",
    "uint64": "u8",
    "uint32": "u4",
    "uint16": "u2",
    "uint8": "u1",
    "bool": "b1",
    "untyped": "u1",
}
_STORAGES = {
    "torch.DoubleStorage": "float64",
    "torch.FloatStorage": "float32",
    "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": "bfloat16",
    "torch.LongStorage": "int64",
    "torch.IntStorage": "int32",
    "torch.ShortStorage": "int16",
    "torch.CharStorage": "int8",
    "torch.ByteStorage": "uint8",
    "torch.BoolStorage": "bool",
    "torch.storage.UntypedStorage": "untyped",
    "torch.UntypedStorage": "untyped",
}
_NAMES = frozenset(_STORAGES) | {f"torch.{name}" for name in _DTYPES if name != "untyped"}

Order = Literal["<", ">"]

# dtype, key and count of elements → the elements in the machine's byte order, or None: only asking.
Storages = Callable[[str, str, int], "Array | None"]


class _Storage(NamedTuple):
    """Elements that tensors are views of; `dtype` is PyTorch's name, or "untyped" for bytes."""

    dtype: str
    length: int
    elements: Array | None


def read_pth(path: str | os.PathLike[str]) -> Any:
    """What `torch.save` wrote: dictionaries, lists and numbers, with NumPy arrays for tensors.

    bfloat16 is widened to float32; every other dtype stays. Arrays that share a storage share
    memory, as in PyTorch.

    Raises:
        FormatError: the file is damaged, of another kind, or asks for anything but data, such as
            a whole module (`torch.save(model)`); the message names file and reason.
        OSError: it cannot be opened.
    """
    path = Path(path)
    content = path.read_bytes()
    if content.startswith(b"PK\x03\x04"):
        return _read_zip(path, content)
    if content[257:262] == b"ustar":
        raise FormatError(
            f"{path}: a tar file of PyTorch before 0.2; load and save it with a newer PyTorch"
        )
    return _read_legacy(path, content)


# ------------------------------------------------------------------ the two containers


@contextlib.contextmanager
def zip_errors(what: str) -> Iterator[None]:
    """Inside, all that zipfile raises for a damaged archive becomes a FormatError."""
    try:
        yield
    except FormatError:
        raise
    except (
        zipfile.BadZipFile,
        EOFError,
        IndexError,
        NotImplementedError,
        OSError,
        OverflowError,
        RuntimeError,
        ValueError,
        struct.error,
    ) as error:
        raise FormatError(f"{what}damaged: {error!r:.200}") from error


def _read_zip(path: Path, content: bytes) -> Any:
    with zip_errors(f"{path}: "), zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = _entries(path, archive, len(content))
        root = _root(path, entries)
        order = _byte_order(path, archive, entries.get(f"{root}/byteorder"))
        if entries[f"{root}/data.pkl"].file_size > PICKLE_LIMIT:
            raise FormatError(f"{path}: refused: {root}/data.pkl has over {PICKLE_LIMIT} bytes")

        def storage(dtype: str, key: str, count: int) -> Array | None:
            entry = entries.get(f"{root}/data/{key}")
            if entry is None:
                raise FormatError(f"{path}: there is no storage {root}/data/{key}")
            data = archive.read(entry)
            return _elements(path, key, data, dtype, order, count)

        pickle = archive.read(entries[f"{root}/data.pkl"])
        return _machine(path, pickle, storage).load()


def _entries(path: Path, archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """The entries by name. Nothing may be compressed, so they are no larger than the file."""
    entries: dict[str, zipfile.ZipInfo] = {}
    total = 0
    for entry in archive.infolist():
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise FormatError(f"{path}: refused: {entry.filename} is compressed; torch.save is not")
        if entry.filename in entries:
            raise FormatError(f"{path}: refused: {entry.filename} is in the file twice")
        entries[entry.filename] = entry
        total += entry.file_size
    if total > size:
        raise FormatError(f"{path}: refused: its entries would have {total} bytes, it has {size}")
    return entries


def _root(path: Path, entries: Mapping[str, zipfile.ZipInfo]) -> str:
    """The folder that all entries lie in."""
    roots = [name.removesuffix("/data.pkl") for name in entries if name.endswith("/data.pkl")]
    if len(roots) != 1 or "/" in roots[0]:
        raise FormatError(f"{path}: a zip file, but none that torch.save wrote (no data.pkl)")
    return roots[0]


def _byte_order(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo | None) -> Order:
    if entry is None:
        return "<"  # files before PyTorch 2.1 do not say
    found = archive.read(entry) if entry.file_size < 16 else b""
    if found not in {b"little", b"big"}:
        raise FormatError(f"{path}: its byteorder is {found!r}; it must be little or big")
    return "<" if found == b"little" else ">"


def _read_legacy(path: Path, content: bytes) -> Any:
    """The elements come after the pickle that mentions them, so that is run twice."""
    asked: dict[str, tuple[str, int]] = {}

    def note(dtype: str, key: str, count: int) -> None:
        asked[key] = dtype, count

    machine = _machine(path, content, note)
    try:
        magic = machine.load()
    except FormatError as error:
        raise FormatError(
            f"{path}: not a file that torch.save wrote, or hostile: {error}"
        ) from error
    if magic != LEGACY_MAGIC:
        raise FormatError(f"{path}: a pickle, but none that torch.save wrote")
    version, facts = machine.load(), machine.load()
    if version != 1001 or not isinstance(facts, dict):
        raise FormatError(f"{path}: damaged: its version is {version!r:.80}, expected 1001")
    order: Order = "<" if facts.get("little_endian", True) else ">"
    start = machine.position
    machine.load()
    keys = machine.load()
    if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(asked):
        raise FormatError(f"{path}: damaged: the list of storages does not fit the tensors")
    data: dict[str, Array] = {}
    for key in map(str, keys):
        dtype, count = asked[key]
        stored = machine.number("<q")
        if stored != count:
            raise FormatError(f"{path}: storage {key} has {stored} elements; {count} are expected")
        size = count * np.dtype(_DTYPES[dtype]).itemsize
        data[key] = _elements(path, key, machine.take(size), dtype, order, count)
    machine = _machine(path, content, lambda _, key, __: data[key])
    machine.position = start
    return machine.load()


def _elements(
    path: Path, key: str, data: bytes | memoryview, dtype: str, order: Order, count: int
) -> Array:
    """The elements of a storage, as a new array; bfloat16 as float32."""
    kind = np.dtype(_DTYPES[dtype])
    if len(data) != count * kind.itemsize:
        raise FormatError(
            f"{path}: storage {key} has {len(data)} bytes; {count} elements of {dtype} need "
            f"{count * kind.itemsize}"
        )
    if dtype == "untyped" and order == ">":
        raise FormatError(f"{path}: storage {key} has no dtype, and its bytes are big-endian")
    elements = np.frombuffer(data, kind.newbyteorder(order)).astype(kind)
    return widen_bfloat16(elements) if dtype == "bfloat16" else elements


# ------------------------------------------------------------------ what a pickle may call


def _machine(path: Path, content: bytes, storages: Storages) -> Unpickler:
    """A machine for PyTorch's pickles, which gets the elements of a storage from `storages`."""
    known: dict[str, _Storage] = {}

    def storage(found: Any) -> _Storage:
        """A persistent id: ("storage", type, key, place, count[, view])."""
        if not isinstance(found, tuple) or len(found) not in {5, 6} or found[0] != "storage":
            kind = found[0] if isinstance(found, tuple) and found else found
            raise FormatError(
                f"{path}: refused: {kind!r:.80} is no storage of numbers; of a whole module save "
                "the weights only: torch.save(model.state_dict(), path)"
            )
        _, kind, key, _, count = found[:5]
        dtype = _STORAGES.get(str(kind)) if isinstance(kind, Name) else None
        if dtype is None or not isinstance(key, str) or not _natural((count,)):
            raise FormatError(f"{path}: damaged: {found!r:.120} is no storage")
        if len(found) == 6 and found[5] is not None:
            raise FormatError(f"{path}: storage {key} is a view of another; save it with torch>=1")
        if key not in known:
            known[key] = _Storage(dtype, count, storages(dtype, key, count))
        if known[key][:2] != (dtype, count):
            raise FormatError(f"{path}: damaged: storage {key} is asked for in two ways")
        return known[key]

    return Unpickler(content, _MAKERS, _NAMES, storage, str(path))


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Array | None:
    """torch._utils._rebuild_tensor_v2: a view of a storage; None while only asking.

    Element (i, j, …) of it is element offset + i·stride[0] + j·stride[1] + … of the storage.
    """
    if not isinstance(storage, _Storage):
        raise TypeError("a tensor without a storage")
    if not _natural((offset,)) or not _natural(size) or not _natural(stride):
        raise ValueError(f"a tensor of offset {offset!r:.40}, size {size!r:.80}")
    if len(size) != len(stride):
        raise ValueError(f"a tensor of size {size} and strides {stride}")
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    if math.prod(size) and last >= storage.length:
        raise ValueError(
            f"a tensor of size {size}, strides {stride} and offset {offset} leaves its storage of "
            f"{storage.length} elements"
        )
    if storage.elements is None:
        return None
    if not math.prod(size):
        return np.zeros(size, storage.elements.dtype)
    elements = storage.elements[offset:]
    strides = [s * elements.itemsize for s in stride]
    repeated = math.prod(size) > storage.length
    return np.lib.stride_tricks.as_strided(elements, size, strides, writeable=not repeated)


def _tensor_of_bytes(
    storage: Any, offset: Any, size: Any, stride: Any, _: Any, __: Any, dtype: Any, *___: Any
) -> Array | None:
    """torch._utils._rebuild_tensor_v3: the storage has no dtype, the tensor has."""
    name = dtype.name if isinstance(dtype, Name) else ""
    # bfloat16 has a storage type of its own; here widening would copy once for each tensor
    known = name in _DTYPES and name not in {"bfloat16", "untyped"}
    if not isinstance(storage, _Storage) or storage.dtype != "untyped" or not known:
        raise TypeError(f"a tensor without a storage of bytes, or of dtype {name!r:.40}")
    kind = np.dtype(_DTYPES[name])
    elements = storage.elements
    if elements is not None:
        elements = elements[: storage.length // kind.itemsize * kind.itemsize].view(kind)
    return _tensor(_Storage(name, storage.length // kind.itemsize, elements), offset, size, stride)


def _natural(values: Any) -> bool:
    return (
        isinstance(values, tuple)
        and len(values) <= 32
        and all(type(value) is int and 0 <= value < 2**62 for value in values)
    )


def _dictionary(pairs: Any = ()) -> dict[Any, Any]:
    if isinstance(pairs, (list, tuple)):
        for pair in pairs:
            if not isinstance(pair, (list, tuple)) or not isinstance(pair[0], (str, int)):
                raise TypeError("a dictionary whose keys are no names")
    elif not isinstance(pairs, dict):
        raise TypeError("a dictionary of something else than pairs")
    return dict(pairs)


def _set(values: Any = ()) -> set[Any]:
    if not isinstance(values, list) or not all(isinstance(v, (str, int, float)) for v in values):
        raise TypeError("a set of something else than names and numbers")
    return set(values)


def _first(value: Any, *_: Any) -> Any:
    return value


_MAKERS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _dictionary,
    "collections.Counter": _dictionary,
    "builtins.set": _set,
    "__builtin__.set": _set,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_bytes,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch.Size": _first,
    "torch.device": _first,
}
