"""What a reviewer would say of a net: found by arithmetic on its graph and by reading its weights.

rows that a window of k taps reads:  i·s + t·d − p,  0 ≤ i < outputs, 0 ≤ t < k
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from striate.engine.choice import layer_name
from striate.graph import Graph, Node, Trace, Value
from striate.graph.ops.axismap import AveragePool1d, AxisMap
from striate.graph.ops.conv import Conv2d
from striate.graph.ops.leaf import ParamLeaf
from striate.graph.ops.pool import MaxPool
from striate.graph.ops.shape import Reshape
from striate.graph.symbol import Symbol
from striate.nn.layers_conv import Conv2d as ConvLayer
from striate.nn.layers_norm import BatchNorm2d
from striate.nn.module import Module
from striate.nn.tracing import Call, symbolic_call
from striate.report.fields import Fields, receptive_fields

TOUCHED = 0.5  # a larger share of outputs that padding touches is worth a word


class Remark(NamedTuple):
    """One warning.

    Attributes:
        kind: "receptive field", "dropped", "padding", "bias" or "dead".
        layers: whom it concerns.
        text: one sentence.
    """

    kind: str
    layers: list[str]
    text: str


def review(net: Module, input_shape: Sequence[int]) -> list[Remark]:
    """Remarks on a net for images of one shape (C, H, W), in evaluation mode.

    Receptive fields that exceed the image; rows and columns that a stride drops; convolutions of
    whose outputs padding touches more than half; biases that batch norm takes away again; channels
    that are the same for every image, for their weights or their scale are 0.

    Raises ShapeError, naming the layer, if the net cannot take such images.
    """
    with Trace() as trace:
        shape = (1, *(int(size) for size in input_shape))
        output, calls = symbolic_call(net, trace, [shape], training=False)
        values = output if isinstance(output, (tuple, list)) else (output,)
        graph = trace.graph(*values)
    return [
        *_beyond_the_image(graph, receptive_fields(graph)),
        *_dropped(graph),
        *_padded(graph),
        *_needless_bias(calls),
        *_dead(net, graph),
    ]


def _name(node: Node) -> str:
    return layer_name(node) or node.scope or str(node.op)


def _windows(graph: Graph) -> Iterable[Node]:
    """Convolutions and poolings of images."""
    for node in graph.nodes():
        op = node.op
        if isinstance(op, (Conv2d, MaxPool)) or (
            isinstance(op, AxisMap) and isinstance(op.rule, AveragePool1d)
        ):
            yield node


# ------------------------------------------------------------------ receptive fields


def _beyond_the_image(graph: Graph, fields: Fields) -> list[Remark]:
    image = graph.inputs[0].shape[2:]
    found: dict[str, tuple[int, int]] = {}
    for node in _windows(graph):
        field = fields.get(node.outputs()[0])
        if field is not None and any(s > i for s, i in zip(field.size, image, strict=True)):
            found[_name(node)] = field.size
    if not found:
        return []
    first, *rest = found
    more = f" (and of {len(rest)} layers after it)" if rest else ""
    text = (
        f"the receptive field of {first}{more} exceeds the image: {_pair(found[first])} of "
        f"{_pair(image)}; what these layers see beyond it is padding"
    )
    return [Remark("receptive field", list(found), text)]


# ------------------------------------------------------------------ strides


def _dropped(graph: Graph) -> list[Remark]:
    """Rows and columns of a layer's input that none of its windows reads."""
    found: dict[str, list[list[int]]] = {}
    for node in _windows(graph):
        size = node.inputs[0].shape[2:]
        for axis, read in _read(node):
            lost = found.setdefault(_name(node), [[0, size[0]], [0, size[1]]])
            lost[axis] = [size[axis] - len(read), size[axis]]
    remarks = []
    for name, axes in found.items():
        words = [
            f"{lost} of {size} {what}"
            for (lost, size), what in zip(axes, ("rows", "columns"), strict=True)
            if lost
        ]
        if words:
            text = f"no window of {name} reads {' and '.join(words)} of its input"
            remarks.append(Remark("dropped", [name], text))
    return remarks


