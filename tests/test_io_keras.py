"""Keras's sequential nets, from files written by the documented layout."""

import json
import zipfile

import numpy as np
import pytest

import striate as st
from striate.io import keras
from tests.keras_files import layer, run, write_h5, write_keras

h5py = pytest.importorskip("h5py")


def random(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32) * 0.5


def norm(count, *, gamma=True, beta=True):
    found = {"gamma": 1 + random(count), "beta": random(count)}
    found = {name: a for name, a in found.items() if {"gamma": gamma, "beta": beta}[name]}
    return found | {"moving_mean": random(count), "moving_variance": 1 + random(count) ** 2}


def conv(name, kh, kw, ci, co, **options):
    weights = {"kernel": random(kh, kw, ci, co), "bias": random(co)}
    return layer("Conv2D", name, weights, filters=co, kernel_size=[kh, kw], **options)


NETS = {
    "lenet": (
        [None, 12, 12, 2],
        [
            layer("Rescaling", "scale", scale=1 / 3, offset=-0.5),
            conv("conv", 3, 3, 2, 8, padding="same", strides=[1, 1], activation="relu"),
            layer("BatchNormalization", "bn", norm(8), axis=[3], momentum=0.9, epsilon=0.001),
            layer("MaxPooling2D", "pool", pool_size=[2, 2], strides=[2, 2], padding="valid"),
            conv("conv_1", 3, 2, 8, 5, padding="valid", strides=[2, 1], use_bias=True),
            layer("LeakyReLU", "leaky", alpha=0.1),
            layer("Flatten", "flatten"),
            layer("Dropout", "dropout", rate=0.5),
            layer("BatchNormalization", "bn_1", norm(2 * 5 * 5), axis=[1]),
            layer("Dense", "dense", {"kernel": random(50, 7), "bias": random(7)}, units=7,
                  activation="tanh"),
            layer("Dense", "dense_1", {"kernel": random(7, 3)}, units=3, use_bias=False),
            layer("Softmax", "softmax", axis=-1),
        ],
        ["scale", "conv2d", "batch_normalization", None, "conv2d_1", None, None, None,
         "batch_normalization_1", "dense", "dense_1", None],
    ),
    "mobile": (
        [None, None, None, 4],
        [
            layer("ZeroPadding2D", "pad", padding=[[0, 1], [2, 1]]),
            layer("DepthwiseConv2D", "dw", {"kernel": random(3, 3, 4, 2), "bias": random(8)},
                  kernel_size=[3, 3], depth_multiplier=2, strides=[2, 2], padding="same"),
            layer("ReLU", "relu", max_value=6.0),
            layer("SeparableConv2D", "sep",
                  {"depthwise_kernel": random(3, 3, 8, 1), "pointwise_kernel": random(1, 1, 8, 6)},
                  filters=6, kernel_size=3, use_bias=False, padding="same", dilation_rate=[2, 2]),
            layer("BatchNormalization", "a", norm(6, gamma=False), scale=False),
            layer("AveragePooling2D", "avg", pool_size=[3, 3], strides=[2, 2], padding="same"),
            layer("BatchNormalization", "b", norm(6, beta=False), center=False),
            layer("Activation", "act", activation="swish"),
            conv("conv", 1, 1, 3, 4, groups=2, activation="elu"),
            layer("MaxPooling2D", "max", pool_size=[3, 3], strides=[1, 1], padding="same"),
            layer("Dense", "pixel", {"kernel": random(4, 6), "bias": random(6)}, units=6),
            layer("BatchNormalization", "c", norm(6, gamma=False, beta=False), scale=False,
                  center=False),
            layer("GlobalAveragePooling2D", "mean", keepdims=False),
            layer("Dense", "dense", {"kernel": random(6, 3), "bias": random(3)}, units=3,
                  activation="softmax"),
        ],
        [None, "depthwise_conv2d", None, "separable_conv2d", "batch_normalization", None,
         "batch_normalization_1", None, "conv2d", None, "dense", "batch_normalization_2", None,
         "dense_1"],
    ),
    "maximum": (
        [None, 6, 6, 3],
        [conv("features", 2, 2, 3, 5), layer("GlobalMaxPooling2D", "max", keepdims=True),
         layer("Flatten", "flat"),
         layer("Dense", "train", {"kernel": random(5, 2), "bias": random(2)}, units=2)],
        ["conv2d", None, None, "dense"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", ["h5", "h5-keras3", "keras"])
@pytest.mark.parametrize("name", NETS)
def test_outputs_are_keras(tmp_path, name, form):
    shape, layers, folders = NETS[name]
    path = tmp_path / "model"
    if form == "keras":
        write_keras(path, layers, shape, folders)
    else:
        write_h5(path, layers, shape, keras3=form != "h5")
    net = keras.load(path)
    assert not net.training
    size = [9 if side is None else side for side in shape[1:]]
    x = np.random.default_rng(0).standard_normal((3, *size)).astype(np.float32)
    expected = run(layers, x)
    found = net(x.transpose(0, 3, 1, 2))
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 1e-5 * max(1, np.abs(expected).max())
    assert np.ptp(expected, axis=0).max() > 1e-3


def test_it_trains_and_is_saved(tmp_path):
    shape, layers, _ = NETS["lenet"]
    net = keras.load(write_h5(tmp_path / "m.h5", layers, shape))
    assert net.bn.momentum == pytest.approx(0.1)
    x, y = np.random.default_rng(0).standard_normal((4, 2, 12, 12)), np.arange(4) % 3
    st.compile_step(net)(x, y)
    st.save(net, tmp_path / "m.safetensors")
    other = keras.load(tmp_path / "m.h5")
    st.load(tmp_path / "m.safetensors", net=other)
    np.testing.assert_array_equal(other(x), net.eval()(x))


def changed(name, change):
    shape, layers, _ = NETS[name]
    return shape, change([(k, dict(c), dict(w)) for k, c, w in layers])


@pytest.mark.parametrize(
    ("added", "words"),
    [
        (layer("LSTM", "lstm"), r"layer 'lstm' \(LSTM\): there is no layer LSTM; there are Input"),
        (layer("Lambda", "evil", function=["code"]), "no layer Lambda"),
        (layer("Activation", "a", activation="hard_sigmoid"), "no activation 'hard_sigmoid'"),
        (layer("Activation", "a", activation={"class_name": "mine"}), "no activation 'mine'"),
        (layer("ReLU", "r", max_value=3), "max_value=3"),
        (layer("Rescaling", "r", scale=[1, 2]), "only one number"),
        (layer("Softmax", "s", axis=1), "axis"),
        (conv("c", 3, 3, 5, 5, data_format="channels_first"), "channels_first"),
        (conv("c", 3, 3, 5, 5, padding="causal"), "causal"),
        (layer("BatchNormalization", "b", norm(5), axis=1), "axis=1"),
    ],
)
def test_unsupported_layers_are_named(tmp_path, added, words):
    shape, layers = changed("maximum", lambda found: [found[0], added, *found[1:]])
    with pytest.raises(st.UnsupportedError, match=words) as error:
        keras.load(write_h5(tmp_path / "m.h5", layers, shape))
    assert str(tmp_path / "m.h5") in str(error.value)


@pytest.mark.parametrize(
    ("added", "words"),
    [
        (layer("Dense", "d", {"kernel": random(4, 5)}, units=5, use_bias=False), r"\(4, 5\)"),
        (layer("Dense", "d", {}, units=5), "no weight kernel"),
        (layer("Dense", "d", {}, units=2**40), "no weight kernel"),
        (layer("Conv2D", "c", {}, filters=3, kernel_size=[3, 3, 3]), "kernel_size"),
        (layer("Conv2D", "c", {}, filters=3, kernel_size=[-3, 3]), "kernel_size"),
        (layer("Conv2D", "c", {}, kernel_size=3), "filters"),
    ],
)
def test_damaged_models(tmp_path, added, words):
    shape, layers = changed("maximum", lambda found: [found[0], added, *found[1:]])
    with pytest.raises(st.FormatError, match=words):
        keras.load(write_h5(tmp_path / "m.h5", layers, shape))


def test_models_that_are_not_sequential_and_flatten_without_dense(tmp_path):
    shape, layers, _ = NETS["maximum"]
    with pytest.raises(st.UnsupportedError, match="Functional"):
        keras.load(write_h5(tmp_path / "m.h5", layers, shape, kind="Functional"))
    with pytest.raises(st.UnsupportedError, match="followed by a Dense"):
        keras.load(write_h5(tmp_path / "m.h5", [layers[0], layers[2]], shape))
    with pytest.raises(st.UnsupportedError, match="unknown size"):
        keras.load(write_h5(tmp_path / "m.h5", [layers[0], layers[2]], [None, None, None, 3]))
    with pytest.raises(st.UnsupportedError, match=r"only \(n, h, w, c\)"):
        keras.load(write_h5(tmp_path / "m.h5", layers, [None, 5, 5, 5, 3]))


def test_links_and_holes_are_refused(tmp_path):
    shape, layers, _ = NETS["maximum"]
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["x"] = layers[0][2]["kernel"]
    place = "model_weights/features/features/kernel:0"
    shared = {"shape": (2, 2, 3, 5), "dtype": "f4"}
    for make in (
        lambda file: file.__setitem__(place, h5py.ExternalLink(secret, "x")),
        lambda file: file.__setitem__(place, h5py.SoftLink("/x")),
        lambda file: file.create_dataset(place, **shared, chunks=True),
        lambda file: file.create_dataset(
            place, (2, 2, 3, 5), "f4", external=[(str(secret), 0, 240)]
        ),
    ):
        path = write_h5(tmp_path / "m.h5", layers, shape)
        with h5py.File(path, "a") as file:
            del file[place]
            make(file)
        with pytest.raises(st.FormatError, match="refused"):
            keras.load(path)


def test_other_files(tmp_path):
    path = tmp_path / "m"
    for content in (b"", b"hello", b"PK\x03\x04", b"\x89HDF\r\n\x1a\n"):
        path.write_bytes(content)
        with pytest.raises(st.FormatError, match=str(path)):
            keras.load(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps({}))
    with pytest.raises(st.FormatError, match=r"model\.weights\.h5"):
        keras.load(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", " " * 10**6)
        archive.writestr("model.weights.h5", b"")
    with pytest.raises(st.FormatError, match="larger"):
        keras.load(path)
    with h5py.File(path, "w") as file:
        file["x"] = 1
    with pytest.raises(st.FormatError, match="model_config"):
        keras.load(path)
    with pytest.raises(FileNotFoundError):
        keras.load(tmp_path / "nothing.h5")


def test_without_h5py(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(ImportError, match=r"striate\[keras\]"):
        keras.load(tmp_path / "m.h5")
