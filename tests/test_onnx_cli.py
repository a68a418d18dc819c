"""ONNX files on the command line: predict and inspect."""

import json

import numpy as np
import pytest
from PIL import Image

onnx = pytest.importorskip("onnx", reason="onnx is not installed (pip install 'striate[onnx]')")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from tests.cli_run import cli  # noqa: E402, F401 - a fixture

W = np.random.default_rng(3).standard_normal((3, 1, 3, 3), np.float32)


def write(path, *, softmax=False, metadata=None, size=8):
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "/conv"),
        helper.make_node("GlobalAveragePool", ["a"], ["b"], "/mean"),
        helper.make_node("Flatten", ["b"], ["c" if softmax else "y"], "/flatten"),
    ]
    if softmax:
        nodes.append(helper.make_node("Softmax", ["c"], ["y"], "/softmax"))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, size, size])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])
    graph = helper.make_graph(nodes, "graph", [x], [y], [numpy_helper.from_array(W, "w")])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    for key, value in (metadata or {}).items():
        made.metadata_props.add(key=key, value=json.dumps(value))
    onnx.save(made, path)
    return path


@pytest.fixture
def picture(tmp_path):
    pixels = np.random.default_rng(4).integers(0, 256, (8, 8), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def expected(picture, mean=0.0):
    x = np.asarray(Image.open(picture), np.float64) / 255 - mean
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3))
    scores = np.einsum("ijkl,okl->oij", windows, W[:, 0].astype(np.float64)).mean((1, 2))
    return np.exp(scores) / np.exp(scores).sum()


@pytest.mark.parametrize("softmax", [False, True])
def test_predict_with_an_onnx_file(cli, tmp_path, picture, softmax):
    path = write(tmp_path / "net.onnx", softmax=softmax, metadata={"classes": ["a", "b", "c"]})
    done = cli("predict", path, picture, "--top", 3, "--json")
    assert "does not say how pictures are prepared" in done.err
    found = {t["class"]: t["probability"] for t in done.json["predictions"][0]["top"]}
    probabilities = [found[name] for name in "abc"]
    np.testing.assert_allclose(probabilities, expected(picture), rtol=1e-4)


def test_preprocessing_of_the_file_is_used(cli, tmp_path, picture):
    recipe = {"channels": 1, "size": [8, 8], "resize": "crop", "mean": [0.5], "std": [1.0]}
    path = write(tmp_path / "net.onnx", metadata={"recipe": recipe})
    done = cli("predict", path, picture, "--top", 3, "--json")
    found = {t["class"]: t["probability"] for t in done.json["predictions"][0]["top"]}
    probabilities = [found[name] for name in "012"]
    np.testing.assert_allclose(probabilities, expected(picture, 0.5), rtol=1e-4)


def test_inspect_an_onnx_file(cli, tmp_path):
    path = write(tmp_path / "net.onnx")
    done = cli("inspect", path, "--json")
    assert done.json["input"] == [1, 8, 8]
    assert [row["name"] for row in done.json["layers"]] == ["/conv", "/mean", "/flatten"]
    assert "Conv" in cli("inspect", path).out
    free = write(tmp_path / "free.onnx", size="S")
    assert "give --input" in cli("inspect", free).error
    assert "program" in cli("inspect", free, "--input", "1,9,9", "--plan").out
