"""`striate inspect`: what a reviewer would say, by hand; the formats."""

import re
import shutil
import subprocess

import numpy as np
import pytest

import striate as st
import striate.functional as F
from striate import nn
from striate.graph import Trace
from striate.report.bench import Limits, Profile, Speed, Work
from striate.report.diagram import dot
from striate.report.inspection import inspection_page, roofline
from striate.report.review import padding_shares, review
from striate.report.summary import summary
from tests.cli_run import cli  # noqa: F401 - fixture
from tests.test_report_training import check_page


def said(net, shape, kind):
    return [remark for remark in review(net, shape) if remark.kind == kind]


def convs(*arguments, **options):
    return nn.Sequential(*(nn.Conv2d(1, 1, k, **options) for k in arguments))


def test_receptive_field_beyond_the_image():
    # 1 + 3 · 4 = 13 after three 5×5 layers: beyond 12, within 13
    net = convs(5, 5, 5, padding=2)
    assert said(net, (1, 13, 13), "receptive field") == []
    (remark,) = said(net, (1, 12, 13), "receptive field")
    assert remark.layers == ["2"]
    assert "13×13 of 12×13" in remark.text
    (remark,) = said(net, (1, 8, 8), "receptive field")
    assert remark.layers == ["1", "2"]
    assert "and of 1 layers" not in remark.text or "9×9 of 8×8" in remark.text


def test_global_pooling_sees_the_image_and_no_more():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2))
    assert review(net, (1, 9, 9)) == []


@pytest.mark.parametrize(
    ("size", "layer", "rows", "columns"),
    [
        ((7, 8), nn.Conv2d(1, 1, 2, stride=2), 1, 0),  # 7 = 3 · 2 + 1
        ((7, 8), nn.MaxPool2d(3, 3), 1, 2),
        ((7, 8), nn.AvgPool2d(2), 1, 0),
        ((8, 8), nn.Conv2d(1, 1, 1, stride=2), 4, 4),  # reads 0, 2, 4, 6
        ((8, 8), nn.Conv2d(1, 1, 3, stride=2, padding=1), 0, 0),
        ((9, 9), nn.Conv2d(1, 1, 2, stride=3, dilation=2), 3, 3),  # reads 0 2 3 5 6 8
    ],
)
def test_rows_and_columns_that_a_stride_drops(size, layer, rows, columns):
    found = said(nn.Sequential(layer), (1, *size), "dropped")
    numbers = {"rows": rows, "columns": columns}
    lost = {what: n for what, n in numbers.items() if n}
    assert len(found) == bool(lost)
    for remark in found:
        assert (
            dict(re.findall(r"(\d+) of \d+ (rows|columns)", remark.text))
            == {str(n): what for what, n in lost.items()}
            or rows == columns
        )
        assert all(
            f"{n} of {size[what == 'columns']} {what}" in remark.text for what, n in lost.items()
        )


def test_dropped_rows_do_not_matter_to_the_result():
    net = nn.Sequential(nn.MaxPool2d(3, 3)).eval()
    x = np.random.default_rng(0).normal(size=(1, 1, 7, 8)).astype(np.float32)
    y = net(x)
    x[:, :, 6:], x[:, :, :, 6:] = 9, 9
    np.testing.assert_array_equal(net(x), y)


@pytest.mark.parametrize(
    ("size", "options"),
    [
        ((4, 6), {"padding": 1}),
        ((8, 8), {"padding": 2, "dilation": 2}),
        ((9, 7), {"padding": ((0, 1), (2, 0)), "stride": 2}),
        ((5, 5), {"padding": "same", "stride": 2}),
    ],
)
def test_share_of_outputs_that_padding_touches(size, options):
    """Against a convolution of an image of ones that is NaN beyond its border."""
    layer = nn.Conv2d(1, 1, 3, bias=False, **options)
    with Trace() as trace:
        graph = trace.graph(layer(trace.input("x", (1, 1, *size))))
    ones = np.ones((1, 1, 3, 3), np.float32)
    full = F.conv2d(np.ones((1, 1, *size), np.float32), ones, **options)
    (share,) = padding_shares(graph).values()
    assert share == pytest.approx((full < 9).mean())


def test_padding_that_touches_more_than_half_is_told():
    net = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1))
    (remark,) = said(net, (1, 4, 4), "padding")
    assert "75%" in remark.text  # 2 · 2 of 4 · 4 are inside
    assert said(net, (1, 8, 8), "padding") == []  # 6 · 6 of 8 · 8


def test_bias_before_batch_norm():
    net = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Conv2d(2, 2, 3, bias=False), nn.BatchNorm2d(2),
        nn.Conv2d(2, 2, 3), nn.ReLU(), nn.BatchNorm2d(2),
    )  # fmt: skip
    assert [remark.layers for remark in said(net, (1, 16, 16), "bias")] == [["0"]]


