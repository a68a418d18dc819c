"""Three-dimensional convolution and pooling against PyTorch."""

import numpy as np
import pytest

from striate.onnx import volumes
from tests.symbols import run

torch = pytest.importorskip("torch")
T = torch.nn.functional
RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def both(ours, theirs, *arrays):
    (y,), _ = run(ours, *arrays)
    expected = theirs(*map(torch.tensor, arrays)).numpy()
    assert y.shape == expected.shape
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "groups"),
    [((1, 1, 1), (0, 0, 0), (1, 1, 1), 1), ((2, 1, 2), (1, 0, 2), (1, 2, 1), 2)],
)
def test_convolution(stride, padding, dilation, groups):
    x, w, b = normal(2, 4, 6, 7, 5), normal(6, 4 // groups, 3, 2, 3), normal(6)
    sides = [(p, p) for p in padding]
    both(
        lambda x, w, b: volumes.conv3d(x, w, b, stride, sides, dilation, groups),
        lambda x, w, b: T.conv3d(x, w, b, stride, padding, dilation, groups),
        x, w, b,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("stride", "padding", "extra", "dilation", "groups"),
    [
        ((1, 1, 1), (0, 0, 0), (0, 0, 0), (1, 1, 1), 1),
        ((2, 3, 1), (1, 0, 1), (1, 2, 0), (2, 1, 1), 2),
    ],
)
def test_transposed_convolution(stride, padding, extra, dilation, groups):
    x, w, b = normal(2, 4, 3, 4, 5), normal(4, 6 // groups, 3, 2, 3), normal(6)
    sides = [(p, p) for p in padding]
    both(
        lambda x, w, b: volumes.conv_transpose3d(x, w, b, stride, sides, extra, dilation, groups),
        lambda x, w, b: T.conv_transpose3d(x, w, b, stride, padding, extra, groups, dilation),
        x, w, b,
    )  # fmt: skip


@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize("padding", [(0, 0, 0), (1, 0, 1)])
def test_pooling(ceil, padding):
    x, kernel, stride = normal(2, 3, 7, 6, 8), (3, 2, 2), (2, 1, 2)
    sides = [(p, p) for p in padding]
    both(
        lambda x: volumes.max_pool3d(x, kernel, stride, sides, (1, 2, 1), ceil),
        lambda x: T.max_pool3d(x, kernel, stride, padding, (1, 2, 1), ceil),
        x,
    )
