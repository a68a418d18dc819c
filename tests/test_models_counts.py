"""Every registered network: parameters and keys as published, shapes by the meaning of its ops."""

import numpy as np
import pytest

import striate as st
from striate import nn
from striate.graph import Param
from striate.graph.evaluate import evaluate
from striate.nn.tracing import trace_module

# Parameters as torchvision and timm publish them (NiN: the authors' net; see models/nin.py), and
# the shapes of a few weights under their keys.
PUBLISHED = {
    "alexnet": (61_100_840, {"features.10.weight": (256, 256, 3, 3), "classifier.6.bias": (1000,)}),
    "convnext_tiny": (
        28_589_128,
        {
            "features.0.1.weight": (96,),
            "features.1.0.layer_scale": (96, 1, 1),
            "features.1.0.block.0.weight": (96, 1, 7, 7),
            "features.1.0.block.2.bias": (96,),
            "features.1.0.block.3.weight": (384, 96),
            "features.1.0.block.5.weight": (96, 384),
            "features.4.0.weight": (192,),
            "features.4.1.weight": (384, 192, 2, 2),
            "classifier.0.weight": (768,),
            "classifier.2.weight": (1000, 768),
        },
    ),
    "densenet121": (7_978_856, {"features.denseblock4.denselayer16.conv2.weight": (32, 128, 3, 3)}),
    "densenet169": (14_149_480, {"features.denseblock4.denselayer32.norm1.weight": (1632,)}),
    "efficientnet_b0": (
        5_288_548,
        {
            "features.0.0.weight": (32, 3, 3, 3),
            "features.1.0.block.0.0.weight": (32, 1, 3, 3),
            "features.1.0.block.1.fc1.weight": (8, 32, 1, 1),
            "features.1.0.block.2.1.running_var": (16,),
            "features.2.0.block.2.fc2.bias": (96,),
            "features.6.3.block.3.0.weight": (192, 1152, 1, 1),
            "features.8.0.weight": (1280, 320, 1, 1),
            "classifier.1.weight": (1000, 1280),
        },
    ),
    "efficientnet_lite0": (
        4_652_008,
        {
            "conv_stem.weight": (32, 3, 3, 3),
            "blocks.0.0.conv_pw.weight": (16, 32, 1, 1),
            "blocks.2.1.conv_dw.weight": (240, 1, 5, 5),
            "blocks.6.0.conv_pwl.weight": (320, 1152, 1, 1),
            "conv_head.weight": (1280, 320, 1, 1),
            "bn2.weight": (1280,),
            "classifier.weight": (1000, 1280),
        },
    ),
    "googlenet": (
        6_624_904,
        {
            "conv1.conv.weight": (64, 3, 7, 7),
            "inception3a.branch1.bn.num_batches_tracked": (),
            "inception3a.branch2.0.conv.weight": (96, 192, 1, 1),
            "inception3a.branch3.1.conv.weight": (32, 16, 3, 3),
            "inception5b.branch4.1.conv.weight": (128, 832, 1, 1),
            "fc.weight": (1000, 1024),
        },
    ),
    "mobilenet_v1": (
        4_231_976,
        {
            "blocks.0.0.conv_dw.weight": (32, 1, 3, 3),
            "blocks.4.1.conv_pw.weight": (1024, 1024, 1, 1),
            "blocks.4.1.bn2.bias": (1024,),
        },
    ),
    "mobilenet_v2": (3_504_872, {"features.1.conv.0.0.weight": (32, 1, 3, 3)}),
    "mobilenet_v3_large": (
        5_483_032,
        {
            "features.1.block.0.0.weight": (16, 1, 3, 3),
            "features.4.block.2.fc1.weight": (24, 72, 1, 1),
            "features.4.block.3.1.weight": (40,),
            "features.16.0.weight": (960, 160, 1, 1),
            "classifier.0.weight": (1280, 960),
            "classifier.3.weight": (1000, 1280),
        },
    ),
    "mobilenet_v3_small": (2_542_856, {"features.1.block.1.fc1.weight": (8, 16, 1, 1)}),
    "nin": (7_595_176, {"features.0.weight": (96, 3, 11, 11)}),
    "regnet_y_400mf": (
        4_344_144,
        {
            "stem.0.weight": (32, 3, 3, 3),
            "trunk_output.block1.block1-0.proj.0.weight": (48, 32, 1, 1),
            "trunk_output.block1.block1-0.f.a.0.weight": (48, 32, 1, 1),
            "trunk_output.block1.block1-0.f.b.0.weight": (48, 8, 3, 3),
            "trunk_output.block4.block4-5.f.se.fc1.weight": (110, 440, 1, 1),
            "trunk_output.block4.block4-5.f.c.1.bias": (440,),
            "fc.weight": (1000, 440),
        },
    ),
    "resnet18": (11_689_512, {"layer4.0.downsample.0.weight": (512, 256, 1, 1)}),
    "resnet34": (21_797_672, {"layer3.5.conv2.weight": (256, 256, 3, 3)}),
    "resnet50": (25_557_032, {"layer1.0.downsample.0.weight": (256, 64, 1, 1)}),
    "resnet101": (44_549_160, {"layer3.22.conv3.weight": (1024, 256, 1, 1)}),
    "resnet152": (60_192_808, {"layer2.7.bn1.running_mean": (128,)}),
    "resnext50_32x4d": (25_028_904, {"layer1.0.conv2.weight": (128, 4, 3, 3)}),
    "wide_resnet50_2": (68_883_240, {"layer4.2.conv2.weight": (1024, 1024, 3, 3)}),
    "shufflenet_v2_x0_5": (1_366_792, {"stage4.3.branch2.5.weight": (96, 96, 1, 1)}),
    "shufflenet_v2_x1_0": (
        2_278_604,
        {
            "conv1.0.weight": (24, 3, 3, 3),
            "stage2.0.branch1.0.weight": (24, 1, 3, 3),
            "stage2.0.branch2.3.weight": (58, 1, 3, 3),
            "stage3.7.branch2.6.weight": (116,),
            "conv5.0.weight": (1024, 464, 1, 1),
            "fc.weight": (1000, 1024),
        },
    ),
    "squeezenet1_0": (
        1_248_424,
        {"features.0.weight": (96, 3, 7, 7), "features.12.squeeze.weight": (64, 512, 1, 1)},
    ),
    "squeezenet1_1": (1_235_496, {"features.12.expand3x3.bias": (256,)}),
    "vgg11": (132_863_336, {"features.18.weight": (512, 512, 3, 3)}),
    "vgg11-bn": (132_868_840, {"features.26.running_var": (512,)}),
    "vgg13": (133_047_848, {"features.22.bias": (512,)}),
    "vgg13-bn": (133_053_736, {"features.31.weight": (512, 512, 3, 3)}),
    "vgg16": (138_357_544, {"features.28.weight": (512, 512, 3, 3)}),
    "vgg16-bn": (138_365_992, {"features.40.weight": (512, 512, 3, 3), "features.41.bias": (512,)}),
    "vgg19": (143_667_240, {"features.34.weight": (512, 512, 3, 3)}),
    "vgg19-bn": (143_678_248, {"features.49.weight": (512, 512, 3, 3)}),
}
OWN = ["lenet", "lenet-bn"]