def test_dead_channels():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 3))
    assert said(net, (1, 3, 3), "dead") == []
    weights, scale, dense = (np.array(net[i].weight.data) for i in (0, 1, 3))
    weights[[1, 3]], scale[2], dense[0] = 0, 0, 0
    for i, array in ((0, weights), (1, scale), (3, dense)):
        net[i].weight.assign(array)
    texts = {remark.layers[0]: remark.text for remark in said(net, (1, 3, 3), "dead")}
    assert set(texts) == {"0", "1", "3"}
    assert texts["0"].startswith("2 of 4 channels of 0 have weights that are all 0: 1, 3")
    assert texts["1"].startswith("1 of 4 channels of 1 have the scale 0: 2")
    assert texts["3"].startswith("1 of 3")


def test_resnet_is_told_what_its_shortcuts_leave_out():
    kinds = [remark.kind for remark in review(st.models.create("resnet18"), (3, 224, 224))]
    assert kinds == ["receptive field", "dropped", "dropped", "dropped"]


# ------------------------------------------------------------------ graph


def test_graph_of_a_residual_block():
    text = dot(st.models.create("resnet18", stem="32"), (3, 32, 32))
    names = dict(re.findall(r'(\w+) \[label="([^"\\]+)', text))
    arrows = re.findall(r"(\w+) -> (\w+);", text)
    above = {}
    for a, b in arrows:
        above.setdefault(names[b], []).append(names[a])
    assert above["layer2.0.conv1"] == ["layer1.1.relu"]
    # the sum of two branches is read by the activation
    assert sorted(above["layer2.0.relu"]) == [
        "layer2.0.bn1",
        "layer2.0.bn2",
        "layer2.0.downsample.1",
    ]
    assert above["output"] == ["fc"]
    assert text.count("{") == text.count("}") == 1


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")
def test_graphviz_takes_it():
    text = dot(st.models.create("lenet-bn"), (1, 28, 28))
    assert (
        subprocess.run(["dot", "-Tsvg"], input=text.encode(), capture_output=True).returncode == 0
    )


# ------------------------------------------------------------------ page and formats


def measured():
    limits = Limits(2, 100.0, 10.0)
    work = Work("conv", "conv1", "forward, direct", 2_000_000, 100_000)
    other = Work("pool", "pool", "pooling", 0, 50_000)
    steps = [(work, Speed(1e-4, work.flops, work.bytes, limits)),
             (other, Speed(1e-5, 0, other.bytes, limits))]  # fmt: skip
    return Profile(steps, 1.1e-4, 1.2e-4, limits, 1, 1)


def test_roofline_has_a_point_for_each_step_that_multiplies():
    text = roofline(measured())
    assert text.count("<circle") == 1
    assert "20.0 GFLOP/s at 20.00 FLOPs a byte" in text  # 2e6 / 1e-4 / 1e9; 2e6 / 1e5
    # on a logarithm the point lies as far from the peak as its share says
    centre = float(re.search(r'cy="([\d.]+)"', text)[1])
    roof = re.search(r'<polyline points="([^"]+)"', text)[1].split()
    top, slope = float(roof[2].split(",")[1]), roof[0].split(",")
    ridge = roof[1].split(",")
    decade = (float(ridge[0]) - float(slope[0])) / (float(slope[1]) - float(ridge[1]))
    assert top < centre
    assert decade > 0


def test_page_of_a_net():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    text = inspection_page(
        "<net>", summary(net, (1, 8, 8)), review(net, (1, 8, 8)), measured(), "plan <text>"
    )
    check_page(text)
    assert "batch norm takes the bias of 0 away" in text
    assert "20% of compute" in text
    assert "plan &lt;text&gt;" in text


def test_formats(cli, tmp_path):
    table = cli("inspect", "lenet-bn", "--input", "1,6,6")
    assert table.code == 0
    assert "warning     the receptive field" in table.out
    one, two = cli("inspect", "lenet-bn", "--json"), cli("inspect", "lenet-bn", "--format", "json")
    assert one.json == two.json
    assert one.json["warnings"] == []
    assert cli("inspect", "lenet-bn", "--format", "dot").out.startswith("digraph")
    made = cli("inspect", "lenet-bn", "--format", "html", "--no-measure", "--out", "net.html")
    assert made.code == 0
    text = (tmp_path / "net.html").read_text()
    check_page(text)
    assert "conv2" in text
    assert "<svg" not in text


@pytest.mark.slow
def test_page_with_a_roofline(cli):
    done = cli("inspect", "lenet-bn", "--format", "html", "--plan")
    assert done.code == 0
    check_page(done.out)
    assert "<svg" in done.out


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--json", "--format", "dot"], "--json contradicts"),
        (["--no-measure"], "belong to --format html"),
        (["--plan", "--format", "dot"], "cannot be drawn"),
        (["--format", "htm"], "did you mean html?"),
    ],
)
def test_contradictions(cli, options, says):
    done = cli("inspect", "lenet-bn", *options)
    assert done.code in {1, 2}
    assert says in done.error
