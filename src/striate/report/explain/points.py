"""The numbers behind single elements of feature maps.

From an element one walks back through whatever works on it alone (activation, batch norm, bias, a
sum of branches) to the operation that gathers: a convolution, a pooling, a dense layer. What that
gathers is read from the float32 maps of the layer before, as the net's program has made them; all
arithmetic from there on is NumPy's in float64.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from striate.errors import UnsupportedError
from striate.graph import Value
from striate.graph.ops.eltwise import Map
from striate.graph.ops.leaf import Const, ParamLeaf
from striate.graph.ops.shape import Broadcast, Reshape
from striate.graph.trace import Composite
from striate.report.explain.traced import Traced

Array: TypeAlias = np.ndarray[Any, Any]
# An index of each axis of a value, which broadcast to (maps, points).
Where: TypeAlias = tuple[Array, ...]

POINTWISE = frozenset({
    "batch_norm", "relu", "relu6", "leaky_relu", "prelu", "sigmoid", "silu", "hardsigmoid",
    "hardswish", "tanh", "gelu", "elu",
})  # fmt: skip
SIGNS = {"add": "+", "sub": "−", "mul": "×", "div": "/"}


@dataclass(frozen=True)
class Step:
    """A function of one element: from `before` at `there` to `after` at `here`."""

    before: Value
    there: Where
    after: Value
    here: Where
    composite: Composite | None


@dataclass(frozen=True)
class Way:
    """From the operation that gathers to an element: its value and place, and what follows."""

    gathered: Value
    where: Where
    steps: tuple[Step, ...]


class Numbers:
    """The numbers of a traced net, in float64; what is not known is computed from what is."""

    def __init__(self, traced: Traced, known: Mapping[Value, Array]) -> None:
        """`known` holds the float32 maps that the program has made."""
        self.traced = traced
        self.known = dict(known)
        self._computed: dict[Value, Array] = {}

    def full(self, value: Value) -> Array:
        """All elements."""
        if value in self.known:
            return self.known[value]
        if value not in self._computed:
            node = value.node
            if isinstance(node.op, ParamLeaf):
                return node.op.param.data
            results = node.op.numpy(*(self._wide(v) for v in node.inputs))
            self._computed.update(zip(node.outputs(), results, strict=True))
        return self._computed[value]

    def _wide(self, value: Value) -> Array:
        return np.asarray(self.full(value), np.float64)

    def at(self, value: Value, where: Where) -> Array:
        """The elements at `where`, (maps, points) in float64."""
        return np.asarray(self.full(value)[where], np.float64)

    def after(self, step: Step, numbers: Array) -> Array:
        """The elements after a step if those before it are `numbers`.

        Raises UnsupportedError if they do not follow element by element.
        """
        if step.composite is not None:
            return self._follow(step.after, step.here, step.before, numbers)
        operands = [
            numbers if v == step.before else self.at(v, below(step.here, v))
            for v in step.after.node.inputs
        ]
        return np.asarray(step.after.node.op.numpy(*operands)[0])

    def _follow(self, value: Value, where: Where, given: Value, numbers: Array) -> Array:
        """The elements at `where` if those of `given`, from which they follow, were `numbers`."""
        if value == given:
            return numbers
        if not self._reaches(value, given):
            return self.at(value, where)
        if not isinstance(value.node.op, Map):
            raise UnsupportedError(f"{type(value.node.op).__name__} is no function of one element")
        inputs = value.node.inputs
        operands = [self._follow(v, below(where, v), given, numbers) for v in inputs]
        return np.asarray(value.node.op.numpy(*operands)[0])

    def _reaches(self, value: Value, given: Value) -> bool:
        """Whether a value is computed from `given` (never from before it)."""
        depth = self.traced.depth
        if depth.get(value, -1) <= depth[given]:
            return value == given
        return any(self._reaches(v, given) for v in value.node.inputs)


def below(where: Where, operand: Value) -> Where:
    """The place in an operand that is broadcast to the value in which `where` is a place."""
    inner = where[len(where) - operand.ndim :]
    return tuple(
        np.zeros_like(index) if size == 1 else index
        for index, size in zip(inner, operand.shape, strict=True)
    )


def walk(traced: Traced, value: Value, where: Where) -> Way:
    """Back from elements of a value to what gathers them."""
    steps: list[Step] = []
    while True:
        op = value.node.op
        composite = traced.composites.get(value)
        if composite is not None and composite.function in POINTWISE:
            x = composite.operands["x"]
            if x.shape == value.shape and traced.moving(x):
                steps.append(Step(x, where, value, where, composite))
                value = x
                continue
        main = _main(traced, value) if isinstance(op, Map) else None
        if main is not None:
            there = below(where, main)
            steps.append(Step(main, there, value, where, None))
            value, where = main, there
        elif isinstance(op, Reshape):
            x = value.node.inputs[0]
            flat = np.ravel_multi_index(where, value.shape)
            value, where = x, tuple(np.unravel_index(flat, x.shape))
        elif isinstance(op, Broadcast):
            x = value.node.inputs[0]
            value, where = x, below(where, x)
        else:
            return Way(value, where, tuple(reversed(steps)))


def _main(traced: Traced, value: Value) -> Value | None:
    """The operand of an elementwise operation to follow: of full size, and computed last."""
    moving = [v for v in value.node.inputs if traced.moving(v) and v != traced.image]
    full = [v for v in moving if v.shape == value.shape]
    return max(full or moving, key=lambda v: traced.depth[v], default=None)


# ---------------------------------------------------------------------------- in words


def describe(step: Step, numbers: Numbers) -> tuple[str, list[str]]:
    """What a step does, in a word, and its formula for each map, v being the element before."""
    maps = np.broadcast_shapes(*(index.shape for index in step.here))[0]
    if step.composite is not None:
        function = step.composite.function
        if function == "batch_norm":
            return "batch norm", _batch_norm(step, numbers, maps)
        if function == "relu":
            return "ReLU", ["max(0, v)"] * maps
        options = step.composite.options
        given = ", ".join(f"{k}={v}" for k, v in options.items() if isinstance(v, float))
        return function.replace("_", " "), [f"{function}(v{', ' + given if given else ''})"] * maps
    op = step.after.node.op
    assert isinstance(op, Map)
    if op.kind == "relu":
        return "ReLU", ["max(0, v)"] * maps
    return _word(step), [_formula(step, op.kind, numbers, k) for k in range(maps)]


def _word(step: Step) -> str:
    node = step.after.node
    assert isinstance(node.op, Map)
    others = [v for v in node.inputs if v != step.before]
    if node.op.kind == "add" and others and isinstance(others[0].node.op, (Reshape, ParamLeaf)):
        return "bias"
    if node.op.kind == "add" and others and not isinstance(others[0].node.op, Const):
        return "sum of branches"
    return {"mul": "factor", "add": "sum", "sub": "difference", "div": "quotient"}.get(
        node.op.kind, node.op.kind
    )


def _formula(step: Step, kind: str, numbers: Numbers, k: int) -> str:
    words = [_operand(step, v, numbers, k) for v in step.after.node.inputs]
    if kind in SIGNS:
        return f"{words[0]} {SIGNS[kind]} {words[1]}"
    return f"{kind}({', '.join(words)})"


def _operand(step: Step, value: Value, numbers: Numbers, k: int) -> str:
    if value == step.before:
        return "v"
    if numbers.traced.moving(value):
        return "u"  # another branch: its number differs from point to point
    there = below(step.here, value)
    shape = np.broadcast_shapes(*(i.shape for i in step.here))
    number = np.broadcast_to(numbers.at(value, there), shape)[k].flat[0]
    return f"({number:.6g})" if number < 0 else f"{number:.6g}"


def branch(step: Step, numbers: Numbers) -> Array | None:
    """The numbers `u` of the other branch that a step adds or multiplies with, if there is one."""
    if step.composite is not None:
        return None
    others = [v for v in step.after.node.inputs if v != step.before and numbers.traced.moving(v)]
    return numbers.at(others[0], below(step.here, others[0])) if others else None


def _batch_norm(step: Step, numbers: Numbers, maps: int) -> list[str]:
    """The formula (v − mean) / √(var + eps) · weight + bias with the numbers of each channel."""
    assert step.composite is not None
    channels = np.broadcast_to(step.here[1], (maps, step.here[1].shape[-1]))[:, 0]

    def of(name: str) -> Array | None:
        operand = step.composite.operands.get(name) if step.composite else None
        return None if operand is None else numbers.full(operand).reshape(-1)[channels]

    mean, var, weight, bias = (of(n) for n in ("running_mean", "running_var", "weight", "bias"))
    assert mean is not None
    assert var is not None  # or else it would be no function of one element
    eps = step.composite.options["eps"]
    lines = []
    for k in range(maps):
        line = f"(v − {_signed(mean[k])}) / √({var[k]:.6g} + {eps:g})"
        line += "" if weight is None else f" × {_signed(weight[k])}"
        lines.append(line + ("" if bias is None else f" + {_signed(bias[k])}"))
    return lines


def _signed(number: float) -> str:
    return f"({number:.6g})" if number < 0 else f"{number:.6g}"
