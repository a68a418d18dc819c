"""Symbols: types, operations, nodes, values and their operators.

Inside `forward` a user meets `Value`, a symbol with a shape and no numbers. Everything here is
immutable.
"""

from __future__ import annotations

import math
import operator
import threading
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

import numpy as np
import numpy.typing as npt

from striate.errors import StriateError, TraceError, UnsupportedError

Array: TypeAlias = npt.NDArray[Any]
Operand: TypeAlias = "Symbol | float | int | Array"


@dataclass(frozen=True)
class TensorType:
    """Shape (concrete integers) and element type of a value: "f32", "i32" or (inputs only) "u8"."""

    shape: tuple[int, ...]
    dtype: str = "f32"

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"


class _Current(threading.local):
    """What this thread is tracing: the path of the layer that runs."""

    scope: str = ""


current = _Current()


def name_layer(error: StriateError, path: str) -> None:
    """Put the path of the layer before an error's message, once (the innermost path wins)."""
    if path and "layer" not in vars(error):
        vars(error)["layer"] = path
        error.args = (f"{path}: {error}",)


class Op:
    """One operation: a frozen dataclass that holds every rule of it together.

    Not an `ABC`, whose `isinstance` runs in Python: a plan asks some 50 000 times.
    """

    @abstractmethod
    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        """Types of the outputs. Raises ShapeError or DTypeError."""

    @abstractmethod
    def numpy(self, *arrays: Array) -> tuple[Array, ...]:
        """The definition. float64 arrays give float64 results."""

    def grad(self, node: Node, *g: Value | None) -> tuple[Value | None, ...]:
        """Gradients of the inputs from those of the outputs (None: no gradient flows)."""
        raise UnsupportedError(f"{type(self).__name__} has no gradient")

    def macs(self, *inputs: TensorType) -> int:
        """Multiply-accumulates of convolutions and dense layers; 0 for everything else."""
        return 0

    def apply(self, *inputs: Operand) -> tuple[Value, ...]:
        """Add a node to the graph; returns all its outputs."""
        values = tuple(as_value(x) for x in inputs)
        try:
            types = self.infer(*(v.type for v in values))
        except StriateError as error:
            name_layer(error, current.scope)
            raise
        return Node(self, values, types, current.scope).outputs()

    def __call__(self, *inputs: Operand) -> Value:
        """Add a node of one output to the graph."""
        (value,) = self.apply(*inputs)
        return value


@dataclass(frozen=True, eq=False)
class Node:
    """One use of an operation. Equal only to itself. `scope` is a path like "layer1.0.conv1"."""

    op: Op
    inputs: tuple[Value, ...]
    types: tuple[TensorType, ...]
    scope: str

    def outputs(self) -> tuple[Value, ...]:
        """A value for each output. None is kept: with cycles, old graphs would wait for `gc`."""
        return tuple(Value(self, i) for i in range(len(self.types)))

    def __repr__(self) -> str:
        types = ", ".join(str(t) for t in self.types)
        return f"<{self.op!r} -> {types}{' @ ' + self.scope if self.scope else ''}>"


