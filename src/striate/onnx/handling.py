"""How a handler sees the node that it computes, and the table of handlers.

    @handler("Relu", since=6)
    def relu(call: Call) -> Any:
        return F.relu(call.symbol(0))

A handler gives a symbol (of the dtype of the first input), a `Tensor` (a symbol with another
dtype), a NumPy array (known), or a tuple of these for several outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from striate.errors import FormatError, UnsupportedError
from striate.graph import Graph, Param, Value, evaluate
from striate.graph.ops.leaf import Input, ParamLeaf
from striate.graph.symbol import as_value
from striate.graph.value import topological
from striate.onnx.read import Node
from striate.onnx.value import (
    EXACT,
    Array,
    DType,
    Item,
    NeedsValue,
    Tensor,
    as_float32,
    is_real,
)

Ints: TypeAlias = tuple[int, ...]


class Constant(Param):
    """Known numbers in a graph: they never change."""


@dataclass(frozen=True)
class Call:
    """A node with its inputs.

    Attributes:
        node: op, name and attributes.
        opset: version of the operator's domain.
        inputs: values; None for those left out.
        training: whether the module is in training mode.
    """

    node: Node
    opset: int
    inputs: tuple[Item, ...]
    training: bool = False

    # ------------------------------------------------------------------ attributes

    def has(self, name: str) -> bool:
        """Whether the node has the attribute."""
        return name in self.node.attributes

    def integer(self, name: str, default: int | None = None) -> int:
        """An attribute that is a number. Raises FormatError if it is missing or another kind."""
        return int(self._attribute(name, default, int))

    def real(self, name: str, default: float | None = None) -> float:
        """An attribute that is a number."""
        return float(self._attribute(name, default, (float, int)))

    def integers(self, name: str, default: Sequence[int] | None = None) -> Ints:
        """An attribute that is a list of numbers."""
        return tuple(int(i) for i in self._attribute(name, default, (tuple, list)))

    def text(self, name: str, default: str | None = None) -> str:
        """An attribute that is a text."""
        return str(self._attribute(name, default, str))

    def _attribute(self, name: str, default: Any, kinds: Any) -> Any:
        value = self.node.attributes.get(name, default)
        if value is None:
            raise FormatError(f"{self.node.op} needs the attribute {name!r}")
        if not isinstance(value, kinds):
            raise FormatError(f"{self.node.op}: the attribute {name!r} cannot be {value!r:.80}")
        return value

    # ------------------------------------------------------------------ inputs

    def given(self, i: int) -> bool:
        """Whether input i is there."""
        return i < len(self.inputs) and self.inputs[i] is not None

    def item(self, i: int) -> Tensor | Array:
        """Input i. Raises FormatError if it is left out."""
        item = self.inputs[i] if i < len(self.inputs) else None
        if item is None:
            raise FormatError(f"{self.node.op} needs its input {i}")
        return item

    def shape(self, i: int) -> Ints:
        """Sizes of input i."""
        return tuple(self.item(i).shape)

    def dtype(self, i: int) -> DType:
        """Model's dtype of input i."""
        return self.item(i).dtype

    def known(self, i: int) -> bool:
        """Whether the numbers of input i are known (also that it is left out)."""
        return i >= len(self.inputs) or not isinstance(self.inputs[i], Tensor)

    @property
    def all_known(self) -> bool:
        """Whether NumPy can compute the node."""
        return all(self.known(i) for i in range(len(self.inputs)))

    def array(self, i: int) -> Array:
        """The numbers of input i, which have to be known.

        If they follow from inputs of the model or from its weights, the trace ends here, and
        begins again with their present contents, which are part of the program's key from then on.
        """
        item = self.item(i)
        if not isinstance(item, Tensor):
            return item
        leaves = [n.op for n in topological([item.value]) if isinstance(n.op, (Input, ParamLeaf))]
        if all(isinstance(op, ParamLeaf) and isinstance(op.param, Constant) for op in leaves):
            (array,) = evaluate(Graph((), (item.value,)), (), np.float64)
            return array.astype(item.dtype)
        raise NeedsValue(item.value, self._reason(f"input {i} to be known before it runs"))

    def numbers(self, i: int) -> Ints:
        """Input i as known integers, such as axes or a shape."""
        return tuple(int(n) for n in self.array(i).reshape(-1))

    def symbol(self, i: int, *, integers: bool = False) -> Value:
        """Input i as a float32 symbol to compute with; known numbers become constants.

        Args:
            i: which input.
            integers: whether the handler is right for integers and bools that are held as floats;
                without it, and where they may not be exact, they have to be known.
        """
        item = self.item(i)
        whole = not is_real(item.dtype)
        if isinstance(item, Tensor):
            if item.finish is not None:
                raise self.unsupported(f"input {i}, the indices of a pooling, which are an output")
            if whole and not (integers and item.exact):
                raise NeedsValue(item.value, self._reason(f"{item.dtype} numbers of input {i}"))
            return item.value
        if whole and not integers:
            # Once all integers of the node are known NumPy computes it, if its handler can.
            for other in self.inputs:
                if isinstance(other, Tensor) and not is_real(other.dtype):
                    raise NeedsValue(other.value, self._reason(f"{other.dtype} numbers"))
            raise self.unsupported(f"input {i} of {item.dtype}", "float inputs")
        if whole and item.size and np.abs(item.astype(np.float64)).max() > EXACT:
            raise self.unsupported(f"input {i} with integers above 2^24", "smaller integers")
        numbers = as_float32(item)
        return as_value(numbers) if item.ndim == 0 else Constant("constant", numbers).as_value()

    def operand(self, i: int, ndim: int = 0) -> Value:
        """Input i for elementwise use beside a value of `ndim` axes: one number has none."""
        item = self.item(i)
        if not isinstance(item, Tensor) and item.size == 1 and item.ndim <= ndim:
            call = Call(self.node, self.opset, (item.reshape(()),), self.training)
            return call.symbol(0)
        return self.symbol(i)

    # ------------------------------------------------------------------ answers

    def like(self, value: Value, i: int = 0) -> Tensor:
        """A symbol of the dtype of input i."""
        item = self.item(i)
        return Tensor(value, item.dtype, not isinstance(item, Tensor) or item.exact)

    def source(self, i: int = 0) -> Value:
        """Input i as a symbol that is only moved: any dtype, exact or not."""
        item = self.item(i)
        if isinstance(item, Tensor) and item.finish is None:
            return item.value
        return self.symbol(i, integers=True)

    def unsupported(self, what: str, instead: str = "") -> UnsupportedError:
        """An error that names node, operator and opset, and what is supported instead."""
        hint = f"; supported: {instead}" if instead else ""
        return UnsupportedError(f"{self.node.op} (opset {self.opset}) with {what}{hint}")

    def _reason(self, what: str) -> str:
        return f"node {self.node.name!r} ({self.node.op}) needs {what}"


