import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from striate.arith.expr import Expr
from striate.errors import ArgumentError
from striate.kernels.reduce import (
    Reduce,
    ReduceFinish,
    chunk_count,
    chunk_rows,
    scratch_elements,
)
from tests.guard import guarded, guarded_front
from tests.kernel_call import assembly, call, calls, instructions, isa, same_bits  # noqa: F401

ONE = Expr.identity()
# Σg and Σg·x in one pass, as the gradient of batch norm needs them.
BOTH = Expr(2, (("mul", 0, 1),), (0, 2))
SQUARED_DISTANCE = Expr(2, (("sub", 0, 1), ("mul", 2, 2)), (3,))
EXP = Expr(2, (("sub", 0, 1), ("exp", 2)), (3,))
EPS = 2.0**-24


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def reduced(spec, inputs, extents, parts=1, place=guarded):
    """Outputs [outer][inner], by one kernel or by two."""
    outer, reduce, inner = extents
    count = len(spec.expr.outputs)
    sizes = (*extents, chunk_rows(spec, reduce))
    outputs = [place(np.full((outer, inner), 7.5, np.float32)) for _ in range(count)]
    buffers = [place(x) for x in inputs]
    if not spec.chunked:
        assert scratch_elements(spec, sizes) == 0
        call(spec, [*buffers, *outputs], sizes, parts)
        return outputs
    scratch = place(np.full(scratch_elements(spec, sizes), np.nan, np.float32))
    call(spec, [*buffers, *outputs, scratch], sizes, parts)
    assert all((y == 7.5).all() for y in outputs)
    finish = (chunk_count(spec, reduce), outer * inner)
    call(ReduceFinish(spec.kind, count), [scratch, *outputs], finish, parts)
    return outputs


def same_for_any_split(spec, inputs, extents):
    """The outputs, after a look at several numbers of parts and both ends of the buffers."""
    first = reduced(spec, inputs, extents)
    for parts in (2, 3, 7):
        for place in (guarded, guarded_front):
            again = reduced(spec, inputs, extents, parts, place)
            assert all(same_bits(a, b) for a, b in zip(first, again, strict=True)), parts
    return first


def close(y, terms):
    """Whether y is Σ terms over axis 1, to one rounding for each addition on a term's way."""
    rows = terms.shape[1]
    depth = min(rows, 32) + min(rows / 64, 32) + rows / 2048 + 8
    exact, size = terms.sum(axis=1), np.abs(terms).sum(axis=1)
    return (np.abs(y - exact) <= depth * EPS * size).all()


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(
    "extents",
    [
        (1, 64 * 28 * 28, 3),
        (1, 4 * 14 * 14, 64),
        (1, 1000, 100),
        (8, 49, 70),  # average pooling of each image
        (2, 1, 33),
        (1, 257, 17),
        (3, 128, 130),
        (1, 40_000, 1),
        (64, 10, 1),  # softmax of ten classes
        (3, 1000, 1),
        (2, 2049, 1),
        (1, 1, 1),
    ],
)
def test_two_sums_in_one_pass(extents, chunked):
    x, g = numbers(*extents), numbers(*extents, seed=1)
    spec = Reduce("sum", BOTH, ("xxx", "xxx"), extents[2] > 1, chunked)
    total, products = same_for_any_split(spec, [g, x], extents)
    assert close(total, g.astype(np.float64))
    # The products themselves are rounded.
    assert close(products, g.astype(np.float64) * x)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("inner", [1, 21])
@pytest.mark.parametrize("chunked", [False, True])
def test_maximum(inner, chunked):
    extents = (2, 5000, inner)
    x = numbers(*extents) - 9  # all below 0: no 0 of a masked lane may win
    spec = Reduce("max", ONE, ("xxx",), inner > 1, chunked)
    (y,) = same_for_any_split(spec, [x], extents)
    assert same_bits(y, x.max(axis=1))


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("inner", [1, 5])
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("where", [0, 1, 2, 63, 64, 300, 4095, 4096, 4998, 4999])
def test_maximum_with_a_nan_anywhere_is_nan(inner, chunked, where):
    x = numbers(1, 5000, inner)
    x[0, where, 0] = np.nan
    spec = Reduce("max", ONE, ("xxx",), inner > 1, chunked)
    (y,) = reduced(spec, [x], x.shape)
    assert np.isnan(y[0, 0])
    assert same_bits(y[0, 1:], x[0, :, 1:].max(axis=0))


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("inner", [1, 5])
def test_infinities(inner):
    x = np.full((1, 37, inner), -np.inf, np.float32)
    (y,) = reduced(Reduce("max", ONE, ("xxx",), inner > 1, True), [x], x.shape)
    assert (y == -np.inf).all()
    (y,) = reduced(Reduce("sum", ONE, ("xxx",), inner > 1, True), [x], x.shape)
    assert (y == -np.inf).all()


