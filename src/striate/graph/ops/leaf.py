"""Leaves: what a graph reads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from striate.errors import TraceError
from striate.graph.value import Array, Node, Op, Param, TensorType, Value


class Leaf(Op):
    """An operation without inputs that carries no gradient further."""

    def grad(self, node: Node, *g: Value | None) -> tuple[Value | None, ...]:
        """No inputs."""
        return ()


@dataclass(frozen=True)
class Input(Leaf):
    """An array given at each run."""

    name: str
    type: TensorType

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        """Its own type."""
        return (self.type,)

    def numpy(self, *arrays: Array) -> tuple[Array, ...]:
        """Has no meaning by itself: the executor supplies the array."""
        raise TraceError(f"input {self.name!r} was given no array")

    def __str__(self) -> str:
        return f"Input({self.name!r})"


@dataclass(frozen=True)
class ParamLeaf(Leaf):
    """The present contents of a parameter."""

    param: Param

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        """The parameter's type."""
        return (TensorType(self.param.shape, self.param.dtype),)

    def numpy(self, *arrays: Array) -> tuple[Array, ...]:
        """A read-only view."""
        return (self.param.data,)

    def __str__(self) -> str:
        return f"Param({self.param.name!r})"


@dataclass(frozen=True)
class Const(Leaf):
    """A number, of shape ()."""

    value: float

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        """f32, shape ()."""
        return (TensorType(()),)

    def numpy(self, *arrays: Array) -> tuple[Array, ...]:
        """A float64 scalar array; the executor rounds it to its own dtype."""
        return (np.array(self.value),)

    def __str__(self) -> str:
        return f"Const({self.value!r})"


@dataclass(frozen=True)
class SizeConst(Const):
    """A number that follows from the batch or image size, such as 1 / count in a mean.

    A program passes it to its kernels as data, so that another size compiles nothing.
    """
