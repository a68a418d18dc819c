import contextlib
import itertools
import math
import platform
from dataclasses import dataclass

import numpy as np
import pytest
from scipy import special

from striate.arith.expr import Expr
from striate.kernels.eltwise import Eltwise
from striate.kernels.spec import symbol
from tests.kernel_call import assembly, call, calls, instructions, isa, same_bits  # noqa: F401

SMALLEST = 2.0**-126
# Meaning in float64, and the largest error in units of the last place.
FUNCTIONS = {
    "exp": (np.exp, 1.0),
    "log": (np.log, 2.0),
    "log1p": (np.log1p, 2.0),
    "tanh": (np.tanh, 3.0),
    "sigmoid": (special.expit, 3.0),
    "erf": (special.erf, 2.0),
    "rsqrt": (lambda x: 1 / np.sqrt(x), 1.5),
    "sqrt": (np.sqrt, 0.5),
    "floor": (np.floor, 0.0),
}
SPECIAL = np.array(
    [0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, 1e-45, -1e-45, 1e-38, -1e-38, SMALLEST,
     3.4e38, -3.4e38, 88.7228, 88.7229, -87.336, -87.337, -103.9, -104.1, 8388607.5, -8388607.5,
     2.5e9, -2.5e9, 0.99999994, 1.0000001, -0.99999994, 3.9, 9.9, 10.1],
    dtype=np.float32,
)  # fmt: skip


def apply(kind, *arrays):
    expr = Expr.single(kind)
    out = np.full_like(arrays[0], 7.0)
    call(Eltwise(expr, 1, ("x",) * expr.arity), [*arrays, out], [out.size])
    return out


def grid(kind):
    """Every 4099th float32 there is, and a dense stretch where the function bends most."""
    everything = np.arange(0, 2**32, 4099, dtype=np.uint64).astype(np.uint32).view(np.float32)
    centre = 1.0 if kind == "log" else 0.0
    dense = np.linspace(centre - 2, centre + 2, 200_001).astype(np.float32)
    return np.concatenate([everything, dense, SPECIAL])


def errors(y, exact):
    """Error in units of the last place of the exact result; infinite where a limit is missed."""
    with np.errstate(all="ignore"):
        rounded = exact.astype(np.float32)
        ulp = np.abs(y - exact) / np.spacing(np.abs(rounded)).astype(np.float64)
    same = (y == rounded) | (np.isnan(y) & np.isnan(rounded))
    flushed = (np.abs(exact) < SMALLEST) & (np.abs(y) <= SMALLEST)
    normal = np.isfinite(rounded) & (np.abs(exact) >= SMALLEST)
    return np.where(same | flushed, 0.0, np.where(normal, ulp, np.inf)), normal


@pytest.mark.parametrize("kind", FUNCTIONS)
@pytest.mark.usefixtures("isa")
def test_error_in_units_of_the_last_place(kind):
    meaning, most = FUNCTIONS[kind]
    x = grid(kind)
    y = apply(kind, x)
    with np.errstate(all="ignore"):  # some of the NaN are signalling ones
        exact = meaning(x.astype(np.float64))
        error, normal = errors(y.astype(np.float64), exact)
    assert normal.sum() > 200_000
    worst = np.argmax(error)
    assert error[worst] <= most, f"{kind}({x[worst]!r})"


@pytest.mark.usefixtures("isa")
def test_limits():
    inf, nan = np.float32(np.inf), np.float32(np.nan)
    table = {
        "exp": {0.0: 1.0, inf: inf, -inf: 0.0, 89.0: inf, -104.0: 0.0},
        "log": {0.0: -inf, inf: inf, -inf: nan, 1.0: 0.0, -1.0: nan},
        "log1p": {0.0: 0.0, -1.0: -inf, -1.5: nan, inf: inf, -inf: nan},
        "tanh": {0.0: 0.0, inf: 1.0, -inf: -1.0, 20.0: 1.0},
        "sigmoid": {0.0: 0.5, inf: 1.0, -inf: 0.0, 200.0: 1.0, -200.0: 0.0},
        "erf": {0.0: 0.0, inf: 1.0, -inf: -1.0, 5.0: 1.0},
        "rsqrt": {0.0: inf, inf: 0.0, -1.0: nan, 4.0: 0.5},
        "floor": {-0.5: -1.0, 0.5: 0.0, inf: inf, -inf: -inf, -3.0: -3.0, 8388609.0: 8388609.0},
    }
    for kind, cases in table.items():
        x = np.array([*cases, nan], dtype=np.float32)
        expected = np.array([*cases.values(), nan], dtype=np.float32)
        np.testing.assert_array_equal(apply(kind, x), expected, err_msg=kind)


@pytest.mark.usefixtures("isa")
def test_odd_functions_keep_the_sign_of_zero():
    zeros = np.array([0.0, -0.0], dtype=np.float32)
    for kind in ("tanh", "erf", "log1p", "floor", "sqrt"):
        assert same_bits(apply(kind, zeros), zeros), kind
    assert (apply("log", zeros) == -np.inf).all()


