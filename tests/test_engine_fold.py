"""Factors of channels go into the weights of the convolution before them (inference)."""

import numpy as np
import pytest

import striate.functional as F
from striate import nn
from striate.engine.expand import expand
from striate.engine.fold import fold_factors
from striate.graph import evaluate, typecheck
from striate.graph.ops.eltwise import Map
from striate.nn.tracing import trace_module
from tests.small_nets import picture


class Twice(nn.Module):
    """The convolution's own result is wanted too."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        y = self.conv(x)
        return self.bn(y), y


class Between(nn.Module):
    """A ReLU stands between."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        return self.bn(F.relu(self.conv(x)))


NETS = {
    "no bias": (nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)), True),
    "bias": (nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()), True),
    "depthwise": (nn.Sequential(nn.Conv2d(3, 3, 3, groups=3), nn.BatchNorm2d(3)), True),
    "one by one": (nn.Sequential(nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5)), True),
    "two readers": (Twice(), False),
    "something between": (Between(), False),
    "transposed": (nn.Sequential(nn.ConvTranspose2d(3, 4, 3), nn.BatchNorm2d(4)), False),
}


def seeded(net):
    rng = np.random.default_rng(0)
    state = {k: rng.uniform(0.4, 1.4, v.shape) for k, v in net.state_dict().items()}
    net.load_state_dict(state)
    return net.eval()


@pytest.mark.parametrize(("net", "folds"), NETS.values(), ids=NETS)
def test_it_means_the_same(net, folds):
    graph = expand(trace_module(seeded(net), [(2, 3, 7, 6)], training=False).graph)
    folded = typecheck(fold_factors(graph))
    x = [picture(2, 3, 7, 6).astype(np.float64)]
    for a, b in zip(evaluate(graph, x, np.float64), evaluate(folded, x, np.float64), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)
    changed = [str(n) for n in folded.nodes()] != [str(n) for n in graph.nodes()]
    assert changed == folds
    if folds:
        images = [n for n in folded.nodes() if isinstance(n.op, Map) and n.types[0].shape[0] == 2]
        assert not [n for n in images if n.op.kind == "mul"]


@pytest.mark.parametrize("net", [net for net, _ in NETS.values()], ids=NETS)
def test_a_program_gives_what_numpy_does(net):
    x = picture(2, 3, 9, 8)
    graph = trace_module(seeded(net), [x.shape], training=False).graph
    expected = evaluate(graph, [x.astype(np.float64)], np.float64)
    found = net(x)
    for a, b in zip(found if isinstance(found, tuple) else (found,), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_new_statistics_are_seen():
    net = seeded(NETS["bias"][0])
    x = picture(1, 3, 8, 8)
    before = net(x)
    net[1].running_var.assign(np.full(4, 9.0))
    after = net(x)
    assert not np.allclose(before, after)
    fresh = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    fresh.load_state_dict(net.state_dict())
    np.testing.assert_array_equal(fresh(x), after)
