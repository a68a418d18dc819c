"""The arithmetic of a layer's output size, in words with its numbers."""

from __future__ import annotations

from typing import Any

from striate.arith.padding import normalise
from striate.graph import Value
from striate.graph.ops.conv import Conv2d, ConvInputGrad
from striate.graph.ops.eltwise import Map
from striate.report.explain.traced import Layer, Traced

AXES = ("height", "width")


def size_lines(traced: Traced, layer: Layer) -> list[str]:
    """One line for height and width together, or one for each if they differ."""
    lines = [_axis(traced, layer.output, axis) for axis in (0, 1)]
    if None in lines:
        return [_other(layer)]
    if lines[0] == lines[1]:
        return [f"height and width: {lines[0]}"]
    return [f"{name}: {line}" for name, line in zip(AXES, lines, strict=True)]


def _axis(traced: Traced, value: Value, axis: int) -> str | None:
    """⌊(n + p + q − d·(k − 1) − 1) / s⌋ + 1, or another formula that holds; None for none."""
    if value.ndim != 4:
        return None
    window = _pooling(traced, value, axis)
    node = value.node
    while isinstance(node.op, Map) and any(v.shape == value.shape for v in node.inputs):
        moving = [v for v in node.inputs if traced.moving(v)]  # a bias added to a convolution
        if len(moving) != 1 or not isinstance(moving[0].node.op, (Conv2d, ConvInputGrad)):
            break
        node = moving[0].node
    out = value.shape[axis + 2]
    if window is not None:
        n, kernel, stride, (begin, end), dilation, ceil = window
    elif isinstance(node.op, Conv2d):
        n, kernel = node.inputs[0].shape[axis + 2], node.inputs[1].shape[axis + 2]
        stride, dilation = node.op.stride[axis], node.op.dilation[axis]
        (begin, end), ceil = node.op.padding[axis], False
    elif isinstance(node.op, ConvInputGrad):
        return _transposed(node.op, node.inputs[0].shape, node.inputs[1].shape, axis, out)
    else:
        return None
    extent = f"{kernel}" if dilation == 1 else f"({dilation}·({kernel} − 1) + 1)"
    left, right = "⌈⌉" if ceil else "⌊⌋"
    formula = f"{left}({n} + {begin} + {end} − {extent}) / {stride}{right} + 1 = {out}"
    said = f"size {n}, padding {begin} and {end}, kernel {kernel}, stride {stride}"
    return f"{formula}  ({said}{'' if dilation == 1 else f', dilation {dilation}'})"


def _pooling(traced: Traced, value: Value, axis: int) -> Any:
    """(n, kernel, stride, (begin, end), dilation, ceil) of a pooling, if the value is one."""
    composite = traced.composites.get(value)
    if composite is None or composite.function not in {"max_pool2d", "avg_pool2d", "lp_pool2d"}:
        return None
    options, size = composite.options, composite.operands["x"].shape[2:]

    def both(name: str, default: Any) -> tuple[int, int]:
        given = options.get(name)
        given = default if given is None else given
        return (given, given) if isinstance(given, int) else (given[0], given[1])

    kernel = both("kernel_size", 1)
    stride, dilation = both("stride", kernel), both("dilation", 1)
    sides = normalise(options.get("padding", 0), (size[0], size[1]), kernel, stride, dilation)
    ceil = bool(options.get("ceil_mode", False))
    return size[axis], kernel[axis], stride[axis], sides[axis], dilation[axis], ceil


def _transposed(
    op: ConvInputGrad, x: tuple[int, ...], w: tuple[int, ...], axis: int, out: int
) -> str:
    n, kernel, stride = x[axis + 2], w[axis + 2], op.stride[axis]
    begin, dilation = op.padding[axis][0], op.dilation[axis]
    span = (n - 1) * stride + dilation * (kernel - 1) + 1
    cut = span - out - begin
    return (
        f"({n} − 1)·{stride} + {dilation}·({kernel} − 1) + 1 − {begin} − {cut} = {out}  "
        f"(size {n}, kernel {kernel}, stride {stride})"
    )


def _other(layer: Layer) -> str:
    """Of a layer without windows."""
    value = layer.output
    shapes = [v.shape[1:] for v in layer.inputs]
    if shapes and all(shape == value.shape[1:] for shape in shapes):
        return "as its input" if len(shapes) == 1 else "as its inputs"
    text = " and ".join(_times(shape) for shape in shapes)
    if value.ndim == 2 and len(shapes) == 1 and value.size == _product(shapes[0]):
        return f"{text} = {value.shape[1]} in a row"
    if value.ndim == 2 and len(shapes) == 1 and len(shapes[0]) == 1:
        return f"{shapes[0][0]} inputs, {value.shape[1]} outputs, each the sum over all inputs"
    if value.ndim == 4 and value.shape[2:] == (1, 1):
        return f"from {text}: all rows and columns become one number a channel"
    return f"from {text} to {_times(value.shape[1:])}"


def _product(shape: tuple[int, ...]) -> int:
    size = 1
    for side in shape:
        size *= side
    return size


def _times(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "1"
