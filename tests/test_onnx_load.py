"""ONNX models of our own making: what the module is, and which inputs become numbers."""

import warnings

import numpy as np
import pytest

import striate as st

onnx = pytest.importorskip("onnx", reason="onnx is not installed (pip install 'striate[onnx]')")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

FLOAT, INT64, UINT8 = TensorProto.FLOAT, TensorProto.INT64, TensorProto.UINT8
rng = np.random.default_rng(5)


def value(name, shape, kind=FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def model(nodes, inputs, outputs, weights=None, opset=17, ir=8, metadata=None):
    initialisers = [numpy_helper.from_array(a, n) for n, a in (weights or {}).items()]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, initialisers)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)
    for key, text in (metadata or {}).items():
        made.metadata_props.add(key=key, value=text)
    return made


def load(*args, **options):
    return st.onnx.load(model(*args, **options).SerializeToString())


def small_net(batch="N", **options):
    """conv → batch norm → relu → mean → dense, with names as PyTorch exports them."""
    weights = {
        "conv1.weight": rng.standard_normal((6, 3, 3, 3), np.float32),
        "bn1.weight": rng.uniform(0.5, 2, 6).astype(np.float32),
        "bn1.bias": rng.standard_normal(6, np.float32),
        "bn1.running_mean": rng.standard_normal(6, np.float32),
        "bn1.running_var": rng.uniform(0.5, 2, 6).astype(np.float32),
        "fc.weight": rng.standard_normal((4, 6), np.float32),
        "fc.bias": rng.standard_normal(4, np.float32),
    }
    norm = [f"bn1.{n}" for n in ("weight", "bias", "running_mean", "running_var")]
    nodes = [
        helper.make_node("Conv", ["x", "conv1.weight"], ["a"], "/conv1", pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["a", *norm], ["b"], "/bn1"),
        helper.make_node("Relu", ["b"], ["c"], "/relu"),
        helper.make_node("GlobalAveragePool", ["c"], ["d"], "/mean"),
        helper.make_node("Flatten", ["d"], ["e"], "/flatten"),
        helper.make_node("Gemm", ["e", "fc.weight", "fc.bias"], ["y"], "/fc", transB=1),
    ]
    ports = [value("x", [batch, 3, "H", "W"])], [value("y", [batch, 4])]
    return model(nodes, *ports, weights, **options)


def by_onnxruntime(made, *arrays):
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [port.name for port in session.get_inputs()]
    return session.run(None, dict(zip(names, arrays, strict=False)))


def test_a_net_equals_onnxruntime_at_every_size():
    made = small_net()
    net = st.onnx.load(made.SerializeToString())
    for shape in ((1, 3, 8, 8), (2, 3, 9, 7), (5, 3, 8, 8)):
        x = rng.standard_normal(shape, np.float32)
        (expected,) = by_onnxruntime(made, x)
        np.testing.assert_allclose(net(x), expected, rtol=1e-4, atol=1e-5)


def test_another_size_compiles_nothing():
    net = st.onnx.load(small_net().SerializeToString())
    net(np.zeros((1, 3, 8, 8), np.float32))
    before = st.cache_info()
    net(np.zeros((3, 3, 10, 12), np.float32))
    after = st.cache_info()
    assert (after.compiled, after.loaded) == (before.compiled, before.loaded)


def test_a_module_says_what_the_file_says():
    net = st.onnx.load(small_net(metadata={"names": "{0: 'cat', 1: 'dog'}"}).SerializeToString())
    assert (net.input_names, net.output_names) == (("x",), ("y",))
    assert net.metadata == {"names": "{0: 'cat', 1: 'dog'}"}
    assert net.classes == ["cat", "dog"]
    assert not net.training


def test_weights_are_parameters_and_statistics_buffers():
    net = st.onnx.load(small_net().SerializeToString())
    assert [n for n, _ in net.named_buffers()] == ["bn1.running_mean", "bn1.running_var"]
    assert {n for n, _ in net.named_parameters()} == {
        "conv1.weight", "bn1.weight", "bn1.bias", "fc.weight", "fc.bias",
    }  # fmt: skip
    x = rng.standard_normal((1, 3, 8, 8), np.float32)
    state = net.state_dict()
    before = net(x)
    state["fc.bias"] += 1
    net.load_state_dict(state)
    np.testing.assert_allclose(net(x), before + 1, rtol=1e-5)


