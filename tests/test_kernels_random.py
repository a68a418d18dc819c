import numpy as np
import pytest

from striate.kernels.random import RandomUniform
from tests.guard import outcome
from tests.kernel_call import assembly, calls, isa  # noqa: F401

KEYS = [(0, 0), (1, 2), (-1, -(2**31)), (123456789, -987654321)]


def mix(h):
    h ^= h >> 16
    h = h * 0x85EBCA6B % 2**32
    h ^= h >> 13
    h = h * 0xC2B2AE35 % 2**32
    return h ^ h >> 16


def uniform(key, index):
    """The definition in Python integers."""
    k0 = mix((key[0] + 0x9E3779B9) % 2**32)
    k1 = mix(key[1] % 2**32 ^ k0)
    return (mix(mix((index + k0) % 2**32) ^ k1) >> 8) / 2**24


def check(key, n, c, h, w):
    y = np.empty((n, h, w, c), np.float32)
    got = outcome(RandomUniform(), [np.array(key, np.int32), y], (n, c, h, w), 1)
    want = np.array([uniform(key, i) for i in range(y.size)]).reshape(n, c, h, w)
    np.testing.assert_array_equal(got.transpose(0, 3, 1, 2), want)
    assert got.min(initial=0) >= 0
    assert got.max(initial=0) < 1


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("c", [1, 2, 3, 4, 15, 16, 17, 40])
def test_images(isa, key, c):
    check(key, 2, c, 3, 5)


@pytest.mark.parametrize("count", [0, 1, 5, 16, 31, 16390])
def test_other_ranks(isa, count):
    check((7, 8), 1, count, 1, 1)


def test_dense_layer_and_single_channel(isa):
    check((3, 4), 5, 37, 1, 1)
    check((3, 4), 2, 1, 28, 28)


def test_the_operation_agrees(isa):
    operation = pytest.importorskip("striate.graph.ops.random")
    for shape in ((2, 20, 3, 4), (3, 1, 7, 7)):
        n, c, h, w = shape
        key = np.array((5, -6), np.int32)
        (want,) = operation.RandomUniform(shape).numpy(key)
        y = np.empty((n, h, w, c), np.float32)
        got = outcome(RandomUniform(), [key, y], shape, 1)
        np.testing.assert_array_equal(got.transpose(0, 3, 1, 2), want)


@pytest.mark.parametrize("name", ["avx512", "avx2", "sse2", "neon"])
def test_code_for_every_machine_calls_nothing(name):
    assert calls(assembly(RandomUniform(), name)) == []
