"""What a traced network is made of: values, nodes, parameters, and the graph that holds them.

`Param` is the only thing that owns an array; everything else is immutable.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn

import numpy as np
import numpy.typing as npt

from striate.errors import DTypeError, ShapeError, TraceError
from striate.graph.symbol import (
    Array,
    Node,
    Op,
    Operand,
    Symbol,
    TensorType,
    Value,
    as_value,
)

__all__ = [
    "NUMPY_DTYPES",
    "Array",
    "Graph",
    "Node",
    "Op",
    "Operand",
    "Param",
    "Symbol",
    "TensorType",
    "Value",
    "as_value",
    "topological",
    "typecheck",
]

NUMPY_DTYPES: dict[str, npt.DTypeLike] = {"f32": np.float32, "i32": np.int32, "u8": np.uint8}


class Param(Symbol):
    """A named array that lives as long as the network: a weight, a statistic, an optimiser state.

    `data` is copied on construction; integers become int32 and everything else float32, unless
    `dtype` ("f32" or "i32") says otherwise. The shape is fixed for life and so is the memory
    (64-byte aligned), so compiled programs may hold its address. `version` counts its changes,
    `Param.changes` those of all parameters.
    """

    changes: ClassVar[int] = 0

    def __init__(
        self, name: str, data: npt.ArrayLike, trainable: bool = True, dtype: str | None = None
    ) -> None:
        from striate.graph.ops.leaf import ParamLeaf

        source = np.asarray(data)
        if source.dtype.kind not in "biuf":
            raise DTypeError(f"parameter {name!r} cannot hold data of dtype {source.dtype}")
        self.name = name
        self.trainable = trainable
        self.dtype = dtype or ("i32" if source.dtype.kind in "iu" else "f32")
        self._untouched = _is_blank(source)
        self.buffer = _aligned(source.shape, NUMPY_DTYPES[self.dtype], zeros=self._untouched)
        self._fill(source)
        self.version = 0
        self._view = self.buffer.view()
        self._view.flags.writeable = False
        leaf_type = TensorType(self.buffer.shape, self.dtype)
        self._value = Value(Node(ParamLeaf(self), (), (leaf_type,), ""))

    def as_value(self) -> Value:
        """The one leaf that stands for this parameter in every graph."""
        return self._value

    @property
    def data(self) -> Array:
        """Read-only view of the numbers, which shows every later change."""
        return self._view

    @property
    def shape(self) -> tuple[int, ...]:
        """Fixed sizes."""
        return self.buffer.shape

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self.buffer.ndim

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.buffer.size

    def assign(self, array: npt.ArrayLike) -> None:
        """Copy new numbers in. Raises ShapeError unless the shape is the same."""
        source = np.asarray(array)
        if source.shape != self.shape:
            raise ShapeError(
                f"parameter {self.name!r} has shape {self.shape}, cannot take {source.shape}"
            )
        self._fill(source)
        self.touch()

    def touch(self) -> None:
        """Note that the numbers have changed."""
        self._untouched = False
        self.version += 1
        Param.changes += 1  # after the version: who sees the count sees the version too

    def _fill(self, source: Array) -> None:
        if self._untouched and _is_blank(source):
            return  # zeros as the system gives them: their pages are touched when the weights come
        if self.dtype == "i32" and source.size:
            limits = np.iinfo(np.int32)
            if source.min() < limits.min or source.max() > limits.max:
                raise DTypeError(f"parameter {self.name!r} is int32 and cannot hold {source.max()}")
        self.buffer[...] = source

    def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
        return np.array(self.buffer, dtype=dtype)

    def __reduce__(self) -> tuple[Any, ...]:
        return Param, (self.name, np.array(self.buffer), self.trainable, self.dtype)

    def __repr__(self) -> str:
        kind = "" if self.trainable else ", trainable=False"
        return f"Param({self.name!r}, {self.dtype}{list(self.shape)}{kind})"

    def __bool__(self) -> NoReturn:
        raise TraceError(f"the truth of parameter {self.name!r} is ambiguous; use .data")

    def __iter__(self) -> NoReturn:
        raise TraceError(f"parameter {self.name!r} cannot be iterated over; use .data")


def _is_blank(source: Array) -> bool:
    """Whether this is one 0 that stands for many, as in a net whose weights are yet to come."""
    one = source.size > 1 and not any(source.strides)
    return one and not any(source.flat[0].tobytes())  # -0 is not blank


def _aligned(shape: tuple[int, ...], dtype: npt.DTypeLike, *, zeros: bool) -> Array:
    """A C-ordered array whose first byte is at a multiple of 64: zeros, or uninitialised."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = (np.zeros if zeros else np.empty)(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)


