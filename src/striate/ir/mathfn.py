"""Mathematical functions on vectors of float32, of any number of lanes.

There is no vector maths library below: `llvm.exp.v16f32` becomes 16 calls of libm, so these are
own polynomials. All coefficients are minimax fits: Remez exchange in 50 digits with the weight
named beside them, rounded to float32. Argument reductions are the classical ones (Cody and Waite,
"Software Manual for the Elementary Functions", 1980). Errors are the largest ones of the tests.

NaN gives NaN. Results smaller than the smallest normal number may be zero, because kernels run
with flush-to-zero set.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from llvmlite import ir

from striate.ir import vec
from striate.ir.kernel import I32, Kernel
from striate.ir.types import F32

INF = math.inf
LOG2_E = 1.4426950408889634
# ln 2 in two parts: HIGH has 10 bits, so that its product with an exponent is exact.
LN2_HIGH = 0.693359375
LN2_LOW = -2.12194440e-4
# Adding 1.5·2²³ rounds to the nearest integer and leaves it in the low bits of the sum.
ROUND = 12582912.0
# Bits of √½ and of 1.
SQRT_HALF_BITS = 0x3F3504F3
ONE_BITS = 0x3F800000

# (eʳ − 1 − r) / r² for |r| ≤ ½ ln 2; |error|·|r| ≤ 1.4e-8.
EXP = (0.5, 0.16666542, 0.04166628, 0.00836671, 0.0013946667)
# (log(1+f) − f + f²/2) / f³ for √½ − 1 ≤ f ≤ √2 − 1; |error|·f² ≤ 5.9e-9.
LOG = (
    0.33333316, -0.2500081, 0.20002286, -0.16624554,
    0.14181192, -0.13128754, 0.12881649, -0.07859616,
)  # fmt: skip
# erf(x)/x − 1 in x² for |x| ≤ 1; relative error 1.3e-9.
ERF_SMALL = (
    0.12837917, -0.37612626, 0.112835854, -0.026853813, 0.0051883277, -0.0008010194, 7.853863e-05,
)  # fmt: skip
# log(1 − erf(x)) for 1 ≤ x ≤ 3.95; |error|·(1 − erf x) ≤ 1.7e-8.
ERF_LARGE = (-0.0026192553, -1.117621, -0.6542404, -0.08879946, 0.014831762, -0.0011572103)
ERF_IS_ONE = 3.95


# -- what LLVM has as one instruction -------------------------------------------------------------


def _full(k: Kernel, like: Any, value: float) -> Any:
    """The same number in as many lanes as `like` has."""
    return vec.constant(k, value, like.type.count)


def _bits(like: Any, value: int) -> Any:
    """The same 32-bit integer in as many lanes as `like` has."""
    n = like.type.count
    return vec.Written(ir.VectorType(I32, n), f"splat (i32 {value})")


def _as_int(k: Kernel, x: Any) -> Any:
    return k.b.bitcast(x, ir.VectorType(I32, x.type.count))


def _as_float(k: Kernel, x: Any) -> Any:
    return k.b.bitcast(x, ir.VectorType(F32, x.type.count))


def _intrinsic(k: Kernel, name: str, *args: Any) -> Any:
    kind = args[0].type
    function = k.unit.declare(f"llvm.{name}.v{kind.count}f32", kind, [kind] * len(args))
    return k.b.call(function, args)


def absolute(k: Kernel, x: Any) -> Any:
    """|x|"""
    return _intrinsic(k, "fabs", x)


def copy_sign(k: Kernel, x: Any, sign: Any) -> Any:
    """|x| with the sign of `sign`."""
    return _intrinsic(k, "copysign", x, sign)


def sqrt(k: Kernel, x: Any) -> Any:
    """√x, correctly rounded; NaN for x < 0."""
    return _intrinsic(k, "sqrt", x)


def rsqrt(k: Kernel, x: Any) -> Any:
    """1 / √x by a root and a division, not by the approximate instruction."""
    return k.b.fdiv(_full(k, x, 1.0), sqrt(k, x))


def maximum(k: Kernel, a: Any, b: Any) -> Any:
    """The larger one; NaN if either is NaN. A constant `a` makes this one instruction."""
    return _extreme(k, "maximum", ">", a, b)


def minimum(k: Kernel, a: Any, b: Any) -> Any:
    """The smaller one; NaN if either is NaN. A constant `a` makes this one instruction."""
    return _extreme(k, "minimum", "<", a, b)


def _extreme(k: Kernel, name: str, order: str, a: Any, b: Any) -> Any:
    # x86: (a > b) ? a : b is one maxps, which gives b when either is NaN; so only a is to check.
    if k.machine.isa == "neon":
        return _intrinsic(k, name, a, b)
    chosen = k.b.select(k.b.fcmp_ordered(order, a, b), a, b)
    if isinstance(a, ir.Constant):
        return chosen
    return k.b.select(k.b.fcmp_unordered("uno", a, a), a, chosen)


def floor(k: Kernel, x: Any) -> Any:
    """The largest integer that is not larger than x; −0 and infinities stay as they are."""
    if k.machine.isa != "sse2":
        return _intrinsic(k, "floor", x)
    # SSE2 has no rounding instruction: |x| + 2²³ − 2²³ is the nearest integer if |x| < 2²³.
    b, big, size = k.b, _full(k, x, 8388608.0), absolute(k, x)
    nearest = copy_sign(k, b.fsub(b.fadd(size, big), big), x)
    one_less = b.fsub(nearest, _full(k, x, 1.0))
    rounded = b.select(b.fcmp_ordered(">", nearest, x), one_less, nearest)
    return b.select(b.fcmp_ordered("<", size, big), rounded, x)


# -- exponential and its kin ----------------------------------------------------------------------


def _polynomial(k: Kernel, coefficients: Sequence[float], x: Any) -> Any:
    """c₀ + c₁x + c₂x² + …, by Horner's rule."""
    out = _full(k, x, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        out = vec.fma(k, out, x, _full(k, x, c))
    return out


def _reduce(k: Kernel, x: Any) -> tuple[Any, Any]:
    """r and 2ⁿ's exponent field n·2²³, where x = n ln 2 + r and |r| ≤ ½ ln 2."""
    b = k.b
    shifted = vec.fma(k, x, _full(k, x, LOG2_E), _full(k, x, ROUND))
    n = b.fsub(shifted, _full(k, x, ROUND))
    r = vec.fma(k, n, _full(k, x, -LN2_HIGH), x)
    r = vec.fma(k, n, _full(k, x, -LN2_LOW), r)
    return r, b.shl(_as_int(k, shifted), _bits(x, 23))


def _exp_minus_one(k: Kernel, r: Any) -> Any:
    """eʳ − 1 = r + r²·EXP(r) for |r| ≤ ½ ln 2."""
    return vec.fma(k, k.b.fmul(r, r), _polynomial(k, EXP, r), r)


def exp(k: Kernel, x: Any) -> Any:
    """eˣ, within 1 ulp; 0 where the result would be smaller than 2⁻¹²⁶."""
    b = k.b
    r, exponent = _reduce(k, x)
    p = b.fadd(_exp_minus_one(k, r), _full(k, x, 1.0))
    y = _as_float(k, b.add(_as_int(k, p), exponent))
    y = b.select(b.fcmp_ordered("<", x, _full(k, x, -87.33654)), _full(k, x, 0.0), y)
    # Large x → x + ∞ = ∞, NaN → NaN.
    past = b.fcmp_unordered(">", x, _full(k, x, 88.72283))
    return b.select(past, b.fadd(x, _full(k, x, INF)), y)


def sigmoid(k: Kernel, x: Any) -> Any:
    """1 / (1 + e⁻ˣ), within 3 ulp."""
    one = _full(k, x, 1.0)
    return k.b.fdiv(one, k.b.fadd(one, exp(k, k.b.fneg(x))))


def tanh(k: Kernel, x: Any) -> Any:
    """tanh x = m / (m + 2) with m = e^(2|x|) − 1, and the sign of x; within 3 ulp."""
    b = k.b
    # tanh 10 rounds to 1.
    size = minimum(k, _full(k, x, 10.0), absolute(k, x))
    r, exponent = _reduce(k, b.fadd(size, size))
    power = _as_float(k, b.add(exponent, _bits(x, ONE_BITS)))
    # 2ⁿ·(eʳ − 1) + (2ⁿ − 1): for n = 0 nothing is lost near 0.
    m = vec.fma(k, power, _exp_minus_one(k, r), b.fsub(power, _full(k, x, 1.0)))
    return copy_sign(k, b.fdiv(m, b.fadd(m, _full(k, x, 2.0))), x)


def erf(k: Kernel, x: Any) -> Any:
    """Error function, within 2 ulp: x + x·P(x²) for |x| < 1, else ±(1 − e^Q(|x|))."""
    b, size = k.b, absolute(k, x)
    small = vec.fma(k, x, _polynomial(k, ERF_SMALL, b.fmul(x, x)), x)
    bounded = minimum(k, _full(k, x, ERF_IS_ONE), size)
    r, exponent = _reduce(k, _polynomial(k, ERF_LARGE, bounded))
    power = _as_float(k, b.add(exponent, _bits(x, ONE_BITS)))
    rest = vec.fma(k, power, _exp_minus_one(k, r), power)
    large = copy_sign(k, b.fsub(_full(k, x, 1.0), rest), x)
    return b.select(b.fcmp_ordered("<", size, _full(k, x, 1.0)), small, large)


# -- logarithms -----------------------------------------------------------------------------------


def _split(k: Kernel, x: Any) -> tuple[Any, Any]:
    """m and the integer e with x = m·2ᵉ and √½ ≤ m < √2, for normal x > 0."""
    b, bits = k.b, _as_int(k, x)
    e = b.ashr(b.sub(bits, _bits(x, SQRT_HALF_BITS)), _bits(x, 23))
    return _as_float(k, b.sub(bits, b.shl(e, _bits(x, 23)))), e


def _log(k: Kernel, f: Any, e: Any) -> Any:
    """log(1 + f) + e ln 2 = e·HIGH + (f + (−f²/2 + (e·LOW + f³·LOG(f)))), smallest terms first."""
    b, square = k.b, k.b.fmul(f, f)
    rest = b.fmul(b.fmul(square, f), _polynomial(k, LOG, f))
    rest = vec.fma(k, e, _full(k, f, LN2_LOW), rest)
    rest = vec.fma(k, square, _full(k, f, -0.5), rest)
    return vec.fma(k, e, _full(k, f, LN2_HIGH), b.fadd(f, rest))


def _log_limits(k: Kernel, x: Any, pole: float, y: Any) -> Any:
    """y, but −∞ at the pole, NaN below it, and x itself if that is ∞ or NaN."""
    b = k.b
    y = b.select(b.fcmp_unordered(">=", x, _full(k, x, INF)), x, y)
    y = b.select(b.fcmp_ordered("==", x, _full(k, x, pole)), _full(k, x, -INF), y)
    return b.select(b.fcmp_ordered("<", x, _full(k, x, pole)), _full(k, x, math.nan), y)


def log(k: Kernel, x: Any) -> Any:
    """Natural logarithm, within 2 ulp; −∞ at 0, NaN below."""
    b = k.b
    tiny = b.fcmp_ordered("<", x, _full(k, x, 2.0**-126))
    normal = b.select(tiny, b.fmul(x, _full(k, x, 2.0**25)), x)
    m, e = _split(k, normal)
    exponent = b.sitofp(e, x.type)
    exponent = b.select(tiny, b.fsub(exponent, _full(k, x, 25.0)), exponent)
    y = _log(k, b.fsub(m, _full(k, x, 1.0)), exponent)
    return _log_limits(k, x, 0.0, y)


def log1p(k: Kernel, x: Any) -> Any:
    """log(1 + x), within 2 ulp also near 0; −∞ at −1, NaN below.

    u = 1 + x rounds to m·2ᵉ; what it lost goes back in: f = (m − 1) + (x − (u − 1))·2⁻ᵉ.
    """
    b, one = k.b, _full(k, x, 1.0)
    u = b.fadd(one, x)
    lost = b.fsub(x, b.fsub(u, one))
    m, e = _split(k, u)
    # From 2⁶⁴ on nothing is lost, and 2⁻ᵉ would leave the normal numbers.
    limited = b.select(b.icmp_signed("<", e, _bits(x, 64)), e, _bits(x, 64))
    scale = _as_float(k, b.sub(_bits(x, ONE_BITS), b.shl(limited, _bits(x, 23))))
    f = vec.fma(k, lost, scale, b.fsub(m, one))
    y = _log_limits(k, x, -1.0, _log(k, f, b.sitofp(e, x.type)))
    return b.select(b.fcmp_ordered("==", x, _full(k, x, 0.0)), x, y)  # −0 stays −0


# -- powers ---------------------------------------------------------------------------------------


def power_constant(k: Kernel, x: Any, exponent: float) -> Any | None:
    """x to a known power by products, a root or a division; None if there is no such way.

    Integers up to ±32, ½ and −½. As in C, x⁰ is 1 for every x.
    """
    if abs(exponent) == 0.5:
        return sqrt(k, x) if exponent > 0 else rsqrt(k, x)
    if exponent != int(exponent) or abs(exponent) > 32:
        return None
    out, square, n = None, x, abs(int(exponent))
    while n:
        if n & 1:
            out = square if out is None else k.b.fmul(out, square)
        n >>= 1
        square = k.b.fmul(square, square) if n else square
    if out is None:
        return _full(k, x, 1.0)
    return out if exponent > 0 else k.b.fdiv(_full(k, x, 1.0), out)


def power(k: Kernel, x: Any, y: Any) -> Any:
    """x^y = e^(y·log|x|), with the sign and the special values of C's pow.

    The relative error is below (1 + |y log x|)·1.5e-7: a float32 exponent holds no more.
    """
    b, zero, one = k.b, _full(k, x, 0.0), _full(k, x, 1.0)
    size = absolute(k, x)
    out = exp(k, b.fmul(y, log(k, size)))
    # 1 to the ±∞ is 1, not e^(∞·0); a NaN in y stays.
    unit = b.and_(b.fcmp_ordered("==", size, one), b.fcmp_ordered("==", y, y))
    out = b.select(unit, one, out)
    half = b.fmul(y, _full(k, y, 0.5))
    whole = b.fcmp_ordered("==", floor(k, y), y)
    odd = b.and_(whole, b.fcmp_unordered("!=", floor(k, half), half))
    out = b.select(odd, copy_sign(k, out, x), out)
    lost = b.and_(b.fcmp_ordered("<", x, zero), b.fcmp_ordered("!=", floor(k, y), y))
    # A negative number to a fraction is NaN, but for −∞.
    lost = b.and_(lost, b.fcmp_ordered("!=", size, _full(k, x, INF)))
    out = b.select(lost, _full(k, x, math.nan), out)
    ones = b.or_(b.fcmp_ordered("==", y, zero), b.fcmp_ordered("==", x, one))
    return b.select(ones, one, out)
