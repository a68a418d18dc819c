"""From an expression to vector instructions.

NaN goes through everything that computes, min, max and relu included; comparisons with a NaN do
not hold, but "ne" does. Products and sums stay separate roundings, so an expression gives the
bits of its NumPy meaning wherever that is made of + − × ÷ √ and comparisons.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from striate.arith.expr import Expr
from striate.ir import mathfn, vec
from striate.ir.kernel import Kernel

COMPARISONS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<=", "eq": "=="}
ARITHMETIC = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv"}
UNARY: dict[str, Callable[[Kernel, Any], Any]] = {
    "neg": lambda k, x: k.b.fneg(x),
    "abs": mathfn.absolute,
    "floor": mathfn.floor,
    "sqrt": mathfn.sqrt,
    "rsqrt": mathfn.rsqrt,
    "exp": mathfn.exp,
    "log": mathfn.log,
    "log1p": mathfn.log1p,
    "tanh": mathfn.tanh,
    "sigmoid": mathfn.sigmoid,
    "erf": mathfn.erf,
}
# Instructions for a vector, in round numbers; every other kind is about one.
INSTRUCTIONS = {
    "div": 4, "sqrt": 4, "rsqrt": 8, "reciprocal": 4, "pow": 60, "exp": 18, "log": 24, "log1p": 30,
    "tanh": 24, "sigmoid": 24, "erf": 34,
}  # fmt: skip


def instructions(expr: Expr) -> int:
    """About how many instructions one vector of results takes; to choose the unrolling."""
    return sum(INSTRUCTIONS.get(str(instruction[0]), 1) for instruction in expr.code)


def emit_expr(k: Kernel, expr: Expr, values: Sequence[Any]) -> list[Any]:
    """One vector for each of the outputs, from one vector for each input.

    All vectors have the same number of lanes, which need not be `k.lanes`. An expression without
    inputs gives vectors of `k.lanes` lanes.
    """
    if len(values) != expr.arity:
        raise ValueError(f"expression takes {expr.arity} inputs, got {len(values)}")
    return _Emitter(k, expr, values).run()


class _Emitter:
    """One walk through the code; `values[i]` is the vector of id i."""

    def __init__(self, k: Kernel, expr: Expr, values: Sequence[Any]) -> None:
        self.k, self.expr = k, expr
        self.values = list(values)
        self.lanes = values[0].type.count if values else k.lanes
        self.conditions: dict[int, Any] = {}  # comparisons by id, as bits

    def run(self) -> list[Any]:
        for kind, *operands in self.expr.code:
            if kind == "const":
                self.values.append(self.full(float(operands[0])))
            else:
                self.values.append(self.instruction(str(kind), [int(i) for i in operands]))
        return [self.values[i] for i in self.expr.outputs]

    def full(self, value: float) -> Any:
        return vec.constant(self.k, value, self.lanes)

    def literal(self, i: int) -> float | None:
        """The value of id i if it is a constant of the expression."""
        if i < self.expr.arity or self.expr.code[i - self.expr.arity][0] != "const":
            return None
        return float(self.expr.code[i - self.expr.arity][1])

    def instruction(self, kind: str, ids: list[int]) -> Any:
        k, b, x = self.k, self.k.b, [self.values[i] for i in ids]
        if kind in ARITHMETIC:
            return getattr(b, ARITHMETIC[kind])(*x)
        if kind in UNARY:
            return UNARY[kind](k, x[0])
        if kind in COMPARISONS:
            return self.compared(b.fcmp_ordered(COMPARISONS[kind], *x))
        if kind == "ne":
            return self.compared(b.fcmp_unordered("!=", *x))
        if kind == "select":
            return b.select(self.condition(ids[0]), x[1], x[2])
        if kind in {"min", "max"}:
            # Only the first operand is checked for NaN, so a constant comes first.
            first, second = (x[1], x[0]) if self.literal(ids[1]) is not None else x
            return (mathfn.minimum if kind == "min" else mathfn.maximum)(k, first, second)
        if kind == "relu":
            return mathfn.maximum(k, self.full(0.0), x[0])
        if kind == "reciprocal":
            return b.fdiv(self.full(1.0), x[0])
        if kind == "sign":
            negative = b.fcmp_ordered("<", x[0], self.full(0.0))
            rest = b.select(negative, self.full(-1.0), x[0])
            return b.select(b.fcmp_ordered(">", x[0], self.full(0.0)), self.full(1.0), rest)
        if kind == "pow":
            return self.power(ids, x)
        raise ValueError(f"{kind!r} is not a kind of instruction")

    def compared(self, bits: Any) -> Any:
        self.conditions[len(self.values)] = bits
        return self.k.b.select(bits, self.full(1.0), self.full(0.0))

    def condition(self, i: int) -> Any:
        """Whether id i is not 0; a NaN is not 0."""
        if i in self.conditions:
            return self.conditions[i]
        return self.k.b.fcmp_unordered("!=", self.values[i], self.full(0.0))

    def power(self, ids: list[int], x: list[Any]) -> Any:
        exponent = self.literal(ids[1])
        known = None if exponent is None else mathfn.power_constant(self.k, x[0], exponent)
        return mathfn.power(self.k, *x) if known is None else known
