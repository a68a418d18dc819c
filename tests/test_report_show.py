"""Notebooks: what `_repr_html_` says, and the figures of `st.show`."""

import numpy as np
import pytest

import striate as st
from striate import nn
from striate.errors import ArgumentError, ShapeError
from striate.train.history import History
from tests.test_report_training import Page


def images(figure):
    return [np.asarray(axes.images[0].get_array()) for axes in figure.axes]


def test_summary_has_a_row_for_each_layer():
    net = st.models.create("lenet-bn")
    found = st.summary(net, (1, 28, 28))
    page = Page(found._repr_html_())
    assert page.tags.count("tr") == len(found.rows) + 1
    assert f"{found.totals['params']:,}" in found._repr_html_()


def test_history_has_a_row_for_each_epoch():
    history = History()
    assert Page(history._repr_html_()).tags.count("td") == 0
    history.append({"epoch": 1, "train_loss": 0.5})
    history.append({"epoch": 2, "train_loss": 0.25})
    text = history._repr_html_()
    assert Page(text).tags.count("tr") == 3
    assert "<td>0.25</td>" in text


def test_module_folds_what_is_inside():
    text = st.models.create("resnet18")._repr_html_()
    tags = Page(text).tags
    with_children = [
        m for m in st.models.create("resnet18").modules() if next(m.children(), None) is not None
    ]
    assert tags.count("details") == len(with_children)
    assert text.count(" open") == 1
    assert "11,689,512 weights" in text


def test_a_batch():
    x = np.random.default_rng(0).normal(size=(5, 1, 4, 6)).astype(np.float32)
    figure = st.show(x, titles="abcde", columns=2)
    panels = images(figure)
    spread = (x - x.min()) / (x.max() - x.min())
    np.testing.assert_allclose(panels, spread[:, 0], rtol=1e-6)
    assert [axes.get_title() for axes in figure.axes] == list("abcde")
    assert len(images(st.show(x, most=3))) == 3


def test_a_batch_of_bytes_in_colour():
    x = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3)).astype(np.uint8)
    x[0, 0, 0] = 0, 255, 7
    np.testing.assert_allclose(images(st.show(st.Pixels(x))), x / 255, atol=1e-6)


def test_kernels():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3))
    colour = images(st.show(net))
    first = net[0].weight.data[2].transpose(1, 2, 0)
    np.testing.assert_allclose(colour[2], (first - first.min()) / np.ptp(first), rtol=1e-6)
    signed = st.show(net, layer="1")
    np.testing.assert_array_equal(images(signed), net[1].weight.data.reshape(8, 3, 3))
    low, high = signed.axes[0].images[0].get_clim()
    assert -low == high == np.abs(net[1].weight.data).max()


def test_feature_maps():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU()).eval()
    x = np.random.default_rng(0).normal(size=(2, 1, 8, 8)).astype(np.float32)
    np.testing.assert_array_equal(images(st.show(net, x, layer="1")), net(x[:1])[0])


def test_constant_images_and_maps_are_drawn():
    assert images(st.show(np.ones((1, 1, 2, 2))))[0].max() == 0
    net = nn.Sequential(nn.Conv2d(1, 1, 1))
    net[0].weight.assign(np.zeros((1, 1, 1, 1)))
    st.show(net).savefig("/dev/null", format="png")


@pytest.mark.parametrize(
    ("arguments", "options", "error", "says"),
    [
        ((np.zeros((3, 4, 4)),), {}, ShapeError, "batch axis"),
        ((np.zeros((1, 2, 4, 4)),), {}, ShapeError, "1 or 3"),
        ((nn.ReLU(),), {}, ArgumentError, "no convolution"),
        ((nn.Sequential(nn.ReLU()),), {"layer": "0"}, ArgumentError, "no kernels"),
        ((np.zeros((2, 1, 4, 4)),), {"titles": ["a"]}, ArgumentError, "1 titles"),
        ((np.zeros((2, 1, 4, 4)),), {"most": 0}, ArgumentError, "at least 1"),
    ],
)
def test_wrong_uses(arguments, options, error, says):
    with pytest.raises(error, match=says):
        st.show(*arguments, **options)
