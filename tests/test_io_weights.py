"""Weights of PyTorch, torchvision and timm into our nets, and `striate convert`."""

import json
import re
from collections import OrderedDict

import numpy as np
import pytest
from PIL import Image

import striate as st
from striate.io.names import other_names
from striate.io.safetensors import write_safetensors
from tests.cli_run import cli  # noqa: F401
from tests.torch_files import Writer


def net(**options):
    return st.models.create("lenet-bn", **{"num_classes": 3, "image_size": 8, **options})


@pytest.fixture
def source():
    st.manual_seed(1)
    return net()


def pth(path, state, wrap=lambda state: state, legacy=False):
    writer = Writer(legacy)
    return writer.write(path, wrap(writer.state(state)))


def assert_loaded(found, source):
    for key, value in source.state_dict().items():
        np.testing.assert_array_equal(found.state_dict()[key], value)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.", "module._orig_mod."])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": s, "epoch": 3, "optimizer": {"state": {}}},
        lambda s: {"model": s},
        lambda s: {"epoch": 1, "model_state_dict": s},
        lambda s: {"net": s},
        lambda s: {"ema": {"state_dict": s}},
    ],
)
def test_wrappers_and_prefixes(tmp_path, source, wrap, prefix):
    state = {prefix + key: value for key, value in source.state_dict().items()}
    other = net()
    assert st.load_weights(other, pth(tmp_path / "a.pth", state, wrap)) == ([], [])
    assert_loaded(other, source)


def test_legacy_and_safetensors_and_half_precision(tmp_path, source):
    other = net()
    st.load_weights(other, pth(tmp_path / "a.pth", source.state_dict(), legacy=True))
    assert_loaded(other, source)
    halves = {
        key: value.astype(np.float16) if value.dtype == np.float32 else value
        for key, value in source.state_dict().items()
    }
    write_safetensors(tmp_path / "a.safetensors", halves)
    other = net()
    st.load_weights(other, tmp_path / "a.safetensors")
    for key, value in halves.items():
        np.testing.assert_array_equal(other.state_dict()[key], value)
    with pytest.raises(st.ArgumentError, match="inner key"):
        st.load_weights(other, tmp_path / "a.safetensors", key="ema")


def test_a_key_chooses_among_several(tmp_path, source):
    writer = Writer()
    first = {key: np.zeros_like(value) for key, value in source.state_dict().items()}
    value = {"model": writer.state(first), "ema": writer.state(source.state_dict())}
    path = writer.zip(tmp_path / "a.pth", value)
    other = net()
    st.load_weights(other, path, key="ema")
    assert_loaded(other, source)
    st.load_weights(other, path)
    assert not other.fc1.weight.data.any()
    with pytest.raises(st.ArgumentError, match=r"'emma'.*it has model, ema"):
        st.load_weights(other, path, key="emma")