@pytest.mark.usefixtures("isa")
def test_any_nan_stays_nan():
    payloads = np.array([0x7FC00000, 0xFFC00000, 0x7FC12345, 0x7FFFFFFF, 0xFFFFFFFF], np.uint32)
    for kind in FUNCTIONS:
        assert np.isnan(apply(kind, payloads.view(np.float32))).all(), kind


@pytest.mark.usefixtures("isa")
def test_bounded_functions_stay_within_their_bounds():
    x = np.linspace(-12, 12, 100_001).astype(np.float32)
    assert np.abs(apply("tanh", x)).max() == 1.0
    assert np.abs(apply("erf", x)).max() == 1.0
    y = apply("sigmoid", x)
    assert y.min() > 0.0
    assert y.max() <= 1.0


# -- powers ------------------------------------------------------------------------------------


def c_pow(x, y):
    try:
        return math.pow(x, y)
    except OverflowError:
        return math.inf if x > 0 or y % 2 == 0 else -math.inf
    except ValueError:
        if x == 0:
            return math.copysign(math.inf, x) if y % 2 == 1 else math.inf
        return math.nan


@pytest.mark.usefixtures("isa")
def test_power_has_the_special_values_of_c():
    base = [0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5, math.inf, -math.inf, math.nan, -8.0, 3.5]
    exponent = [0.0, -0.0, 1.0, -1.0, 2.0, 3.0, -3.0, 0.5, -0.5, 2.5, math.inf, -math.inf, math.nan]
    pairs = list(itertools.product(base, exponent))
    x, y = (np.array(column, dtype=np.float32) for column in zip(*pairs, strict=True))
    expected = np.array([c_pow(a, b) for a, b in pairs], dtype=np.float32)
    np.testing.assert_allclose(apply("pow", x, y), expected, rtol=1e-6)


@pytest.mark.usefixtures("isa")
def test_power_error_grows_with_its_logarithm_only():
    random = np.random.default_rng(0)
    x = np.exp(random.uniform(-5, 5, 50_000)).astype(np.float32)
    y = random.uniform(-12, 12, 50_000).astype(np.float32)
    exact = x.astype(np.float64) ** y
    size = 1 + np.abs(y * np.log(x.astype(np.float64)))
    assert (np.abs(apply("pow", x, y) / exact - 1) / size).max() < 1.5e-7


# -- flush-to-zero, as in the workers --------------------------------------------------------------


@dataclass(frozen=True)
class SetControl:
    """Sets the control register MXCSR to size 0."""

    def emit(self, machine):
        return f"""
            target triple = "{machine.triple}"
            declare void @llvm.x86.sse.ldmxcsr(ptr)
            define void @{symbol(self)}(ptr %buffers, ptr %sizes, i32 %part, i32 %parts) {{
              call void @llvm.x86.sse.ldmxcsr(ptr %sizes)
              ret void
            }}"""


@contextlib.contextmanager
def flush_to_zero():
    default, flush, denormals_are_zero = 0x1F80, 0x8000, 0x0040
    call(SetControl(), [], [default | flush | denormals_are_zero])
    try:
        yield
    finally:
        call(SetControl(), [], [default])


@pytest.mark.skipif(platform.machine() not in {"x86_64", "AMD64"}, reason="MXCSR is x86's")
@pytest.mark.parametrize("kind", FUNCTIONS)
@pytest.mark.usefixtures("isa")
def test_normal_numbers_have_the_same_bits_with_flush_to_zero(kind):
    x = grid(kind)[::7].copy()
    x = x[(np.abs(x) >= SMALLEST) | (x == 0) | np.isnan(x)]
    before = apply(kind, x)
    with flush_to_zero():
        after = apply(kind, x)
    # Close to the denormals a product on the way may be flushed: x·P(x²) of erf without FMA.
    normal = ~(np.abs(before) < 16 * SMALLEST)
    assert normal.sum() > 10_000
    assert same_bits(before[normal], after[normal])
    assert (np.abs(after[~normal] - before[~normal]) < 2 * SMALLEST).all()


# -- object code -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*FUNCTIONS, "pow"])
@pytest.mark.parametrize("target", ["avx512", "avx2", "sse2", "neon"])
def test_no_function_calls(kind, target):
    expr = Expr.single(kind)
    assert calls(assembly(Eltwise(expr, 1, ("x",) * expr.arity), target)) == []


@pytest.mark.parametrize(("target", "fused"), [("avx512", "vfm"), ("avx2", "vfm"), ("neon", "fml")])
def test_polynomials_are_fused_multiply_adds(target, fused):
    text = assembly(Eltwise(Expr.single("exp"), 1, ("x",)), target)
    assert sum(m.startswith(fused) for m, _ in instructions(text)) >= 7


def test_sse2_uses_nothing_newer():
    for kind in (*FUNCTIONS, "pow"):
        expr = Expr.single(kind)
        text = assembly(Eltwise(expr, 1, ("x",) * expr.arity), "sse2")
        used = {m for m, _ in instructions(text)}
        assert not {m for m in used if m.startswith(("v", "round", "blendv", "pmovsx"))}, kind
