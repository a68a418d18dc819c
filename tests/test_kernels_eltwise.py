import re

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import special

from striate.arith.expr import ARITY, Expr
from striate.errors import ArgumentError
from striate.kernels.eltwise import Eltwise
from tests.guard import guarded, guarded_front
from tests.kernel_call import assembly, call, calls, instructions, isa, same_bits  # noqa: F401

INF, NAN = np.inf, np.nan
# Meaning of every kind, in float64.
MEANING = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "pow": np.power,
    "min": np.minimum,
    "max": np.maximum,
    "gt": lambda a, b: (a > b) * 1.0,
    "ge": lambda a, b: (a >= b) * 1.0,
    "lt": lambda a, b: (a < b) * 1.0,
    "le": lambda a, b: (a <= b) * 1.0,
    "eq": lambda a, b: (a == b) * 1.0,
    "ne": lambda a, b: (a != b) * 1.0,
    "select": lambda c, a, b: np.where(c != 0, a, b),
    "neg": lambda x: -x,
    "abs": np.abs,
    "sign": np.sign,
    "floor": np.floor,
    "relu": lambda x: np.maximum(x, 0),
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "reciprocal": lambda x: 1 / x,
    "exp": np.exp,
    "log": np.log,
    "log1p": np.log1p,
    "tanh": np.tanh,
    "sigmoid": special.expit,
    "erf": special.erf,
}
# Kinds that are not one correctly rounded operation.
ROUGH = {"pow": 2e-5, "exp": 3e-7, "log": 3e-7, "log1p": 3e-7, "tanh": 4e-7, "sigmoid": 4e-7,
         "erf": 4e-7, "rsqrt": 3e-7}  # fmt: skip
GELU = Expr(
    1,
    (("const", 0.7071067811865476), ("mul", 0, 1), ("erf", 2), ("const", 1.0), ("add", 3, 4),
     ("mul", 0, 5), ("const", 0.5), ("mul", 6, 7)),
    (8,),
)  # fmt: skip


def meaning(expr, *inputs):
    values = [np.asarray(x, dtype=np.float64) for x in inputs]
    for kind, *operands in expr.code:
        if kind == "const":
            values.append(np.float64(operands[0]))
        else:
            values.append(MEANING[kind](*(values[i] for i in operands)))
    return [values[i] for i in expr.outputs]


def run(spec, inputs, extents, parts=1, place=guarded):
    outputs = [place(np.full(extents, 7.5, np.float32)) for _ in spec.expr.outputs]
    call(spec, [*(place(x) for x in inputs), *outputs], extents, parts)
    return outputs


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_every_kind_has_a_meaning_here():
    assert MEANING.keys() == ARITY.keys()


@pytest.mark.parametrize("kind", ARITY)
@pytest.mark.usefixtures("isa")
def test_kind(kind):
    edge = np.array([0.0, -0.0, 1.0, -1.0, 2.5, -2.5, INF, -INF, NAN, 0.5, -7.0], np.float32)
    arity = ARITY[kind]
    grid = np.meshgrid(*[edge] * arity)
    inputs = [
        np.concatenate([g.ravel(), 3 * numbers(200, seed=i)]).astype(np.float32)
        for i, g in enumerate(grid)
    ]
    (y,) = run(Eltwise(Expr.single(kind), 1, ("x",) * arity), inputs, inputs[0].shape)
    with np.errstate(all="ignore"):
        (expected,) = meaning(Expr.single(kind), *inputs)
    expected = expected.astype(np.float32)
    np.testing.assert_allclose(y, expected, rtol=ROUGH.get(kind, 0.0), atol=0.0)


@pytest.mark.usefixtures("isa")
def test_nan_as_in_pytorch():
    torch = pytest.importorskip("torch")
    edge = np.array([NAN, 0.0, -0.0, 3.0, -INF, INF], np.float32)
    a, b = (g.ravel().copy() for g in np.meshgrid(edge, edge))
    ta, tb = torch.tensor(a), torch.tensor(b)
    theirs = {
        "relu": torch.relu(ta),
        "min": torch.minimum(ta, tb),
        "max": torch.maximum(ta, tb),
        "gt": (ta > tb).float(),
        "ne": (ta != tb).float(),
        "select": torch.where(ta != 0, ta, tb),
    }
    for kind, expected in theirs.items():
        operands = [a, b] if kind != "relu" else [a]
        operands = [a, a, b] if kind == "select" else operands
        (y,) = run(Eltwise(Expr.single(kind), 1, ("x",) * len(operands)), operands, a.shape)
        np.testing.assert_array_equal(y, expected.numpy(), err_msg=kind)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("kind", ["min", "max"])
