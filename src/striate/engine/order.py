"""In which order the nodes of a graph run: what is updated is updated as soon as it can be.

The order decides how long values live. A training step whose updates stood at the end would hold
every gradient of every layer until then; so the backward pass of a layer comes with the update of
its weights, after which its activations and gradients are free.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from striate.engine.layout import Reorder
from striate.graph.ops.leaf import ParamLeaf
from striate.graph.ops.shape import Reshape
from striate.graph.value import Graph, Node, Param, Value, topological


def ordered(graph: Graph) -> tuple[Node, ...]:
    """The nodes of `graph.nodes()`, each after the nodes it reads, roots by their depth.

    What reads a parameter's old value comes before its new value, as far as it does not depend on
    that, so that the new value can be computed straight into the parameter.
    """
    nodes = graph.nodes()
    depths = _depths(nodes)
    readers = _readers(nodes, {param for param, _ in graph.assigns})
    groups = [[value] for value in graph.outputs]
    groups += [[*readers[param], value] for param, value in graph.assigns]
    groups.sort(key=lambda group: max(depths[value.node] for value in group))
    return topological([*graph.inputs, *(value for group in groups for value in group)])


def _depths(nodes: Iterable[Node]) -> dict[Node, int]:
    """Nodes on the longest way from a leaf to each node."""
    depths: dict[Node, int] = {}
    for node in nodes:
        depths[node] = 1 + max((depths[value.node] for value in node.inputs), default=0)
    return depths


def _readers(nodes: Iterable[Node], params: set[Param]) -> dict[Param, list[Value]]:
    """What computes with each parameter, or with it in another order or shape."""
    of: dict[Node, Param] = {}
    readers: dict[Param, list[Value]] = defaultdict(list)
    for node in nodes:
        if isinstance(node.op, ParamLeaf):
            if node.op.param in params:
                of[node] = node.op.param
            continue
        read = {of[value.node]: None for value in node.inputs if value.node in of}
        if isinstance(node.op, (Reorder, Reshape)) and read:
            (of[node],) = read
        else:
            for param in read:
                readers[param].append(Value(node))
    return readers
