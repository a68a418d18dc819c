import numpy as np
import pytest

from striate.kernels.move import CopyStrided
from tests.guard import outcome
from tests.kernel_call import assembly, call, calls, isa  # noqa: F401


def strides(array):
    return tuple(s // 4 for s in array.strides)


def offset(view, whole):
    """Elements between the first element of `whole` and that of `view`."""
    pointer = "data"
    start = whole.__array_interface__[pointer][0]
    return (view.__array_interface__[pointer][0] - start) // 4


def numbers(*shape):
    return np.arange(1, np.prod(shape) + 1, dtype=np.float32).reshape(shape)


def check(src, view_of, parts=(1, 2, 3, 7)):
    """Copy a view of `src` into an array of its own; the view shares the memory of `src`."""
    view = view_of(src)
    spec = CopyStrided(view.ndim)
    dst = np.empty(view.shape, src.dtype)
    sizes = spec.sizes(view.shape, strides(view), strides(dst), offset(view, src))
    np.testing.assert_array_equal(outcome(spec, [src, dst], sizes, 1, parts), view)


VIEWS = {
    "slice rows": lambda x: x[:, 1:4],
    "slice columns": lambda x: x[:, :, 2:7],
    "slice channels": lambda x: x[..., 3:],
    "steps everywhere": lambda x: x[::2, 1::2, ::3, 1::2],
    "flip rows and columns": lambda x: x[:, ::-1, ::-1],
    "flip channels": lambda x: x[..., ::-1],
    "to plain": lambda x: x.transpose(0, 3, 1, 2),
    "reverse the axes": lambda x: x.T,
    "swap outer axes": lambda x: x.transpose(2, 1, 0, 3),
    "repeat": lambda x: np.broadcast_to(x[:, :1], x.shape),
    "repeat channels": lambda x: np.broadcast_to(x[..., :1], x.shape),
}


@pytest.mark.parametrize("channels", [4, 16, 21, 40])
@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_views(isa, view, channels):
    check(numbers(3, 5, 8, channels), view)


@pytest.mark.parametrize("dims", [1, 2, 3, 4, 5, 6])
def test_every_number_of_loops(isa, dims):
    x = numbers(*(2, 3, 2, 3, 4, 5)[:dims])
    check(x, lambda x: x)
    check(x, lambda x: x.T)
    check(x, lambda x: x[::-1])


@pytest.mark.parametrize("count", [1, 15, 16, 17, 16383, 16384, 16385, 40000])
def test_long_runs_are_cut(isa, count):
    check(numbers(count), lambda x: x)
    check(numbers(2, count + 3), lambda x: x[:, 1:-2])


@pytest.mark.parametrize("sources", [(64, 64, 32), (3, 1, 5), (16, 17)])
@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_concatenate_channels(isa, sources, parts):
    arrays = [numbers(2 * 7 * 7, c) + 1000 * c for c in sources]
    total = sum(sources)
    dst = np.full((2 * 7 * 7, total), np.nan, np.float32)
    place = 0
    for array, c in zip(arrays, sources, strict=True):
        sizes = CopyStrided(2).sizes(array.shape, (c, 1), (total, 1), 0, place)
        call(CopyStrided(2), [array, dst], sizes, parts)
        place += c
    np.testing.assert_array_equal(dst, np.concatenate(arrays, axis=1))


def test_what_lies_between_the_runs_stays(isa):
    src, dst = numbers(4, 5), np.full((4, 9), -1, np.float32)
    call(CopyStrided(2), [src, dst], CopyStrided(2).sizes((4, 5), (5, 1), (9, 1), 0, 2), 3)
    want = np.full((4, 9), -1, np.float32)
    want[:, 2:7] = src
    np.testing.assert_array_equal(dst, want)


def test_bits_of_integers_and_nan_survive(isa):
    x = np.array([0x7FA00001, -1, 0, 1, -0x80000000] * 9, np.int64).astype(np.int32)
    check(x, lambda x: x)
    check(x, lambda x: x[::-2])


def test_nothing_to_do(isa):
    for shape in ((0, 5, 3), (2, 0, 3), (2, 5, 0)):
        check(np.zeros(shape, np.float32), lambda x: x)


def test_sizes_are_checked():
    with pytest.raises(ValueError, match="takes 2 numbers"):
        CopyStrided(2).sizes((3,), (1, 1), (1, 1))
    with pytest.raises(ValueError, match="at least one loop"):
        CopyStrided(0)


@pytest.mark.parametrize("name", ["avx512", "avx2", "sse2", "neon"])
def test_code_for_every_machine_calls_nothing(name):
    for spec in (CopyStrided(1), CopyStrided(4), CopyStrided(6)):
        assert calls(assembly(spec, name)) == []
