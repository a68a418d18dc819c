"""Whole models: the light architectures of the onnx package, and models of the package qonnx."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import striate as st

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
from onnx import numpy_helper  # noqa: E402 - only where onnx is installed

LIGHT = sorted((Path(onnx.__file__).parent / "backend" / "test" / "data" / "light").glob("*.onnx"))


def with_random_weights(model, seed=0):
    """The model with random numbers where it has made all weights of one constant.

    Any batch may come in, also where a Reshape names the batch of 1.
    """
    rng = np.random.default_rng(seed)
    graph = model.graph
    shapes = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    roles = {name: (node.op_type, i) for node in graph.node for i, name in enumerate(node.input)}
    kept = []
    for node in graph.node:
        if node.op_type != "ConstantOfShape":
            kept.append(node)
            continue
        array = _weights(rng, tuple(shapes[node.input[0]]), *roles[node.output[0]])
        graph.initializer.append(numpy_helper.from_array(array, node.output[0]))
    del graph.node[:]
    graph.node.extend(kept)
    targets = {node.input[1] for node in graph.node if node.op_type == "Reshape"}
    for initialiser in graph.initializer:
        array = numpy_helper.to_array(initialiser)
        if initialiser.name in targets and array[0] == 1 and -1 not in array:
            free = np.array([-1, *array[1:]], np.int64)
            initialiser.CopyFrom(numpy_helper.from_array(free, initialiser.name))
    weights = {i.name for i in graph.initializer}
    inputs = [port for port in graph.input if port.name not in weights]
    del graph.input[:]
    graph.input.extend(inputs)
    for port in [*graph.input, *graph.output]:
        port.type.tensor_type.shape.dim[0].dim_param = "batch"
    del graph.value_info[:]
    model.ir_version = max(4, model.ir_version)  # from then on weights need not be inputs
    return model


def _weights(rng, shape, op, place):
    if op == "BatchNormalization" and place in (1, 4):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    fan_in = int(np.prod(shape[1:])) or 1
    scale = np.sqrt(2 / fan_in) if len(shape) > 1 else 0.1
    return (rng.standard_normal(shape) * scale).astype(np.float32)


def compare(model, *arrays):
    """Ours beside ONNX Runtime, relative to the largest output."""
    data = model if isinstance(model, bytes) else model.SerializeToString()
    session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
    net = st.onnx.load(data)
    for array in arrays:
        name = session.get_inputs()[0].name
        (expected, *_), ours = session.run(None, {name: array}), net(array)
        assert ours.shape == expected.shape
        assert np.ptp(expected) > 0
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    return net


@pytest.mark.slow
@pytest.mark.parametrize("path", LIGHT, ids=lambda p: p.stem)
def test_light_architecture_with_random_weights(path):
    model = with_random_weights(onnx.load(path))
    size = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim][1:]
    rng = np.random.default_rng(1)
    compare(model, *(rng.standard_normal((n, *size), np.float32) for n in (1, 3)))


def test_there_are_nine_light_architectures():
    assert len(LIGHT) == 9


# ---------------------------------------------------------------------------- models of qonnx

spec = find_spec("qonnx")
DATA = Path(spec.submodule_search_locations[0]) / "data" / "onnx" if spec else None
needs_qonnx = pytest.mark.skipif(DATA is None, reason="qonnx is not installed")


def stored(path):
    return numpy_helper.to_array(onnx.TensorProto.FromString(path.read_bytes()))


@needs_qonnx
def test_mnist_conv_names_a_digit():
    folder = DATA / "mnist-conv"
    image = stored(folder / "test_data_set_0" / "input_0.pb")
    net = compare((folder / "model.onnx").read_bytes(), image)
    expected = stored(folder / "test_data_set_0" / "output_0.pb")
    np.testing.assert_allclose(net(image), expected, rtol=1e-4, atol=1e-2)
    assert net(image).argmax() == expected.argmax()


@needs_qonnx
@pytest.mark.parametrize("kind", ["nn_resize", "subpixel"])
def test_espcn(kind):
    model = onnx.load(DATA / "bsd300x3-espcn" / kind / "float_model.onnx")
    for port in [*model.graph.input[:1], *model.graph.output]:
        for axis in (0, 2, 3):
            port.type.tensor_type.shape.dim[axis].dim_param = f"d{axis}"
    del model.graph.value_info[:]
    image = stored(DATA / "bsd300x3-espcn" / "test_data" / "input_0.pb")
    compare(model, image, np.concatenate([image, image[..., ::-1], image / 2]))