class Symbol:
    """What `Value` and `Param` share: the operators, each of which adds a node."""

    # NumPy then leaves `array * symbol` to the reflected operators below.
    __array_ufunc__ = None

    def as_value(self) -> Value:
        """The graph value that stands for this."""
        raise NotImplementedError

    def __add__(self, other: Operand) -> Value:
        return _map("add", self, other)

    def __radd__(self, other: Operand) -> Value:
        return _map("add", other, self)

    def __sub__(self, other: Operand) -> Value:
        return _map("sub", self, other)

    def __rsub__(self, other: Operand) -> Value:
        return _map("sub", other, self)

    def __mul__(self, other: Operand) -> Value:
        return _map("mul", self, other)

    def __rmul__(self, other: Operand) -> Value:
        return _map("mul", other, self)

    def __truediv__(self, other: Operand) -> Value:
        return _map("div", self, other)

    def __rtruediv__(self, other: Operand) -> Value:
        return _map("div", other, self)

    def __pow__(self, exponent: Operand) -> Value:
        if isinstance(exponent, (Symbol, np.ndarray)):
            raise TraceError("x ** y takes a plain number as y; write exp(y * log(x)) instead")
        if exponent == 2:
            return _map("mul", self, self)
        if exponent == 0.5:
            return _map("sqrt", self)
        return _map("pow", self, float(exponent))

    def __neg__(self) -> Value:
        return _map("neg", self)

    def __abs__(self) -> Value:
        return _map("abs", self)

    # Comparisons give 1.0 where they hold and 0.0 elsewhere. == stays identity, for hashing.
    def __gt__(self, other: Operand) -> Value:  # type: ignore[misc]
        return _map("gt", self, other)

    def __ge__(self, other: Operand) -> Value:  # type: ignore[misc]
        return _map("ge", self, other)

    def __lt__(self, other: Operand) -> Value:  # type: ignore[misc]
        return _map("lt", self, other)

    def __le__(self, other: Operand) -> Value:  # type: ignore[misc]
        return _map("le", self, other)

    def __getitem__(self, index: Any) -> Value:
        from striate.graph.ops.shape import getitem

        return getitem(self.as_value(), index)

    def reshape(self, *shape: int | Sequence[int]) -> Value:
        """The same elements in another shape; one size may be -1. Raises ShapeError."""
        from striate.graph.ops.shape import reshape

        sizes: list[int] = []
        for item in shape:
            sizes.extend([item] if isinstance(item, int) else item)
        return reshape(self.as_value(), tuple(operator.index(s) for s in sizes))

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> Value:
        """Merge the axes start_dim … end_dim into one (`x.flatten(1)` keeps the batch)."""
        from striate.graph.ops.shape import flatten

        return flatten(self.as_value(), start_dim, end_dim)

    def transpose(self, *axes: int | Sequence[int]) -> Value:
        """Axis i of the result is axis `axes[i]`; without arguments, all axes reversed."""
        from striate.graph.ops.transpose import transpose

        order: list[int] = []
        for item in axes:
            order.extend([item] if isinstance(item, int) else item)
        return transpose(self.as_value(), order or None)

    def sum(self, axis: int | Sequence[int] | None = None, keepdims: bool = False) -> Value:
        """Sum over `axis` (default: all axes)."""
        from striate.graph.ops.reduce import reduce

        return reduce("sum", self.as_value(), axis, keepdims)

    def mean(self, axis: int | Sequence[int] | None = None, keepdims: bool = False) -> Value:
        """Mean over `axis` (default: all axes)."""
        from striate.graph.ops.reduce import mean

        return mean(self.as_value(), axis, keepdims)

    def max(self, axis: int | Sequence[int] | None = None, keepdims: bool = False) -> Value:
        """Largest element over `axis` (default: all axes); a NaN wins."""
        from striate.graph.ops.reduce import reduce

        return reduce("max", self.as_value(), axis, keepdims)


@dataclass(frozen=True)
class Value(Symbol):
    """Output `index` of `node`: a symbol with a type and no numbers."""

    node: Node
    index: int = 0

    def as_value(self) -> Value:
        """Itself."""
        return self

    @property
    def type(self) -> TensorType:
        """Shape and dtype."""
        return self.node.types[self.index]

    @property
    def shape(self) -> tuple[int, ...]:
        """Concrete sizes."""
        return self.type.shape

    @property
    def dtype(self) -> str:
        """Element type: "f32", "i32" or "u8"."""
        return self.type.dtype

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.type.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.type.size

    def __repr__(self) -> str:
        return f"Value({type(self.node.op).__name__}.{self.index}: {self.type})"

    def _refusal(self, what: str) -> TraceError:
        message = (
            f"{what} of a symbol of shape {self.shape} is not known while the network is traced: "
            "forward runs once, without numbers, for all inputs; choose with striate.functional "
            "operations or comparisons such as (x > 0) * x, not with Python control flow"
        )
        error = TraceError(message)
        name_layer(error, current.scope)
        return error

    def __bool__(self) -> bool:
        raise self._refusal("the truth (if, while, and, or, not)")

    def __float__(self) -> float:
        raise self._refusal("the number (float)")

    def __int__(self) -> int:
        raise self._refusal("the number (int)")

    def __index__(self) -> int:
        raise self._refusal("the number (index)")

    def __iter__(self) -> NoReturn:
        raise self._refusal("the sequence (for, unpacking)")

    def __array__(self, *_: object, **__: object) -> NoReturn:
        raise self._refusal("the array (NumPy functions)")


def as_value(x: object) -> Value:
    """The graph value for an operand: a number becomes a constant, an array a fixed parameter.

    Raises TraceError for anything else.
    """
    if isinstance(x, Symbol):
        return x.as_value()
    if isinstance(x, (bool, int, float, np.generic)) or (isinstance(x, np.ndarray) and x.ndim == 0):
        from striate.graph.ops.leaf import Const

        return Const(float(x))()
    if isinstance(x, np.ndarray):
        from striate.graph.value import Param

        return Param("constant", x, trainable=False).as_value()
    raise TraceError(f"{type(x).__name__} cannot be an operand in a network: {x!r:.80}")


def _map(kind: str, *operands: Operand) -> Value:
    from striate.graph.ops.eltwise import Map

    return Map(kind)(*operands)