def test_nan_goes_through_extremes_with_a_constant_on_either_side(kind):
    x = np.array([NAN, -1.0, 7.0, 6.0], np.float32)
    for operands in ((0, 1), (1, 0)):
        expr = Expr(1, (("const", 6.0), (kind, *operands)), (2,))
        (y,) = run(Eltwise(expr, 1, ("x",)), [x], x.shape)
        np.testing.assert_array_equal(y, MEANING[kind](x, np.float32(6)))


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize(
    "exponent", [0.0, 1.0, 2.0, 3.0, 7.0, 32.0, -1.0, -2.0, 0.5, -0.5, 1.5, 33.0]
)
def test_power_with_a_known_exponent(exponent):
    x = np.abs(numbers(100)) + 0.25
    if exponent == int(exponent):
        x[::2] *= -1
    expr = Expr(1, (("const", exponent), ("pow", 0, 1)), (2,))
    (y,) = run(Eltwise(expr, 1, ("x",)), [x], x.shape)
    products = abs(exponent) <= 32 and exponent != 1.5
    tolerance = (1 + abs(exponent)) * 1.2e-7 if products else 1e-5
    np.testing.assert_allclose(y, x.astype(np.float64) ** exponent, rtol=tolerance)


@pytest.mark.usefixtures("isa")
def test_select_on_a_comparison_and_on_a_number():
    x, c = numbers(50), np.array([0.0, -0.0, NAN, 1.0, -2.0] * 10, np.float32)
    expr = Expr(2, (("const", 0.0), ("gt", 0, 2), ("neg", 0), ("select", 3, 0, 4),
                    ("select", 1, 0, 4), ("add", 3, 5)), (5, 6, 7))  # fmt: skip
    y = run(Eltwise(expr, 1, ("x", "x")), [x, c], x.shape)
    for got, expected in zip(y, meaning(expr, x, c), strict=True):
        np.testing.assert_array_equal(got, expected.astype(np.float32))


# -- loops -----------------------------------------------------------------------------------------


AXPBY = Expr(3, (("mul", 0, 1), ("add", 3, 2), ("sub", 0, 2)), (4, 5))


def operand(pattern, extents, seed):
    return numbers(*(n for n, mark in zip(extents, pattern, strict=True) if mark == "x"), seed=seed)


def expanded(pattern, extents, array):
    return array.reshape(
        [n if mark == "x" else 1 for n, mark in zip(extents, pattern, strict=True)]
    )


def check_broadcast(patterns, extents):
    spec = Eltwise(AXPBY, len(extents), patterns)
    inputs = [operand(p, extents, i) for i, p in enumerate(patterns)]
    a, b, c = (expanded(p, extents, x) for p, x in zip(patterns, inputs, strict=True))
    # float32 as in the kernel: a product and a sum, each rounded.
    expected = [np.broadcast_to(a * b + c, extents), np.broadcast_to(a - c, extents)]
    for parts in (1, 2, 3, 7):
        for place in (guarded, guarded_front):
            for y, exact in zip(run(spec, inputs, extents, parts, place), expected, strict=True):
                assert same_bits(y, np.ascontiguousarray(exact)), (patterns, extents, parts)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize(
    ("patterns", "extents"),
    [
        (("x", "x", "1"), (1,)),
        (("x", "1", "x"), (16,)),
        (("x", "x", "x"), (1023,)),
        (("xx", "1x", "1x"), (49, 64)),  # batch norm of NHWC
        (("xx", "1x", "1x"), (37, 3)),
        (("xx", "x1", "x1"), (10, 81)),  # rows with a number each, as softmax has them
        (("x1", "1x", "11"), (9, 33)),  # an outer product
        (("xxx", "1x1", "1x1"), (2, 5, 21)),  # batch norm of NCHW
        (("xxx", "x1x", "xxx"), (3, 4, 10)),  # squeeze and excitation
        (("xx1x", "x1xx", "1x11"), (2, 3, 5, 18)),
        (("1111", "xxxx", "1xx1"), (2, 3, 2, 7)),
    ],
)
def test_broadcast(patterns, extents):
    check_broadcast(patterns, extents)


@st.composite
def spaces(draw):
    dims = draw(st.integers(1, 4))
    extents = tuple(draw(st.integers(1, 6)) for _ in range(dims - 1))
    marks = st.text("x1", min_size=dims, max_size=dims)
    return (draw(marks), draw(marks), draw(marks)), (*extents, draw(st.integers(1, 70)))


