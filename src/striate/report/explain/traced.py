"""A net traced for one picture: its layers, and the numbers that its program gives for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from striate import engine
from striate.errors import ArgumentError
from striate.graph import Graph, Trace, Value
from striate.graph.ops.eltwise import Map
from striate.graph.ops.shape import Concat, Reshape
from striate.graph.symbol import Symbol
from striate.graph.trace import Composite
from striate.nn.module import Module
from striate.nn.tracing import Call, symbolic_call

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Layer:
    """One run of one layer, or an operation that stands in a `forward` itself. Equal to itself.

    Attributes:
        path: of the module; of an operation that of the module in whose `forward` it stands, and
            what it does, such as "layer1.0.add".
        run: 1 for the first run of a module, 2 for the second …
        kind: its class. call: None for an operation.
        inputs, output: symbols.
    """

    path: str
    run: int
    kind: str
    call: Call | None
    inputs: tuple[Value, ...]
    output: Value

    @property
    def title(self) -> str:
        """The path, with the number of the run after the first."""
        return self.path if self.run == 1 else f"{self.path} (run {self.run})"


@dataclass(frozen=True)
class Traced:
    """A classifier as a graph for one image (1, C, H, W).

    Attributes:
        graph: input and the one output. layers: in order.
        composites: which function a value is the result of.
        depth: position of every value that depends on the image, in the order of computation.
    """

    graph: Graph
    layers: tuple[Layer, ...]
    composites: Mapping[Value, Composite]
    depth: Mapping[Value, int]

    @property
    def image(self) -> Value:
        """The input."""
        return self.graph.inputs[0]

    @property
    def output(self) -> Value:
        """The scores (1, classes)."""
        return self.graph.outputs[0]

    def moving(self, value: Value) -> bool:
        """Whether a value depends on the image."""
        return value in self.depth

    def name(self, value: Value) -> str:
        """The layer that gives a value, or the picture."""
        value = before(value)
        if value == self.image:
            return "the picture, normalised"
        given = [layer.title for layer in self.layers if before(layer.output) == value]
        return given[0] if given else "a value in between"


def trace(net: Module, shape: Sequence[int]) -> Traced:
    """Trace a net in evaluation mode for one image (C, H, W).

    Raises: ArgumentError unless the net is a classifier, that is has one output (1, classes);
    ShapeError, naming the layer, if it cannot take such an image.
    """
    with Trace() as made:
        output, calls = symbolic_call(net, made, [(1, *shape)], training=False)
        if not isinstance(output, Symbol):
            raise ArgumentError(f"explain takes a net of one output, {net._get_name()} has several")
        value = output.as_value()
        if value.ndim != 2 or value.shape[1] < 2:
            raise ArgumentError(
                f"explain takes a classifier, whose output is (n, classes); {net._get_name()} "
                f"gives {value.shape}"
            )
        graph = made.graph(value)
    depth: dict[Value, int] = {}
    for node in graph.nodes():
        if node is graph.inputs[0].node or any(v in depth for v in node.inputs):
            depth.update((v, len(depth)) for v in node.outputs())
    layers = [*_leaves(calls, depth)]
    layers += _operations(graph, calls, depth)
    layers.sort(key=lambda layer: depth[layer.output])  # stable: runs of nothing stay in order
    return Traced(graph, tuple(layers), dict(made.composites), depth)


def _leaves(calls: Sequence[Call], depth: Mapping[Value, int]) -> Iterator[Layer]:
    """The runs of modules that hold no other modules."""
    runs: dict[str, int] = {}
    for call in calls:
        leaf = next(call.module.children(), None) is None
        if not leaf or not isinstance(call.output, Symbol) or call.output.as_value() not in depth:
            continue
        runs[call.path] = runs.get(call.path, 0) + 1
        inputs = tuple(x.as_value() for x in call.inputs if isinstance(x, Symbol))
        kind = call.module._get_name()
        yield Layer(call.path, runs[call.path], kind, call, inputs, call.output.as_value())


def _operations(graph: Graph, calls: Sequence[Call], depth: Mapping[Value, int]) -> Iterator[Layer]:
    """Sums and concatenations of branches in the `forward` of modules that hold modules."""
    paths = {call.path for call in calls if next(call.module.children(), None) is None}
    runs: dict[str, int] = {}
    for node in graph.nodes():
        value = Value(node)
        several = sum(v in depth for v in node.inputs) > 1
        sums = isinstance(node.op, Map) and node.op.kind == "add"
        if value not in depth or node.scope in paths or not several:
            continue
        if sums or isinstance(node.op, Concat):
            kind = "add" if sums else "concat"
            path = f"{node.scope}.{kind}".lstrip(".")
            runs[path] = runs.get(path, 0) + 1
            yield Layer(path, runs[path], kind, None, node.inputs, value)


def run(traced: Traced, x: Array, further: Sequence[Value] = ()) -> dict[Value, Array]:
    """The float32 numbers of all layers, and of `further` values, that the program gives for x."""
    values = dict.fromkeys([*(layer.output for layer in traced.layers), traced.output, *further])
    values.pop(traced.image, None)
    wanted = list(values)
    program = engine.build(Graph(traced.graph.inputs, tuple(wanted)))
    return {traced.image: x, **dict(zip(wanted, program(x), strict=True))}


def before(value: Value) -> Value:
    """The value that is only another shape here."""
    while isinstance(value.node.op, Reshape):
        value = value.node.inputs[0]
    return value
