"""Operations of a graph as ONNX nodes: what has no function of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from striate.errors import UnsupportedError
from striate.graph import Value
from striate.graph.ops.axismap import AveragePool1d, AxisMap, Pad1d, Rule, Slice1d
from striate.graph.ops.conv import Conv2d
from striate.graph.ops.eltwise import Map
from striate.graph.ops.leaf import Const, ParamLeaf, SizeConst
from striate.graph.ops.reduce import Reduce
from striate.graph.ops.shape import Broadcast, Concat, Flip, Reshape, Slice
from striate.graph.ops.transpose import Transpose
from striate.graph.symbol import Op
from striate.onnx.writer import FixedSizeError, Piece, Sizes, Writer

END = np.iinfo(np.int64).max
PAD_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "edge"}
MAPS = {
    "add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "pow": "Pow", "min": "Min",
    "max": "Max", "neg": "Neg", "abs": "Abs", "sign": "Sign", "floor": "Floor", "relu": "Relu",
    "sqrt": "Sqrt", "reciprocal": "Reciprocal", "exp": "Exp", "log": "Log", "tanh": "Tanh",
    "sigmoid": "Sigmoid", "erf": "Erf",
}  # fmt: skip
COMPARISONS = {"gt": "Greater", "ge": "GreaterOrEqual", "lt": "Less", "le": "LessOrEqual"}
COMPARISONS |= {"eq": "Equal", "ne": "Equal"}
FLOAT, BOOL = 1, 9  # TensorProto.DataType


class Site(NamedTuple):
    """Where a rule writes, and the value that it is to write."""

    w: Writer
    sizes: Sizes
    value: Value

    @property
    def twin(self) -> Value:
        """The value in the trace of another size."""
        return self.sizes.twin(self.value)


def piece_of_node(w: Writer, sizes: Sizes, value: Value) -> Piece:
    """How to write the operation that makes a value.

    Raises UnsupportedError for an operation that inference does not have, and FixedSizeError for
    one that cannot be written for any size.
    """
    node = value.node
    rule = RULES.get(type(node.op))
    if rule is None or len(node.types) != 1:
        kind = type(node.op).__name__
        raise UnsupportedError(
            f"cannot export {kind} (in layer {node.scope!r}): ONNX has no form of it for inference"
        )
    return Piece(node.inputs, rule(Site(w, sizes, value)))


def _constant(at: Site) -> Callable[..., str]:
    op = at.value.node.op
    assert isinstance(op, Const)
    number = op.value
    if isinstance(op, SizeConst):
        twin = at.twin.node.op
        if isinstance(twin, Const) and twin.value != number:
            raise FixedSizeError
    return lambda: at.w.constant(number)


def _param(at: Site) -> Callable[..., str]:
    op = at.value.node.op
    assert isinstance(op, ParamLeaf)
    return lambda: at.w.param(op.param)


def _map(at: Site) -> Callable[..., str]:
    op = at.value.node.op
    assert isinstance(op, Map)
    kind = op.kind
    if kind in MAPS:
        return lambda *names: at.w.node(MAPS[kind], *names)
    if kind in COMPARISONS:

        def compare(a: str, b: str) -> str:
            y = at.w.node(COMPARISONS[kind], a, b)
            return at.w.node("Cast", at.w.node("Not", y) if kind == "ne" else y, to=FLOAT)

        return compare
    if kind == "select":
        return lambda c, a, b: at.w.node("Where", at.w.node("Cast", c, to=BOOL), a, b)
    if kind == "rsqrt":
        return lambda x: at.w.node("Reciprocal", at.w.node("Sqrt", x))
    if kind == "log1p":
        return lambda x: at.w.node("Log", at.w.node("Add", x, at.w.constant(1.0)))
    raise UnsupportedError(f"cannot export the function {kind!r} (in {at.value.node.scope!r})")


def _reduce(at: Site) -> Callable[..., str]:
    op = at.value.node.op
    assert isinstance(op, Reduce)
    axes = op.axes
    if op.kind == "sum":
        return lambda x: at.w.node("ReduceSum", x, at.w.ints(axes), keepdims=1)
    return lambda x: at.w.node("ReduceMax", x, axes=list(axes), keepdims=1)


def target_shape(at: Site, source: Value) -> str:
    """The shape of `value` as an input of Reshape, which may not name free sizes.

    A free size that stands where the source has the same is 0 (copied), one other may be -1.
    Raises FixedSizeError if that does not suffice.
    """
    wanted, given = at.sizes.of(at.value), at.sizes.of(source)
    numbers: list[int] = []
    for i, size in enumerate(wanted):
        same = (
            size is None
            and i < len(given)
            and given[i] is None
            and (at.value.shape[i], at.twin.shape[i])
            == (source.shape[i], at.sizes.twin(source).shape[i])
        )
        numbers.append(0 if same else -1 if size is None else size)
    if numbers.count(-1) > 1:
        raise FixedSizeError
    return at.w.ints(numbers)


def _reshape(at: Site) -> Callable[..., str]:
    shape = target_shape(at, at.value.node.inputs[0])
    return lambda x: at.w.node("Reshape", x, shape)


def _broadcast(at: Site) -> Callable[..., str]:
    shape = at.sizes.of(at.value)
    if None in shape:
        raise FixedSizeError
    wanted = at.w.ints(at.value.shape)
    return lambda x: at.w.node("Expand", x, wanted)


def _concat(at: Site) -> Callable[..., str]:
    op = at.value.node.op
    assert isinstance(op, Concat)
    return lambda *names: at.w.node("Concat", *names, axis=op.axis)


def _cut(at: Site, axis: int, start: int, stop: int, step: int) -> Callable[..., str]:
    """A slice; with a free size its end must lie at the same place, counted from one side."""
    source = at.value.node.inputs[0]
    size, twin = source.shape[axis], at.twin.node
    op: Any = twin.op.rule if isinstance(twin.op, AxisMap) else twin.op
    other = twin.inputs[0].shape[axis]
    if op.start != start:
        raise FixedSizeError
    last = start + (len(range(start, stop, step)) - 1) * step + 1
    if op.stop != stop:
        if size - stop != other - op.stop:
            raise FixedSizeError
        last = stop - size or END
    ends = (at.w.ints([start]), at.w.ints([last]), at.w.ints([axis]), at.w.ints([step]))
    return lambda x: at.w.node("Slice", x, *ends)


def _slice(at: Site) -> Callable[..., str]:
    op = at.value.node.op
    assert isinstance(op, Slice)
    return _cut(at, op.axis, op.start, op.stop, op.step)


def _flip(at: Site) -> Callable[..., str]:
    op = at.value.node.op
    assert isinstance(op, Flip)
    count = len(op.axes)
    ends = [at.w.ints([n] * count) for n in (-1, -END)]
    return lambda x: at.w.node("Slice", x, *ends, at.w.ints(op.axes), at.w.ints([-1] * count))


def _transpose(at: Site) -> Callable[..., str]:
    op = at.value.node.op
    assert isinstance(op, Transpose)
    return lambda x: at.w.node("Transpose", x, perm=list(op.axes))


def _conv(at: Site) -> Callable[..., str]:
    op, twin = at.value.node.op, at.twin.node.op
    assert isinstance(op, Conv2d)
    if op != twin:  # "same" padding follows from the size
        raise FixedSizeError
    kernel = at.value.node.inputs[1].shape[2:]
    return lambda x, weights: at.w.node("Conv", x, weights, **conv_attributes(op, kernel))


def conv_attributes(op: Conv2d, kernel: tuple[int, ...]) -> dict[str, Any]:
    """The attributes of an ONNX Conv."""
    (top, bottom), (left, right) = op.padding
    return {
        "kernel_shape": list(kernel),
        "strides": list(op.stride),
        "dilations": list(op.dilation),
        "pads": [top, left, bottom, right],
        "group": op.groups,
    }


def _axis_map(at: Site) -> Callable[..., str]:
    op, twin = at.value.node.op, at.twin.node.op
    assert isinstance(op, AxisMap)
    assert isinstance(twin, AxisMap)
    rule, other = op.rule, twin.rule
    if isinstance(rule, Slice1d):
        return _cut(at, op.axis, rule.start, rule.stop, rule.step)
    if isinstance(rule, Pad1d) and isinstance(other, Pad1d) and rule.mode in PAD_MODES:
        ends = (rule.begin, rule.end)
        if ends != (other.begin, other.end):
            raise FixedSizeError
        pads = [0] * 8
        pads[op.axis], pads[4 + op.axis] = ends
        mode = PAD_MODES[rule.mode]
        return lambda x: at.w.node("Pad", x, at.w.ints(pads), mode=mode)
    if isinstance(rule, AveragePool1d) and not rule.ceil_mode and rule.divisor is None:
        return _average(at.w, op.axis, rule)
    return _matrix(at, op.axis, rule)


def _average(w: Writer, axis: int, rule: AveragePool1d) -> Callable[..., str]:
    def along(number: int, otherwise: int) -> list[int]:
        return [number, otherwise] if axis == 2 else [otherwise, number]

    begin, end = (along(p, 0) for p in rule.padding)
    return lambda x: w.node(
        "AveragePool",
        x,
        kernel_shape=along(rule.kernel, 1),
        strides=along(rule.stride, 1),
        pads=begin + end,
        count_include_pad=int(rule.count_include_pad),
    )


def _matrix(at: Site, axis: int, rule: Rule) -> Callable[..., str]:
    """Any linear map of rows or columns is a matrix product, for one size."""
    at.sizes.fixed(at.value.node.inputs[0], axis)
    matrix = np.zeros((rule.out_size, rule.in_size), np.float32)
    for j, row in enumerate(rule.rows()):
        for i, weight in row:
            matrix[j, i] += weight
    if axis == 2:
        return lambda x: at.w.node("MatMul", at.w.constant(matrix), x)
    return lambda x: at.w.node("MatMul", x, at.w.constant(np.ascontiguousarray(matrix.T)))


RULES: dict[type[Op], Callable[[Site], Callable[..., str]]] = {
    Const: _constant,
    SizeConst: _constant,
    ParamLeaf: _param,
    Map: _map,
    Reduce: _reduce,
    Reshape: _reshape,
    Broadcast: _broadcast,
    Concat: _concat,
    Slice: _slice,
    Flip: _flip,
    Transpose: _transpose,
    Conv2d: _conv,
    AxisMap: _axis_map,
}
