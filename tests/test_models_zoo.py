"""The registered networks: keys, counts, shapes, arguments."""

import numpy as np
import pytest

import striate as st
from striate import nn
from striate.models import registry


def keys_of_norm(prefix):
    names = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    return [f"{prefix}.{name}" for name in names]


def torchvision_resnet18():
    keys = ["conv1.weight", *keys_of_norm("bn1")]
    for stage in range(1, 5):
        for block in range(2):
            path = f"layer{stage}.{block}"
            for i in (1, 2):
                keys += [f"{path}.conv{i}.weight", *keys_of_norm(f"{path}.bn{i}")]
            if stage > 1 and block == 0:
                keys += [f"{path}.downsample.0.weight", *keys_of_norm(f"{path}.downsample.1")]
    return [*keys, "fc.weight", "fc.bias"]


def torchvision_vgg11_bn():
    keys = []
    for index in (0, 4, 8, 11, 15, 18, 22, 25):
        keys += [f"features.{index}.weight", f"features.{index}.bias"]
        keys += keys_of_norm(f"features.{index + 1}")
    return keys + [f"classifier.{i}.{name}" for i in (0, 3, 6) for name in ("weight", "bias")]


def test_resnet18_is_torchvisions():
    net = st.models.create("resnet18")
    assert list(net.state_dict()) == torchvision_resnet18()
    assert len(net.state_dict()) == 122
    assert net.num_parameters() == 11_689_512
    assert net.state_dict()["layer4.0.downsample.0.weight"].shape == (512, 256, 1, 1)


def test_vgg11_bn_is_torchvisions():
    with nn.init.skipped():
        net = st.models.create("vgg11-bn")
    assert list(net.state_dict()) == torchvision_vgg11_bn()
    assert net.num_parameters() == 132_868_840
    assert net.classifier[0].weight.shape == (4096, 512 * 7 * 7)


@pytest.mark.parametrize(
    ("name", "params", "macs", "shapes"),
    [
        (
            "resnet50",
            25_557_032,
            4_089_184_256,
            {
                "layer1.0.downsample.0.weight": (256, 64, 1, 1),
                "layer2.0.conv2.weight": (128, 128, 3, 3),
                "layer4.2.conv3.weight": (2048, 512, 1, 1),
                "layer4.2.bn3.num_batches_tracked": (),
            },
        ),
        (
            "squeezenet1_1",
            1_235_496,
            349_151_936,
            {
                "features.0.weight": (64, 3, 3, 3),
                "features.3.squeeze.weight": (16, 64, 1, 1),
                "features.12.expand3x3.bias": (256,),
                "classifier.1.weight": (1000, 512, 1, 1),
            },
        ),
        (
            "densenet121",
            7_978_856,
            2_834_161_664,
            {
                "features.conv0.weight": (64, 3, 7, 7),
                "features.denseblock3.denselayer24.conv1.weight": (128, 992, 1, 1),
                "features.transition2.norm.running_var": (512,),
                "features.norm5.weight": (1024,),
                "classifier.weight": (1000, 1024),
            },
        ),
        (
            "mobilenet_v2",
            3_504_872,
            300_774_272,
            {
                "features.0.0.weight": (32, 3, 3, 3),
                "features.1.conv.0.0.weight": (32, 1, 3, 3),
                "features.1.conv.2.running_mean": (16,),
                "features.17.conv.2.weight": (320, 960, 1, 1),
                "features.18.1.bias": (1280,),
                "classifier.1.weight": (1000, 1280),
            },
        ),
    ],
)
def test_a_larger_network_is_torchvisions(name, params, macs, shapes):
    """Parameters and keys as torchvision has them; multiplications at 224×224 pixels."""
    with nn.init.skipped():
        net = st.models.create(name)
    assert net.num_parameters() == params
    assert st.summary(net, (3, 224, 224)).to_dict()["totals"]["macs"] == macs
    state = net.state_dict()
    assert {key: state[key].shape for key in shapes} == shapes


def test_lenet_bn_is_what_the_contract_says():
    net = st.models.create("lenet-bn")
    shapes = {key: value.shape for key, value in net.state_dict().items()}
    assert shapes["conv1.weight"] == (32, 1, 3, 3)
    assert shapes["conv2.weight"] == (64, 32, 3, 3)
    assert shapes["fc1.weight"] == (128, 64 * 7 * 7)
    assert shapes["fc2.weight"] == (10, 128)
    assert not any(key.startswith("conv") and key.endswith("bias") for key in shapes)
    kinds = [row["kind"] for row in st.summary(net, (1, 28, 28)).rows]
    half = ["Conv2d", "BatchNorm2d", "ReLU", "MaxPool2d"]
    assert kinds == [*half, *half, "Linear", "ReLU", "Linear"]


