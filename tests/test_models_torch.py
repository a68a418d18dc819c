"""The larger networks against the same nets in `torch.nn` (bench/nets.py)."""

import numpy as np
import pytest

import striate as st

NAMES = ("resnet50", "squeezenet1_1", "densenet121", "mobilenet_v2")


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def pair(torch, name, x, **options):
    """Our net and torch's with the same weights, and statistics that fit them and the images."""
    from bench import nets

    st.manual_seed(0)
    ours, theirs = st.models.create(name, **options), getattr(nets, name)(**options)
    theirs.load_state_dict({k: torch.from_numpy(v) for k, v in ours.state_dict().items()})
    torch.manual_seed(0)
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.1)
            module.momentum = 1.0
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    with torch.no_grad():
        theirs.train()(torch.from_numpy(x))
    ours.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
    for module in ours.modules():
        if isinstance(module, st.nn.Dropout):
            module.p = 0.0
    return ours, theirs


def images(n, channels=3, side=64):
    return np.random.default_rng(0).standard_normal((n, channels, side, side)).astype(np.float32)


@pytest.mark.parametrize("name", NAMES)
def test_outputs_equal_torchs(torch, name):
    x = images(3, channels=2)
    ours, theirs = pair(torch, name, x, num_classes=7, in_channels=2)
    with torch.no_grad():
        expected = theirs.eval().double()(torch.from_numpy(x).double()).numpy()
    assert np.ptp(expected, axis=0).max() > 0.01 * np.abs(expected).max()  # it depends on x
    assert np.abs(ours.eval()(x) - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("name", ["squeezenet1_1", "mobilenet_v2"])
def test_loss_and_gradients_of_a_training_step_equal_torchs(torch, name):
    """With SGD at rate 1 a step changes each weight by its gradient."""
    x, y = images(4), np.arange(4)
    ours, theirs = pair(torch, name, x, num_classes=5)
    theirs.train().double()
    loss = torch.nn.functional.cross_entropy(
        theirs(torch.from_numpy(x).double()), torch.from_numpy(y)
    )
    loss.backward()
    before = {key: np.array(p.data) for key, p in ours.named_parameters()}
    found = st.compile_step(ours, optimizer=st.optim.SGD(1.0))(x, y)
    assert found == pytest.approx(loss.item(), rel=1e-4)
    gradients = {key: p.grad.numpy() for key, p in theirs.named_parameters()}
    largest = max(np.linalg.norm(g) for g in gradients.values())
    for key, param in ours.named_parameters():
        error = np.linalg.norm(before[key] - param.data - gradients[key])
        # some gradients are 0 but for rounding, so a share of the largest is allowed too
        assert error < 2e-3 * np.linalg.norm(gradients[key]) + 1e-5 * largest, key