@pytest.mark.usefixtures("isa")
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(spaces())
def test_any_broadcast(space):
    check_broadcast(*space)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("n", [1, 15, 16, 17, 63, 64, 65, 129, 200])
def test_long_expression_with_any_tail(n):
    x = numbers(n)
    results = [run(Eltwise(GELU, 1, ("x",)), [x], (n,), parts)[0] for parts in (1, 2, 3, 7)]
    np.testing.assert_allclose(results[0], meaning(GELU, x)[0], rtol=2e-5, atol=1e-7)
    for other in results[1:]:
        assert same_bits(results[0], other)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("extents", [(300,), (7, 35)])
def test_in_place(extents):
    marks = "x" * len(extents)
    x, y, one = numbers(*extents), numbers(*extents, seed=1), np.full(1, 2.0, np.float32)
    # Both outputs lie on inputs, crosswise.
    a, b = guarded(x), guarded(y)
    spec = Eltwise(AXPBY, len(extents), (marks, "1" * len(extents), marks))
    call(spec, [a, one, b, b, a], extents, parts=3)
    assert same_bits(b, x * one + y)
    assert same_bits(a, x - y)


@pytest.mark.usefixtures("isa")
def test_no_operands_fills():
    (y,) = run(Eltwise(Expr.constant(0.25), 2, ()), [], (5, 21), parts=2)
    assert (y == 0.25).all()


@pytest.mark.parametrize(
    ("dims", "operands"), [(0, ("",)), (5, ("xxxxx",)), (1, ()), (2, ("x",)), (1, ("y",))]
)
def test_wrong_patterns_are_refused(dims, operands):
    with pytest.raises(ArgumentError, match="Eltwise"):
        Eltwise(Expr.single("relu"), dims, operands)


# -- object code -----------------------------------------------------------------------------------


def main_loop(text):
    """Instructions of the first innermost loop: from a label to the jump back, no label between."""
    loop = re.search(r"^(\.LBB\w+):\n((?:\t.*\n)*?\tj\w+\t\1\n)", text, re.MULTILINE)
    return [mnemonic for mnemonic, _ in instructions(loop.group(2))]


@pytest.mark.parametrize(("target", "maximum"), [("avx512", "vmaxps"), ("avx2", "vmaxps")])
def test_relu_is_a_maximum_and_a_store_a_vector(target, maximum):
    loop = main_loop(assembly(Eltwise(Expr.single("relu"), 1, ("x",)), target))
    # The load is part of the maximum. Once for four vectors: index, compare, jump.
    assert loop[:8] == [maximum, "vmovups"] * 4
    assert len(loop) == 8 + 3


def test_relu_of_sse2_loads_apart():
    # Two-operand instructions that take no unaligned memory: load, zero, maximum, store.
    loop = main_loop(assembly(Eltwise(Expr.single("relu"), 1, ("x",)), "sse2"))
    assert loop[:16] == ["movups", "xorps", "maxps", "movups"] * 4
    assert len(loop) == 16 + 3


def test_batch_norm_is_five_instructions_a_vector():
    scale_shift_relu = Expr(3, (("mul", 0, 1), ("add", 3, 2), ("relu", 4)), (5,))
    spec = Eltwise(scale_shift_relu, 2, ("xx", "1x", "1x"))
    loop = main_loop(assembly(spec, "avx512"))
    for mnemonic in ("vmulps", "vaddps", "vmaxps"):
        assert loop.count(mnemonic) == 4, mnemonic
    assert loop.count("vmovups") == 8  # a load and a store; two loads are part of × and +
    assert len(loop) <= 4 * 5 + 4


def test_comparison_and_select_need_no_detour_over_numbers():
    expr = Expr(2, (("const", 0.0), ("gt", 0, 2), ("select", 3, 1, 2)), (4,))
    loop = main_loop(assembly(Eltwise(expr, 1, ("x", "x")), "avx512"))
    assert sum(m.startswith("vcmp") for m in loop) == 4
    assert not any(m.startswith("vblend") for m in loop)  # a masked load does the choice


@pytest.mark.parametrize("target", ["avx512", "avx2", "sse2", "neon"])
def test_no_calls(target):
    for spec in (Eltwise(GELU, 1, ("x",)), Eltwise(AXPBY, 3, ("xxx", "1x1", "x1x"))):
        assert calls(assembly(spec, target)) == []


def test_neon_uses_its_own_maximum():
    text = assembly(Eltwise(Expr.single("relu"), 1, ("x",)), "neon")
    used = {m for m, _ in instructions(text)}
    assert used & {"fmax", "fmax.4s"}, used