Handler: TypeAlias = Callable[[Call], Any]


class Entry(NamedTuple):
    """A handler, from which opset on it is right, and which inputs it asks for as known."""

    run: Handler
    since: int
    known: Ints


HANDLERS: dict[tuple[str, str], Entry] = {}


def handler(
    *ops: str, domain: str = "", since: int = 1, known: Ints = ()
) -> Callable[[Handler], Handler]:
    """Register a function for operators.

    Args:
        ops: names of operators.
        domain: theirs; "" is the standard one.
        since: the first opset whose meaning the function has.
        known: inputs that it always asks for with `array` or `numbers`; weights which stand only
            there do not become parameters.
    """

    def register(function: Handler) -> Handler:
        for op in ops:
            assert (domain, op) not in HANDLERS, op
            HANDLERS[domain, op] = Entry(function, since, known)
        return function

    return register


def run(call: Call) -> tuple[Item, ...]:
    """The outputs of a node. Raises UnsupportedError for an operator without handler."""
    node = call.node
    entry = HANDLERS.get((node.domain, node.op))
    if entry is None:
        known = sorted(op for domain, op in HANDLERS if domain == node.domain)
        there = f"supported are {', '.join(known)}" if known else "no operator of it is"
        where = f" of the domain {node.domain!r}" if node.domain else ""
        raise UnsupportedError(
            f"operator {node.op}{where} (opset {call.opset}) is not supported; {there}"
        )
    if call.opset < entry.since:
        raise call.unsupported("its old meaning", f"{node.op} from opset {entry.since} on")
    result = entry.run(call)
    results = result if isinstance(result, tuple) else (result,)
    if len(results) < len(node.outputs) and any(node.outputs[len(results) :]):
        raise call.unsupported(f"{len(node.outputs)} outputs", f"{len(results)}")
    return tuple(_item(call, r) for r in results[: len(node.outputs)])


def _item(call: Call, result: Any) -> Item:
    if result is None or isinstance(result, (Tensor, np.ndarray)):
        return result
    if isinstance(result, Value):
        return call.like(result)
    return np.asarray(result)
