import numpy as np
import pytest

from striate.kernels.onehot import OneHot
from tests.guard import outcome
from tests.kernel_call import assembly, calls, isa  # noqa: F401


def check(outer, classes, inner):
    labels = np.random.default_rng(0).integers(-2, classes + 2, (outer, inner)).astype(np.int32)
    y = np.empty((outer, classes, inner), np.float32)
    got = outcome(OneHot(), [labels, y], (outer, classes, inner), 1)
    want = np.zeros(y.shape)
    for o, i in np.ndindex(labels.shape):
        if 0 <= labels[o, i] < classes:
            want[o, labels[o, i], i] = 1
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("classes", [1, 2, 10, 16, 17, 33, 100])
@pytest.mark.parametrize("inner", [1, 2, 17, 40])
def test_small_shapes(isa, classes, inner):
    for outer in (0, 1, 5):
        check(outer, classes, inner)


@pytest.mark.parametrize(
    ("batch", "classes"), [(64, 10), (32, 100), (16, 1000)], ids=["mnist", "cifar100", "imagenet"]
)
def test_networks(isa, batch, classes):
    check(batch, classes, 1)


@pytest.mark.parametrize("name", ["avx512", "avx2", "sse2", "neon"])
def test_code_for_every_machine_calls_nothing(name):
    assert calls(assembly(OneHot(), name)) == []