def test_training_changes_weights_and_statistics():
    net = st.onnx.load(small_net().SerializeToString())
    step = st.compile_step(net, optimizer=st.optim.SGD(lr=0.1))
    x, y = rng.standard_normal((8, 3, 8, 8), np.float32), np.arange(8) % 4
    before = net.state_dict()
    losses = [step(x, y) for _ in range(20)]
    assert losses[-1] < losses[0]
    assert all((net.state_dict()[key] != before[key]).any() for key in before)


def test_nodes_are_layers_with_features_and_a_summary():
    net = st.onnx.load(small_net().SerializeToString())
    x = rng.standard_normal((1, 3, 8, 8), np.float32)
    found = net.features(x, ["/relu", "/mean"])
    np.testing.assert_allclose(
        found["/relu"].mean((2, 3), keepdims=True), found["/mean"], rtol=1e-5, atol=1e-6
    )
    rows = st.summary(net, (3, 8, 8)).rows
    assert [row["kind"] for row in rows][:3] == ["Conv", "BatchNormalization", "Relu"]
    assert rows[0]["macs"] == 6 * 3 * 9 * 64
    assert sum(row["params"] for row in rows) == net.num_parameters()


def test_inside_another_module():
    inner = st.onnx.load(small_net().SerializeToString())

    class Outer(st.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner(x) * 2.0

    x = rng.standard_normal((2, 3, 8, 8), np.float32)
    np.testing.assert_allclose(Outer().eval()(x), inner(x) * 2, rtol=1e-5)


def test_a_batch_that_the_file_fixes_is_kept_whole():
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["y"])]
    net = load(nodes, [value("x", [4, 6])], [value("y", None)], {"shape": np.array([4, 2, 3])})
    x = rng.standard_normal((4, 6), np.float32)
    np.testing.assert_array_equal(net(x), x.reshape(4, 2, 3))
    with pytest.raises(st.ShapeError, match="Reshape"):
        net(x[:3])


def test_shape_arithmetic_is_done_while_tracing():
    """Shape → Gather → Unsqueeze → Concat → Reshape, as PyTorch writes x.view(x.size(0), -1)."""
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"]),
        helper.make_node("Unsqueeze", ["n", "axes"], ["n1"]),
        helper.make_node("Concat", ["n1", "rest"], ["shape"], axis=0),
        helper.make_node("Reshape", ["x", "shape"], ["y"]),
    ]
    known = {"zero": np.array(0), "axes": np.array([0]), "rest": np.array([-1])}
    net = load(nodes, [value("x", ["N", 2, 3, 4])], [value("y", None)], known)
    for n in (1, 3):
        x = rng.standard_normal((n, 2, 3, 4), np.float32)
        np.testing.assert_array_equal(net(x), x.reshape(n, -1))


def test_an_input_that_must_be_known_is_part_of_the_key():
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["y"], "/view")]
    net = load(nodes, [value("x", [6]), value("shape", [2], INT64)], [value("y", None)])
    x = np.arange(6, dtype=np.float32)
    assert net(x, np.array([2, 3])).shape == (2, 3)
    assert net(x, np.array([3, -1])).shape == (3, 2)
    assert set(net.static) == {"shape"}


def test_a_large_known_input_warns_once_naming_input_and_node():
    nodes = [helper.make_node("Gather", ["x", "i"], ["y"], "/pick", axis=0)]
    net = load(nodes, [value("x", ["N"]), value("i", ["M"], INT64)], [value("y", None)])
    x, i = np.arange(10, dtype=np.float32), np.zeros(70000, np.int64)
    with pytest.warns(UserWarning, match="/pick.*'i'"):
        net(x, i)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert net(x, i + 3)[0] == 3


def test_an_image_of_bytes_that_is_cast_stays_a_symbol():
    nodes = [
        helper.make_node("Cast", ["x"], ["f"], to=FLOAT),
        helper.make_node("Mul", ["f", "scale"], ["y"]),
    ]
    net = load(
        nodes,
        [value("x", ["N", 3, "H", "W"], UINT8)],
        [value("y", None)],
        {"scale": np.float32([1 / 255])},
    )
    x = rng.integers(0, 256, (2, 3, 5, 5), np.uint8)
    np.testing.assert_allclose(net(x), x / np.float32(255), rtol=1e-6)
    assert net.static == {}


def test_integers_beyond_float32_are_exact():
    nodes = [helper.make_node("Add", ["a", "b"], ["y"])]
    net = load(nodes, [value("a", [2], INT64), value("b", [2], INT64)], [value("y", [2], INT64)])
    a, b = np.array([2**53 + 1, -7]), np.array([2**40, 2**24 + 1])
    assert net(a, b).dtype == np.int64
    np.testing.assert_array_equal(net(a, b), a + b)
    moved = load([helper.make_node("Identity", ["a"], ["y"])],
                 [value("a", [2], INT64)], [value("y", [2], INT64)])  # fmt: skip
    np.testing.assert_array_equal(moved(a), a)


