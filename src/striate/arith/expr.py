"""Elementwise expressions as straight-line code.

An `Expr` says what is computed for one element; it says nothing of arrays, vectors or
registers. The same expression runs as NumPy (graph), as a vector loop, inside a reduction and
as the epilogue of a convolution, and fusing two operations is concatenating their expressions.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

T = TypeVar("T")

Instruction = tuple["str | int | float", ...]

# Every kind of instruction and the number of its operands. Comparisons give 0.0 or 1.0;
# ("select", c, a, b) is a where c != 0 (a NaN counts as not 0), else b. What each kind means to
# the last rule (NaN, gradients) is written once, in graph/ops/eltwise.py.
ARITY: dict[str, int] = {
    "add": 2,
    "sub": 2,
    "mul": 2,
    "div": 2,
    "pow": 2,
    "min": 2,
    "max": 2,
    "gt": 2,
    "ge": 2,
    "lt": 2,
    "le": 2,
    "eq": 2,
    "ne": 2,
    "select": 3,
    "neg": 1,
    "abs": 1,
    "sign": 1,
    "floor": 1,
    "relu": 1,
    "sqrt": 1,
    "rsqrt": 1,
    "reciprocal": 1,
    "exp": 1,
    "log": 1,
    "log1p": 1,
    "tanh": 1,
    "sigmoid": 1,
    "erf": 1,
}


@dataclass(frozen=True)
class Expr:
    """Straight-line code over the inputs 0 … arity-1.

    Instruction i is `(kind, *operand_ids)` or `("const", value)` and defines the id `arity + i`;
    it may only read smaller ids. `outputs` are ids of inputs or instructions.

    Raises ValueError for a malformed expression (a defect of the caller, never of a user).
    """

    arity: int
    code: tuple[Instruction, ...]
    outputs: tuple[int, ...]

    def __post_init__(self) -> None:
        for i, (kind, *operands) in enumerate(self.code):
            if kind == "const":
                if len(operands) != 1 or not isinstance(operands[0], float):
                    raise ValueError(f"instruction {i}: const takes one float, got {operands!r}")
                continue
            if ARITY.get(str(kind)) != len(operands):
                raise ValueError(f"instruction {i}: unknown kind or wrong arity {self.code[i]!r}")
            for operand in operands:
                if not isinstance(operand, int) or not 0 <= operand < self.arity + i:
                    raise ValueError(f"instruction {i}: {self.code[i]!r} reads an undefined id")
        for output in self.outputs:
            if not 0 <= output < self.arity + len(self.code):
                raise ValueError(f"output {output} is not defined")

    @staticmethod
    def single(kind: str) -> Expr:
        """One instruction of `kind` over its own inputs."""
        arity = ARITY[kind]
        return Expr(arity, ((kind, *range(arity)),), (arity,))

    @staticmethod
    def constant(value: float) -> Expr:
        """No inputs, one constant."""
        return Expr(0, (("const", float(value)),), (0,))

    @staticmethod
    def identity(arity: int = 1) -> Expr:
        """No instructions: the outputs are the inputs."""
        return Expr(arity, (), tuple(range(arity)))

    def run(
        self,
        inputs: Sequence[T],
        call: Callable[[str, tuple[T, ...]], T],
        const: Callable[[float], T],
    ) -> tuple[T, ...]:
        """Walk the code with any meaning: `call(kind, operands)` and `const(value)`.

        NumPy arrays, vector registers and numbers all run through this one walk.
        """
        if len(inputs) != self.arity:
            raise ValueError(f"expression takes {self.arity} inputs, got {len(inputs)}")
        values = list(inputs)
        for instruction in self.code:
            if instruction[0] == "const":
                values.append(const(float(instruction[1])))
            else:
                operands = tuple(values[i] for i in _operands(instruction))
                values.append(call(str(instruction[0]), operands))
        return tuple(values[i] for i in self.outputs)

    def with_inputs(self, places: Sequence[int]) -> Expr:
        """The same function with its inputs in another order: input i becomes `places[i]`."""

        def move(i: int) -> int:
            return places[i] if i < self.arity else i

        code = tuple(
            instruction
            if instruction[0] == "const"
            else (instruction[0], *map(move, _operands(instruction)))
            for instruction in self.code
        )
        return Expr(self.arity, code, tuple(map(move, self.outputs)))

    def used_inputs(self) -> tuple[int, ...]:
        """Inputs that some instruction or output reads, ascending."""
        read = {i for instruction in self.code for i in _operands(instruction)}
        return tuple(sorted(i for i in read | set(self.outputs) if i < self.arity))

    def __str__(self) -> str:
        def name(i: int) -> str:
            return f"x{i}" if i < self.arity else f"t{i - self.arity}"

        lines = []
        for i, instruction in enumerate(self.code):
            operands = [name(j) for j in _operands(instruction)] or [repr(instruction[1])]
            lines.append(f"t{i} = {instruction[0]} {' '.join(operands)}")
        inputs = " ".join(name(i) for i in range(self.arity))
        outputs = " ".join(name(i) for i in self.outputs)
        return f"({inputs}) -> ({outputs}) where {{{'; '.join(lines)}}}"


def _operands(instruction: Instruction) -> tuple[int, ...]:
    """Ids that an instruction reads."""
    if instruction[0] == "const":
        return ()
    return tuple(int(i) for i in instruction[1:])


class Part(NamedTuple):
    """An expression with a name for each operand and for each result (any hashable keys)."""

    expr: Expr
    operands: tuple[Hashable, ...]
    results: tuple[Hashable, ...]


def compose(
    parts: Sequence[Part], outputs: Sequence[Hashable]
) -> tuple[Expr, tuple[Hashable, ...]]:
    """Concatenate expressions that feed one another.

    `parts` stand in an order in which every result is made before it is read. An operand that
    is the result of an earlier part is wired to it; every other operand is an input of the
    whole, one input for each different key. `outputs` are keys of results or operands.

    Returns the simplified expression and the keys of its inputs, in the order first read.
    """
    inputs: dict[Hashable, int] = {}
    made: set[Hashable] = set()
    for part in parts:
        for key in part.operands:
            if key not in made:
                inputs.setdefault(key, len(inputs))
        made.update(part.results)
    for key in outputs:
        if key not in made:
            inputs.setdefault(key, len(inputs))

    ids: dict[Hashable, int] = dict(inputs)
    code: list[Instruction] = []
    for part in parts:
        local = [ids[key] for key in part.operands]
        for instruction in part.expr.code:
            local.append(len(inputs) + len(code))
            if instruction[0] == "const":
                code.append(instruction)
            else:
                code.append((instruction[0], *(local[i] for i in _operands(instruction))))
        for key, output in zip(part.results, part.expr.outputs, strict=True):
            ids[key] = local[output]
    whole = Expr(len(inputs), tuple(code), tuple(ids[key] for key in outputs))
    return drop_unused(simplify(whole), tuple(inputs))


def simplify(expr: Expr) -> Expr:
    """The same function with no dead instructions and no common subexpressions.

    The inputs stay as they are, also those that are no longer read. Arithmetic is not
    rearranged, so the results stay the same to the last bit.
    """
    seen: dict[tuple[object, ...], int] = {}
    renamed = list(range(expr.arity))
    code: list[Instruction] = []
    for instruction in expr.code:
        if instruction[0] == "const":
            new = instruction
            key: tuple[object, ...] = ("const", float(instruction[1]).hex())  # tells -0.0 from 0.0
        else:
            new = (instruction[0], *(renamed[i] for i in _operands(instruction)))
            key = new
        if key not in seen:
            seen[key] = expr.arity + len(code)
            code.append(new)
        renamed.append(seen[key])
    merged = Expr(expr.arity, tuple(code), tuple(renamed[i] for i in expr.outputs))
    return _without_dead_code(merged)


def _without_dead_code(expr: Expr) -> Expr:
    live = set(expr.outputs)
    for i in range(len(expr.code) - 1, -1, -1):
        if expr.arity + i in live:
            live.update(_operands(expr.code[i]))
    renamed = {i: i for i in range(expr.arity)}
    code: list[Instruction] = []
    for i, instruction in enumerate(expr.code):
        if expr.arity + i in live:
            renamed[expr.arity + i] = expr.arity + len(code)
            code.append(_rename(instruction, renamed))
    return Expr(expr.arity, tuple(code), tuple(renamed[i] for i in expr.outputs))


def drop_unused(expr: Expr, keys: Sequence[Hashable]) -> tuple[Expr, tuple[Hashable, ...]]:
    """Remove the inputs that nothing reads; returns the expression and the remaining keys."""
    used = expr.used_inputs()
    renamed = {old: new for new, old in enumerate(used)}
    for i in range(len(expr.code)):
        renamed[expr.arity + i] = len(used) + i
    code = tuple(_rename(instruction, renamed) for instruction in expr.code)
    outputs = tuple(renamed[i] for i in expr.outputs)
    return Expr(len(used), code, outputs), tuple(keys[i] for i in used)


def _rename(instruction: Instruction, renamed: dict[int, int]) -> Instruction:
    if instruction[0] == "const":
        return instruction
    return (instruction[0], *(renamed[i] for i in _operands(instruction)))
