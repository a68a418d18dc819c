"""The errors that the choice goes by, against those measured with a float64 oracle."""

import numpy as np
import pytest

from striate.engine import build
from striate.graph import Trace
from striate.graph.ops.conv import Conv2d, ConvInputGrad, ConvWeightGrad
from tests.conv_oracle import convolution, input_gradient, weight_gradient

ONES = ((1, 1), (1, 1))
LAYERS = ((1, 16, 28), (2, 32, 28), (1, 64, 28), (1, 128, 14), (1, 256, 14), (1, 512, 7))


def error(op, a, b, exact, algorithm):
    """(largest error relative to the RMS of the exact result, the one expected)."""
    with Trace() as trace:
        graph = trace.graph(op(trace.input("a", a.shape), trace.input("b", b.shape)))
    executable = build(graph, training=True, algorithm=algorithm)
    (choice,) = executable.program.choices
    assert choice.reason == "asked for"
    worst = np.abs(executable(a, b)[0] - exact).max()
    return worst / np.sqrt((exact**2).mean()), choice.way.error


@pytest.mark.parametrize("algorithm", ["direct", "winograd-f2", "winograd-f4"])
@pytest.mark.parametrize(("n", "c", "side"), LAYERS)
def test_expected_errors(n, c, side, algorithm):
    """Never half of what is measured, never four times as much."""
    rng = np.random.default_rng(c)
    x, g = (rng.standard_normal((n, c, side, side), np.float32) for _ in "xg")
    w = (rng.standard_normal((c, c, 3, 3)) / (9 * c) ** 0.5).astype(np.float32)
    forward = Conv2d((1, 1), ONES), x, w, convolution(x, w, (side, side), begin=(1, 1))
    turned = input_gradient(g, w, (side, side), begin=(1, 1))
    backward = ConvInputGrad((1, 1), ONES, in_h=side, in_w=side), g, w, turned
    for op, a, b, exact in (forward, backward):
        measured, expected = error(op, a, b, exact, algorithm)
        assert measured / 2 < expected < 4 * measured
    if c <= 128:
        exact = weight_gradient(x, g, (3, 3), begin=(1, 1))
        op = ConvWeightGrad((1, 1), ONES, kh=3, kw=3)
        measured, expected = error(op, x, g, exact, algorithm)
        assert measured / 2 < expected < 6 * measured  # chunks err less, up to √8 times
