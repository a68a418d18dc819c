"""Expressions: walking, composing and simplifying never change what is computed."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from striate.arith.expr import ARITY, Expr, Part, compose, drop_unused, simplify

MEANING = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "neg": lambda a: -a,
    "select": lambda c, a, b: a if c != 0 else b,
}


def value(expr, inputs):
    return expr.run(inputs, lambda kind, operands: MEANING[kind](*operands), lambda v: v)


@st.composite
def expressions(draw, arity=3):
    code = []
    for i in range(draw(st.integers(0, 8))):
        kind = draw(st.sampled_from(["const", *MEANING]))
        if kind == "const":
            code.append(("const", float(draw(st.integers(-2, 2)))))
        elif arity + i:
            ids = st.integers(0, arity + i - 1)
            code.append((kind, *(draw(ids) for _ in range(ARITY[kind]))))
    ids = st.integers(0, arity + len(code) - 1)
    return Expr(arity, tuple(code), tuple(draw(st.lists(ids, min_size=1, max_size=3))))


INPUTS = (2.0, -3.0, 5.0)


@given(expressions())
def test_simplify_keeps_the_values_and_is_idempotent(expr):
    small = simplify(expr)
    assert value(small, INPUTS) == value(expr, INPUTS)
    assert len(small.code) <= len(expr.code)
    assert simplify(small) == small
    assert len({(k, *map(repr, o)) for k, *o in small.code}) == len(small.code)


@given(expressions())
def test_drop_unused_keeps_the_values(expr):
    small, keys = drop_unused(expr, "abc")
    assert len(keys) == small.arity
    assert small.used_inputs() == tuple(range(small.arity))
    assert value(small, [INPUTS["abc".index(k)] for k in keys]) == value(expr, INPUTS)


@given(expressions(), expressions())
def test_compose_is_function_composition(first, second):
    results = tuple(f"r{i}" for i in range(len(first.outputs)))
    operands = ("r0", "y", "x")
    outputs = tuple(f"s{i}" for i in range(len(second.outputs)))
    expr, keys = compose(
        [Part(first, ("x", "y", "z"), results), Part(second, operands, outputs)],
        [*outputs, "r0", "z"],
    )
    given_values = dict(zip("xyz", INPUTS, strict=True))
    r0 = value(first, INPUTS)[0]
    expected = (*value(second, (r0, given_values["y"], given_values["x"])), r0, given_values["z"])
    assert value(expr, [given_values[k] for k in keys]) == expected


def test_shared_work_is_done_once():
    square = Expr(1, (("mul", 0, 0),), (1,))
    expr, keys = compose(
        [
            Part(square, ("x",), ("p",)),
            Part(square, ("x",), ("q",)),
            Part(Expr.single("add"), ("p", "q"), ("y",)),
        ],
        ["y"],
    )
    assert keys == ("x",)
    assert expr.code == (("mul", 0, 0), ("add", 1, 1))


def test_constants_that_differ_only_in_sign_stay_apart():
    expr = Expr(0, (("const", 0.0), ("const", -0.0)), (0, 1))
    zero, minus_zero = value(simplify(expr), ())
    assert math.copysign(1, zero) == 1
    assert math.copysign(1, minus_zero) == -1


def test_printing_names_inputs_and_temporaries():
    expr = Expr(2, (("const", 0.5), ("mul", 0, 2), ("add", 3, 1)), (4,))
    assert str(expr) == "(x0 x1) -> (t2) where {t0 = const 0.5; t1 = mul x0 t0; t2 = add t1 x1}"


@pytest.mark.parametrize(
    ("arity", "code", "outputs"),
    [
        (1, (("add", 0, 1),), (1,)),
        (1, (("add", 0),), (1,)),
        (1, (("sinh", 0),), (1,)),
        (1, (("const", 1),), (1,)),
        (1, (), (1,)),
    ],
)
def test_malformed_code_is_refused(arity, code, outputs):
    with pytest.raises(ValueError, match=r"undefined|arity|one float|not defined"):
        Expr(arity, code, outputs)
