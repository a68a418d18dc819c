"""Tracing an ONNX graph: its nodes in order, each by its handler, under its own name.

A `Layer` is one node as a module, so that summaries, errors and `features` know it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from striate.errors import FormatError
from striate.graph import Param
from striate.nn.module import Module
from striate.onnx import handling
from striate.onnx.read import Graph, Node
from striate.onnx.value import Item


class Layer(Module):
    """One node of an ONNX graph. Its weights belong to the module that the graph is.

    Attributes:
        node: operator, name, attributes.
        opset: version of the operator's domain.
        weights: parameters that it reads.
    """

    def __init__(self, node: Node, opset: int, weights: tuple[Param, ...]) -> None:
        super().__init__()
        self.node = node
        self.opset = opset
        self.weights = weights

    def forward(self, *inputs: Item) -> Any:
        """Its outputs by its handler: one item, or a tuple if the node has several."""
        results = handling.run(handling.Call(self.node, self.opset, inputs, self.training))
        return results[0] if len(self.node.outputs) == 1 else results

    def num_parameters(self, trainable: bool = False) -> int:
        """Of the parameters that the node reads."""
        return sum(p.size for p in self.weights if p.trainable or not trainable)

    def _get_name(self) -> str:
        """The operator."""
        return self.node.op

    def extra_repr(self) -> str:
        """The attributes that are short."""
        return ", ".join(
            f"{name}={value}"
            for name, value in self.node.attributes.items()
            if not isinstance(value, (np.ndarray, Graph))
        )


def evaluate(
    graph: Graph, layers: Mapping[str, Layer], values: Mapping[str, Item]
) -> dict[str, Item]:
    """Every value that the outputs of `graph` need, by name.

    Args:
        graph: nodes in order.
        layers: by the names of nodes.
        values: inputs and initialisers.

    Raises NeedsValue, and the errors of handlers, which begin with the node's name.
    """
    found: dict[str, Item] = dict(values)
    for node in needed(graph, found):
        inputs: list[Any] = [found[name] if name else None for name in node.inputs]
        results: Any = layers[node.name](*inputs)
        outputs = results if isinstance(results, tuple) else (results,)
        found.update((n, r) for n, r in zip(node.outputs, outputs, strict=False) if n)
    return found


def needed(graph: Graph, given: Collection[str]) -> list[Node]:
    """The nodes that the outputs depend on, in order. Raises FormatError for a missing value."""
    wanted = {port.name for port in graph.outputs if port.name not in given}
    nodes = []
    for node in reversed(graph.nodes):
        made = wanted & set(node.outputs)
        if made:
            wanted -= made
            wanted |= {name for name in _read(node) if name and name not in given}
            nodes.append(node)
    if wanted:
        raise FormatError(f"no node before its first use gives {', '.join(sorted(wanted))}")
    return nodes[::-1]


def _read(node: Node) -> Iterator[str]:
    """The names that a node reads, also inside the graphs among its attributes."""
    yield from node.inputs
    for value in node.attributes.values():
        for body in value if isinstance(value, tuple) else (value,):
            if isinstance(body, Graph):
                inner = {p.name for p in body.inputs} | set(body.initialisers)
                for child in body.nodes:
                    yield from (name for name in _read(child) if name not in inner)
                    inner |= set(child.outputs)
                yield from (p.name for p in body.outputs if p.name not in inner)
