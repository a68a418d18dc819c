"""Modules of PyTorch, taken over from memory."""

import numpy as np
import pytest

import striate as st

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("striate.onnx")


def small():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, stride=2, padding=1),
        torch.nn.BatchNorm2d(8),
        torch.nn.ReLU6(),
        torch.nn.MaxPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Dropout(0.5),
        torch.nn.Linear(8 * 4 * 4, 5),
    )


def images(n, side=16):
    return np.random.default_rng(0).standard_normal((n, 3, side, side)).astype(np.float32)


def expected(module, *inputs):
    with torch.no_grad():
        return module.eval()(*(torch.from_numpy(x) for x in inputs)).numpy()


@pytest.mark.parametrize("example", [images(1), torch.zeros(2, 3, 16, 16), images(1).astype("f8")])
def test_outputs_are_torchs_for_any_batch(example):
    module = small().train()
    net = st.from_torch(module, example)
    assert module.training
    assert not net.training
    for n in (1, 3):
        y = expected(module, images(n))
        assert np.abs(net(images(n)) - y).max() < 1e-5 * max(1, np.abs(y).max())


def test_a_resnet():
    from bench import nets

    torch.manual_seed(0)
    module = nets.resnet18(num_classes=7, in_channels=3)
    x = images(2, 64)
    y = expected(module, x)
    assert np.abs(st.from_torch(module, x[:1])(x) - y).max() < 1e-4 * np.abs(y).max()


def test_several_inputs():
    class Sum(torch.nn.Module):
        def forward(self, a, b):
            return torch.relu(a) + b

    a, b = images(2), images(2)[::-1].copy()
    net = st.from_torch(Sum(), (a, b))
    np.testing.assert_allclose(net(a, b), np.maximum(a, 0) + b, rtol=1e-6)


def test_what_it_refuses():
    with pytest.raises(st.ArgumentError, match=r"torch\.nn\.Module"):
        st.from_torch(lambda x: x, images(1))
    with pytest.raises(st.ArgumentError, match="arrays of numbers"):
        st.from_torch(small(), "picture")
    with pytest.raises(st.UnsupportedError, match="export"):
        st.from_torch(small(), images(1)[:, :2])
