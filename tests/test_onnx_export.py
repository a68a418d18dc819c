"""Exported files: valid ONNX, and the same numbers in ONNX Runtime or onnx's own evaluator."""

import json

import numpy as np
import pytest

import striate as st
import striate.functional as F
from striate import nn
from striate.errors import ArgumentError, FormatError, UnsupportedError
from tests.cli_run import cli, trained  # noqa: F401 - fixtures

onnx = pytest.importorskip("onnx")
RNG = np.random.default_rng(0)


class Function(nn.Module):
    """A net of one function."""

    def __init__(self, function, **weights):
        super().__init__()
        self.function = function
        for name, array in weights.items():
            setattr(self, name, nn.Parameter(array.astype(np.float32)))

    def forward(self, x):
        return self.function(self, x)


def evaluated(path, *arrays):
    """What the file computes, by a program that is not ours."""
    try:
        import onnxruntime
    except ImportError:
        from onnx.reference import ReferenceEvaluator

        session = ReferenceEvaluator(str(path))
        return session.run(None, dict(zip(session.input_names, arrays, strict=True)))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]
    return session.run(None, dict(zip(names, arrays, strict=True)))


def check(net, path, shape, others=(), free=None):
    """Export; compare at the size it was made for, and at other sizes."""
    found = st.onnx.export(net.eval(), path, shape, free=free)
    for size in [(2, *shape), *others]:
        x = RNG.standard_normal(size, np.float32)
        (theirs,) = evaluated(path, x)
        ours = net(x)
        np.testing.assert_allclose(theirs, ours, rtol=1e-3, atol=1e-4 * np.abs(ours).max())
    return found


