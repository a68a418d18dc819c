"""Code paths of machines that are not at hand compute the same as the one that is."""

import numpy as np
import pytest

import striate as st
from striate import nn
from striate.arith.machine import ISAS
from striate.jit.target import machine
from tests.kernel_call import runnable


def net():
    """Every kind of convolution, with channels that leave tails of vectors and of tiles."""
    return nn.Sequential(
        nn.Conv2d(3, 21, 5, stride=2, padding=2, bias=False),
        nn.BatchNorm2d(21),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(21, 40, 3, padding=1),  # Winograd
        nn.ReLU(),
        nn.Conv2d(40, 40, 3, padding=1, groups=40),
        nn.Conv2d(40, 36, 1),
        nn.Conv2d(36, 36, 3, padding=2, dilation=2, groups=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(36, 7),
    )


def results(target, monkeypatch):
    """Logits, and the parameters after two steps of training."""
    monkeypatch.setenv("STRIATE_TARGET", target)
    st.manual_seed(3)
    layers, rng = net(), np.random.default_rng(0)
    x = rng.standard_normal((3, 3, 34, 30)).astype(np.float32)
    y = rng.integers(0, 7, 3).astype(np.int32)
    logits = layers.eval()(x)
    step = st.compile_step(layers.train(), optimizer=st.optim.SGD(lr=0.01, momentum=0.9))
    losses = [float(step(x, y)) for _ in range(2)]
    return [logits, np.array(losses), *(p.data.copy() for p in layers.parameters())]


def same(a, b):
    for one, other in zip(a, b, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("isa", ISAS)
def test_a_net_in_the_shape_of_another_machine(isa, monkeypatch):
    if ISAS[isa][2] and not machine().fma:
        pytest.skip("no fused multiply-add here")
    same(results("", monkeypatch), results(f"{isa}-shape", monkeypatch))


def test_a_shape_has_the_bits_of_its_machine(monkeypatch):
    if runnable()[0] not in {"avx512", "avx2"}:
        pytest.skip("no machine with another's instructions and fused multiply-add")
    real, shaped = (results(t, monkeypatch) for t in ("avx2", "avx2-shape"))
    for one, other in zip(real, shaped, strict=True):
        assert one.tobytes() == other.tobytes()
