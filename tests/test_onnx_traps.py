"""Where frameworks differ about pooling, padding and batch norm: each trap by its name."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="onnx is not installed (pip install 'striate[onnx]')")
from onnx import helper, numpy_helper  # noqa: E402

import striate as st  # noqa: E402

rng = np.random.default_rng(9)


def run(op, x, *weights, opset=22, outputs=1, **attributes):
    """One node on x by Striate and, where it is installed, by ONNX Runtime."""
    names = ["x", *(f"w{i}" for i in range(len(weights)))]
    results = [f"y{i}" for i in range(outputs)]
    node = helper.make_node(op, names, results, "/node", **attributes)
    ports = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for n, a in zip(names, (x, *weights), strict=True)
    ]
    made = helper.make_model(
        helper.make_graph(
            [node],
            "graph",
            ports[:1],
            [onnx.ValueInfoProto(name=r) for r in results],
            [numpy_helper.from_array(w, n) for n, w in zip(names[1:], weights, strict=True)],
        ),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=10,
    )
    found = st.onnx.load(made.SerializeToString())(x)
    return found if outputs > 1 else (found,)


def by_torch(x, function):
    torch = pytest.importorskip("torch")
    return function(torch.from_numpy(x)).numpy()


X = rng.standard_normal((2, 3, 7, 6), np.float32)


def test_average_divisor_at_the_edge_of_ceil_mode_counts_the_padding_only():
    """pt#183528, ort#16203: the last window is divided by what lies in image and padding."""
    (y,) = run("AveragePool", X, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1],
               ceil_mode=1, count_include_pad=1)  # fmt: skip
    torch = pytest.importorskip("torch")
    expected = by_torch(X, lambda x: torch.nn.functional.avg_pool2d(x, 3, 2, 1, True, True))
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


def test_count_include_pad_is_off_by_default():
    """pt#13934: PyTorch's default is True, ONNX's is 0."""
    attributes = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    (y,) = run("AveragePool", X, **attributes)
    (counted,) = run("AveragePool", X, count_include_pad=1, **attributes)
    torch = pytest.importorskip("torch")
    for ours, include in ((y, False), (counted, True)):
        expected = by_torch(
            X, lambda x, i=include: torch.nn.functional.avg_pool2d(x, 3, 1, 1, False, i)
        )
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


def test_a_window_that_would_start_in_the_end_padding_is_left_out():
    """onnx#4958, pt#71549: it would give NaN or -3.4e38."""
    x = rng.standard_normal((1, 1, 5, 5), np.float32)
    attributes = {"kernel_shape": [1, 1], "strides": [2, 2], "pads": [0, 0, 1, 1], "ceil_mode": 1}
    for op in ("MaxPool", "AveragePool"):
        (y,) = run(op, x, **attributes)
        np.testing.assert_array_equal(y, x[:, :, ::2, ::2])


def test_indices_of_max_pool_are_flat_over_batch_and_channels():
    y, index = run("MaxPool", X, outputs=2, kernel_shape=[2, 2], strides=[2, 2])
    assert index.dtype == np.int64
    np.testing.assert_array_equal(X.reshape(-1)[index], y)


def test_storage_order_counts_the_indices_by_columns():
    y, index = run("MaxPool", X, outputs=2, kernel_shape=[2, 2], strides=[2, 2], storage_order=1)
    columns = np.ascontiguousarray(X.transpose(0, 1, 3, 2)).reshape(-1)
    np.testing.assert_array_equal(columns[index], y)