W = RNG.standard_normal((6, 2, 3, 3)) / 4
IMAGE = (4, 9, 11)
ANY = [(1, 4, 12, 9), (5, 4, 17, 17)]
CASES = {
    "conv": (lambda m, x: F.conv2d(x, m.w, m.b, stride=(1, 2), padding=((0, 1), (2, 1)), groups=2),
             ANY),
    "conv with the kernel turned": (
        lambda m, x: F.conv2d(x, m.w, groups=2, flip_kernel=True, dilation=2), ANY),
    "same padding, stride 2": (lambda m, x: F.conv2d(x, m.w, stride=2, padding="same", groups=2),
                               ANY),
    "reflected padding": (
        lambda m, x: F.conv2d(x, m.w, padding=1, padding_mode="reflect", groups=2), ANY),
    "transposed": (
        lambda m, x: F.conv_transpose2d(
            F.conv2d(x, m.w, groups=2), m.v, stride=2, padding=1, output_padding=1, groups=3), ANY),
    "batch norm": (lambda m, x: F.batch_norm(x, m.c, m.c * m.c, m.c, None), ANY),
    "max pool, ceil": (lambda _, x: F.max_pool2d(x, 3, 2, ceil_mode=True), ANY),
    "max pool, padded ceil": (lambda _, x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True),
                              [(3, 4, 9, 11)]),
    "average pool": (lambda _, x: F.avg_pool2d(x, (3, 2), 2, (1, 1), count_include_pad=False),
                     ANY),
    "average pool, ceil": (lambda _, x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True), [(3, 4, 9, 11)]),
    "average pool, divisor": (lambda _, x: F.avg_pool2d(x, 2, divisor_override=3),
                              [(3, 4, 9, 11)]),
    "power pool": (lambda _, x: F.lp_pool2d(F.relu(x), 2, 2), ANY),
    "global average": (lambda _, x: F.adaptive_avg_pool2d(x, 1), ANY),
    "mean": (lambda _, x: x.mean((2, 3)), ANY),
    "adaptive average": (lambda _, x: F.adaptive_avg_pool2d(x, (4, 3)), [(3, 4, 9, 11)]),
    "global maximum": (lambda _, x: F.adaptive_max_pool2d(x, 1), ANY),
    "nearest": (lambda _, x: F.interpolate(x, scale_factor=2), ANY),
    "nearest-exact": (lambda _, x: F.interpolate(x, (13, 7), mode="nearest-exact"), ANY),
    "bilinear": (lambda _, x: F.interpolate(x, scale_factor=1.5, mode="bilinear"), ANY),
    "bilinear, corners": (
        lambda _, x: F.interpolate(x, (5, 20), mode="bilinear", align_corners=True), ANY),
    "bicubic": (lambda _, x: F.interpolate(x, (13, 20), mode="bicubic"), ANY),
    "antialias": (lambda _, x: F.interpolate(x, (5, 6), mode="bilinear", antialias=True),
                  [(3, 4, 9, 11)]),
    "pad": (lambda _, x: F.pad(x, (1, -2, 0, 3), value=1.5), ANY),
    "circular": (lambda _, x: F.pad(x, (1, 2, 3, 1), "circular"), [(3, 4, 9, 11)]),
    "shuffle": (lambda _, x: F.channel_shuffle(x, 2), ANY),
    "slices": (lambda _, x: x[:, 1:3, ::2, 1:-1], ANY),
    "reversed": (lambda _, x: x[:, ::-1, :, ::-1], ANY),
    "concat": (lambda _, x: st.concat((x, x * 2.0), 1), ANY),
    "dense": (lambda m, x: F.linear(x.mean((2, 3)), m.d, m.b), ANY),
    "dense on pixels": (lambda m, x: F.linear(x.transpose(0, 2, 3, 1), m.d, m.b), ANY),
    "activations": (
        lambda m, x: sum(
            (f(x) for f in (F.sigmoid, F.tanh, F.silu, F.gelu, F.elu, F.leaky_relu, F.hardswish,
                            F.hardsigmoid, F.relu6, F.hardtanh)), F.prelu(x, m.c)), ANY),
    "tanh GELU": (lambda _, x: F.gelu(x, "tanh"), ANY),
    "softmax": (lambda _, x: F.softmax(x, 1) + F.log_softmax(x, 1), ANY),
    "arithmetic": (lambda _, x: (x - x.max(1, keepdims=True)) / (abs(x) + 1.0) ** 0.5 * (x > 0)
                   + (-x) ** 3, ANY),
    "the input itself": (lambda _, x: x, ANY),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_functions(name, tmp_path):
    function, sizes = CASES[name]
    net = Function(
        function,
        w=W,
        v=RNG.standard_normal((6, 2, 3, 3)),
        b=RNG.standard_normal(6),
        c=RNG.uniform(0.5, 1, 4),
        d=RNG.standard_normal((6, 4)),
    )
    found = check(net, tmp_path / "net.onnx", IMAGE, sizes)
    assert found.free == ("size" if sizes is ANY else "batch")


@pytest.mark.parametrize("name", ["lenet-bn", "resnet18", "squeezenet1_1", "mobilenet_v2"])
def test_networks(name, tmp_path):
    options = st.models.options(name)
    side = options.get("image_size") or 32
    other = [] if "image_size" in options else [(1, 3, 64, 32)]
    net = st.models.create(name, num_classes=7)
    shape = (options["in_channels"], side, side)
    found = check(net, tmp_path / "net.onnx", shape, other)
    assert found.free == ("batch" if "image_size" in options else "size")
    model = onnx.load(tmp_path / "net.onnx")
    assert model.opset_import[0].version == 17
    named = {i.name for i in model.graph.initializer}
    assert named >= {n for n, _ in net.named_parameters()}
    kinds = {node.op_type for node in model.graph.node}
    assert kinds <= {
        "Conv", "BatchNormalization", "Relu", "MaxPool", "Flatten", "Gemm", "Add", "Clip",
        "GlobalAveragePool", "Concat", "Reshape", "ReduceMean",
    }  # fmt: skip


