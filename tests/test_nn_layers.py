"""Layers against PyTorch's of the same name, arguments and state."""

import numpy as np
import pytest

import striate as st
from striate import nn

IMAGE = (2, 4, 7, 6)

# name, positional and keyword arguments, input shape
LAYERS = [
    ("Conv2d", (4, 6, 3), {}, IMAGE),
    ("Conv2d", (4, 6, (3, 2)), {"stride": (2, 1), "padding": (1, 0), "dilation": 2}, IMAGE),
    ("Conv2d", (4, 6, 3), {"padding": "same", "groups": 2, "bias": False}, IMAGE),
    ("Conv2d", (4, 4, 3), {"padding": 1, "groups": 4, "padding_mode": "reflect"}, IMAGE),
    ("ConvTranspose2d", (4, 6, 3), {}, IMAGE),
    (
        "ConvTranspose2d",
        (4, 6, (3, 2)),
        {"stride": 2, "padding": 1, "output_padding": (1, 0), "groups": 2, "bias": False},
        IMAGE,
    ),
    ("Linear", (6, 5), {}, IMAGE),
    ("Linear", (6, 5), {"bias": False}, (3, 6)),
    ("BatchNorm2d", (4,), {}, IMAGE),
    ("BatchNorm2d", (4,), {"eps": 1e-2, "momentum": 0.3}, IMAGE),
    ("BatchNorm2d", (4,), {"momentum": None}, IMAGE),
    ("BatchNorm2d", (4,), {"affine": False}, IMAGE),
    ("BatchNorm2d", (4,), {"bias": False}, IMAGE),
    ("BatchNorm2d", (4,), {"track_running_stats": False}, IMAGE),
    ("MaxPool2d", (3,), {"stride": 2, "padding": 1}, IMAGE),
    ("MaxPool2d", (2,), {"dilation": 2, "ceil_mode": True}, IMAGE),
    ("AvgPool2d", (2,), {}, IMAGE),
    ("AvgPool2d", (3, 2, 1, True, False), {}, IMAGE),
    ("AvgPool2d", (2,), {"divisor_override": 3}, IMAGE),
    ("LPPool2d", (2, 3), {"stride": 2}, IMAGE),
    ("AdaptiveAvgPool2d", ((3, None),), {}, IMAGE),
    ("AdaptiveAvgPool2d", (1,), {}, IMAGE),
    ("AdaptiveMaxPool2d", (4,), {}, IMAGE),
    ("ReLU", (), {}, IMAGE),
    ("ReLU6", (), {}, IMAGE),
    ("LeakyReLU", (0.2,), {}, IMAGE),
    ("PReLU", (), {}, IMAGE),
    ("PReLU", (4, 0.1), {}, IMAGE),
    ("Sigmoid", (), {}, IMAGE),
    ("SiLU", (), {}, IMAGE),
    ("Hardsigmoid", (), {}, IMAGE),
    ("Hardswish", (), {}, IMAGE),
    ("Tanh", (), {}, IMAGE),
    ("GELU", (), {}, IMAGE),
    ("GELU", ("tanh",), {}, IMAGE),
    ("ELU", (0.7,), {}, IMAGE),
    ("Softmax", (1,), {}, IMAGE),
    ("Dropout", (0.0,), {}, IMAGE),
    ("Flatten", (), {}, IMAGE),
    ("Flatten", (2,), {}, IMAGE),
    ("Identity", (54,), {"unused": 1}, IMAGE),
    ("ZeroPad2d", ((1, 2, 0, 3),), {}, IMAGE),
    ("Upsample", (), {"scale_factor": 2}, IMAGE),
    ("Upsample", ((9, 9),), {"mode": "bilinear", "align_corners": True}, IMAGE),
    ("SyncBatchNorm", (4,), {"eps": 1e-3}, IMAGE),
    ("GroupNorm", (2, 4), {}, IMAGE),
    ("GroupNorm", (1, 4), {"eps": 1e-2}, IMAGE),
    ("GroupNorm", (4, 4), {"affine": False}, IMAGE),
    ("GroupNorm", (2, 6), {}, (3, 6)),
    ("InstanceNorm2d", (4,), {}, IMAGE),
    ("InstanceNorm2d", (4,), {"affine": True}, IMAGE),
    ("LayerNorm", (6,), {}, IMAGE),
    ("LayerNorm", ((7, 6),), {"bias": False}, IMAGE),
    ("LayerNorm", ((4, 7, 6), 1e-3, False), {}, IMAGE),
    ("LocalResponseNorm", (3,), {}, IMAGE),
    ("LocalResponseNorm", (2, 0.5, 0.6, 2.0), {}, IMAGE),
    ("Softplus", (), {}, IMAGE),
    ("Softplus", (30.0, 5.0), {}, IMAGE),
    ("Mish", (), {}, IMAGE),
    ("ChannelShuffle", (2,), {}, IMAGE),
    ("PixelShuffle", (2,), {}, (2, 8, 3, 5)),
]


