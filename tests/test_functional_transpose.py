"""Transposes and channel shuffles against NumPy."""

import numpy as np
import pytest

import striate.functional as F
from striate.arith.machine import Machine
from striate.engine import build
from striate.engine.plan import plan
from striate.graph import Trace
from tests.symbols import loss_weights, run

AVX512 = Machine("avx512", "x86_64", "znver4", "", 16, 32, fma=True, l2_bytes=2**20)
RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def dense(x, w):
    """A 1×1 convolution in float64."""
    return np.einsum("nchw,oc->nohw", x.astype(np.float64), w[:, :, 0, 0])


def shuffled(x, groups):
    """Channel i·groups + g comes from channel g·(c / groups) + i."""
    each = x.shape[1] // groups
    return x[:, [g * each + i for i in range(each) for g in range(groups)]]


ORDERS = [
    ((2, 3), (1, 0)),
    ((4, 5, 6), (0, 2, 1)),
    ((4, 5, 6), (2, 1, 0)),
    ((4, 1, 6), (2, 1, 0)),
    ((1, 1), (1, 0)),
    ((2, 3, 4, 5), (0, 2, 3, 1)),
    ((2, 3, 4, 5), (0, 3, 1, 2)),
    ((2, 3, 4, 5), (0, 1, 3, 2)),
    ((2, 3, 4, 5), (3, 1, 0, 2)),
    ((2, 3, 17, 19), (2, 3, 0, 1)),
    ((2, 1, 4, 5, 3), (4, 1, 0, 3, 2)),
    ((2, 3, 2, 3, 2, 3), (0, 3, 2, 5, 4, 1)),
]


@pytest.mark.parametrize(("shape", "axes"), ORDERS, ids=str)
def test_transpose(shape, axes):
    x = normal(*shape)
    np.testing.assert_array_equal(F.transpose(x, axes), np.transpose(x, axes))
    # Behind a convolution, where images lie in another memory order.
    if len(shape) == 4:
        w = np.eye(shape[1], dtype=np.float32)[:, :, None, None]
        (y,), _ = run(lambda v: F.conv2d(v, w).transpose(axes), x)
        np.testing.assert_allclose(y, np.transpose(x, axes), rtol=1e-6)
    (y,), (dx,) = run(lambda v: v.transpose(axes) * 2.0, x, wrt=(0,))
    (weights,) = loss_weights([y.shape])
    np.testing.assert_allclose(dx.transpose(axes), 2 * weights, rtol=1e-6)


def test_images_change_to_channels_last_and_back_without_a_copy():
    w = normal(8, 3, 1, 1)

    def net(x):
        y = F.conv2d(x, w).transpose(0, 2, 3, 1)
        return (F.relu(y - y.mean(-1, keepdims=True))).transpose(0, 3, 1, 2)

    with Trace() as trace:
        graph = trace.graph(net(trace.input("x", (2, 3, 9, 9))))
    program = plan(graph, AVX512, 1)
    assert not [s for task in program.tasks for s in task.steps if s.label == "transpose"]
    x = normal(2, 3, 9, 9)
    y = dense(x, w)
    expected = np.maximum(y - y.mean(1, keepdims=True), 0)
    np.testing.assert_allclose(build(graph)(x)[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("channels", "groups"), [(6, 2), (6, 3), (12, 4), (40, 5), (5, 5), (4, 1)])
@pytest.mark.parametrize("inside", [False, True])
def test_channel_shuffle(channels, groups, inside):
    x, w = normal(2, 3, 5, 7), normal(channels, 3, 1, 1)
    if not inside:
        x = dense(x, w).astype(np.float32)

    def net(v):
        return F.channel_shuffle(F.conv2d(v, w) if inside else v, groups)

    (y,), (dx,) = run(net, x, wrt=(0,))
    expected = shuffled(dense(x, w) if inside else x, groups)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    (dy,) = loss_weights([y.shape])
    back = np.empty_like(dy)
    back[:, shuffled(np.arange(channels)[None], groups)[0]] = dy
    gradient = np.einsum("nohw,oc->nchw", back, w[:, :, 0, 0]) if inside else back
    np.testing.assert_allclose(dx, gradient, rtol=1e-4, atol=1e-5)
