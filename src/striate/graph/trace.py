"""Tracing: run `forward` once on symbols and keep what it did."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, NamedTuple, final

from striate.errors import ShapeError, StriateError, TraceError
from striate.graph.ops.leaf import Input
from striate.graph.symbol import current, name_layer
from striate.graph.value import Graph, Operand, Param, TensorType, Value, as_value


class _Stack(threading.local):
    def __init__(self) -> None:
        self.traces: list[Trace] = []


_stack = _Stack()


def current_trace() -> Trace | None:
    """The innermost trace of this thread, or None outside."""
    return _stack.traces[-1] if _stack.traces else None


class Composite(NamedTuple):
    """A call of a function on symbols: what the nodes that it made mean together."""

    function: str
    operands: Mapping[str, Value]
    options: Mapping[str, Any]


@final
class Trace:
    """Collects the inputs, assignments and host updates of one traced graph.

        with Trace() as trace:
            x = trace.input("x", (1, 3, 32, 32))
            with trace.scope("conv1"):
                y = ...
        graph = trace.graph(y)

    Traces nest, and each thread has its own.
    """

    def __init__(self) -> None:
        self.inputs: list[Value] = []
        self.assigns: list[tuple[Param, Value]] = []
        self.host_updates: list[Callable[[], None]] = []
        self.composites: dict[Value, Composite] = {}
        self._outer_scope = ""

    def __enter__(self) -> Trace:
        self._outer_scope = current.scope
        current.scope = ""
        _stack.traces.append(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        _stack.traces.remove(self)
        current.scope = self._outer_scope

    def input(self, name: str, shape: Sequence[int], dtype: str = "f32") -> Value:
        """A new input of the graph; inputs are given in the order in which they are made."""
        value = Input(name, TensorType(tuple(int(s) for s in shape), dtype))()
        self.inputs.append(value)
        return value

    def assign(self, param: Param, value: Operand) -> None:
        """After each run, `param` becomes `value`.

        All values are computed from the old contents. Raises ShapeError if shapes differ and
        TraceError if `param` already has an assignment.
        """
        symbol = as_value(value)
        if symbol.type != TensorType(param.shape, param.dtype):
            raise ShapeError(f"{param!r} cannot be assigned a value of type {symbol.type}")
        if any(p is param for p, _ in self.assigns):
            raise TraceError(
                f"{param!r} is assigned twice in one run: a layer with state (such as batch norm) "
                "can be called only once in forward; make a second layer"
            )
        self.assigns.append((param, symbol))

    def note(
        self, function: str, operands: Mapping[str, Value | None], options: Any, result: object
    ) -> None:
        """Remember which function a value is the result of, for those who write it elsewhere.

        Of functions that call each other the outermost is kept.
        """
        given = {name: value for name, value in operands.items() if value is not None}
        if isinstance(result, Value) and result not in given.values():
            self.composites[result] = Composite(function, given, dict(options))

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Nodes made inside carry the path `outer.name`, and so do errors."""
        outer = current.scope
        current.scope = f"{outer}.{name}" if outer else name
        try:
            yield
        except StriateError as error:
            name_layer(error, current.scope)
            raise
        finally:
            current.scope = outer

    def graph(self, *outputs: Operand) -> Graph:
        """The graph of everything traced so far, with these outputs."""
        return Graph(
            tuple(self.inputs),
            tuple(as_value(v) for v in outputs),
            tuple(self.assigns),
            tuple(self.host_updates),
        )