def test_dilated_max_and_average_pooling():
    attributes = {"kernel_shape": [2, 3], "dilations": [2, 2], "strides": [1, 2]}
    (largest,) = run("MaxPool", X, **attributes)
    (mean,) = run("AveragePool", X, **attributes)
    windows = np.lib.stride_tricks.sliding_window_view(X, (3, 5), (2, 3))
    windows = windows[:, :, :, ::2, ::2, ::2]
    np.testing.assert_array_equal(largest, windows.max((4, 5)))
    np.testing.assert_allclose(mean, windows.mean((4, 5)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("auto", "begin"), [("SAME_UPPER", 0), ("SAME_LOWER", 1)])
def test_same_puts_the_odd_element_at_the_end_or_the_beginning(auto, begin):
    w = rng.standard_normal((2, 3, 2, 2), np.float32)
    (y,) = run("Conv", X, w, auto_pad=auto, strides=[1, 1])
    (expected,) = run("Conv", X, w, pads=[begin, begin, 1 - begin, 1 - begin])
    assert y.shape == (2, 2, 7, 6)
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize(("auto", "begin"), [("SAME_UPPER", 0), ("SAME_LOWER", 1)])
def test_transposed_same_is_not_swapped(auto, begin):
    """ort#9370, ort PR#12537: the two were exchanged until 1.13."""
    w = rng.standard_normal((3, 2, 3, 3), np.float32)
    (y,) = run("ConvTranspose", X, w, auto_pad=auto, strides=[2, 2])
    (expected,) = run(
        "ConvTranspose", X, w, strides=[2, 2], pads=[begin, begin, 1 - begin, 1 - begin]
    )
    assert y.shape == (2, 2, 14, 12)
    np.testing.assert_array_equal(y, expected)


def test_output_shape_determines_the_pads():
    w, b = rng.standard_normal((3, 4, 3, 3), np.float32), rng.standard_normal(4, np.float32)
    (y,) = run("ConvTranspose", X, w, b, strides=[3, 2], output_shape=[20, 15])
    (plain,) = run("ConvTranspose", X, w, b, strides=[3, 2])
    assert plain.shape[2:] == (21, 13)
    np.testing.assert_array_equal(y[:, :, :, :13], plain[:, :, 1:])
    np.testing.assert_array_equal(y[:, :, :, 13:], np.broadcast_to(b[:, None, None], (2, 4, 20, 2)))


def test_pads_may_differ_on_every_side():
    torch = pytest.importorskip("torch")
    w = rng.standard_normal((4, 3, 3, 3), np.float32)
    (y,) = run("Conv", X, w, pads=[0, 2, 1, 3])
    expected = by_torch(
        X,
        lambda x: torch.nn.functional.conv2d(
            torch.nn.functional.pad(x, (2, 3, 0, 1)), torch.from_numpy(w)
        ),
    )
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


def test_the_norm_of_a_pooling_takes_absolute_values():
    """PyTorch's LPPool2d takes x^p."""
    (y,) = run("LpPool", X, kernel_shape=[2, 2], strides=[2, 2], p=3)
    windows = np.abs(X[:, :, :6]).reshape(2, 3, 3, 2, 3, 2)
    np.testing.assert_allclose(y, (windows**3).sum((3, 5)) ** (1 / 3), rtol=1e-5)


def test_softmax_before_opset_13_is_over_all_further_axes():
    (y,) = run("Softmax", X, opset=11)
    e = np.exp(X.reshape(2, -1) - X.reshape(2, -1).max(1, keepdims=True))
    np.testing.assert_allclose(y, (e / e.sum(1, keepdims=True)).reshape(X.shape), rtol=1e-5)
    (last,) = run("Softmax", X, opset=13)
    np.testing.assert_allclose(last.sum(3), 1, rtol=1e-6)


@pytest.mark.parametrize("opset", [9, 15])
def test_running_variance_is_biased_and_momentum_weighs_the_old(opset):
    """PyTorch: unbiased, and momentum weighs the new."""
    scale, bias, mean = (rng.standard_normal(3, np.float32) for _ in range(3))
    var = rng.uniform(0.5, 2, 3).astype(np.float32)
    more = {"training_mode": 1} if opset >= 14 else {}
    results = run("BatchNormalization", X, scale, bias, mean, var, opset=opset,
                  outputs=3 if opset >= 14 else 5, momentum=0.8, **more)  # fmt: skip
    own_mean, own_var = X.mean((0, 2, 3)), X.var((0, 2, 3))
    np.testing.assert_allclose(results[1], mean * 0.8 + own_mean * 0.2, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(results[2], var * 0.8 + own_var * 0.2, rtol=1e-4)
    normal = (X - own_mean[:, None, None]) / np.sqrt(own_var + 1e-5)[:, None, None]
    expected = normal * scale[:, None, None] + bias[:, None, None]
    np.testing.assert_allclose(results[0], expected, rtol=1e-3, atol=1e-4)


def test_batch_norm_with_statistics_for_every_element():
    parts = [rng.uniform(0.5, 2, X.shape[1:]).astype(np.float32) for _ in range(4)]
    (y,) = run("BatchNormalization", X, *parts, opset=8, spatial=0)
    scale, bias, mean, var = parts
    expected = (X - mean) / np.sqrt(var + 1e-5) * scale + bias
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


def test_images_of_one_axis():
    x = rng.standard_normal((2, 4, 9), np.float32)
    w, b = rng.standard_normal((6, 2, 3), np.float32), rng.standard_normal(6, np.float32)
    torch = pytest.importorskip("torch")
    (y,) = run("Conv", x, w, b, group=2, strides=[2], pads=[2, 1], dilations=[2])
    expected = by_torch(
        x,
        lambda t: torch.nn.functional.conv1d(
            torch.nn.functional.pad(t, (2, 1)), torch.from_numpy(w), torch.from_numpy(b), 2, 0, 2, 2
        ),
    )
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    y, index = run("MaxPool", x, outputs=2, kernel_shape=[3], strides=[2])
    np.testing.assert_array_equal(x.reshape(-1)[index], y)


def test_unpooling_by_the_indices_of_the_same_graph():
    nodes = [
        helper.make_node("MaxPool", ["x"], ["p", "i"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("MaxUnpool", ["p", "i"], ["y"], kernel_shape=[2, 2], strides=[2, 2]),
    ]
    x = rng.standard_normal((2, 3, 6, 6), np.float32)
    port = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, x.shape)
    graph = helper.make_graph(nodes, "graph", [port], [onnx.ValueInfoProto(name="y")])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    torch = pytest.importorskip("torch")
    pooled = torch.nn.functional.max_pool2d(torch.from_numpy(x), 2, return_indices=True)
    expected = torch.nn.functional.max_unpool2d(*pooled, 2).numpy()
    np.testing.assert_array_equal(st.onnx.load(made.SerializeToString())(x), expected)