@pytest.fixture
def hollow(monkeypatch):
    """Nets of parameters whose memory is never touched: half a gigabyte for VGG otherwise."""
    monkeypatch.setattr(Param, "_fill", lambda *_: None)


def test_every_registered_network_is_listed_here():
    assert sorted([*PUBLISHED, *OWN]) == st.models.list()


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.usefixtures("hollow")
def test_counts_and_keys_are_as_published(name):
    params, shapes = PUBLISHED[name]
    with nn.init.skipped():
        net = st.models.create(name)
    assert net.num_parameters() == params
    state = dict(net._state())
    assert {key: state[key].shape for key in shapes} == shapes


@pytest.mark.usefixtures("hollow")
def test_keys_stand_in_torchvisions_order():
    """A module's own arrays, then its parts in the order in which torchvision assigns them."""
    expected = {
        "googlenet": ["conv1.conv.weight", "conv1.bn.weight"],
        "convnext_tiny": ["features.0.0.weight", "features.0.0.bias", "features.0.1.weight",
                          "features.0.1.bias", "features.1.0.layer_scale",
                          "features.1.0.block.0.weight"],
        "mobilenet_v1": ["conv_stem.weight", "bn1.weight"],
    }  # fmt: skip
    for name, first in expected.items():
        with nn.init.skipped():
            net = st.models.create(name)
        assert [key for key, _ in net._state()][: len(first)] == first
    assert [key for key, _ in net._state()][-2:] == ["classifier.weight", "classifier.bias"]