@pytest.mark.parametrize(
    ("name", "options", "shape", "params"),
    [
        ("lenet", {}, (1, 28, 28), 61_706),
        ("lenet", {"image_size": 32, "activation": "relu", "in_channels": 3}, (3, 32, 32), 83_126),
        ("lenet-bn", {"image_size": 16, "num_classes": 4}, (1, 16, 16), 150_628),
        ("resnet18", {"stem": "32", "num_classes": 10}, (3, 32, 32), 11_173_962),
        ("resnet34", {}, (3, 64, 64), 21_797_672),
        ("vgg11-bn", {"stem": "32", "num_classes": 10}, (3, 32, 32), 9_231_114),
    ],
)
def test_counts_and_output_shapes(name, options, shape, params):
    net = st.models.create(name, **options)
    assert net.num_parameters() == params
    rows = st.summary(net, shape).rows
    assert rows[-1]["output"] == (options.get("num_classes", net.arch["arguments"]["num_classes"]),)
    assert net.arch["name"] == name
    assert net.arch["arguments"] | options == net.arch["arguments"]


def test_a_residual_block_equals_torchs_formula():
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    net = st.models.create("resnet18", num_classes=3, stem="32")
    block = net.layer2[0].eval()
    state = {k: torch.from_numpy(v) for k, v in block.state_dict().items()}
    x = torch.randn(2, 64, 6, 6, generator=torch.Generator().manual_seed(0))

    def norm(y, name):
        statistics = (state[f"{name}.running_mean"], state[f"{name}.running_var"])
        return functional.batch_norm(y, *statistics, state[f"{name}.weight"], state[f"{name}.bias"])

    y = functional.conv2d(x, state["conv1.weight"], stride=2, padding=1)
    y = functional.relu(norm(y, "bn1"))
    y = norm(functional.conv2d(y, state["conv2.weight"], padding=1), "bn2")
    shortcut = functional.conv2d(x, state["downsample.0.weight"], stride=2)
    expected = functional.relu(y + norm(shortcut, "downsample.1"))
    np.testing.assert_allclose(block(x.numpy()), expected.numpy(), rtol=1e-4, atol=1e-4)


def test_initial_weights_are_torchvisions():
    net = st.models.create("resnet18", num_classes=3)
    for path, module in net.named_modules():
        if isinstance(module, nn.Conv2d):
            co, _, kh, kw = module.weight.shape
            deviation = np.sqrt(2 / (co * kh * kw))
            assert module.weight.data.std() == pytest.approx(deviation, rel=0.05), path


def test_the_registry():
    residual = ["resnet101", "resnet152", "resnet18", "resnet34", "resnet50"]
    assert st.models.list("resnet*") == residual
    assert st.models.list("*net*_v2") == ["mobilenet_v2"]

    @st.models.register("tiny")
    def tiny(*, num_classes=2, in_channels=1):
        return nn.Sequential(nn.Flatten(), nn.Linear(in_channels, num_classes))

    try:
        net = st.models.create("tiny", num_classes=None, in_channels=5)
        assert net.arch == {"name": "tiny", "arguments": {"num_classes": 2, "in_channels": 5}}
        with pytest.raises(st.ArgumentError, match="registered already"):
            st.models.register("Ti_ny")
    finally:
        del registry._builders["tiny"]


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("resnet81", {}, "did you mean 'resnet18'"),
        ("transformer", {}, "there are: alexnet, convnext_tiny"),
        ("resnet18", {"num_class": 3}, "no option 'num_class'; did you mean 'num_classes'"),
        ("resnet18", {"stem": "64"}, "stem"),
        ("resnet18", {"num_classes": 0}, "num_classes must be a positive int, got 0"),
        ("vgg11-bn", {"stem": 32}, "stem"),
        ("lenet", {"image_size": 30}, "image_size"),
        ("lenet", {"activation": "gelu"}, "activation"),
        ("lenet-bn", {"image_size": 2}, "image_size"),
    ],
)
def test_wrong_arguments(name, options, words):
    with pytest.raises(st.ArgumentError, match=words):
        st.models.create(name, **options)