@dataclass(frozen=True)
class Graph:
    """Inputs, outputs, and the assignments that run after everything that reads the old values.

    `host_updates` are called by the executor before each run (they renew dropout keys).
    """

    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    assigns: tuple[tuple[Param, Value], ...] = ()
    host_updates: tuple[Callable[[], None], ...] = ()

    def nodes(self) -> tuple[Node, ...]:
        """Every node that is needed, each after the nodes it reads; the inputs come first."""
        return self._nodes

    @functools.cached_property
    def _nodes(self) -> tuple[Node, ...]:
        return topological([*self.inputs, *self.outputs, *(value for _, value in self.assigns)])

    def params(self) -> tuple[Param, ...]:
        """Every parameter that is read or assigned, in order of first use."""
        from striate.graph.ops.leaf import ParamLeaf

        read = [node.op.param for node in self.nodes() if isinstance(node.op, ParamLeaf)]
        return tuple(dict.fromkeys([*read, *(param for param, _ in self.assigns)]))

    def macs(self) -> int:
        """Multiply-accumulates of convolutions and dense layers."""
        return sum(n.op.macs(*(v.type for v in n.inputs)) for n in self.nodes())

    def __str__(self) -> str:
        names: dict[Value, str] = {}
        lines = []
        for i, node in enumerate(self.nodes()):
            outputs = node.outputs()
            for value in outputs:
                names[value] = f"%{i}" if len(outputs) == 1 else f"%{i}.{value.index}"
            made = ", ".join(f"{names[v]}: {v.type}" for v in outputs)
            read = " ".join(names[v] for v in node.inputs)
            scope = f"  @ {node.scope}" if node.scope else ""
            lines.append(f"{made} = {node.op} {read}".rstrip() + scope)
        lines.append("return " + ", ".join(names[v] for v in self.outputs))
        lines += [f"assign {param.name} <- {names[value]}" for param, value in self.assigns]
        return "\n".join(lines)


def topological(roots: Iterable[Value]) -> tuple[Node, ...]:
    """The nodes that `roots` need, each after the nodes it reads, in a fixed order."""
    order: list[Node] = []
    seen: set[Node] = set()
    for root in roots:
        if root.node in seen:
            continue
        seen.add(root.node)
        stack: list[tuple[Node, Iterator[Value]]] = [(root.node, iter(root.node.inputs))]
        while stack:
            node, rest = stack[-1]
            for value in rest:
                following = value.node
                if following not in seen:
                    seen.add(following)
                    if following.inputs:
                        stack.append((following, iter(following.inputs)))
                        break
                    order.append(following)  # a leaf, as every other node is
            else:
                order.append(node)
                stack.pop()
    return tuple(order)


def typecheck(graph: Graph) -> Graph:
    """Check every node's types anew; returns the graph. To be called after every pass.

    Raises TraceError that names the node which is wrong.
    """
    from striate.graph.ops.leaf import Input, Leaf

    inputs = {value.node for value in graph.inputs}
    for node in graph.nodes():
        if isinstance(node.op, Input) and node not in inputs:
            raise TraceError(f"{node!r} is read but is not an input of the graph")
        types = node.op.infer(*(v.type for v in node.inputs))
        if types != node.types:
            raise TraceError(f"{node!r} should have the types {', '.join(map(str, types))}")
        if any(v.index >= len(v.node.types) for v in node.inputs):
            raise TraceError(f"{node!r} reads an output that does not exist")
        if isinstance(node.op, Leaf) and node.inputs:
            raise TraceError(f"{node!r} is a leaf and cannot have inputs")
    for param, value in graph.assigns:
        if value.type != TensorType(param.shape, param.dtype):
            raise TraceError(f"{param!r} cannot be assigned a value of type {value.type}")
    return graph