@pytest.mark.parametrize(("name", "args", "options", "shape"), LAYERS)
@pytest.mark.parametrize("training", [True, False])
def test_a_layer_equals_torch(name, args, options, shape, training):
    torch = pytest.importorskip("torch")
    theirs = getattr(torch.nn, name)(*args, **options)
    ours = getattr(nn, name)(*args, **options)
    state = {key: value.numpy() for key, value in theirs.state_dict().items()}
    for key, value in state.items():  # statistics that are not at their starting point
        if key.startswith("running"):
            value[:] = np.linspace(0.5, 1.5, value.size)
    assert ours.load_state_dict(state) == ([], [])
    assert {k: v.shape for k, v in ours.state_dict().items()} == {
        k: v.shape for k, v in state.items()
    }
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    theirs.train(training)
    ours.train(training)
    for _ in range(2):
        expected = theirs(torch.from_numpy(x)).detach().numpy()
        np.testing.assert_allclose(ours(x), expected, rtol=2e-5, atol=2e-6)
    after = ours.state_dict()
    for key, value in theirs.state_dict().items():
        np.testing.assert_allclose(after[key], value.numpy(), rtol=1e-5, atol=1e-6, err_msg=key)
        assert after[key].dtype == value.numpy().dtype


@pytest.mark.parametrize(
    "layer",
    [
        ("Conv2d", (4, 6, 3), {"padding": 1, "bias": False}),
        ("ConvTranspose2d", (4, 6, 3), {"stride": 2}),
        ("BatchNorm2d", (4,), {}),
        ("Linear", (6, 5), {}),
        ("AdaptiveAvgPool2d", ((1, 1),), {}),
        ("Softmax", (1,), {}),
    ],
)
def test_repr_is_read_like_torch(layer):
    torch = pytest.importorskip("torch")
    name, args, options = layer
    theirs = repr(getattr(torch.nn, name)(*args, **options))
    ours = repr(getattr(nn, name)(*args, **options))
    assert ours.replace("padding=1", "padding=(1, 1)") == theirs


def test_default_initialisation_has_torchs_distribution():
    torch = pytest.importorskip("torch")
    st.manual_seed(3)
    torch.manual_seed(3)
    for name, args in (
        ("Conv2d", (16, 64, 3)),
        ("Linear", (128, 96)),
        ("ConvTranspose2d", (32, 48, 3)),
    ):
        ours, theirs = getattr(nn, name)(*args), getattr(torch.nn, name)(*args)
        for key in ("weight", "bias"):
            a, b = getattr(ours, key).data, getattr(theirs, key).detach().numpy()
            # uniform: the same bound, met to within the gap that so many draws leave
            assert abs(a).max() == pytest.approx(abs(b).max(), rel=0.15)
            assert a.std() == pytest.approx(b.std(), rel=0.15)