def test_a_net_whose_own_names_begin_so_keeps_them(tmp_path):
    class Wrapped(st.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = st.nn.Linear(2, 3)

    st.manual_seed(2)
    source = Wrapped()
    state = {f"module.{key}": value for key, value in source.state_dict().items()}
    other = Wrapped()
    st.load_weights(other, pth(tmp_path / "a.pth", state))
    assert_loaded(other, source)


def test_missing_counts_are_fine_and_other_missing_keys_are_named(tmp_path, source):
    state = source.state_dict()
    state = {key: value for key, value in state.items() if "num_batches" not in key}
    st.load_weights(net(), pth(tmp_path / "a.pth", state))
    state["extra"] = state.pop("fc1.bias")
    path = pth(tmp_path / "b.pth", state)
    words = rf"{re.escape(str(path))}: .*missing fc1\.bias; unexpected extra"
    with pytest.raises(st.ArgumentError, match=words):
        st.load_weights(net(), path)
    assert st.load_weights(net(), path, strict=False) == (["fc1.bias"], ["extra"])


def test_a_head_of_another_class_count(tmp_path, source):
    path = pth(tmp_path / "a.pth", source.state_dict())
    st.manual_seed(3)
    other = net(num_classes=5)
    before = other.state_dict()
    with pytest.raises(st.ShapeError, match=r"fc2\..*for 3 classes, the net's for 5.*skip_head=T"):
        st.load_weights(other, path)
    for key, value in before.items():
        np.testing.assert_array_equal(other.state_dict()[key], value)
    st.load_weights(other, path, skip_head=True)
    np.testing.assert_array_equal(other.fc2.weight.data, before["fc2.weight"])
    np.testing.assert_array_equal(other.fc1.weight.data, source.fc1.weight.data)
    with pytest.raises(st.ShapeError, match=r"fc1\.weight: the net has shape .*, the file [^;]*$"):
        st.load_weights(net(image_size=12), path, skip_head=True)


def test_files_without_weights(tmp_path):
    for value in ({"epoch": 3}, [1, 2], {"state_dict": {"state_dict": {}}}, 5):
        path = Writer().zip(tmp_path / "a.pth", value)
        with pytest.raises(st.FormatError, match="no weights"):
            st.read_weights(path)


# ------------------------------------------------------------------ names of others


def timm_mobilenet():
    """Names of timm's mobilenetv2_100, in its order."""
    bn = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    names = ["conv_stem.weight", *(f"bn1.{n}" for n in bn)]
    for stage, depth in enumerate((1, 2, 3, 4, 3, 3, 1)):
        for block in range(depth):
            layers = ("conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3")
            for layer in layers if stage else ("conv_dw", "bn1", "conv_pw", "bn2"):
                parts = ("weight",) if layer.startswith("conv") else bn
                names += [f"blocks.{stage}.{block}.{layer}.{n}" for n in parts]
    names += ["conv_head.weight", *(f"bn2.{n}" for n in bn)]
    return [*names, "classifier.weight", "classifier.bias"]


def test_timms_mobilenet_names():
    own = st.models.create("mobilenet_v2").state_dict()
    theirs = dict(zip(timm_mobilenet(), own.values(), strict=True))
    found = other_names(own, theirs)
    assert list(found) == list(own)


def test_old_densenet_names():
    own = st.models.create("densenet121").state_dict()
    old = {re.sub(r"(layer\d+\.(?:norm|conv))([12])", r"\1.\2", key): a for key, a in own.items()}
    assert len(old.keys() - own.keys()) > 500
    assert list(other_names(own, old)) == list(own)


def test_timms_vgg_head(tmp_path):
    class Head(st.nn.Module):
        def __init__(self):
            super().__init__()
            layers = [st.nn.Linear(4 * 7 * 7, 6), st.nn.ReLU(), st.nn.Dropout()]
            layers += [st.nn.Linear(6, 6), st.nn.ReLU(), st.nn.Dropout(), st.nn.Linear(6, 3)]
            self.classifier = st.nn.Sequential(*layers)

    source = Head()
    state = {
        "pre_logits.fc1.weight": source.classifier[0].weight.data.reshape(6, 4, 7, 7),
        "pre_logits.fc1.bias": source.classifier[0].bias.data,
        "pre_logits.fc2.weight": source.classifier[3].weight.data.reshape(6, 6, 1, 1),
        "pre_logits.fc2.bias": source.classifier[3].bias.data,
        "head.fc.weight": source.classifier[6].weight.data,
        "head.fc.bias": source.classifier[6].bias.data,
    }
    other = Head()
    st.load_weights(other, pth(tmp_path / "a.pth", state))
    assert_loaded(other, source)


# ------------------------------------------------------------------ with PyTorch


def test_resnet18_from_pytorch_and_back(tmp_path):
    torch = pytest.importorskip("torch")
    from bench import nets

    torch.manual_seed(0)
    theirs = nets.resnet18(num_classes=7, in_channels=3)
    x = torch.randn(2, 3, 64, 64)
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        theirs.train()(x)
        expected = theirs.eval()(x).numpy()
    torch.save({"state_dict": torch.nn.DataParallel(theirs).state_dict()}, tmp_path / "r.pth")
    ours = st.models.create("resnet18", num_classes=7)
    st.load_weights(ours, tmp_path / "r.pth")
    assert np.abs(ours.eval()(x.numpy()) - expected).max() < 1e-4 * np.abs(expected).max()
    st.save(ours, tmp_path / "r.safetensors")
    official = pytest.importorskip("safetensors.numpy")
    state = official.load_file(tmp_path / "r.safetensors")
    other = nets.resnet18(num_classes=7, in_channels=3)
    other.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()})
    with torch.no_grad():
        np.testing.assert_array_equal(other.eval()(x).numpy(), expected)


