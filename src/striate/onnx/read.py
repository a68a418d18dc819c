"""From an ONNX file to small records of our own: the only user of the `onnx` package's protobuf.

Nothing is computed here. Every tensor becomes a NumPy array in its own dtype (bfloat16, float8 and
4-bit integers by way of `ml_dtypes`, which `onnx` brings along).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from striate.errors import FormatError, UnsupportedError

Array: TypeAlias = np.ndarray[Any, Any]

OPSETS = range(6, 29)
IR_VERSIONS = range(3, 15)
INSTALL = "reading ONNX files needs the onnx package: pip install 'striate[onnx]'"


@dataclass(frozen=True)
class Node:
    """One use of an operator. An input or output that is left out has the name ""."""

    op: str
    domain: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any] = field(hash=False, compare=False)


@dataclass(frozen=True)
class Port:
    """An input or output of a graph as it is declared.

    Attributes:
        name: of the value.
        dtype: of its elements; None if it is no tensor.
        shape: sizes, names of free sizes, None for sizes that are not even named; or None.
    """

    name: str
    dtype: np.dtype[Any] | None
    shape: tuple[int | str | None, ...] | None


@dataclass(frozen=True)
class Graph:
    """A graph with its tensors; of a subgraph (the body of an If or Loop) `opset` is the whole's.

    Attributes:
        name: of the graph.
        nodes: in an order in which they can run.
        initialisers: name → contents.
        inputs: as declared, also those that are initialisers, which are then defaults.
        outputs: as declared.
        opset: domain → version; "" is the domain of the standard operators.
        metadata: what the file says about itself: key → text.
    """

    name: str
    nodes: tuple[Node, ...]
    initialisers: dict[str, Array] = field(hash=False, compare=False)
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    opset: dict[str, int] = field(hash=False, compare=False)
    metadata: dict[str, str] = field(default_factory=dict, hash=False, compare=False)


def read(source: str | os.PathLike[str] | bytes) -> Graph:
    """The graph of a file, or of its bytes (which cannot have data in further files).

    Raises:
        FormatError: it is damaged or no ONNX model; the message names the file.
        UnsupportedError: it is of an IR or opset version that is not known here, or `onnx` is not
            installed.
        OSError: the file cannot be opened.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise UnsupportedError(INSTALL) from error
    path = None if isinstance(source, bytes) else Path(source)
    name = "ONNX model" if path is None else str(path)
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        raise FormatError(f"{name}: not an ONNX model, or damaged ({error})") from None
    return convert(model, name, None if path is None else path.parent)


def convert(model: Any, name: str = "ONNX model", folder: Path | None = None) -> Graph:
    """The graph of a `ModelProto`; `name` stands in messages, further files lie in `folder`.

    Raises FormatError and UnsupportedError as `read` does.
    """
    from onnx import inliner

    if not model.HasField("graph") or not model.graph.output:
        raise FormatError(f"{name}: not an ONNX model: it holds no graph")
    opset = {_domain(entry.domain): int(entry.version) for entry in model.opset_import}
    _check_versions(name, int(model.ir_version), opset)
    if model.functions:
        model = inliner.inline_local_functions(model)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    return _Reader(name, folder, opset).graph(model.graph, metadata)


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name


def _check_versions(name: str, ir: int, opset: dict[str, int]) -> None:
    if ir not in IR_VERSIONS:
        raise UnsupportedError(
            f"{name}: IR version {ir}; versions {IR_VERSIONS[0]} to {IR_VERSIONS[-1]} are "
            "supported: export it with another release of onnx"
        )
    version = opset.get("")
    if version is not None and version not in OPSETS:
        raise UnsupportedError(
            f"{name}: opset {version}; versions {OPSETS[0]} to {OPSETS[-1]} are supported: export "
            "it again, or use onnx.version_converter.convert_version(model, 17)"
        )


@dataclass(frozen=True)
class _Reader:
    """What every part of a file needs to be read."""

    file: str
    folder: Path | None
    opset: dict[str, int]

    def graph(self, graph: Any, metadata: dict[str, str] | None = None) -> Graph:
        """A `GraphProto`."""
        if graph.sparse_initializer:
            raise UnsupportedError(f"{self.file}: sparse initialisers are not supported")
        return Graph(
            graph.name,
            tuple(self._nodes(graph)),
            {tensor.name: self.tensor(tensor) for tensor in graph.initializer},
            tuple(_port(value) for value in graph.input),
            tuple(_port(value) for value in graph.output),
            self.opset,
            metadata or {},
        )

    def _nodes(self, graph: Any) -> Iterator[Node]:
        """The nodes, each under a name of its own, by which layers and errors call it."""
        taken: set[str] = set()
        for node in graph.node:
            first = next((output for output in node.output if output), "")
            name = base = node.name or f"{node.op_type}({first})"
            count = 1
            while name in taken:
                count += 1
                name = f"{base}#{count}"
            taken.add(name)
            attributes = {a.name: self._attribute(a) for a in node.attribute}
            inputs, outputs = tuple(node.input), tuple(node.output)
            yield Node(node.op_type, _domain(node.domain), name, inputs, outputs, attributes)

    def _attribute(self, attribute: Any) -> Any:
        """A plain number, text, array, graph, or a tuple of those."""
        from onnx import AttributeProto, helper

        value = helper.get_attribute_value(attribute)
        kind = attribute.type
        if kind == AttributeProto.STRING:
            return value.decode("utf-8", "replace")
        if kind == AttributeProto.STRINGS:
            return tuple(text.decode("utf-8", "replace") for text in value)
        if kind == AttributeProto.TENSOR:
            return self.tensor(value)
        if kind == AttributeProto.GRAPH:
            return self.graph(value)
        if kind == AttributeProto.GRAPHS:
            return tuple(self.graph(graph) for graph in value)
        if kind == AttributeProto.TENSORS:
            return tuple(self.tensor(tensor) for tensor in value)
        return tuple(value) if isinstance(value, list) else value

    def tensor(self, tensor: Any) -> Array:
        """A `TensorProto` as an array; raises FormatError if it is damaged."""
        from onnx import external_data_helper, numpy_helper
        from onnx.checker import ValidationError

        external = external_data_helper.uses_external_data(tensor)
        if external and self.folder is None:
            raise FormatError(
                f"{self.file}: tensor {tensor.name!r} lies in a file of its own; give the path of "
                "the model, not its bytes"
            )
        try:
            return np.asarray(numpy_helper.to_array(tensor, str(self.folder or "")))
        except (ValidationError, ValueError, TypeError, KeyError, OSError) as error:
            where = "in a file of its own " if external else ""
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise FormatError(
                f"{self.file}: tensor {tensor.name!r} {where}cannot be read: {reason}"
            ) from error


def _port(value: Any) -> Port:
    """A `ValueInfoProto`."""
    from onnx import helper

    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type") or not tensor.elem_type:
        return Port(value.name, None, None)
    shape = None
    if tensor.HasField("shape"):
        shape = tuple(
            int(d.dim_value) if d.HasField("dim_value") else (d.dim_param or None)
            for d in tensor.shape.dim
        )
    return Port(value.name, np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type)), shape)
