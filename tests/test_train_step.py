"""The compiled step against PyTorch's loop."""

import numpy as np
import pytest

import striate as st
from striate import nn
from striate.train.step import Evaluation


def data(n=4, channels=2, size=9, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, channels, size, size)).astype(np.float32)
    return x, rng.integers(0, classes, n)


def build(lib):
    """A small net with every kind of layer that has weights or branches of its own."""

    class Block(lib.Module):
        def __init__(self, channels):
            super().__init__()
            self.conv = lib.Conv2d(channels, channels, 3, padding=1, groups=2)
            self.bn = lib.BatchNorm2d(channels)
            self.act = lib.PReLU(channels)

        def forward(self, x):
            return self.act(self.bn(self.conv(x)) + x)

    return lib.Sequential(
        lib.Conv2d(2, 4, 3, stride=2, padding=1, bias=False),
        lib.BatchNorm2d(4),
        lib.SiLU(),
        Block(4),
        lib.MaxPool2d(2, padding=1),
        lib.ConvTranspose2d(4, 4, 2, stride=2),
        lib.Hardswish(),
        lib.AvgPool2d(2, ceil_mode=True),
        lib.Conv2d(4, 6, 2, dilation=2, padding=1, padding_mode="reflect"),
        lib.GELU(),
        lib.AdaptiveAvgPool2d(2),
        lib.Flatten(),
        lib.Linear(24, 5),
        lib.Tanh(),
        lib.Linear(5, 3),
    )


def pair(torch, make=build, seed=0):
    torch.manual_seed(seed)
    theirs = make(torch.nn)
    ours = make(nn)
    ours.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
    return ours, theirs.train()


def torch_step(torch, net, optimizer, x, y, loss=None, clip=None):
    optimizer.zero_grad()
    loss = loss or torch.nn.functional.cross_entropy
    value = loss(net(torch.from_numpy(x)), torch.from_numpy(y))
    value.backward()
    if clip is not None:
        torch.nn.utils.clip_grad_norm_(net.parameters(), clip)
    optimizer.step()
    return value.item()


def assert_same_state(ours, theirs, rtol=2e-4, atol=2e-5):
    state = ours.state_dict()
    for key, value in theirs.state_dict().items():
        np.testing.assert_allclose(state[key], value.numpy(), rtol, atol, err_msg=key)


def test_three_steps_of_sgd_on_every_kind_of_layer():
    torch = pytest.importorskip("torch")
    ours, theirs = pair(torch)
    optimizer = torch.optim.SGD(theirs.parameters(), 0.05, momentum=0.9, weight_decay=1e-2)
    step = st.compile_step(ours, optimizer=st.optim.SGD(0.05, momentum=0.9, weight_decay=1e-2))
    ours.eval()  # a step trains whatever the mode is
    for i in range(3):
        x, y = data(seed=i)
        expected = torch_step(torch, theirs, optimizer, x, y)
        assert step(x, y) == pytest.approx(expected, rel=1e-4)
        assert_same_state(ours, theirs)
    assert not ours.training
    x, _ = data(seed=9)
    expected = theirs.eval()(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(ours(x), expected, rtol=1e-3, atol=1e-4)


OPTIMIZERS = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    ("SGD", {"lr": 0.1, "momentum": 0.8, "dampening": 0.3}),
    ("Adam", {"lr": 0.01}),
    ("Adam", {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.05}),
    ("Adam", {"lr": 0.01, "amsgrad": True}),
    ("AdamW", {"lr": 0.01}),
    ("AdamW", {"lr": 0.01, "weight_decay": 0.3, "amsgrad": True}),
    ("RMSprop", {"lr": 0.01}),
    ("RMSprop", {"lr": 0.01, "alpha": 0.9, "eps": 1e-4, "weight_decay": 0.05}),
    ("RMSprop", {"lr": 0.01, "momentum": 0.9, "centered": True}),
]


def small(lib):
    return lib.Sequential(lib.Conv2d(2, 3, 3), lib.ReLU(), lib.Flatten(), lib.Linear(27, 3))


@pytest.mark.parametrize(("name", "options"), OPTIMIZERS)
def test_an_optimizer_follows_torch_over_five_steps(name, options):
    torch = pytest.importorskip("torch")
    ours, theirs = pair(torch, small)
    optimizer = getattr(torch.optim, name)(theirs.parameters(), **options)
    step = st.compile_step(ours, optimizer=getattr(st.optim, name)(**options))
    for i in range(5):
        if i == 3:  # the rate changes on the way
            step.lr = optimizer.param_groups[0]["lr"] = options["lr"] / 3
        x, y = data(size=5, seed=i)
        expected = torch_step(torch, theirs, optimizer, x, y)
        assert step(x, y) == pytest.approx(expected, rel=1e-4)
    assert_same_state(ours, theirs)