# ------------------------------------------------------------------ striate convert


@pytest.fixture
def weights(tmp_path, source):
    return pth(tmp_path / "in.pth", source.state_dict(), lambda s: {"state_dict": s})


def convert(cli, *arguments):
    return cli("convert", "in.pth", "out.safetensors", "--model", "lenet-bn", *arguments)


def test_convert_makes_a_model_that_predicts(cli, tmp_path, weights, source):
    (tmp_path / "classes.txt").write_text("cat\ndog\n\nfish\n")
    recipe = st.data.Recipe(1, (8, 8), "crop", (0.5,), (0.25,))
    (tmp_path / "recipe.json").write_text(recipe.to_json())
    done = convert(cli, "--classes", "classes.txt", "--recipe", "recipe.json", "--image-size", "8")
    assert done.code == 0, done.err
    assert "3 classes → out.safetensors" in done.out
    assert_loaded(st.load("out.safetensors"), source)
    picture = np.random.default_rng(0).integers(0, 255, (8, 8)).astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    best = ("cat", "dog", "fish")[source.eval()(recipe.apply(picture)[None]).argmax()]
    assert f"a.png  {best} " in cli("predict", "out.safetensors", "a.png").out
    assert cli("inspect", "out.safetensors").code == 0


def test_convert_refuses(cli, tmp_path, weights):
    (tmp_path / "two.txt").write_text("cat\ndog\n")
    (tmp_path / "twice.txt").write_text("cat\ncat\ndog\n")
    (tmp_path / "out.safetensors").write_bytes(b"mine")
    assert "--force" in convert(cli, "--image-size", "8").error
    assert (tmp_path / "out.safetensors").read_bytes() == b"mine"
    assert "2 names, but the net has 3" in convert(
        cli, "--image-size", "8", "--classes", "two.txt", "--force").error  # fmt: skip
    assert "twice" in convert(cli, "--force", "--classes", "twice.txt").error
    assert "fc1.weight" in convert(cli, "--force").error
    assert "no choice of stems" in convert(cli, "--force", "--stem", "32").error
    assert "colour" in convert(cli, "--force", "--image-size", "8", "--recipe", "imagenet").error
    assert "recipe.json" in convert(
        cli, "--image-size", "8", "--force", "--recipe", "recipe.json").error  # fmt: skip
    bad = cli("convert", "in.pth", "o.safetensors", "--model", "lenet-bm")
    assert "did you mean lenet-bn" in bad.error
    assert ".safetensors" in cli("convert", "in.pth", "o.pth", "--model", "lenet-bn").error
    assert "no.pth" in cli("convert", "no.pth", "o.safetensors", "--model", "lenet-bn").error
    assert (tmp_path / "out.safetensors").read_bytes() == b"mine"


def test_convert_finds_stem_channels_and_classes(cli, tmp_path):
    source = st.models.create("resnet18", num_classes=4, in_channels=1, stem="32")
    state = OrderedDict((f"module.{key}", value) for key, value in source.state_dict().items())
    pth(tmp_path / "r.pth", state)
    done = cli("convert", "r.pth", "r.safetensors", "--model", "resnet18", "--json")
    assert done.code == 0, done.err
    expected = {"num_classes": 4, "in_channels": 1, "stem": "32"}
    assert json.loads(done.out)["arch"]["arguments"] == expected
    assert "--recipe" in done.err


def test_convert_with_imagenets_recipe(cli, tmp_path):
    source = st.models.create("squeezenet1_1", num_classes=4)
    pth(tmp_path / "s.pth", source.state_dict())
    options = ("--model", "squeezenet1_1", "--recipe", "imagenet")
    done = cli("convert", "s.pth", "s.safetensors", *options)
    assert done.code == 0, done.err
    found = st.load(tmp_path / "s.safetensors")
    assert found.recipe["size"] == [224, 224]
    assert found.recipe["mean"] == [0.485, 0.456, 0.406]
    assert found.classes == ["0", "1", "2", "3"]
