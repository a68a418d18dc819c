"""What `striate explain` shows, against NumPy: boxes, sums, Grad-CAM, occlusion, arithmetic."""

import base64
import json
import re

import numpy as np
import pytest

import striate as st
import striate.functional as F
from striate import nn
from striate.errors import ArgumentError, ShapeError
from striate.graph import Graph
from striate.graph.evaluate import evaluate
from striate.report.explain import Picture, explain, render
from striate.report.explain.boxes import boxes
from striate.report.explain.traced import trace

DTYPES = {"f4": "<f4", "f8": "<f8", "u1": "u1"}


def numbers(packed, kind, *shape):
    return np.frombuffer(base64.b64decode(packed), DTYPES[kind]).reshape(shape)


def picture(shape, seed=0):
    c, h, w = shape
    samples = np.random.default_rng(seed).integers(0, 256, (h, w, c)).astype(np.uint8)
    x = (samples.transpose(2, 0, 1)[None] / 255).astype(np.float32)
    return Picture(samples, x, np.full(c, 0.5, np.float32))


def with_statistics(net, seed=1):
    """The net in evaluation mode, its batch norms with statistics as after training."""
    rng = np.random.default_rng(seed)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            n = module.num_features
            module.running_mean.assign(rng.normal(0, 0.3, n))
            module.running_var.assign(rng.uniform(0.3, 2, n))
            module.weight.assign(rng.normal(1, 0.4, n))
            module.bias.assign(rng.normal(0, 0.3, n))
    return net.eval()


class Gate(nn.Module):
    def forward(self, x):
        return F.sigmoid(x.mean((2, 3), keepdims=True))