STEMS = [n for n in PUBLISHED if "stem" in st.models.options(n) and not n.startswith("vgg")]
WITHOUT = [name for name in PUBLISHED if "stem" not in st.models.options(name)]


@pytest.mark.parametrize(
    ("name", "stem", "side"),
    [*((name, None, 64) for name in (*WITHOUT, "nin")), *((name, "32", 32) for name in STEMS)],
)
def test_forward_has_the_right_shape_and_is_finite(name, stem, side):
    """By the meaning of every operation, which needs no compilation."""
    st.manual_seed(0)
    options = {} if stem is None else {"stem": stem}
    net = st.models.create(name, num_classes=7, in_channels=2, **options).eval()
    x = np.random.default_rng(0).standard_normal((1, 2, side, side), np.float32)
    (y,) = evaluate(trace_module(net, [x.shape], training=False).graph, [x])
    assert y.shape == (1, 7)
    assert np.isfinite(y).all()
    assert y.any()


def test_the_stem_for_small_pictures_leaves_two_halvings_out():
    for name in ("mobilenet_v3_large", "regnet_y_400mf", "shufflenet_v2_x0_5", "densenet169"):
        outputs = []
        for stem, side in (("224", 128), ("32", 32)):
            with nn.init.skipped():
                net = st.models.create(name, stem=stem)
            rows = st.summary(net, (3, side, side)).rows
            outputs.append([row["output"] for row in rows if len(row["output"]) == 3][-2])
        assert outputs[0][1:] == outputs[1][1:], name


def test_nin_for_cifar_is_the_papers():
    with nn.init.skipped():
        net = st.models.create("nin", num_classes=10, stem="32")
    assert net.num_parameters() == 966_986


def test_features_of_inner_layers():
    """The net as a backbone; the layers of googlenet, regnet and the like have long names."""
    net = st.models.create("regnet_y_400mf", stem="32").eval()
    graph = trace_module(
        net, [(1, 3, 16, 16)], training=False, features=["trunk_output.block2", "stem.2"]
    ).graph
    assert [value.shape for value in graph.outputs] == [(1, 104, 8, 8), (1, 32, 16, 16)]


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("mobilenetv2", "mobilenet_v2"),
        ("MobileNetV3-Small", "mobilenet_v3_small"),
        ("vgg11_bn", "vgg11-bn"),
        ("efficientnet-b0", "efficientnet_b0"),
        ("SqueezeNet1.1", "squeezenet1_1"),
    ],
)
def test_spellings_of_a_name(spelling, name):
    assert st.models.canonical(spelling) == name
    assert st.models.options(spelling) == st.models.options(name)


def test_a_net_knows_its_canonical_name():
    with nn.init.skipped():
        net = st.models.create("shufflenetv2_x0.5", num_classes=2)
    assert net.arch["name"] == "shufflenet_v2_x0_5"