def test_all_masked_lanes_are_neutral():
    """exp(0 − m) of a lane that is off must not be added."""
    x, m = numbers(5, 3, 1), numbers(5, 1, 1) - 40
    (y,) = reduced(Reduce("sum", EXP, ("xxx", "x11"), False, False), [x, m], (5, 3, 1))
    np.testing.assert_allclose(y, np.exp(x.astype(np.float64) - m).sum(axis=1), rtol=2e-6)


@st.composite
def reductions(draw):
    marks = st.text("x1", min_size=3, max_size=3)
    inner = draw(st.sampled_from([1, 2, 4, 15, 16, 17, 40, 64, 70, 130]))
    extents = (draw(st.integers(1, 3)), draw(st.integers(1, 400)), inner)
    return (draw(marks), draw(marks)), extents, draw(st.booleans())


@pytest.mark.usefixtures("isa")
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(reductions())
def test_any_broadcast(case):
    patterns, extents, chunked = case
    shapes = [
        [n if mark == "x" else 1 for n, mark in zip(extents, p, strict=True)] for p in patterns
    ]
    a, b = (numbers(*shape, seed=i) for i, shape in enumerate(shapes))
    spec = Reduce("sum", SQUARED_DISTANCE, patterns, extents[2] > 1, chunked)
    (y,) = same_for_any_split(spec, [a, b], extents)
    assert close(y, np.broadcast_to((a - b).astype(np.float64) ** 2, extents))


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("inner", [1, 24])
@pytest.mark.parametrize("chunked", [False, True])
def test_an_image_has_the_same_bits_in_any_batch(inner, chunked):
    x = numbers(5, 3000, inner)
    spec = Reduce("sum", ONE, ("xxx",), inner > 1, chunked)
    (together,) = reduced(spec, [x], x.shape, parts=2)
    for n in range(5):
        (alone,) = reduced(spec, [x[n : n + 1].copy()], (1, 3000, inner))
        assert same_bits(alone[0], together[n])


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("inner", [1, 3])
@pytest.mark.parametrize("chunked", [False, True])
def test_error_does_not_grow_with_the_number_of_rows(inner, chunked):
    # Added one after another in float32, 0.1 a million times is off by 1 %.
    x = np.full((1, 1_000_000, inner), 0.1, np.float32)
    (y,) = reduced(Reduce("sum", ONE, ("xxx",), inner > 1, chunked), [x], x.shape)
    exact = 1e6 * np.float64(np.float32(0.1))
    assert (np.abs(y / exact - 1) < (1e-6 if chunked else 6e-6)).all()


@pytest.mark.parametrize("inner", [True, False])
def test_chunks_depend_on_the_reduced_extent_and_are_few(inner):
    spec = Reduce("sum", BOTH, ("xxx", "xxx"), inner, True)
    for reduce in (1, 255, 256, 257, 4096, 4097, 50_000, 1_000_000, 64 * 224 * 224):
        rows, count = chunk_rows(spec, reduce), chunk_count(spec, reduce)
        assert rows * (count - 1) < reduce <= rows * count
        assert count <= 64
        assert scratch_elements(spec, (3, reduce, 5, rows)) == count * 2 * 3 * 5
    assert chunk_count(spec, 64 * 56 * 56) >= 32  # enough for many threads
    whole = Reduce("sum", BOTH, ("xxx", "xxx"), inner, False)
    assert (chunk_rows(whole, 999), chunk_count(whole, 999)) == (999, 1)


@pytest.mark.parametrize(
    ("kind", "operands"), [("mean", ("xxx",)), ("sum", ()), ("sum", ("xx",)), ("max", ("xyx",))]
)
def test_wrong_specs_are_refused(kind, operands):
    with pytest.raises(ArgumentError, match="Reduce"):
        Reduce(kind, ONE, operands, inner=True, chunked=False)


# -- object code -----------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["avx512", "avx2", "sse2", "neon"])
def test_no_calls_out_of_the_kernel(target):
    for inner in (True, False):
        for spec in (Reduce("sum", EXP, ("xxx", "x1x"), inner, True),
                     Reduce("max", ONE, ("xxx",), inner, False)):  # fmt: skip
            assert calls(assembly(spec, target)) == []
    assert calls(assembly(ReduceFinish("sum", 2), target)) == []


def test_sum_along_channels_is_one_addition_from_memory_a_vector():
    text = assembly(Reduce("sum", ONE, ("xxx",), True, False), "avx512")
    loads = [o for m, o in instructions(text) if m == "vaddps" and "zmm" in o and "(%r" in o]
    rows = [operands for operands in loads if "%rsp" not in operands]  # totals are on the stack
    # Two rows at a time, then the odd row: of four vectors, then of what is left singly.
    assert len(rows) == (2 * 4 + 4) + (2 + 1)