class Odd(nn.Module):
    """Everything that makes borders and branches awkward."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(2, 6, (3, 2), stride=(2, 3), padding=((0, 2), (1, 0)))
        self.wide = nn.Conv2d(6, 6, 3, padding=2, dilation=2, groups=3)
        self.norm = nn.BatchNorm2d(6)
        self.pool = nn.MaxPool2d(3, 2, 1, ceil_mode=True)
        self.mean = nn.AvgPool2d(2, 1, 1)
        self.up = nn.ConvTranspose2d(6, 6, 2, stride=2)
        self.resize = nn.Upsample(scale_factor=1.5, mode="bilinear")
        self.gate = Gate()
        self.one = nn.Conv2d(12, 5, 1)
        self.bins = nn.AdaptiveAvgPool2d((3, 2))
        self.last = nn.Linear(30, 4)

    def forward(self, x):
        x = F.silu(self.norm(self.wide(self.first(x))))
        x = self.gate(x) * x
        y = self.pool(x)
        y = self.resize(self.up(y))[:, :, : x.shape[2], : x.shape[3]]
        y = F.pad(y, (0, x.shape[3] - y.shape[3], 0, x.shape[2] - y.shape[2]))
        x = self.one(st.concat((self.mean(x)[:, :, 1:, :-1], y), 1))
        return self.last(self.bins(x).flatten(1))


def odd():
    st.manual_seed(3)
    return with_statistics(Odd())


NETS = {
    "lenet-bn": (lambda: with_statistics(st.models.create("lenet-bn")), (1, 28, 28)),
    "odd": (odd, (2, 23, 25)),
    "resnet18-32": (
        lambda: with_statistics(st.models.create("resnet18", num_classes=7, stem="32")),
        (3, 32, 32),
    ),
}


@pytest.fixture(params=NETS)
def case(request):
    st.manual_seed(0)
    make, shape = NETS[request.param]
    return make(), shape


# ------------------------------------------------------------------------------- boxes


@pytest.mark.parametrize("name", ["lenet-bn", "odd"])
def test_a_point_sees_exactly_its_box(name):
    """A NaN in a row of the picture reaches those points whose box has the row, and no others.

    NumPy's definition of every operation is asked, in which a NaN goes through all that reads it.
    """
    make, shape = NETS[name]
    net = make()
    traced = trace(net, shape)
    layers = [layer for layer in traced.layers if layer.output.ndim == 4]
    graph = Graph(traced.graph.inputs, tuple(layer.output for layer in layers))
    found = boxes(traced.graph)
    clean = picture(shape).x
    for axis in (0, 1):
        touched = [np.zeros((layer.output.shape[axis + 2], shape[axis + 1]), bool)
                   for layer in layers]  # fmt: skip
        for pixel in range(shape[axis + 1]):
            x = np.array(clean)
            x.swapaxes(2, axis + 2)[:, :, pixel] = np.nan
            for seen, y in zip(touched, evaluate(graph, [x]), strict=True):
                other = {0: 3, 1: 2}[axis]
                seen[:, pixel] = np.isnan(y).any((0, 1, other))
        for layer, seen in zip(layers, touched, strict=True):
            for index, (start, stop) in enumerate(found[layer.output][axis].tolist()):
                pixels = np.flatnonzero(seen[index])
                expected = (pixels[0], pixels[-1] + 1) if len(pixels) else None
                assert expected == ((start, stop) if start < stop else None), (layer.title, index)


@pytest.mark.parametrize("point", [(0, 0), (6, 5), (13, 13)])
def test_the_program_changes_a_point_by_its_box_only(point):
    net = with_statistics(st.models.create("lenet-bn")).plan(algorithm="direct")
    traced = trace(net, (1, 28, 28))
    value = next(layer.output for layer in traced.layers if layer.title == "bn2")
    top, bottom, left, right = boxes(traced.graph)[value].at(*point)
    x = picture((1, 28, 28)).x
    i, j = point

    def features(x):
        return net.features(x, "bn2")["bn2"][0, :, i, j]

    before = features(x)
    outside = np.array(x)
    outside[:, :, :top] = outside[:, :, bottom:] = 9.0
    outside[:, :, :, :left] = outside[:, :, :, right:] = 9.0
    np.testing.assert_array_equal(features(outside), before)
    for row, col in ((top, left), (top, right - 1), (bottom - 1, left), (bottom - 1, right - 1)):
        inside = np.array(x)
        inside[0, 0, row, col] += 50.0
        assert (features(inside) != before).any()


def test_the_box_of_a_padded_stack_is_cut_at_the_border():
    traced = trace(st.models.create("lenet-bn"), (1, 28, 28))
    value = next(layer.output for layer in traced.layers if layer.title == "conv2")
    assert boxes(traced.graph)[value].at(0, 0) == (0, 5, 0, 5)
    assert boxes(traced.graph)[value].at(5, 13) == (7, 15, 23, 28)


# ------------------------------------------------------------------------------- sums


def check_sums(record, tolerance=2e-5):
    """All terms that the page shows add up to the numbers of the program; how many did."""
    count = 0
    for layer in record["layers"]:
        if "block" not in layer:
            continue
        block = record["blocks"][layer["block"]]
        k, p = len(layer["maps"]), len(layer["rows"]) * len(layer["cols"])
        total = gathered(block, k, p)
        for step in layer["steps"]:
            other = None if step["other"] is None else numbers(step["other"], "f8", k, p)
            result = numbers(step["results"], "f8", k, p)
            total = apply(step, total, other, result)
        values = numbers(layer["values"], "f4", k, p)
        size = np.abs(values).max() + 1e-6
        np.testing.assert_allclose(total, values, rtol=0, atol=tolerance * size,
                                   err_msg=layer["title"])  # fmt: skip
        count += 1
    return count


def gathered(block, k, p):
    """What the terms of the record give."""
    if block["kind"] == "copy":
        return numbers(block["numbers"], "f8", k, p)
    if block["kind"] == "conv":
        kh, kw = block["kernel"]
        t = len(block["channels"][0])
        inputs = numbers(block["inputs"], "f4", k, p, t, kh, kw).astype(np.float64)
        weights = numbers(block["weights"], "f4", k, t, kh, kw).astype(np.float64)
        return np.einsum("kptab,ktab->kp", inputs, weights) + numbers(block["rest"], "f8", k, p)
    h, w = block["window"]
    inputs = numbers(block["inputs"], "f4", k, p, h, w).astype(np.float64)
    if block["kind"] == "max":
        return np.nanmax(inputs, (2, 3))
    factors = numbers(block["factors"], "f8", p, h, w)
    return (np.nan_to_num(inputs) * factors).sum((2, 3))


def apply(step, v, u, result):
    """The formula as it is written, for each map."""
    found = np.array(result)
    for k, formula in enumerate(step["formulas"]):
        python = re.sub(r"√\(", "np.sqrt(", formula.replace("−", "-").replace("×", "*"))
        if not re.fullmatch(
            r"[\d\s.e+\-*/()vu,]*", python.replace("np.sqrt", "").replace("max", "")
        ):
            continue  # a function by its name
        names = {"np": np, "max": np.maximum, "v": v[k], "u": None if u is None else u[k]}
        found[k] = eval(python, names)
        np.testing.assert_allclose(found[k], result[k], rtol=1e-4, atol=1e-4)
    return result


def test_the_terms_add_up_to_the_programs_numbers(case):
    net, shape = case
    record = explain(net, picture(shape), title="test", top=2)
    assert check_sums(record) >= 10
    assert {block["kind"] for block in record["blocks"]} >= {"conv", "max", "mean"} - (
        {"mean"} if type(net).__name__ == "LeNetBN" else set()
    ) - ({"max"} if type(net).__name__ == "ResNet" else set())


def test_terms_are_numpys_own():
    """Against plain loops over the features of the layer before, for every point shown."""
    net = with_statistics(st.models.create("lenet-bn"))
    shot = picture((1, 28, 28))
    record = explain(net, shot, title="test")
    below = net.features(shot.x, "conv1")["conv1"]
    scale = net.bn1.weight.data / np.sqrt(net.bn1.running_var.data.astype(np.float64) + 1e-5)
    shift = net.bn1.bias.data - net.bn1.running_mean.data * scale
    act = np.maximum(below[0] * scale[:, None, None] + shift[:, None, None], 0)
    pooled = act.reshape(32, 14, 2, 14, 2).max((2, 4))
    padded = np.pad(pooled, ((0, 0), (1, 1), (1, 1)))
    weights = net.conv2.weight.data.astype(np.float64)
    layer = next(layer for layer in record["layers"] if layer["title"] == "conv2")
    block = record["blocks"][layer["block"]]
    shape = len(layer["maps"]), len(layer["rows"]), len(layer["cols"])
    total = gathered(block, shape[0], shape[1] * shape[2]).reshape(shape)
    for k, channel in enumerate(layer["maps"]):
        for a, i in enumerate(layer["rows"]):
            for b, j in enumerate(layer["cols"]):
                expected = (padded[:, i : i + 3, j : j + 3] * weights[channel]).sum()
                assert total[k, a, b] == pytest.approx(expected, rel=1e-5, abs=1e-5)
    others = np.delete(np.arange(32), block["channels"][0])
    (i, j), (a, b) = (layer["rows"][3], layer["cols"][4]), (3, 4)
    rest = numbers(block["rest"], "f8", *shape)[0, a, b]
    window = padded[others, i : i + 3, j : j + 3]
    expected = (window * weights[layer["maps"][0]][others]).sum()
    assert rest == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_values_are_those_of_features():
    net = with_statistics(st.models.create("lenet-bn"))
    shot = picture((1, 28, 28))
    record = explain(net, shot, title="test")
    for name in ("conv1", "bn2", "fc1"):
        layer = next(layer for layer in record["layers"] if layer["title"] == name)
        maps = net.features(shot.x, name)[name][0][layer["maps"]].reshape(len(layer["maps"]), -1)
        k, p = maps.shape[0], len(layer["rows"]) * len(layer["cols"])
        if maps.shape[1] > 1:
            side = int(maps.shape[1] ** 0.5)
            maps = maps.reshape(k, side, side)[:, layer["rows"]][:, :, layer["cols"]].reshape(k, p)
        np.testing.assert_allclose(numbers(layer["values"], "f4", k, p), maps, atol=1e-5)


def test_maps_are_bytes_between_their_least_and_largest():
    net = with_statistics(st.models.create("lenet-bn"))
    shot = picture((1, 28, 28))
    layer = explain(net, shot, title="test")["layers"][0]
    pixels = numbers(layer["pixels"], "u1", len(layer["maps"]), 28, 28).astype(np.float64)
    low, high = (np.array(layer[n])[:, None, None] for n in ("low", "high"))
    maps = net.features(shot.x, "conv1")["conv1"][0][layer["maps"]]
    np.testing.assert_allclose(low + pixels / 255 * (high - low), maps, atol=0.003)
    assert (pixels.min(), pixels.max()) == (0, 255)


# ------------------------------------------------------------------------------- classes, heat


def test_classes_are_the_most_probable_and_the_wanted():
    net = with_statistics(st.models.create("lenet-bn"))
    shot = picture((1, 28, 28))
    scores = net(shot.x)[0].astype(np.float64)
    shares = np.exp(scores) / np.exp(scores).sum()
    order = np.argsort(-shares)
    names = [f"n{i}" for i in range(10)]
    least = int(order[-1])
    record = explain(net, shot, title="t", names=names, top=2, wanted=[least, int(order[0])])
    assert [c["index"] for c in record["classes"]] == [order[0], order[1], least]
    for c in record["classes"]:
        assert c["name"] == f"n{c['index']}"
        assert c["probability"] == pytest.approx(shares[c["index"]], rel=1e-5)


def test_grad_cam_is_that_of_finite_differences():
    """Of a net that ends in a mean and a dense layer the slope is known: the weight / pixels."""
    st.manual_seed(0)
    net = with_statistics(st.models.create("resnet18", num_classes=7, stem="32"))
    shot = picture((3, 32, 32))
    record = explain(net, shot, title="t", top=3)
    cam = record["cam"]
    assert cam["layer"] == "layer4.1.relu (run 2)"
    maps = numbers(cam["maps"], "f4", 3, *cam["shape"])
    last = net.features(shot.x, "layer4")["layer4"][0].astype(np.float64)
    for found, c in zip(maps, record["classes"], strict=True):
        slope = net.fc.weight.data[c["index"]].astype(np.float64) / last[0].size
        expected = np.maximum((slope[:, None, None] * last).sum(0), 0)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_occlusion_is_the_drop_of_the_probability():
    net = with_statistics(st.models.create("lenet-bn"))
    shot = picture((1, 28, 28))
    record = explain(net, shot, title="t", top=1)
    shade, best = record["occlusion"], record["classes"][0]
    maps = numbers(shade["maps"], "f4", 1, len(shade["rows"]), len(shade["cols"]))
    h, w = shade["size"]
    assert (shade["rows"][-1] + h, shade["cols"][-1] + w) == (28, 28)
    x = np.array(shot.x)
    x[:, :, shade["rows"][2] : shade["rows"][2] + h, shade["cols"][3] : shade["cols"][3] + w] = 0.5
    scores = net(x)[0].astype(np.float64)
    share = np.exp(scores[best["index"]]) / np.exp(scores).sum()
    assert maps[0, 2, 3] == pytest.approx(best["probability"] - share, abs=1e-5)


def test_a_net_that_ends_in_a_softmax_is_not_softmaxed_again():
    st.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                        nn.Linear(4, 3), nn.Softmax(1)).eval()  # fmt: skip
    shot = picture((1, 9, 9))
    record = explain(net, shot, title="t")
    shares = sorted(net(shot.x)[0].tolist(), reverse=True)
    assert [c["probability"] for c in record["classes"]] == pytest.approx(shares)


# ------------------------------------------------------------------------------- facts


def test_the_arithmetic_of_sizes_is_true(case):
    net, shape = case
    record = explain(net, picture(shape), title="t")
    checked = 0
    for layer in record["layers"]:
        for line in layer["arithmetic"]:
            formula = re.search(r"[:] (.*?) = (\d+)  ", line)
            if formula is None or not set(formula[1]) & set("⌊⌈"):
                continue
            words = formula[1].replace("−", "-").replace("·", "*")
            words = words.replace("⌊", "math.floor(").replace("⌋", ")")
            words = words.replace("⌈", "math.ceil(").replace("⌉", ")")
            assert eval(words, {"math": __import__("math")}) == int(formula[2]), line
            assert int(formula[2]) in layer["shape"]
            checked += 1
    assert checked >= 3


def test_facts_are_those_of_the_summary():
    net = st.models.create("lenet-bn").eval()
    record = explain(net, picture((1, 28, 28)), title="t")
    rows = st.summary(net, (1, 28, 28)).rows
    assert [layer["path"] for layer in record["layers"]] == [row["name"] for row in rows]
    for layer, row in zip(record["layers"], rows, strict=True):
        assert layer["params"] == row["params"]
        assert layer["macs"] == row["macs"]
        assert layer["field"] == row["receptive_field"]
        assert tuple(layer["shape"]) == row["output"]


def test_an_onnx_model_is_explained_too(tmp_path):
    pytest.importorskip("onnx")
    st.manual_seed(0)
    net = with_statistics(st.models.create("resnet18", num_classes=5, stem="32"))
    st.onnx.export(net, tmp_path / "net.onnx", (3, 32, 32))
    shot = picture((3, 32, 32))
    read = explain(st.onnx.load(tmp_path / "net.onnx"), shot, title="onnx")
    assert check_sums(read) >= 40
    mine = explain(net, shot, title="mine")
    for a, b in zip(read["classes"], mine["classes"], strict=True):
        assert a["index"] == b["index"]
        assert a["probability"] == pytest.approx(b["probability"], rel=1e-4)
    assert read["cam"]["maps"] is not None


# ------------------------------------------------------------------------------- errors, page


def test_what_is_no_classifier_is_refused():
    with pytest.raises(ArgumentError, match="classifier"):
        explain(nn.Conv2d(1, 2, 3), picture((1, 9, 9)), title="t")
    with pytest.raises(ShapeError, match="conv1"):
        explain(st.models.create("lenet-bn"), picture((3, 28, 28)), title="t")


def test_the_page_holds_the_record_and_hostile_names_do_no_harm():
    net = st.models.create("lenet-bn").eval()
    hostile = "</script><script>alert(1)</script>"
    record = explain(net, picture((1, 28, 28)), title=hostile, names=[hostile] * 10)
    page = render(record)
    assert hostile not in page
    data = re.search(
        r'<script type="application/json" id="record">(.*?)</script>', page, re.DOTALL
    )[1]
    assert json.loads(data) == json.loads(json.dumps(record))
    assert not re.search(
        r"""(src|href)\s*=|@import|url\(|fetch\(|import\(|eval\(|console\.""", page
    )
