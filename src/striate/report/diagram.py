"""A net as a graph in the language of Graphviz."""

from __future__ import annotations

import json
from collections.abc import Sequence

from striate.graph import Trace, Value
from striate.graph.symbol import Symbol
from striate.nn.module import Module
from striate.nn.tracing import symbolic_call


def dot(net: Module, input_shape: Sequence[int]) -> str:
    """Layers as nodes with their output shapes, and an arrow from each layer to what reads it.

    What stands in `forward` itself (sums, concatenations) is drawn as several arrows to the layer
    that reads the result. `dot -Tsvg` makes a picture of it.
    """
    with Trace() as trace:
        shape = (1, *(int(size) for size in input_shape))
        output, calls = symbolic_call(net, trace, [shape], training=False)
        outputs = output if isinstance(output, (tuple, list)) else (output,)
    lines = [f"digraph {json.dumps(type(net).__name__)} {{", "  rankdir=TB;", "  node [shape=box];"]
    owners: dict[Value, str] = {}
    for i, value in enumerate(trace.inputs):
        owners[value] = f"input{i}"
        lines.append(f"  input{i} [label={_label('input', value)}, shape=oval];")
    leaves = [
        call
        for call in calls
        if isinstance(call.output, Symbol) and next(call.module.children(), None) is None
    ]
    for i, call in enumerate(leaves):
        value = call.output.as_value()
        if value in owners:  # a layer that does nothing, such as dropout in evaluation
            continue
        text = f"{call.path or type(net).__name__}\n{call.module._get_name()}"
        lines.append(f"  n{i} [label={_label(text, value)}];")
        lines += [f"  {source} -> n{i};" for source in _sources(value, owners)]
        owners[value] = f"n{i}"
    for i, symbol in enumerate(outputs):
        value = symbol.as_value()
        lines.append(f"  output{i} [label={_label('output', value)}, shape=oval];")
        above = [owners[value]] if value in owners else _sources(value, owners)
        lines += [f"  {source} -> output{i};" for source in above]
    return "\n".join([*lines, "}"])


def _label(text: str, value: Value) -> str:
    return json.dumps(f"{text}\n{'×'.join(map(str, value.shape[1:]))}", ensure_ascii=False)


def _sources(value: Value, owners: dict[Value, str]) -> list[str]:
    """The layers whose outputs `value` is computed of, the nearest ones, in order."""
    found: dict[str, None] = {}
    seen: set[Value] = set()
    pending = list(value.node.inputs)[::-1]
    while pending:
        above = pending.pop()
        if above in seen:
            continue
        seen.add(above)
        if above in owners:
            found[owners[above]] = None
        else:
            pending += list(above.node.inputs)[::-1]
    return list(found)
