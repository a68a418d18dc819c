"""Networks with tricky parts against the same nets in `torch.nn` (tests/torch_zoo.py)."""

import numpy as np
import pytest

import striate as st
from bench.cases import TWINS
from striate import nn
from striate.graph.evaluate import evaluate
from striate.nn.tracing import trace_module

NATIVE = ["shufflenet_v2_x0_5", "mobilenet_v3_small"]
BY_MEANING = ["efficientnet_b0", "regnet_y_400mf", "convnext_tiny"]


STEMS = [name for name in TWINS if "stem" in st.models.options(name)]


def pair(torch, name, x):
    """torch's net with statistics that fit the images, and ours with its weights."""
    from tests import torch_zoo

    torch.manual_seed(0)
    theirs = getattr(torch_zoo, name)(5)
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.1)
            module.momentum = 1.0
    with torch.no_grad():
        theirs.train()(torch.from_numpy(x))
    with nn.init.skipped():
        ours = st.models.create(name, num_classes=5)
    state = {k: v.numpy() for k, v in theirs.state_dict().items()}
    assert list(ours.state_dict()) == list(state)
    ours.load_state_dict(state)
    back = {k: torch.from_numpy(v) for k, v in ours.state_dict().items()}
    theirs.load_state_dict(back)
    return ours.eval(), theirs.eval()


@pytest.mark.parametrize("name", [*NATIVE, *BY_MEANING])
def test_outputs_equal_torchs(name):
    """Native, or by the meaning of every operation, which takes no compilation."""
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).standard_normal((2, 3, 64, 64), np.float32)
    ours, theirs = pair(torch, name, x)
    if name in NATIVE:
        y = ours(x)
    else:
        (y,) = evaluate(trace_module(ours, [x.shape], training=False).graph, [x])
    with torch.no_grad():
        expected = theirs.double()(torch.from_numpy(x).double()).numpy()
    assert np.ptp(expected, axis=0).max() > 0.01 * np.abs(expected).max()  # it depends on x
    assert np.abs(y - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("stem", ["224", "32"])
@pytest.mark.parametrize("name", STEMS)
def test_nets_of_the_comparison_have_the_stems_of_ours(name, stem):
    torch = pytest.importorskip("torch")
    from bench import nets

    size = 64 if stem == "32" else 224
    theirs = getattr(nets, name.replace("-", "_"))(num_classes=5, stem=stem).eval()
    with torch.device("meta"):
        shape = theirs.to("meta")(torch.empty(1, 3, size, size)).shape
    with nn.init.skipped():
        ours = st.models.create(name, num_classes=5, stem=stem)
    assert tuple(shape) == (1, 5)
    widths = [p.shape for p in ours.parameters()]
    assert widths == [tuple(p.shape) for p in theirs.parameters()]
    maps = [m for m in theirs.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.MaxPool2d)]
    halvings = [m for m in ours.modules() if isinstance(m, nn.Conv2d | nn.MaxPool2d)]
    assert [_step(m.stride) for m in halvings] == [_step(m.stride) for m in maps]


def _step(stride):
    return (stride, stride) if isinstance(stride, int) else tuple(stride)
