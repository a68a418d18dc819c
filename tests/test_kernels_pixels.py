import numpy as np
import pytest

from striate.kernels.pixels import LookUpPixels
from tests.guard import outcome
from tests.kernel_call import assembly, calls, isa  # noqa: F401


def check(pixels, channels, table=None):
    rng = np.random.default_rng(pixels)
    x = rng.integers(0, 256, (pixels, channels), np.uint8)
    if table is None:
        table = rng.standard_normal((channels, 256)).astype(np.float32)
    y = np.empty((pixels, channels), np.float32)
    got = outcome(LookUpPixels(channels), [x, y, table], (pixels,), out=1)
    want = np.stack([table[c][x[:, c]] for c in range(channels)], axis=1)
    assert got.tobytes() == want.tobytes()


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_small_shapes(isa, channels):
    for pixels in (0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 100, 257):
        check(pixels, channels)


@pytest.mark.parametrize(
    ("pixels", "channels"),
    [(64 * 28 * 28, 1), (8 * 32 * 32, 3), (224 * 224, 3)],
    ids=["mnist", "cifar", "imagenet"],
)
def test_networks(isa, pixels, channels):
    check(pixels, channels)


def test_numbers_are_copied_bit_for_bit(isa):
    """NaN with a payload, infinities, zeros of both signs and denormals."""
    bits = np.random.default_rng(0).integers(0, 2**32, (3, 256), np.uint32)
    bits[:, :6] = [0x7FA12345, 0x7F800000, 0xFF800000, 0x80000000, 1, 0x807FFFFF]
    check(5000, 3, bits.view(np.float32))


@pytest.mark.parametrize("name", ["avx512", "avx2", "sse2", "neon"])
@pytest.mark.parametrize("channels", [1, 3])
def test_code_for_every_machine_calls_nothing(name, channels):
    assert calls(assembly(LookUpPixels(channels), name)) == []