def test_two_inputs_and_two_outputs(tmp_path):
    class Two(nn.Module):
        def forward(self, left, right):
            return left + right, left

    path = tmp_path / "two.onnx"
    st.onnx.export(Two(), path, [(3, 5, 5), (3, 1, 1)])
    model = onnx.load(path)
    assert [i.name for i in model.graph.input] == ["left", "right"]
    assert [o.name for o in model.graph.output] == ["output0", "output1"]
    a, b = RNG.standard_normal((2, 3, 5, 5), np.float32), np.ones((2, 3, 1, 1), np.float32)
    total, left = evaluated(path, a, b)
    np.testing.assert_allclose(total, a + 1, rtol=1e-6)
    np.testing.assert_array_equal(left, a)


def test_an_output_that_is_given_twice_and_sides_of_two_inputs(tmp_path):
    class Twice(nn.Module):
        def forward(self, image, guide):
            y = F.relu(image)
            return y, y, F.relu(y + 1.0), F.adaptive_avg_pool2d(guide, 1)

    path = tmp_path / "twice.onnx"
    st.onnx.export(Twice(), path, [(3, 5, 5), (2, 8, 6)])
    model = onnx.load(path)
    dims = [d.dim_param for i in model.graph.input for d in i.type.tensor_type.shape.dim]
    assert dims == ["batch", "", "height", "width", "batch", "", "guide_height", "guide_width"]
    a, b = (
        RNG.standard_normal((2, 3, 7, 4), np.float32),
        RNG.standard_normal((2, 2, 3, 9), np.float32),
    )
    first, second, third, fourth = evaluated(path, a, b)
    np.testing.assert_array_equal(first, np.maximum(a, 0))
    np.testing.assert_array_equal(second, first)
    np.testing.assert_allclose(third, first + 1, rtol=1e-6)
    np.testing.assert_allclose(fourth, b.mean((2, 3), keepdims=True), rtol=1e-5, atol=1e-6)


def test_metadata_and_training_mode(tmp_path):
    net = st.models.create("lenet-bn").train()
    path = tmp_path / "net.onnx"
    classes = [f"number {i}" for i in range(10)]
    st.onnx.export(net, path, (1, 28, 28), classes=classes, recipe={"size": [28, 28]})
    assert net.training
    meta = {p.key: p.value for p in onnx.load(path).metadata_props}
    assert json.loads(meta["classes"]) == classes
    assert json.loads(meta["recipe"]) == {"size": [28, 28]}


def test_what_cannot_be_exported_says_why_and_leaves_no_file(tmp_path):
    path = tmp_path / "net.onnx"
    with pytest.raises(UnsupportedError, match=r"batch, height and width free"):
        st.onnx.export(st.models.create("lenet-bn"), path, (1, 28, 28), free="size")
    with pytest.raises(ArgumentError, match="size, batch, nothing"):
        st.onnx.export(st.models.create("lenet-bn"), path, (1, 28, 28), free="all")
    with pytest.raises(ArgumentError, match="input_shape"):
        st.onnx.export(st.models.create("lenet-bn"), path, (1, 0, 28))
    batch = Function(lambda _, x: F.batch_norm(x, None, None, training=True))
    with pytest.raises(UnsupportedError, match="BatchNorm"):
        st.onnx.export(batch, path, (3, 4, 4))
    pytest.importorskip("onnxruntime")
    # A net that is not the same twice: what is written is not what runs.
    times = iter([2.0, 2.0, 3.0])
    with pytest.raises(FormatError, match="differs from the net"):
        st.onnx.export(Function(lambda _, x: x * next(times)), path, (3, 4, 4))
    assert list(tmp_path.iterdir()) == []


def test_command(cli, trained):
    model = trained / "best.safetensors"
    done = cli("export", model, "out.onnx")
    assert done.code == 0, done.err
    assert "any batch" in done.out
    assert "exists" in cli("export", model, "out.onnx").error
    assert cli("export", model, "out.onnx", "--force", "--json").json["free"] == "batch"
    meta = {p.key: p.value for p in onnx.load("out.onnx").metadata_props}
    assert json.loads(meta["classes"]) == ["across", "down"]
    assert "name the file" in cli("export", model, "out.pb").error