def test_a_default_of_an_input_may_be_left_out_or_given():
    nodes = [helper.make_node("Mul", ["x", "k"], ["y"])]
    ports = [value("x", [2]), value("k", [2])]
    net = load(nodes, ports, [value("y", [2])], {"k": np.float32([2, 3])})
    x = np.float32([1, 1])
    assert net.input_names == ("x",)
    np.testing.assert_array_equal(net(x), [2, 3])
    np.testing.assert_array_equal(net(x, np.float32([5, 6])), [5, 6])
    np.testing.assert_array_equal(net(x, k=np.float32([7, 8])), [7, 8])


def test_outputs_have_the_dtypes_of_the_model():
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
        helper.make_node("Cast", ["x"], ["i"], to=TensorProto.INT32),
        helper.make_node("Cast", ["x"], ["b"], to=TensorProto.BOOL),
        helper.make_node("Cast", ["x"], ["d"], to=TensorProto.DOUBLE),
    ]
    net = load(nodes, [value("x", [3])], [value(n, None) for n in "hibd"])
    h, i, b, d = net(np.float32([-1.7, 0, 2.5]))
    assert [a.dtype for a in (h, i, b, d)] == [np.float16, np.int32, bool, np.float64]
    np.testing.assert_array_equal(i, [-1, 0, 2])
    np.testing.assert_array_equal(b, [True, False, True])


@pytest.mark.parametrize(
    ("kind", "array"),
    [
        (TensorProto.FLOAT16, np.float16([[1.5, -2]])),
        (TensorProto.DOUBLE, np.float64([[1.5, -2]])),
        (TensorProto.BFLOAT16, None),
    ],
)
def test_weights_of_other_float_dtypes(kind, array):
    weights = array
    if array is None:
        weights = np.float32([[1.5, -2]]).astype(helper.tensor_dtype_to_np_dtype(kind))
    nodes = [helper.make_node("Mul", ["x", "w"], ["y"])]
    net = load(nodes, [value("x", [1, 2], kind)], [value("y", [1, 2], kind)], {"w": weights})
    y = net(weights)
    assert y.dtype == weights.dtype
    np.testing.assert_array_equal(y.astype(np.float32), [[2.25, 4]])


def test_tensors_in_files_of_their_own(tmp_path):
    made, x = small_net(), rng.standard_normal((1, 3, 8, 8), np.float32)
    expected = st.onnx.load(made.SerializeToString())(x)
    path = tmp_path / "net.onnx"
    onnx.save(made, path, save_as_external_data=True, location="net.data", size_threshold=0)
    np.testing.assert_array_equal(st.onnx.load(path)(x), expected)
    with pytest.raises(st.FormatError, match="give the path"):
        st.onnx.load(path.read_bytes())
    (tmp_path / "net.data").unlink()
    with pytest.raises(st.FormatError, match=r"net\.onnx: tensor"):
        st.onnx.load(path)


def test_damaged_files_and_unknown_versions(tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes(small_net().SerializeToString()[:-100])
    for source in (path, b"", b"\x00garbage"):
        with pytest.raises(st.FormatError):
            st.onnx.load(source)
    with pytest.raises(st.UnsupportedError, match=r"opset 5; versions 6 to 28"):
        st.onnx.load(small_net(opset=5).SerializeToString())
    with pytest.raises(st.UnsupportedError, match="IR version 99"):
        st.onnx.load(small_net(ir=99).SerializeToString())


def test_a_missing_operator_names_node_operator_and_opset():
    nodes = [helper.make_node("Einsum", ["x"], ["y"], "/odd", equation="ij->ji")]
    net = load(nodes, [value("x", [2, 2])], [value("y", None)])
    with pytest.raises(st.UnsupportedError, match=r"/odd: operator Einsum \(opset 17\)"):
        net(np.zeros((2, 2), np.float32))


def test_wrong_inputs_are_named():
    net = st.onnx.load(small_net().SerializeToString())
    with pytest.raises(st.ShapeError, match=r"'x' is declared as .*the batch axis with x\[None"):
        net(np.zeros((3, 8, 8), np.float32))
    with pytest.raises(st.ArgumentError, match="needs the inputs x"):
        net()
    with pytest.raises(st.ArgumentError, match="inputs are x"):
        net(z=np.zeros(3))
    with pytest.raises(st.ShapeError, match="/conv1"):
        net(np.zeros((1, 4, 8, 8), np.float32))
