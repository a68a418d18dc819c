"""Padding, interpolation and concatenation against PyTorch and NumPy."""

from itertools import product

import numpy as np
import pytest

import striate.functional as F
from striate.errors import ArgumentError, DTypeError, ShapeError
from striate.graph.ops.resize import Resize1d
from tests.symbols import loss_weights, run

torch = pytest.importorskip("torch")
T = torch.nn.functional

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def compare(ours, theirs, x, gradient=True):
    """Value and gradient of both."""
    tx = torch.tensor(x, requires_grad=True)
    expected = theirs(tx)
    y = ours(x)
    assert y.shape == tuple(expected.shape)
    np.testing.assert_allclose(y, expected.detach(), rtol=1e-4, atol=1e-5)
    if not gradient:
        return
    _, (dx,) = run(ours, x, wrt=(0,))
    (weights,) = loss_weights([y.shape])
    (reference,) = torch.autograd.grad(expected, tx, torch.tensor(weights).float())
    np.testing.assert_allclose(dx, reference, rtol=1e-4, atol=1e-5)


PADS = [(1, 2), (0, 0, 3, 1), (1, 2, 0, 3), (-1, 2, 1, -2)]


@pytest.mark.parametrize("pad", PADS)
@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate", "circular"])
def test_pad(pad, mode):
    x = normal(2, 3, 6, 5)
    if mode == "circular" and len(pad) == 2:
        pad = (*pad, 0, 0)  # PyTorch takes four numbers here
    full = (*pad, 0, 0) if len(pad) == 2 and mode != "constant" else pad
    compare(lambda v: F.pad(v, pad, mode), lambda v: T.pad(v, full, mode), x)


@pytest.mark.parametrize("pad", [*PADS, (0, 0, 0, 0, 2, 3), (1, 0, 0, 2, 1, -1, 2, 1)])
@pytest.mark.parametrize("value", [0.0, -1.5])
def test_constant_padding_of_any_axis(pad, value):
    x = normal(2, 3, 6, 5)
    compare(lambda v: F.pad(v, pad, value=value), lambda v: T.pad(v, pad, value=value), x)


def test_padding_with_infinity_leaves_the_image_as_it_is():
    x = normal(1, 1, 3, 3)
    y = F.pad(x, (1, 1, 1, 1), value=-np.inf)
    np.testing.assert_array_equal(
        y, np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    )


SIZES = [(7, 5), (14, 10), (3, 4), (1, 1), (21, 2), (8, 11)]


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "bilinear", "bicubic", "area"])
@pytest.mark.parametrize("size", SIZES)
def test_interpolate_to_a_size(mode, size):
    x = normal(2, 2, 7, 5)
    for corners in (None, False, True) if mode in ("bilinear", "bicubic") else (None,):
        compare(
            lambda v, c=corners: F.interpolate(v, size, mode=mode, align_corners=c),
            lambda v, c=corners: T.interpolate(v, size, mode=mode, align_corners=c),
            x,
        )


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "bilinear", "bicubic"])
@pytest.mark.parametrize("scale", [2, 0.5, 1.7, (0.6, 3), 1.05, 2.05])
@pytest.mark.parametrize("recompute", [None, True])
def test_interpolate_by_a_factor(mode, scale, recompute):
    x = normal(2, 2, 7, 5)
    options = {"scale_factor": scale, "mode": mode, "recompute_scale_factor": recompute}
    # PyTorch's bicubic backward (not its forward) leaves the scale aside where sizes are equal.
    gradient = not (mode == "bicubic" and scale == 1.05)
    compare(
        lambda v: F.interpolate(v, **options), lambda v: T.interpolate(v, **options), x, gradient
    )


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_interpolate_with_antialias(mode, corners, size):
    x = normal(2, 2, 7, 5)
    options = {"mode": mode, "align_corners": corners, "antialias": True}
    compare(
        lambda v: F.interpolate(v, size, **options), lambda v: T.interpolate(v, size, **options), x
    )


def test_nearest_indices_equal_torchs_for_many_sizes():
    for n, m, mode in product(range(1, 40, 3), range(1, 60, 7), ("nearest", "nearest-exact")):
        x = np.arange(n, dtype=np.float32).reshape(1, 1, 1, n)
        expected = T.interpolate(torch.tensor(x), (1, m), mode=mode)
        rows = [row[0][0] for row in Resize1d(n, m, mode).rows()]
        np.testing.assert_array_equal(rows, expected.numpy().ravel())


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_concat(axis):
    arrays = [normal(2, 3, 4, 5) for _ in range(3)]
    np.testing.assert_array_equal(F.concat(arrays, axis), np.concatenate(arrays, axis))
    outputs, grads = run(lambda *v: F.concat(v, axis), *arrays, wrt=(0, 1, 2))
    (weights,) = loss_weights([outputs[0].shape])
    np.testing.assert_allclose(np.concatenate(grads, axis), weights, rtol=1e-6)


def test_flatten():
    x = normal(2, 3, 4, 5)
    np.testing.assert_array_equal(F.flatten(x), x.ravel())
    np.testing.assert_array_equal(F.flatten(x, 1), x.reshape(2, 60))


IMAGE = np.ones((1, 2, 4, 4))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: F.pad(IMAGE[0], (1, 1)), ShapeError, r"x\[None\]"),
        (lambda: F.pad(IMAGE, (1, 1, 1)), ArgumentError, "2, 4, 6 or 8"),
        (lambda: F.pad(IMAGE, (1, 1), "mirror"), ArgumentError, "mode"),
        (lambda: F.transpose(IMAGE, (0, 1, 2)), ArgumentError, "each of the 4 axes"),
        (lambda: F.transpose(IMAGE, (0, 1, 2, 4)), ArgumentError, "out of range"),
        (lambda: F.channel_shuffle(IMAGE, 3), ShapeError, "2 channels"),
        (lambda: F.pad(IMAGE, (4, 0), "reflect"), ShapeError, "less than"),
        (lambda: F.pad(IMAGE, (1, 1), "reflect", 2.0), ArgumentError, "no value"),
        (lambda: F.pad(IMAGE, (-2, -2)), ShapeError, "nothing"),
        (lambda: F.pad(IMAGE, (0, 0, 0, 0, -1, -1)), ShapeError, "nothing"),
        (lambda: F.interpolate(IMAGE), ArgumentError, "either size or scale_factor"),
        (lambda: F.interpolate(IMAGE, 2, 2), ArgumentError, "either size or scale_factor"),
        (lambda: F.interpolate(IMAGE, scale_factor=0.1), ShapeError, "size"),
        (lambda: F.interpolate(IMAGE, 2, mode="cubic"), ArgumentError, "mode"),
        (lambda: F.interpolate(IMAGE, 2, align_corners=True), ArgumentError, "align_corners"),
        (lambda: F.interpolate(IMAGE, 2, antialias=True), ArgumentError, "antialias"),
        (lambda: F.interpolate(IMAGE, (1, 2, 3)), ArgumentError, "size"),
        (lambda: F.interpolate(IMAGE, 2, recompute_scale_factor=True), ArgumentError, "recompute"),
        (lambda: F.concat([]), ArgumentError, "at least one"),
        (lambda: F.concat([IMAGE, IMAGE], 4), ArgumentError, "axis"),
        (lambda: F.concat([IMAGE, IMAGE[:, :, :2]], 1), ShapeError, "concatenate"),
        (lambda: F.concat([IMAGE, np.array("a")]), DTypeError, r"values\[1\]"),
    ],
)
def test_wrong_arguments_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
