"""Convolutions and dense layers against SciPy, NumPy and PyTorch."""

from itertools import product

import numpy as np
import pytest
from scipy.signal import convolve2d, correlate2d

import striate.functional as F
from striate.errors import ArgumentError, DTypeError, ShapeError
from tests.symbols import loss_weights, run

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def close(ours, expected, depth=100):
    """float32 results; `depth` is the number of products in a sum."""
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, np.asarray(expected), rtol=1e-4, atol=1e-6 * max(10, depth))


@pytest.mark.parametrize("padding", ["valid", "same", "full"])
@pytest.mark.parametrize("kernel", [(3, 3), (1, 1), (5, 3), (2, 2), (4, 3)])
def test_conv2d_is_scipys_correlation_and_with_flip_kernel_its_convolution(padding, kernel):
    x, w = normal(2, 3, 8, 7), normal(4, 3, *kernel)
    for flip in (False, True):
        function = convolve2d if flip else correlate2d
        if padding == "same":  # SciPy centres an even kernel otherwise, so the padding is explicit
            before = [(k - 1) // 2 for k in kernel]
            after = [k - 1 - b for k, b in zip(kernel, before, strict=True)]
            source = np.pad(x, ((0, 0), (0, 0), *zip(before, after, strict=True)))
        else:
            source = x
        mode = "full" if padding == "full" else "valid"
        expected = [
            [sum(function(image[c], k[c], mode) for c in range(3)) for k in w.astype(float)]
            for image in source.astype(float)
        ]
        close(F.conv2d(x, w, padding=padding, flip_kernel=flip), expected)


CONVS = [
    {},
    {"stride": 2, "padding": 1},
    {"stride": (2, 3), "padding": (1, 2), "dilation": (2, 1)},
    {"padding": "same", "dilation": 2},
    {"groups": 2, "padding": 2},
    {"groups": 4, "stride": 2},
    {"padding": 1, "padding_mode": "reflect"},
    {"padding": (2, 1), "padding_mode": "replicate", "stride": 2},
    {"padding": 2, "padding_mode": "circular", "dilation": 2},
]


@pytest.mark.parametrize("options", CONVS, ids=str)
@pytest.mark.parametrize("bias", [False, True])
def test_conv2d_and_its_gradients_against_torch(options, bias):
    torch = pytest.importorskip("torch")
    x, w, b = normal(2, 4, 9, 8), normal(8, 4 // options.get("groups", 1), 3, 2), normal(8)
    if options.get("padding") == "same":
        w = normal(8, 4, 3, 5)
    tx, tw, tb = (torch.tensor(a, requires_grad=True) for a in (x, w, b))
    layer = torch.nn.Conv2d(4, 8, w.shape[2:], bias=bias, **options)
    parts = [tx, tw] + [tb] * bias
    names = ["weight"] + ["bias"] * bias
    y = torch.func.functional_call(layer, dict(zip(names, parts[1:], strict=True)), tx)
    close(F.conv2d(x, w, b if bias else None, **options), y.detach())
    dy = normal(*y.shape)
    expected = torch.autograd.grad(y, parts, torch.tensor(dy))
    ours = F.conv2d_grad(x, w, dy, **options)
    for grad, reference in zip(ours, expected, strict=False):
        close(grad, reference, depth=200)
    np.testing.assert_allclose(ours[2], dy.sum((0, 2, 3)), rtol=1e-4, atol=1e-4)


def test_asymmetric_padding_is_convolution_of_the_padded_image():
    x, w = normal(1, 2, 6, 7), normal(3, 2, 3, 3)
    for t, b, left, r in product((0, 2), (0, 1), (0, 3), (0, 1)):
        padded = np.pad(x, ((0, 0), (0, 0), (t, b), (left, r)))
        for stride in (1, 2):
            ours = F.conv2d(x, w, padding=((t, b), (left, r)), stride=stride)
            close(ours, F.conv2d(padded, w, stride=stride))


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("size", [7, 8])
def test_same_padding_at_any_stride(stride, size):
    x, w = normal(1, 1, size, size), normal(1, 1, 4, 4)
    total = max(0, (-(-size // stride) - 1) * stride + 4 - size)
    padded = np.pad(x, ((0, 0), (0, 0), *[(total // 2, total - total // 2)] * 2))
    ours = F.conv2d(x, w, padding="same", stride=stride)
    assert ours.shape[2:] == (-(-size // stride),) * 2
    close(ours, F.conv2d(padded, w, stride=stride))


def test_flip_kernel_gradients_are_those_of_the_turned_kernel():
    x, w = normal(2, 3, 6, 6), normal(4, 3, 2, 3)
    dy = normal(2, 4, 5, 4)
    dx, dw, db = F.conv2d_grad(x, w, dy, flip_kernel=True)
    ex, ew, eb = F.conv2d_grad(x, w[:, :, ::-1, ::-1], dy)
    close(dx, ex)
    close(dw, ew[:, :, ::-1, ::-1])
    close(db, eb)


TRANSPOSED = [
    {},
    {"stride": 2, "padding": 1, "output_padding": 1},
    {"stride": (3, 2), "padding": (0, 1), "output_padding": (2, 0), "dilation": (1, 2)},
    {"groups": 2, "stride": 2, "dilation": 3, "output_padding": 2},
    {"stride": 1, "dilation": 3, "padding": 1, "output_padding": 2},
    {"stride": 2, "dilation": 4, "padding": 0, "output_padding": 3},
    {"stride": 2, "padding": 3},
]


@pytest.mark.parametrize("options", TRANSPOSED, ids=str)
def test_conv_transpose2d_and_its_gradients_against_torch(options):
    torch = pytest.importorskip("torch")
    x, w = normal(2, 4, 5, 4), normal(4, 6 // options.get("groups", 1), 3, 3)
    b = normal(6)
    tx, tw, tb = (torch.tensor(a, requires_grad=True) for a in (x, w, b))
    y = torch.nn.functional.conv_transpose2d(tx, tw, tb, **options)
    close(F.conv_transpose2d(x, w, b, **options), y.detach())
    dy = normal(*y.shape)
    expected = torch.autograd.grad(y, (tx, tw, tb), torch.tensor(dy))
    for ours, reference in zip(F.conv_transpose2d_grad(x, w, dy, **options), expected, strict=True):
        close(ours, reference, depth=200)


def test_transposed_convolution_is_the_transpose_of_convolution():
    x, w = normal(2, 3, 9, 8), normal(5, 3, 3, 4)
    options = {"stride": (2, 3), "padding": ((1, 2), (0, 1)), "dilation": (1, 1)}
    y = F.conv2d(x, w, **options)
    dy = normal(*y.shape)
    back = F.conv_transpose2d(dy, w, output_padding=(1, 2), **options)
    assert back.shape == x.shape
    assert np.sum(back * x) == pytest.approx(np.sum(dy * y), rel=1e-4)


@pytest.mark.parametrize("shape", [(3, 7), (7,), (2, 3, 7), (2, 2, 3, 7)])
@pytest.mark.parametrize("bias", [False, True])
def test_linear(shape, bias):
    x, w, b = normal(*shape), normal(5, 7), normal(5)
    expected = x.astype(float) @ w.T.astype(float) + (b if bias else 0)
    close(F.linear(x, w, b if bias else None), expected)
    _, (dx, dw, db) = run(F.linear, x, w, b, wrt=(0, 1, 2))
    (weights,) = loss_weights([expected.shape])
    close(dx, weights @ w.astype(float))
    flat = weights.reshape(-1, 5)
    close(dw, flat.T @ x.reshape(-1, 7))
    close(db, flat.sum(0))


def test_any_dtype_strides_and_byte_order_and_inputs_stay_untouched():
    x, w = normal(2, 3, 8, 8), normal(4, 3, 3, 3)
    expected = F.conv2d(x, w)
    variants = [
        x.astype(np.float64),
        x.astype(">f4"),
        np.asfortranarray(x),
        np.repeat(x, 2, axis=3)[..., ::2],
        x[:, :, ::-1][:, :, ::-1],
        x.tolist(),
    ]
    read_only = x.copy()
    read_only.flags.writeable = False
    for variant in [*variants, read_only]:
        before = np.array(variant)
        np.testing.assert_array_equal(F.conv2d(variant, w), expected)
        np.testing.assert_array_equal(variant, before)
    half = F.conv2d(x.astype(np.float16), w.astype(np.float16))
    assert half.dtype == np.float32
    np.testing.assert_allclose(half, expected, atol=0.05)
    pixels = RNG.integers(0, 256, (1, 3, 8, 8), np.uint8)
    np.testing.assert_array_equal(F.conv2d(pixels, w), F.conv2d(pixels.astype(np.float32), w))


def test_results_belong_to_the_caller():
    x, w = normal(1, 1, 4, 4), normal(1, 1, 3, 3)
    first = F.conv2d(x, w)
    kept = first.copy()
    second = F.conv2d(x + 1, w)
    np.testing.assert_array_equal(first, kept)
    first[...] = 0
    assert np.any(second != 0)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: F.conv2d(np.ones((3, 8, 8)), np.ones((4, 3, 3, 3))), ShapeError, r"x\[None\]"),
        (lambda: F.conv2d(np.ones((8, 8)), np.ones((4, 3, 3, 3))), ShapeError, "images"),
        (lambda: F.conv2d(np.ones((1, 2, 8, 8)), np.ones((4, 3, 3, 3))), ShapeError, "2 channels"),
        (lambda: F.conv2d(np.ones((1, 3, 2, 8)), np.ones((4, 3, 3, 3))), ShapeError, "floor"),
        (lambda: F.conv2d(np.ones((1, 3, 8, 8)), np.ones((3, 3, 3))), ShapeError, "four axes"),
        (
            lambda: F.conv2d(np.ones((1, 3, 8, 8)), np.ones((4, 3, 3, 3)), np.ones(3)),
            ShapeError,
            r"bias must have shape \(4,\)",
        ),
        (
            lambda: F.conv2d(np.ones((1, 3, 8, 8)), np.ones((4, 3, 3, 3)), stride=0),
            ArgumentError,
            "stride",
        ),
        (
            lambda: F.conv2d(np.ones((1, 3, 8, 8)), np.ones((4, 3, 3, 3)), padding="some"),
            ArgumentError,
            "'same'",
        ),
        (
            lambda: F.conv2d(np.ones((1, 3, 8, 8)), np.ones((4, 3, 3, 3)), groups=0),
            ArgumentError,
            "groups",
        ),
        (
            lambda: F.conv2d(np.ones((1, 3, 8, 8)), np.ones((4, 3, 3, 3)), padding_mode="mirror"),
            ArgumentError,
            "padding_mode",
        ),
        (lambda: F.conv2d(np.ones((1, 3, 8, 8)) * 1j, np.ones((4, 3, 3, 3))), DTypeError, "x has"),
        (
            lambda: F.conv2d_grad(
                np.ones((1, 3, 8, 8)), np.ones((4, 3, 3, 3)), np.ones((1, 4, 5, 5))
            ),
            ShapeError,
            r"\(1, 4, 6, 6\)",
        ),
        (
            lambda: F.conv_transpose2d(
                np.ones((1, 3, 4, 4)), np.ones((3, 2, 3, 3)), output_padding=1
            ),
            ArgumentError,
            "output_padding",
        ),
        (
            lambda: F.conv_transpose2d(np.ones((1, 3, 1, 1)), np.ones((3, 2, 1, 1)), padding=1),
            ShapeError,
            "nothing is left",
        ),
        (
            lambda: F.conv_transpose2d(
                np.ones((1, 3, 1, 1)), np.ones((3, 2, 1, 1)), padding="same"
            ),
            ArgumentError,
            "numbers",
        ),
        (lambda: F.linear(np.ones((2, 3)), np.ones((4, 5))), ShapeError, "does not fit"),
        (lambda: F.linear(np.ones((2, 5)), np.ones((4, 5)), np.ones(5)), ShapeError, "bias"),
    ],
)
def test_wrong_arguments_are_refused_with_what_is_wrong(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_unknown_and_doubled_arguments_are_type_errors():
    x, w = np.ones((1, 1, 4, 4)), np.ones((1, 1, 3, 3))
    for wrong in (
        lambda: F.conv2d(x, w, strides=2),
        lambda: F.conv2d(x, w, None, 2),
        lambda: F.conv2d(x),
        lambda: F.conv2d(x, w, w=w),
    ):
        with pytest.raises(TypeError):
            wrong()
