import numpy as np
import pytest

from striate.kernels.reorder import Transpose2d
from tests.guard import outcome
from tests.kernel_call import assembly, calls, isa  # noqa: F401

EDGES = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33)
NETWORKS = {
    "lenet pool2": (4, 16, 5 * 5),
    "lenet input": (3, 1, 28 * 28),
    "cifar input": (3, 3, 32 * 32),
    "imagenet input": (1, 3, 224 * 224),
    "four planes": (2, 4, 57 * 3),
    "vgg features": (2, 512, 7 * 7),
    "resnet layer1": (1, 64, 56 * 56),
    "mobilenet last": (2, 1280, 1),
}


def check(spec, batch, rows, cols, parts=(1, 2, 3, 7)):
    x = np.arange(batch * rows * cols, dtype=np.float32).reshape(batch, rows, cols)
    y = np.empty((batch, cols, rows), np.float32)
    got = outcome(spec, [x, y], (batch, rows, cols), out=1, parts=parts)
    np.testing.assert_array_equal(got, x.transpose(0, 2, 1))


@pytest.mark.parametrize("rows", EDGES)
def test_small_shapes(isa, rows):
    for cols in EDGES:
        for batch in (1, 3):
            check(Transpose2d(), batch, rows, cols, parts=(1, 7))


@pytest.mark.parametrize("few", [2, 3, 4])
def test_few_planes(isa, few):
    for other in (*EDGES, 64, 65, 1023, 1024, 1025, 2100):
        check(Transpose2d(few_rows=few), 2, few, other, parts=(1, 3))
        check(Transpose2d(few_cols=few), 2, other, few, parts=(1, 3))


@pytest.mark.parametrize("shape", NETWORKS.values(), ids=NETWORKS)
def test_networks_there_and_back(isa, shape):
    batch, rows, cols = shape
    check(Transpose2d.to_nhwc(rows), batch, rows, cols)
    check(Transpose2d.to_nchw(rows), batch, cols, rows)


def test_nothing_to_do(isa):
    for batch, rows, cols in ((0, 5, 7), (2, 0, 7), (2, 7, 0)):
        check(Transpose2d(), batch, rows, cols)


def test_the_number_of_channels_chooses_the_kernel():
    for few in (2, 3, 4):
        assert Transpose2d.to_nhwc(few) == Transpose2d(few_rows=few)
        assert Transpose2d.to_nchw(few) == Transpose2d(few_cols=few)
    for channels in (1, 5, 64):
        assert Transpose2d.to_nhwc(channels) == Transpose2d.to_nchw(channels) == Transpose2d()


@pytest.mark.parametrize("name", ["avx512", "avx2", "sse2", "neon"])
def test_code_for_every_machine_calls_nothing_outside(name):
    assert set(calls(assembly(Transpose2d(), name))) <= {"blocks", "blocks_masked"}
    for spec in (Transpose2d(few_rows=3), Transpose2d(few_cols=3)):
        assert calls(assembly(spec, name)) == []