def test_seeds_give_the_same_weights_again():
    st.manual_seed(5)
    first = nn.Conv2d(3, 4, 3).state_dict()
    other = nn.Conv2d(3, 4, 3).state_dict()
    st.manual_seed(5)
    again = nn.Conv2d(3, 4, 3).state_dict()
    np.testing.assert_array_equal(first["weight"], again["weight"])
    assert np.any(first["weight"] != other["weight"])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: nn.Conv2d(3, 4, 3, groups=2), "in_channels=3 must be divisible by groups=2"),
        (lambda: nn.Conv2d(4, 3, 3, groups=2), "out_channels=3"),
        (lambda: nn.Conv2d(0, 3, 3), "in_channels"),
        (lambda: nn.Conv2d(3, 3, 0), "kernel_size"),
        (lambda: nn.Conv2d(3, 3, 3, stride=(1, 2, 3)), "stride"),
        (lambda: nn.Conv2d(3, 3, 3, padding_mode="mirror"), "padding_mode"),
        (lambda: nn.ConvTranspose2d(3, 3, 3, stride=2, output_padding=2), "output_padding=2"),
        (lambda: nn.Linear(3, -1), "out_features"),
        (lambda: nn.BatchNorm2d(3, eps=0), "eps"),
        (lambda: nn.Dropout(1.5), "1.5"),
        (lambda: nn.GELU("exact"), "approximate"),
        (lambda: nn.StochasticDepth(0.1, "column"), "column"),
        (lambda: nn.StochasticDepth(-1), "StochasticDepth: p must lie in 0..1, got -1"),
        (lambda: nn.GroupNorm(3, 4), "num_channels=4 must be divisible by num_groups=3"),
        (nn.Upsample, "size"),
        (lambda: nn.AdaptiveAvgPool2d(0), "output_size"),
        (lambda: nn.Sequential(nn.ReLU(), 3), "int"),
    ],
)
def test_bad_arguments_are_named(make, words):
    with pytest.raises(st.ArgumentError, match=words):
        make()


def test_running_statistics_of_instances_are_refused():
    with pytest.raises(st.UnsupportedError, match="track_running_stats"):
        nn.InstanceNorm2d(4, track_running_stats=True)


def test_one_value_per_channel_in_training_names_the_layer():
    net = nn.Sequential({"conv": nn.Conv2d(1, 2, 3), "norm": nn.BatchNorm2d(2)})
    with pytest.raises(st.ShapeError, match=r"^norm: .*more than 1 value per channel"):
        net(np.zeros((1, 1, 3, 3)))
    assert net.eval()(np.zeros((1, 1, 3, 3))).shape == (1, 2, 1, 1)


class TestDropout:
    def test_statistics(self):
        layer = nn.Dropout(0.25, seed=1)
        y = layer(np.ones((8, 4, 32, 32), np.float32))
        values, counts = np.unique(y, return_counts=True)
        np.testing.assert_allclose(values, [0, 1 / 0.75], rtol=1e-6)
        # 4 standard deviations of a binomial share
        assert abs(counts[0] / y.size - 0.25) < 4 * np.sqrt(0.25 * 0.75 / y.size)

    def test_each_run_is_another_and_a_seed_repeats_them(self):
        x = np.ones((1, 1, 16, 16), np.float32)
        first, second = nn.Dropout(seed=7), nn.Dropout(seed=7)
        runs = [first(x) for _ in range(3)]
        assert not np.array_equal(runs[0], runs[1])
        for run in runs:
            np.testing.assert_array_equal(second(x), run)
        assert not np.array_equal(nn.Dropout(seed=8)(x), runs[0])

    def test_evaluation_and_the_ends_of_p(self):
        x = np.random.default_rng(0).standard_normal((2, 3, 4, 4)).astype(np.float32)
        np.testing.assert_array_equal(nn.Dropout(0.9).eval()(x), x)
        np.testing.assert_array_equal(nn.Dropout(1.0)(x), 0 * x)

    def test_two_uses_in_one_forward_differ_and_repeat_with_the_key(self):
        class Twice(nn.Module):
            def __init__(self):
                super().__init__()
                self.drop = nn.Dropout(0.5, seed=3)

            def forward(self, x):
                return self.drop(x), self.drop(x)

        x = np.ones((1, 1, 16, 16), np.float32)
        one, other = Twice(), Twice()
        a, b = one(x)
        assert not np.array_equal(a, b)
        other.drop.key.assign(np.array([3, 0]))
        for mine, theirs in zip((a, b), other(x), strict=True):
            np.testing.assert_array_equal(mine, theirs)