def _read(node: Node) -> list[tuple[int, set[int]]]:
    """(axis, the rows or columns that are read) of one convolution or pooling."""
    op, x, y = node.op, node.inputs[0], node.outputs()[0]
    if isinstance(op, MaxPool):
        return [
            (axis, {i for window in windows for i in range(*window)})
            for axis, windows in enumerate((op.windows_h, op.windows_w))
        ]
    if isinstance(op, AxisMap):
        return [(op.axis - 2, {i for row in op.rule.rows() for i, _ in row})]
    assert isinstance(op, Conv2d)
    kernel = node.inputs[1].shape[2:]
    return [
        (
            axis,
            {
                i * op.stride[axis] + t * op.dilation[axis] - op.padding[axis][0]
                for i in range(y.shape[2 + axis])
                for t in range(kernel[axis])
            }
            & set(range(x.shape[2 + axis])),
        )
        for axis in (0, 1)
    ]


# ------------------------------------------------------------------ padding


def padding_shares(graph: Graph) -> dict[str, float]:
    """Convolution → share of its outputs whose window reaches into zero padding."""
    found: dict[str, float] = {}
    for node in graph.nodes():
        op = node.op
        if not isinstance(op, Conv2d) or op.padding == ((0, 0), (0, 0)):
            continue
        x, w, y = node.inputs[0].shape, node.inputs[1].shape, node.outputs()[0].shape
        inside = 1
        for axis in (0, 1):
            reach = (w[2 + axis] - 1) * op.dilation[axis]
            starts = [i * op.stride[axis] - op.padding[axis][0] for i in range(y[2 + axis])]
            inside *= sum(start >= 0 and start + reach < x[2 + axis] for start in starts)
        found[_name(node)] = 1 - inside / (y[2] * y[3])
    return found


def _padded(graph: Graph) -> list[Remark]:
    many = {name: share for name, share in padding_shares(graph).items() if share > TOUCHED}
    if not many:
        return []
    shown = ", ".join(f"{name} {share:.0%}" for name, share in list(many.items())[:4])
    more = f" and {len(many) - 4} more" if len(many) > 4 else ""
    text = f"padding touches more than half of the outputs of {shown}{more}"
    return [Remark("padding", list(many), text)]


# ------------------------------------------------------------------ weights


def _needless_bias(calls: Sequence[Call]) -> list[Remark]:
    """Biases of convolutions whose result goes into batch norm, which takes the mean away."""
    normed = {
        call.inputs[0].as_value()
        for call in calls
        if isinstance(call.module, BatchNorm2d) and isinstance(call.inputs[0], Symbol)
    }
    return [
        Remark(
            "bias", [call.path], f"batch norm takes the bias of {call.path} away; use bias=False"
        )
        for call in calls
        if isinstance(call.module, ConvLayer)
        and call.module.bias is not None
        and call.output.as_value() in normed
    ]


def _dead(net: Module, graph: Graph) -> list[Remark]:
    found: dict[str, tuple[np.ndarray, str]] = {}
    for node in graph.nodes():
        weights = _weights(node.inputs[1]) if isinstance(node.op, Conv2d) else None
        if weights is not None:
            zero = np.all(weights.reshape(len(weights), -1) == 0, axis=1)
            found[_name(node)] = (zero, "have weights that are all 0")
    for path, module in net.named_modules():
        if isinstance(module, BatchNorm2d) and module.weight is not None:
            found[path] = (np.equal(module.weight.data, 0), "have the scale 0")
    remarks = []
    for name, (zero, why) in found.items():
        if zero.any():
            listed = np.flatnonzero(zero)
            shown = ", ".join(map(str, listed[:8])) + (" …" if len(listed) > 8 else "")
            text = f"{len(listed)} of {len(zero)} channels of {name} {why}: {shown}"
            remarks.append(Remark("dead", [name], text))
    return remarks


def _weights(value: Value) -> np.ndarray | None:
    """The numbers of a weight that is used as it is, or in another shape."""
    while isinstance(value.node.op, Reshape):
        value = value.node.inputs[0]
    op = value.node.op
    return op.param.data if isinstance(op, ParamLeaf) else None


def _pair(size: Sequence[int]) -> str:
    return "×".join(map(str, size))
