"""Model files: weights, architecture, class names and preprocessing in one safetensors file.

Metadata, all strings: `striate.format` ("model/1"), `striate.arch` (JSON: name and arguments for
`striate.models.create`, or null), `striate.meta` (JSON: whatever the caller gave, such as
`classes` and `recipe`), `striate.checksum`. Nothing in the file is ever executed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from striate.errors import ArgumentError, DTypeError, FormatError, ShapeError
from striate.io.safetensors import Reading, write_safetensors

if TYPE_CHECKING:
    from striate.nn.module import Module

FORMAT = "model/1"


def save(net: Module, path: str | os.PathLike[str], **meta: Any) -> None:
    """Write a model file; it is whole or absent, and an older one stays until then.

    Args:
        net: any module. One that `models.create` made can be read back by `load(path)` alone; for
            any other the reader passes the module (`load(path, net=MyNet())`).
        path: usually `….safetensors`.
        meta: JSON values to keep with the weights: `classes` (list of names), `recipe` (the
            preprocessing, as a dictionary) and whatever else; what `load` gave is kept unless it
            is given anew.

    Raises: ArgumentError for a value that JSON cannot hold; WriteError if the file cannot be
    written.
    """
    strings = {
        "striate.format": FORMAT,
        "striate.arch": _json("arch", net.arch),
        "striate.meta": _json("meta", {**net.__dict__.get("meta", {}), **meta}),
    }
    write_safetensors(path, net.state_dict(), strings)


def load(path: str | os.PathLike[str], net: Module | None = None) -> Module:
    """Read a model file.

    Args:
        path: a file that `save` wrote.
        net: the module to fill; default: one made by the architecture that the file names.

    Returns: the module in evaluation mode, with the attributes `.classes` (list of names or
    None), `.recipe` (dictionary or None) and `.meta` (everything that `save` was given).

    Raises:
        FormatError: the file is truncated, altered or of another kind, or its tensors do not fit
            the net; the message names file and reason.
        OSError: it cannot be opened.
    """
    reading = Reading(path)
    strings = reading.metadata
    check_format(path, strings, FORMAT, "a Striate model")
    meta = parse_object(path, strings, "striate.meta")
    if net is None:
        net = _build(path, _arch(path, strings), reading.shapes)
    reading.check()
    try:
        net.load_state_dict(reading.arrays())
    except (ArgumentError, ShapeError, DTypeError) as error:
        raise FormatError(f"{path}: {error}") from error
    attributes = {"meta": meta, "classes": meta.get("classes"), "recipe": meta.get("recipe")}
    for name, value in attributes.items():
        setattr(net, name, value)
    return net.eval()


def _json(name: str, value: object) -> str:
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"{name} of a model file must be JSON values: {error}") from error


def check_format(
    path: str | os.PathLike[str], strings: Mapping[str, str], expected: str, kind: str
) -> None:
    """Raise FormatError unless the metadata says that the file is of the `expected` format."""
    found = strings.get("striate.format")
    if found == expected:
        return
    if found is None:
        raise FormatError(
            f"{path}: a safetensors file, but not {kind} (no 'striate.format' in its metadata)"
        )
    raise FormatError(f"{path}: not {kind}: its format is {found!r}, expected {expected!r}")


def parse_object(
    path: str | os.PathLike[str], strings: Mapping[str, str], key: str
) -> dict[str, Any]:
    """The JSON object under `key`. Raises FormatError if it is none."""
    try:
        value = json.loads(strings.get(key, ""))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: {key} in the metadata is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise FormatError(f"{path}: {key} in the metadata must be a JSON object")
    return value


def _arch(path: str | os.PathLike[str], strings: Mapping[str, str]) -> dict[str, Any]:
    if strings.get("striate.arch") == "null":
        raise FormatError(
            f"{path}: holds the weights of a net that models.create did not make; pass the net: "
            "load(path, net=…)"
        )
    arch = parse_object(path, strings, "striate.arch")
    arguments = arch.get("arguments")
    if not isinstance(arch.get("name"), str) or not isinstance(arguments, dict):
        raise FormatError(f"{path}: striate.arch must have a name and arguments")
    return arch


def _build(
    path: str | os.PathLike[str], arch: dict[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> Module:
    """The net that the file describes, its weights still zero."""
    # Imported while the file is read.
    from striate import models
    from striate.nn import init

    # A hostile file may ask for a net of any size: no argument may exceed what its tensors have.
    largest = max((size for shape in shapes.values() for size in shape), default=0)
    for name, value in arch["arguments"].items():
        if isinstance(value, int) and value > max(largest, 1024):
            raise FormatError(f"{path}: {name}={value} does not fit the tensors in the file")
    try:
        with init.skipped():
            return models.create(arch["name"], **arch["arguments"])
    except (ArgumentError, TypeError, MemoryError) as error:
        raise FormatError(f"{path}: {error}") from error
