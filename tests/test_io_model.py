"""Model files."""

import errno
import json

import numpy as np
import pytest

import striate as st
from striate import nn
from striate.io import atomic
from striate.io.safetensors import read_safetensors, write_safetensors

RECIPE = {"size": [28, 28], "mean": [0.5], "std": [0.25]}


@pytest.fixture
def lenet():
    net = st.models.create("lenet-bn", num_classes=3, image_size=8)
    net(np.random.default_rng(0).standard_normal((4, 1, 8, 8)))  # moves the statistics
    return net


def rewritten(path, change):
    """The file with other metadata or tensors, and a checksum that fits them."""
    arrays, strings = read_safetensors(path)
    del strings["striate.checksum"]
    change(arrays, strings)
    write_safetensors(path, arrays, strings)
    return path


def test_a_registered_net_comes_back_whole(tmp_path, lenet):
    path = tmp_path / "model.safetensors"
    st.save(lenet, path, classes=["a", "b", "c"], recipe=RECIPE, note="mine")
    other = st.load(path)
    assert not other.training
    assert other.arch == lenet.arch
    assert other.classes == ["a", "b", "c"]
    assert other.recipe == RECIPE
    assert other.meta["note"] == "mine"
    for key, value in lenet.state_dict().items():
        np.testing.assert_array_equal(other.state_dict()[key], value)
    x = np.random.default_rng(1).standard_normal((2, 1, 8, 8))
    np.testing.assert_array_equal(other(x), lenet.eval()(x))


def test_what_was_loaded_is_kept_when_saved_again(tmp_path, lenet):
    path = tmp_path / "model.safetensors"
    st.save(lenet, path, classes=["a", "b", "c"])
    st.save(st.load(path), path, note=1)
    assert st.load(path).meta == {"classes": ["a", "b", "c"], "note": 1}


def test_another_net_is_passed_by_the_reader(tmp_path):
    path = tmp_path / "model.safetensors"
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    st.save(net, path)
    with pytest.raises(st.FormatError, match="pass the net"):
        st.load(path)
    other = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    assert st.load(path, net=other) is other
    np.testing.assert_array_equal(other[1].weight.data, net[1].weight.data)
    with pytest.raises(st.FormatError, match=r"1\.weight.*\(3, 4\).*\(2, 4\)"):
        st.load(path, net=nn.Sequential(nn.Flatten(), nn.Linear(4, 3)))


def test_the_official_library_can_read_it(tmp_path, lenet):
    official = pytest.importorskip("safetensors.numpy")
    st.save(lenet, tmp_path / "m.safetensors")
    assert official.load_file(tmp_path / "m.safetensors").keys() == lenet.state_dict().keys()


def drop(key):
    return lambda arrays, _: arrays.pop(key)


def arch(**change):
    def apply(arrays, strings):
        strings["striate.arch"] = json.dumps(json.loads(strings["striate.arch"]) | change)

    return apply


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (drop("fc1.weight"), r"missing fc1\.weight"),
        (lambda a, _: a.update(more=a["fc1.bias"]), "unexpected more"),
        (lambda a, _: a.update({"fc2.bias": np.zeros(4)}), r"fc2\.bias"),
        (lambda a, _: a.update({"fc2.bias": np.array([1, 2, 3], bool)}), None),
        (lambda _, s: s.pop("striate.format"), "not a Striate model"),
        (lambda _, s: s.clear(), "not a Striate model"),
        (lambda _, s: s.update({"striate.format": "model/9"}), "model/9"),
        (lambda _, s: s.pop("striate.meta"), "striate.meta"),
        (lambda _, s: s.update({"striate.meta": "[1]"}), "JSON object"),
        (lambda _, s: s.update({"striate.meta": "{"}), "not JSON"),
        (lambda _, s: s.update({"striate.arch": "{}"}), "name and arguments"),
        (arch(name="lenet-bm"), "did you mean 'lenet-bn'"),
        (arch(name="../evil"), "no model"),
        (arch(arguments={"num_classes": 10**12}), "num_classes=1000000000000"),
        (arch(arguments={"num_classes": -1}), "num_classes"),
        (arch(arguments={"num_classes": "3"}), "num_classes"),
        (arch(arguments={"image_size": 8, "colour": 1}), "no option 'colour'"),
        (arch(arguments={"image_size": None}), "shape"),
        (arch(arguments=[1]), "name and arguments"),
    ],
)
def test_files_that_do_not_fit(tmp_path, lenet, change, words):
    path = tmp_path / "model.safetensors"
    st.save(lenet, path)
    rewritten(path, change)
    if words is None:
        assert st.load(path).state_dict()["fc2.bias"].tolist() == [1, 1, 1]
        return
    with pytest.raises(st.FormatError, match=words) as error:
        st.load(path)
    assert str(path) in str(error.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        st.load(tmp_path / "nothing.safetensors")


@pytest.mark.parametrize("value", [object(), float("nan"), {1, 2}])
def test_meta_must_be_json(tmp_path, lenet, value):
    with pytest.raises(st.ArgumentError, match="JSON"):
        st.save(lenet, tmp_path / "m.safetensors", extra=value)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_keeps_the_older_model(tmp_path, lenet, monkeypatch):
    path = tmp_path / "model.safetensors"
    st.save(lenet, path, version=1)

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(st.WriteError, match="No space left"):
        st.save(lenet, path, version=2)
    assert st.load(path).meta == {"version": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_loading_draws_no_weights(tmp_path, lenet):
    path = tmp_path / "model.safetensors"
    st.save(lenet, path)
    st.manual_seed(1)
    expected = nn.Linear(3, 3).weight.data
    st.manual_seed(1)
    st.load(path)
    np.testing.assert_array_equal(nn.Linear(3, 3).weight.data, expected)
