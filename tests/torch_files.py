"""What `torch.save` writes, written without PyTorch: both containers around a hand-made pickle."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

MAGIC = 0x1950A86A20F9469CFC6C

STORAGES = {
    "f8": "DoubleStorage",
    "f4": "FloatStorage",
    "f2": "HalfStorage",
    "i8": "LongStorage",
    "i4": "IntStorage",
    "i2": "ShortStorage",
    "i1": "CharStorage",
    "u1": "ByteStorage",
    "b1": "BoolStorage",
}


class Global(NamedTuple):
    """A class or function that a pickle names."""

    module: str
    name: str


class Call(NamedTuple):
    """A call that a pickle asks for."""

    function: Any
    arguments: tuple[Any, ...]


class Storage(NamedTuple):
    """A persistent id."""

    kind: str
    key: str
    count: int
    legacy: bool = False


class Tensor(NamedTuple):
    """A view of a storage; sizes and strides in elements."""

    key: str
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def opcodes(value: Any) -> bytes:
    """The opcodes (protocol 2) that push a value."""
    if isinstance(value, Global):
        return f"c{value.module}\n{value.name}\n".encode()
    if isinstance(value, Call):
        return opcodes(value.function) + opcodes(value.arguments) + b"R"
    if isinstance(value, Storage):
        identity: tuple[Any, ...] = ("storage", Global("torch", value.kind), value.key, "cpu")
        return opcodes((*identity, value.count, *((None,) if value.legacy else ()))) + b"Q"
    if isinstance(value, tuple):
        return b"(" + b"".join(map(opcodes, value)) + b"t"
    if isinstance(value, list):
        return b"](" + b"".join(map(opcodes, value)) + b"e"
    if isinstance(value, OrderedDict):
        inner = b"".join(opcodes(k) + opcodes(v) for k, v in value.items())
        metadata = opcodes({"": {"version": 1}})
        empty = opcodes(Call(Global("collections", "OrderedDict"), ()))
        return empty + b"(" + inner + b"u}" + opcodes("_metadata") + metadata + b"sb"
    if isinstance(value, dict):
        return b"}(" + b"".join(opcodes(k) + opcodes(v) for k, v in value.items()) + b"u"
    return pickle.dumps(value, 2)[2:-1]


def complete(value: Any) -> bytes:
    """A whole pickle."""
    return b"\x80\x02" + opcodes(value) + b"."


class Writer:
    """Collects storages and makes files of them."""

    def __init__(self, legacy: bool = False) -> None:
        self.legacy = legacy
        self.data: dict[str, bytes] = {}
        self.storages: dict[str, Storage] = {}

    def storage(self, array: np.ndarray, kind: str | None = None) -> Storage:
        """Keep the elements of an array; `kind` only where NumPy has no such dtype."""
        key = str(len(self.data))
        self.data[key] = np.ascontiguousarray(array).tobytes()
        kind = kind or STORAGES[array.dtype.str[1:]]
        self.storages[key] = Storage(kind, key, array.size, self.legacy)
        return self.storages[key]

    def tensor(self, array: np.ndarray, kind: str | None = None) -> Call:
        """A tensor with a storage of its own."""
        strides = tuple(int(np.prod(array.shape[i + 1 :])) for i in range(array.ndim))
        return self.view(self.storage(array, kind), 0, array.shape, strides)

    def view(self, storage: Any, offset: int, size: Any, stride: Any) -> Call:
        """Any view of a storage."""
        hooks = Call(Global("collections", "OrderedDict"), ())
        arguments = (storage, offset, tuple(size), tuple(stride), False, hooks)
        return Call(Global("torch._utils", "_rebuild_tensor_v2"), arguments)

    def state(self, arrays: dict[str, np.ndarray]) -> OrderedDict[str, Any]:
        """A state dict."""
        return OrderedDict((name, self.tensor(array)) for name, array in arrays.items())

    def zip(self, path: Path, value: Any, **entries: bytes) -> Path:
        """The format since 1.6."""
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(
                "archive/data.pkl", value if isinstance(value, bytes) else complete(value)
            )
            archive.writestr("archive/byteorder", entries.pop("byteorder", b"little"))
            for key, data in {**self.data, **entries}.items():
                archive.writestr(f"archive/data/{key}", data)
            archive.writestr("archive/version", b"3\n")
        return path

    def stream(self, path: Path, value: Any) -> Path:
        """The format before 1.6."""
        out = io.BytesIO()
        facts = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
        for part in (MAGIC, 1001, facts, value, sorted(self.data)):
            out.write(part if isinstance(part, bytes) else complete(part))
        for key in sorted(self.data):
            out.write(struct.pack("<q", self.storages[key].count) + self.data[key])
        path.write_bytes(out.getvalue())
        return path

    def write(self, path: Path, value: Any) -> Path:
        """The format of this writer."""
        return self.stream(path, value) if self.legacy else self.zip(path, value)
