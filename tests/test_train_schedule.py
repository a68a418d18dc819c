"""Schedules against PyTorch's."""

import json
import math

import pytest

import striate as st
from striate.schedule import Cosine, OneCycle, ReduceOnPlateau, Step, Warmup


def torch_rates(torch, make, steps, momentum=0.9):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.4, momentum=momentum)
    schedule = make(optimizer, torch.optim.lr_scheduler)
    rates = []
    for _ in range(steps):
        group = optimizer.param_groups[0]
        rates.append((group["lr"], group["momentum"]))
        optimizer.step()
        schedule.step()
    return rates


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (Cosine(T_max=10), lambda o, s: s.CosineAnnealingLR(o, 10)),
        (Cosine(eta_min=0.1), lambda o, s: s.CosineAnnealingLR(o, 10, 0.1)),
        (Step(3, 0.5), lambda o, s: s.StepLR(o, 3, 0.5)),
        (
            Warmup(Cosine(), 4, 0.1),
            lambda o, s: s.SequentialLR(
                o, [s.LinearLR(o, 0.1, 1.0, 4), s.CosineAnnealingLR(o, 6)], [4]
            ),
        ),
    ],
)
def test_rates(ours, theirs):
    torch = pytest.importorskip("torch")
    ours.start(0.4, 10)
    expected = torch_rates(torch, theirs, 10)
    assert [ours.at(t) for t in range(10)] == pytest.approx([lr for lr, _ in expected])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"anneal_strategy": "linear", "pct_start": 0.5},
        {"three_phase": True, "div_factor": 10.0, "final_div_factor": 100.0},
        {"base_momentum": 0.5, "max_momentum": 0.8},
    ],
)
def test_one_cycle(options):
    torch = pytest.importorskip("torch")
    ours = OneCycle(0.5, **options).start(0.4, 20)
    expected = torch_rates(torch, lambda o, s: s.OneCycleLR(o, 0.5, total_steps=20, **options), 19)
    assert [ours.at(t) for t in range(19)] == pytest.approx([lr for lr, _ in expected])
    assert [ours.momentum_at(t) for t in range(19)] == pytest.approx([m for _, m in expected])


@pytest.mark.parametrize(
    "options",
    [
        {"patience": 1},
        {"mode": "max", "patience": 0, "factor": 0.5},
        {"threshold_mode": "abs", "threshold": 0.2, "patience": 1},
        {"patience": 0, "cooldown": 2, "min_lr": 0.01},
        {"patience": 0, "eps": 0.1},
    ],
)
def test_plateau(options):
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.4)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **options)
    ours = ReduceOnPlateau(**options).start(0.4)
    for value in (1.0, 0.9, 0.95, 0.95, math.nan, 0.7, 0.8, 0.69, 0.9, 0.9, 0.9, 0.9):
        theirs.step(value)
        ours.observe(value)
        ours = restarted(ours, options)
        assert ours.at(0) == pytest.approx(optimizer.param_groups[0]["lr"])


def restarted(schedule, options):
    """The same schedule after its state has gone through a file."""
    other = ReduceOnPlateau(**options).start(0.4)
    other.load_state_dict(json.loads(json.dumps(schedule.state_dict())))
    return other


def test_warmup_hands_observations_and_state_on():
    schedule = Warmup(ReduceOnPlateau(patience=0), 2).start(1.0)
    assert schedule.by == "epoch"
    assert schedule.monitor == "val_loss"
    for value in (1.0, 2.0):
        schedule.observe(value)
    assert schedule.at(0) == pytest.approx(1 / 3)
    assert schedule.at(5) == pytest.approx(0.1)
    other = Warmup(ReduceOnPlateau(patience=0), 2).start(1.0)
    other.load_state_dict(schedule.state_dict())
    assert other.at(5) == pytest.approx(0.1)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Cosine(0),
        lambda: Cosine(by="batch"),
        lambda: Cosine().start(0.1).at(0),
        lambda: Step(0),
        lambda: OneCycle(0.1, anneal_strategy="exp"),
        lambda: OneCycle(0.1, pct_start=1.5),
        lambda: Warmup(Cosine(), -1),
        lambda: Warmup(Cosine(), 3, 0.0),
        lambda: ReduceOnPlateau("best"),
        lambda: ReduceOnPlateau(factor=1.0),
        lambda: ReduceOnPlateau().load_state_dict({}),
    ],
)
def test_wrong_arguments(make):
    with pytest.raises(st.ArgumentError):
        make()
