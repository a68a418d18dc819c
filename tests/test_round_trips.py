"""A net from here to ONNX Runtime or PyTorch and back: the same logits."""

import sys
from pathlib import Path

import numpy as np
import pytest

import striate as st

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.slow


def images(count=2, side=96):
    return np.random.default_rng(0).standard_normal((count, 3, side, side), np.float32)


def close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())


def test_resnet50_to_onnx_runtime_and_back(tmp_path):
    pytest.importorskip("onnx")
    ort = pytest.importorskip("onnxruntime")
    st.manual_seed(0)
    net, x = st.models.create("resnet50").eval(), images()
    written = st.onnx.export(net, tmp_path / "net.onnx", (3, 224, 224))
    assert written.free == "size"
    session = ort.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    close(net(x), session.run(None, {"x": x})[0])
    close(st.onnx.load(tmp_path / "net.onnx")(x), net(x))


def test_resnet50_of_torch_and_back(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.syspath_prepend(str(ROOT))
    from bench.nets import resnet50

    torch.manual_seed(0)
    theirs = resnet50().eval()
    x = images()
    with torch.no_grad():
        expected = theirs(torch.tensor(x)).numpy()
    torch.save(theirs.state_dict(), tmp_path / "net.pth")
    ours = st.models.create("resnet50").eval()
    st.load_weights(ours, tmp_path / "net.pth")
    close(ours(x), expected)
    st.save(ours, tmp_path / "net.safetensors")
    from safetensors.torch import load_file

    again = resnet50().eval()
    again.load_state_dict(load_file(tmp_path / "net.safetensors"))
    with torch.no_grad():
        np.testing.assert_array_equal(again(torch.tensor(x)).numpy(), expected)
    assert "bench.nets" in sys.modules
