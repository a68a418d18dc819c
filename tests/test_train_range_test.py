"""The learning-rate range test on problems whose answer is known, and `striate lr-find`."""

import itertools

import numpy as np
import pytest
from PIL import Image

import striate as st
from striate import nn
from striate.errors import ArgumentError
from striate.train.batches import ArrayBatches
from striate.train.range_test import SMOOTHING, STOP_AT, _longest_fall, range_test, suggest
from tests.cli_run import cli, make_pictures  # noqa: F401 - fixture


def state(net):
    params = [*net.named_parameters(), *net.named_buffers(transient=True)]
    return {name: p.data.tobytes() for name, p in params}


def line():
    """0 = w·x on one weight, w = 3 at first: loss = mean w²·x², so SGD diverges beyond rate 1."""
    rng = np.random.default_rng(0)
    x = rng.choice([-1.0, 1.0], (32, 1)).astype(np.float32)
    net = nn.Linear(1, 1, bias=False)
    net.weight.assign(np.full((1, 1), 3, np.float32))
    return net, ArrayBatches(x, 0 * x, 32)


def test_losses_are_those_of_gradient_descent():
    net, batches = line()
    found = range_test(net, batches, st.optim.SGD(0.1), start=1e-3, end=1e2, steps=60, loss="mse")
    # w ← w − 2·rate·w, for mean x² = 1
    w, mean, smooth = 3.0, 0.0, []
    for i in range(60):
        rate, loss = 1e-3 * 1e5 ** (i / 59), w**2
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        present = mean / (1 - SMOOTHING ** (i + 1))
        if i and present > STOP_AT * min(smooth):
            break
        smooth.append(present)
        assert found.rates[i] == pytest.approx(rate)
        assert found.losses[i] == pytest.approx(loss, rel=1e-3)
        w -= 2 * rate * w
    assert len(found.rates) == len(smooth) < 60
    np.testing.assert_allclose(found.smooth, smooth, rtol=1e-3)
    # both suggestions train, and the rate that diverges (1) lies above them
    assert 1e-3 < found.valley < 1
    assert 1e-3 < found.steepest < 1


def test_nothing_of_the_net_changes():
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(),
        nn.Linear(108, 2),
    )  # fmt: skip
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 1, 8, 8)).astype(np.float32)
    before = state(net)
    range_test(net, ArrayBatches(x, rng.integers(0, 2, 20), 8), st.optim.Adam(0.1), steps=12)
    assert state(net) == before

    def broken(done, total):
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError):
        range_test(net, ArrayBatches(x, rng.integers(0, 2, 20), 8), st.optim.Adam(0.1),
                   progress=broken)  # fmt: skip
    assert state(net) == before


def test_suggestions_of_a_curve_by_hand():
    rates = [10.0**k for k in range(12)]
    falls = [9, 9, 9, 9, 9, 8, 6, 2, 1, 1.5, 5, 9]
    steepest, valley = suggest(rates, falls)
    assert steepest == 1e6  # slope (2 − 8) / 2 there, the lowest
    assert valley == 1e7  # falls 9 … 1: the first point at or below 5
    assert suggest(rates, [1.0 + k for k in range(12)]) == (None, None)
    assert suggest(rates[:5], falls[:5]) == (None, None)


def test_longest_fall_against_all_subsequences():
    rng = np.random.default_rng(1)
    for _ in range(40):
        values = rng.integers(0, 6, 8).tolist()
        longest = max(
            length
            for length in range(1, 9)
            for chosen in itertools.combinations(range(8), length)
            if all(values[a] > values[b] for a, b in itertools.pairwise(chosen))
        )
        first, last = _longest_fall(values)
        inner = [
            len(chosen) + 2
            for length in range(7)
            for chosen in itertools.combinations(range(first + 1, last), length)
            if all(values[a] > values[b] for a, b in itertools.pairwise([first, *chosen, last]))
        ]
        assert max([1, *inner] if first == last else inner) == longest


@pytest.mark.parametrize(
    ("options", "says"),
    [({"start": 0.0}, "above 0"), ({"start": 2.0}, "rise"), ({"steps": 3}, "at least 10")],
)
def test_arguments_out_of_range(options, says):
    net, batches = line()
    with pytest.raises(ArgumentError, match=says):
        range_test(net, batches, st.optim.SGD(0.1), loss="mse", **options)


def test_command(cli, tmp_path):
    pictures = make_pictures(tmp_path / "p", count=20)
    done = cli("lr-find", pictures, "--steps", 30, "--batch-size", 8, "--out", "p.png", "--json")
    assert done.code == 0
    found = done.json
    assert len(found["rates"]) == len(found["losses"]) == len(found["smooth"]) <= 30
    assert found["rates"][0] == pytest.approx(1e-6)
    assert found["plot"] == "p.png"
    with Image.open(tmp_path / "p.png") as picture:
        picture.load()
    assert "--start" in cli("lr-find", pictures, "--start", 2).error
    assert cli("lr-find", pictures, "--epochs", 2).code == 2
    assert cli("lr-find").code == 2
