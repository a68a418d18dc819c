"""Layers that torch.nn lacks, and gradients of those that normalise within an image."""

import numpy as np
import pytest

import striate as st
import striate.functional as F
from striate import nn


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def picture(*shape):
    return np.random.default_rng(0).standard_normal(shape, np.float32)


GRADIENTS = [
    ("GroupNorm", (2, 4), {}),
    ("InstanceNorm2d", (4,), {"affine": True}),
    ("LayerNorm", (6,), {}),
    ("LocalResponseNorm", (3,), {"alpha": 0.5}),
    ("Softplus", (), {}),
    ("Mish", (), {}),
    ("ChannelShuffle", (2,), {}),
    ("PixelShuffle", (2,), {}),
]


@pytest.mark.parametrize(("name", "args", "options"), GRADIENTS, ids=[g[0] for g in GRADIENTS])
def test_gradients_equal_torchs(torch, name, args, options):
    """With SGD at rate 1 a step changes each weight by its gradient."""
    x = picture(2, 4, 5, 6)
    ours = nn.Sequential(nn.Conv2d(4, 4, 1), getattr(nn, name)(*args, **options), nn.Flatten())
    theirs = torch.nn.Sequential(
        torch.nn.Conv2d(4, 4, 1), getattr(torch.nn, name)(*args, **options), torch.nn.Flatten()
    )
    theirs.load_state_dict({k: torch.from_numpy(v) for k, v in ours.state_dict().items()})
    before = ours.state_dict()
    y = picture(2, 120)
    loss = torch.nn.functional.mse_loss(theirs.double()(torch.from_numpy(x).double()),
                                        torch.from_numpy(y).double())  # fmt: skip
    loss.backward()
    step = st.compile_step(ours, "mse", st.optim.SGD(1.0))
    assert step(x, y) == pytest.approx(loss.item(), rel=1e-5)
    for key, p in theirs.named_parameters():
        found = before[key] - ours.state_dict()[key]
        np.testing.assert_allclose(found, p.grad.numpy(), rtol=1e-3, atol=1e-5, err_msg=key)


def test_local_norms_stay_exact_where_the_mean_is_large():
    x = picture(2, 4, 8, 8) + 1000
    exact = x.astype(np.float64)
    for axes, y in (((2, 3), F.instance_norm(x)), ((1,), F.layer_norm2d(x))):
        centred = exact - exact.mean(axes, keepdims=True)
        expected = centred / np.sqrt((centred**2).mean(axes, keepdims=True) + 1e-5)
        np.testing.assert_allclose(y, expected, atol=2e-3)


def test_layer_norm_2d_is_layer_norm_with_channels_last(torch):
    theirs = torch.nn.LayerNorm(5, eps=1e-6)
    ours = nn.LayerNorm2d(5).eval()
    assert list(ours.state_dict()) == ["weight", "bias"]
    weights = {"weight": np.linspace(0.5, 2, 5), "bias": np.linspace(-1, 1, 5)}
    ours.load_state_dict(weights)
    theirs.load_state_dict({k: torch.from_numpy(v) for k, v in weights.items()})
    x = picture(2, 5, 3, 4)
    expected = theirs(torch.from_numpy(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    np.testing.assert_allclose(ours(x), expected.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_squeeze_excitation_is_torchvisions(torch):
    ours = nn.SqueezeExcitation(8, 3, nn.SiLU, nn.Hardsigmoid).eval()
    assert list(ours.state_dict()) == ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"]
    assert [name for name, _ in ours.named_children()][:3] == ["avgpool", "fc1", "fc2"]
    x = picture(2, 8, 5, 6)
    t = {k: torch.from_numpy(v) for k, v in ours.state_dict().items()}
    functional = torch.nn.functional
    s = torch.from_numpy(x).mean((2, 3), keepdim=True)
    s = functional.silu(functional.conv2d(s, t["fc1.weight"], t["fc1.bias"]))
    s = functional.hardsigmoid(functional.conv2d(s, t["fc2.weight"], t["fc2.bias"]))
    np.testing.assert_allclose(ours(x), (s * torch.from_numpy(x)).numpy(), rtol=1e-5, atol=1e-6)


class TestStochasticDepth:
    def test_whole_samples_are_dropped_and_the_others_raised(self):
        layer = nn.StochasticDepth(0.25, seed=1)
        y = layer(np.ones((4096, 2, 2, 3), np.float32))
        assert (y == y[:, :1, :1, :1]).all()
        values, counts = np.unique(y[:, 0, 0, 0], return_counts=True)
        np.testing.assert_allclose(values, [0, 1 / 0.75], rtol=1e-6)
        # 4 standard deviations of a binomial share
        assert abs(counts[0] / 4096 - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 4096)

    def test_a_batch_has_one_fate(self):
        layer = nn.StochasticDepth(0.5, "batch", seed=1)
        runs = [layer(np.ones((8, 1, 2, 2), np.float32)) for _ in range(24)]
        assert {tuple(np.unique(run)) for run in runs} == {(0.0,), (2.0,)}

    def test_nothing_happens_in_evaluation(self):
        x = picture(2, 3, 4, 4)
        np.testing.assert_array_equal(nn.StochasticDepth(0.9).eval()(x), x)
        np.testing.assert_array_equal(nn.StochasticDepth(0.0)(x), x)


def test_converted_batch_norms_keep_their_arrays():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.BatchNorm2d(4, bias=False)))
    before = dict(net.named_parameters())
    state = list(net.state_dict())
    same = nn.SyncBatchNorm.convert_sync_batchnorm(net.eval())
    assert same is net
    assert type(net[1][0]) is nn.SyncBatchNorm
    assert not net[1][0].training
    assert list(net.state_dict()) == state
    assert dict(net.named_parameters()) == before
    alone = nn.SyncBatchNorm.convert_sync_batchnorm(nn.BatchNorm2d(4, momentum=None))
    assert type(alone) is nn.SyncBatchNorm
    assert alone.momentum is None


def test_channels_that_do_not_divide():
    with pytest.raises(st.ShapeError, match="3 channels do not divide into groups=2"):
        nn.ChannelShuffle(2)(picture(1, 3, 2, 2))
    with pytest.raises(st.ShapeError, match="no multiple of upscale_factor² = 4"):
        nn.PixelShuffle(2)(picture(1, 6, 2, 2))
    with pytest.raises(st.ShapeError, match="num_groups=3"):
        F.group_norm(picture(1, 4, 2, 2), 3)
    with pytest.raises(st.ShapeError, match="normalized_shape"):
        F.layer_norm(picture(1, 4, 2, 2), 3)
    with pytest.raises(st.ShapeError, match="one pixel"):
        F.instance_norm(picture(1, 4, 1, 1))
    with pytest.raises(st.ArgumentError, match="size"):
        F.local_response_norm(picture(1, 4, 1, 1), 0)
    with pytest.raises(st.ArgumentError, match="beta"):
        F.softplus(picture(3), beta=0)
