"""What an exported graph is put together with: nodes, initialisers, names, free sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from striate.graph import Param, Value
from striate.graph.symbol import Node
from striate.graph.trace import Composite
from striate.graph.value import Array


class FixedSizeError(Exception):
    """A value cannot be written for images or batches of any size. Never leaves this package."""


class Piece(NamedTuple):
    """How a value is written: what it reads, and what adds its nodes and gives its name.

    `write` is called with the names of `inputs`, in order.
    """

    inputs: Sequence[Value]
    write: Callable[..., str]


class Traced(NamedTuple):
    """A net traced for one size of its inputs."""

    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    nodes: tuple[Node, ...]
    composites: Mapping[Value, Composite]


class Sizes:
    """Which sizes are the same for all inputs: those that two traces of a net agree in.

    Without a second trace every size is fixed.
    """

    def __init__(self, first: Traced, second: Traced | None = None) -> None:
        """Raises FixedSizeError if the traces are not the same operations in the same order."""
        self.twins: dict[Value, Value] = {}
        self.first, self.second = first, second
        if second is None:
            return
        if [type(n.op) for n in first.nodes] != [type(n.op) for n in second.nodes]:
            raise FixedSizeError
        for a, b in zip(first.nodes, second.nodes, strict=True):
            self.twins.update(zip(a.outputs(), b.outputs(), strict=True))

    def of(self, value: Value) -> tuple[int | None, ...]:
        """The sizes of a value; None for one that is free."""
        twin = self.twins.get(value, value)
        return tuple(a if a == b else None for a, b in zip(value.shape, twin.shape, strict=True))

    def fixed(self, value: Value, *axes: int) -> None:
        """Raise FixedSizeError if one of these axes of a value is free."""
        if any(self.of(value)[axis] is None for axis in axes):
            raise FixedSizeError

    def twin(self, value: Value) -> Value:
        """The same value in the second trace (itself without one)."""
        return self.twins.get(value, value)


class Writer:
    """An ONNX graph under construction."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.arrays: dict[str, Array] = {}
        self.scope = ""
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._params: dict[tuple[Param, str], str] = {}
        self._taken: set[str] = set()

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output; returns the output's name."""
        from onnx import helper

        name = self.unique(f"{self.scope}/{kind}" if self.scope else kind)
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def constant(self, numbers: object, dtype: Any = np.float32) -> str:
        """An initialiser with these numbers; equal ones are kept once."""
        array = np.asarray(numbers, dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = self.unique("constant")
            self.arrays[name], self._constants[key] = array, name
        return self._constants[key]

    def ints(self, numbers: Sequence[int]) -> str:
        """An initialiser of int64, as shapes and axes are."""
        return self.constant(list(numbers), np.int64)

    def param(
        self, param: Param, change: str = "", changed: Callable[[Array], Array] | None = None
    ) -> str:
        """The initialiser of a parameter, or of what `changed` makes of it, called `change`."""
        key = (param, change)
        if key not in self._params:
            name = self.unique(f"{param.name}.{change}" if change else param.name)
            data = np.array(param.data)
            self.arrays[name] = np.ascontiguousarray(changed(data) if changed else data)
            self._params[key] = name
        return self._params[key]

    def unique(self, name: str) -> str:
        """A name that no other value has."""
        found, number = name, 1
        while found in self._taken:
            number += 1
            found = f"{name}_{number}"
        self._taken.add(found)
        return found

    def rename(self, old: str, new: str) -> None:
        """Give a value that a node makes another name."""
        for node in self.nodes:
            for names in (node.input, node.output):
                for i, name in enumerate(names):
                    if name == old:
                        names[i] = new