def test_decay_of_biases_can_be_left_out():
    torch = pytest.importorskip("torch")
    ours, theirs = pair(torch, small)
    groups = [
        {"params": [p for p in theirs.parameters() if p.ndim > 1], "weight_decay": 0.5},
        {"params": [p for p in theirs.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(groups, 0.1)
    rule = st.optim.SGD(0.1, weight_decay=0.5, decay_norm_bias=False)
    step = st.compile_step(ours, optimizer=rule)
    for i in range(2):
        x, y = data(size=5, seed=i)
        torch_step(torch, theirs, optimizer, x, y)
        step(x, y)
    assert_same_state(ours, theirs)


@pytest.mark.parametrize(
    ("options", "torch_options"),
    [
        ({"label_smoothing": 0.2}, {"label_smoothing": 0.2}),
        ({"class_weights": [1.0, 2.0, 0.5]}, {"weight": [1.0, 2.0, 0.5]}),
        (
            {"label_smoothing": 0.1, "class_weights": [3, 1, 1]},
            {"label_smoothing": 0.1, "weight": [3.0, 1.0, 1.0]},
        ),
        ({"clip_norm": 0.3}, {}),
    ],
)
def test_options_of_the_step(options, torch_options):
    torch = pytest.importorskip("torch")
    ours, theirs = pair(torch, small)
    optimizer = torch.optim.SGD(theirs.parameters(), 0.1)
    if "weight" in torch_options:
        torch_options = torch_options | {"weight": torch.tensor(torch_options["weight"])}

    def loss(output, target):
        return torch.nn.functional.cross_entropy(output, target, **torch_options)

    step = st.compile_step(ours, optimizer=st.optim.SGD(0.1), **options)
    for i in range(3):
        x, y = data(size=5, seed=i)
        expected = torch_step(torch, theirs, optimizer, x, y, loss, options.get("clip_norm"))
        assert step(x, y) == pytest.approx(expected, rel=1e-4)
    assert_same_state(ours, theirs)


@pytest.mark.parametrize("name", ["mse", "bce", "function", "probabilities"])
def test_losses(name):
    torch = pytest.importorskip("torch")
    ours, theirs = pair(torch, small)
    x, _ = data(size=5)
    y = np.random.default_rng(1).dirichlet(np.ones(3), 4).astype(np.float32)
    functional = torch.nn.functional
    ours_loss, theirs_loss = {
        "mse": ("mse", functional.mse_loss),
        "bce": ("bce", functional.binary_cross_entropy_with_logits),
        "function": (lambda o, t: abs(o - t).mean(), functional.l1_loss),
        "probabilities": ("cross_entropy", functional.cross_entropy),
    }[name]
    optimizer = torch.optim.SGD(theirs.parameters(), 0.1)
    step = st.compile_step(ours, ours_loss, st.optim.SGD(0.1))
    for _ in range(2):
        expected = torch_step(torch, theirs, optimizer, x, y, theirs_loss)
        assert step(x, y) == pytest.approx(expected, rel=1e-4)
    assert_same_state(ours, theirs)


def test_a_shared_weight_gets_the_sum_of_its_gradients():
    torch = pytest.importorskip("torch")

    def tied(lib):
        net = lib.Sequential(lib.Flatten(), lib.Linear(3, 3), lib.Tanh(), lib.Linear(3, 3))
        net[3].weight = net[1].weight
        return net

    ours, theirs = pair(torch, tied)
    x, y = data(channels=3, size=1)
    optimizer = torch.optim.SGD(theirs.parameters(), 0.5, momentum=0.9)
    step = st.compile_step(ours, optimizer=st.optim.SGD(0.5, momentum=0.9))
    for _ in range(3):
        torch_step(torch, theirs, optimizer, x, y)
        step(x, y)
    assert_same_state(ours, theirs)
    np.testing.assert_array_equal(ours[1].weight.data, ours[3].weight.data)


def test_one_net_trains_on_several_sizes_with_one_state():
    torch = pytest.importorskip("torch")

    def free(lib):
        return lib.Sequential(
            lib.Conv2d(2, 3, 3), lib.AdaptiveAvgPool2d(1), lib.Flatten(), lib.Linear(3, 3)
        )

    ours, theirs = pair(torch, free)
    optimizer = torch.optim.Adam(theirs.parameters(), 0.01)
    step = st.compile_step(ours, optimizer=st.optim.Adam(0.01))
    for n, size in ((4, 5), (2, 7), (4, 5), (3, 6)):
        x, y = data(n=n, size=size)
        expected = torch_step(torch, theirs, optimizer, x, y)
        assert step(x, y) == pytest.approx(expected, rel=1e-4)
    assert_same_state(ours, theirs)


def test_frozen_weights_stay():
    net = small(nn)
    net[0].requires_grad_(False)
    before = net.state_dict()
    step = st.compile_step(net, optimizer=st.optim.SGD(0.1, weight_decay=0.1))
    step(*data(size=5))
    after = net.state_dict()
    np.testing.assert_array_equal(after["0.weight"], before["0.weight"])
    assert np.any(after["3.weight"] != before["3.weight"])
    net[0].requires_grad_(True)
    step(*data(size=5))
    assert np.any(net.state_dict()["0.weight"] != before["0.weight"])


def test_averages_follow_the_weights():
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(27, 3))
    step = st.compile_step(net, optimizer=st.optim.SGD(0.1), ema=0.75)
    average = {k: v for k, v in net.state_dict().items() if v.dtype == np.float32}
    for i in range(3):
        step(*data(size=5, seed=i))
        now = net.state_dict()
        average = {k: 0.75 * v + 0.25 * now[k] for k, v in average.items()}
    with step.averaged():
        inside = net.state_dict()
    for key, value in average.items():
        np.testing.assert_allclose(inside[key], value, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(net.state_dict()[key], now[key])


def test_a_loss_that_is_not_finite_changes_nothing():
    net = build(nn)
    step = st.compile_step(net, optimizer=st.optim.Adam(0.1), ema=0.9)
    step(*data())
    before, (_, state) = net.state_dict(), step.state_dict()
    x, y = data()
    x[0, 0, 0, 0] = np.inf
    assert not np.isfinite(step(x, y))
    for key, value in net.state_dict().items():
        if value.dtype == np.float32:
            np.testing.assert_array_equal(value, before[key], err_msg=key)
    for key, value in step.state_dict()[1].items():
        np.testing.assert_array_equal(value, state[key], err_msg=key)
    assert step.steps == 1


def test_results_hold_the_outputs_before_the_update():
    net = small(nn).eval()
    x, y = data(size=5)
    before = net(x)
    result = st.compile_step(net).run(x, y)
    np.testing.assert_allclose(result.outputs, before, rtol=1e-5, atol=1e-6)
    logp = before - np.log(np.exp(before).sum(1, keepdims=True))
    assert result.loss == pytest.approx(-logp[np.arange(4), y].mean(), rel=1e-5)
    assert np.any(net(x) != before)


def test_evaluation_ignores_the_mode_and_changes_nothing():
    net = build(nn).train()
    x, y = data()
    before = net.state_dict()
    result = Evaluation(net).run(x, y)
    for key, value in net.state_dict().items():
        np.testing.assert_array_equal(value, before[key])
    np.testing.assert_allclose(result.outputs, net.eval()(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda s, x, y: s(x, y + 1), st.ArgumentError, "label 3"),
        (lambda s, x, y: s(x, y - 5), st.ArgumentError, "label -"),
        (lambda s, x, y: s(x, y[:2]), st.ShapeError, "shape"),
        (lambda s, x, _: s(x, ["a"] * 4), st.DTypeError, "targets"),
        (lambda s, x, y: s(x[:, :1], y), st.ShapeError, "^0: "),
        (lambda s, *_: setattr(s, "momentum", 0.5), st.ArgumentError, "momentum"),
    ],
)
def test_wrong_calls(call, error, words):
    x, y = data(size=5)
    y[:] = 2
    step = st.compile_step(small(nn), optimizer=st.optim.SGD(0.1))
    with pytest.raises(error, match=words):
        call(step, x, y)


@pytest.mark.parametrize(
    "make",
    [
        lambda: st.compile_step(small(nn), "entropy"),
        lambda: st.compile_step(small(nn), clip_norm=0.0),
        lambda: st.compile_step(small(nn), ema=1.0),
        lambda: st.compile_step(small(nn), "mse", label_smoothing=0.1),
        lambda: st.optim.SGD(-1.0),
        lambda: st.optim.SGD(0.1, nesterov=True),
        lambda: st.optim.Adam(betas=(0.9, 1.0)),
        lambda: st.optim.RMSprop(momentum=-0.1),
    ],
)
def test_wrong_arguments(make):
    with pytest.raises(st.ArgumentError):
        make()


def test_a_flipped_kernel_learns_the_kernel_turned_by_180_degrees():
    rng = np.random.default_rng(0)
    true = rng.standard_normal((1, 1, 3, 3)).astype(np.float32)
    x = rng.standard_normal((8, 1, 8, 8)).astype(np.float32)
    y = st.functional.conv2d(x, true)
    learned = []
    for flip in (False, True):
        layer = nn.Conv2d(1, 1, 3, bias=False, flip_kernel=flip)
        step = st.compile_step(layer, "mse", st.optim.SGD(0.2, momentum=0.5))
        for _ in range(40):
            loss = step(x, y)
        assert loss < 1e-6
        learned.append(layer.weight.data)
    np.testing.assert_allclose(learned[0], true, atol=1e-2)
    np.testing.assert_allclose(learned[1], true[:, :, ::-1, ::-1], atol=1e-2)
