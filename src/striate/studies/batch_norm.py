"""Batch norm on and off: rates that train, speed, gradients, activations, and its own noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from striate import nn
from striate.nn import init, manual_seed
from striate.studies.nets import (
    Array,
    Clothes,
    accuracy,
    clothes,
    layer_probe,
    train,
    weight_gradients,
)
from striate.studies.study import Study, style
from striate.train.optim import SGD

KINDS = ("plain", "plain, He", "batch norm")
"""PyTorch's default weights; weights by He et al. (2015) for ReLU; default weights, then BN."""

RATES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
DEPTH = 6
STEPS = 7 * 46
EVERY = 23  # steps between measurements: half a pass over 3000 pictures
TRAINS = 0.6  # accuracy from which on a net counts as trained; guessing gives 0.1
GOAL = 0.7  # accuracy whose time is taken
BATCHES = (4, 8, 16, 32, 64, 128, 256)


class Net(nn.Module):
    """Six 3×3 convolutions of 16 channels at 14 × 14 and 7 × 7, mean over places, dense layer."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        norm = kind == "batch norm"
        convs = [
            nn.Conv2d(16 if i else 1, 16, 3, 1 if i % 3 else 2, 1, bias=not norm)
            for i in range(DEPTH)
        ]
        self.convs = nn.ModuleList(convs)
        self.norms = nn.ModuleList(
            nn.BatchNorm2d(16) if norm else nn.Identity() for _ in range(DEPTH)
        )
        self.relu = nn.ReLU()
        self.head = nn.Linear(16, 10)
        if kind == "plain, He":
            for conv in convs:
                shape = conv.weight.shape
                conv.weight.assign(init.kaiming_normal(shape, nonlinearity="relu"))

    def forward(self, x: Any) -> Any:
        """(n, 1, 28, 28) → (n, 10)."""
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = self.relu(norm(conv(x)))
        return self.head(x.mean((2, 3)))


@dataclass
class Course:
    """A training: the net, the loss of each step, the test accuracy after each `EVERY` steps."""

    net: Net
    losses: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)

    @property
    def best(self) -> float:
        """The highest accuracy that was measured; 0 if none was."""
        return max(self.accuracies, default=0.0)

    @property
    def steps_to_goal(self) -> float:
        """Steps until the accuracy was first measured at `GOAL`; infinite if never."""
        reached = (i for i, a in enumerate(self.accuracies, start=1) if a >= GOAL)
        return next(reached, math.inf) * EVERY


def follow(kind: str, rate: float, seed: int, data: Clothes, steps: int = STEPS) -> Course:
    """Train a net by SGD with momentum 0.9 and watch it."""
    manual_seed(seed)
    course = Course(Net(kind))
    net = course.net

    def watch(done: int) -> None:
        if done % EVERY == 0:
            course.accuracies.append(accuracy(net, data.test_x, data.test_y))

    optimizer = SGD(lr=rate, momentum=0.9)
    course.losses = train(net, data.x, data.y, optimizer, steps=steps, seed=seed, watch=watch)
    return course


def gradient_norms(kind: str, seed: int, data: Clothes) -> Array:
    """(DEPTH,) norm of the gradient for each convolution's weights, of an untrained net."""
    manual_seed(seed)
    names = [f"convs.{i}.weight" for i in range(DEPTH)]
    found = weight_gradients(Net(kind), data.x[:256], data.y[:256], names)
    return np.array([np.linalg.norm(g) for g in found])


def activations(net: Net, data: Clothes) -> Array:
    """(DEPTH, 3) percentiles 5, 50 and 95 of what each ReLU gets of 256 pictures."""
    x = data.x[:256]
    outputs = layer_probe(net, x.shape, [f"norms.{i}" for i in range(DEPTH)])(x)
    return np.array([np.percentile(y, (5, 50, 95)) for y in outputs])


def width_ratio(percentiles: Array) -> float:
    """The widest layer's 5 … 95 % range over the narrowest's; infinite if one is a point."""
    widths = percentiles[:, 2] - percentiles[:, 0]
    return float(widths.max() / widths.min()) if widths.min() > 0 else math.inf


def noise(
    net: nn.Module, x: Array, sizes: Sequence[int], seed: int, pictures: int = 6, draws: int = 16
) -> Array:
    """For each batch size, how much the scores of a picture depend on its company.

    Deviation of a picture's scores over random batches, divided by the deviation of the scores
    over the classes, mean over some pictures; the net in training mode, so that batch norm takes
    the batch's statistics.
    """
    rng = np.random.default_rng(seed)
    found = []
    for size in sizes:
        scores = layer_probe(net, (size, *x.shape[1:]), ["head"])
        shares = []
        for picture in range(pictures):
            batches = ([picture, *rng.integers(pictures, len(x), size - 1)] for _ in range(draws))
            drawn = np.array([scores(x[batch])[0][0] for batch in batches])
            shares.append(drawn.std(0).mean() / drawn.mean(0).std())
        found.append(np.mean(shares))
    return np.array(found)


@dataclass(frozen=True)
class Compared:
    """Everything that was measured of one kind of net.

    Attributes:
        courses: rate → a training for each beginning.
        gradients: (DEPTH,) norms in the untrained net, mean over beginnings.
        untrained, trained: (DEPTH, 3) percentiles of activations; trained at the best rate.
    """

    courses: dict[float, list[Course]]
    gradients: Array
    untrained: Array
    trained: Array

    @staticmethod
    def of(kind: str, seeds: Sequence[int], data: Clothes, steps: int = STEPS) -> Compared:
        """Train nets of a kind at all rates."""
        courses = {rate: [follow(kind, rate, s, data, steps) for s in seeds] for rate in RATES}
        gradients = np.mean([gradient_norms(kind, s, data) for s in seeds], axis=0)
        manual_seed(seeds[0])
        untrained = activations(Net(kind), data)
        best = best_rate(courses)
        return Compared(courses, gradients, untrained, activations(courses[best][0].net, data))

    @property
    def rate(self) -> float:
        """The best rate."""
        return best_rate(self.courses)

    @property
    def largest_rate(self) -> float:
        """The largest rate at which every beginning trains; 0 if there is none."""
        return max((r for r, c in self.courses.items() if worst(c) >= TRAINS), default=0.0)

    @property
    def steps_to_goal(self) -> float:
        """At the best rate, the steps until `GOAL`, mean over beginnings."""
        return float(np.mean([course.steps_to_goal for course in self.courses[self.rate]]))


def worst(courses: Sequence[Course]) -> float:
    """The best accuracy of the beginning that does worst."""
    return min(course.best for course in courses)


def best_rate(courses: dict[float, list[Course]]) -> float:
    """The rate whose beginnings reach the highest accuracy, on average."""
    return max(courses, key=lambda rate: float(np.mean([c.best for c in courses[rate]])))


def run(seed: int) -> Study:
    """The study for two beginnings drawn from `seed`."""
    data = clothes(3000, 500)
    seeds = (2 * seed, 2 * seed + 1)
    found = {kind: Compared.of(kind, seeds, data) for kind in KINDS}
    normed, he = found["batch norm"], found["plain, He"]
    trained = normed.courses[normed.rate][0].net
    noises = noise(trained, data.x, BATCHES, seed)
    slope = float(np.polyfit(np.log(BATCHES), np.log(noises), 1)[0])
    figures = {f"noise_batch_{n}": float(v) for n, v in zip(BATCHES, noises, strict=True)}
    figures["noise_power_of_batch"] = slope
    for kind, key in zip(KINDS, ("plain", "he", "bn"), strict=True):
        c = found[kind]
        figures |= {
            f"{key}_largest_rate": c.largest_rate,
            f"{key}_best_rate": c.rate,
            f"{key}_best_accuracy": float(np.mean([x.best for x in c.courses[c.rate]])),
            f"{key}_steps_to_goal": c.steps_to_goal,
            f"{key}_gradient_last_over_first": float(c.gradients[-1] / c.gradients[0]),
            f"{key}_activation_width_ratio": width_ratio(c.untrained),
        }
    holds = normed.largest_rate >= 10 * max(he.largest_rate, RATES[0])
    holds = holds and normed.steps_to_goal < 0.75 * he.steps_to_goal
    holds = holds and width_ratio(normed.untrained) < min(1.5, width_ratio(he.untrained))
    holds = holds and -0.7 < slope < -0.35
    rates = (f"{found[k].largest_rate:g} ({k})" if found[k].largest_rate else f"none ({k})"
             for k in KINDS)  # fmt: skip
    verdict = (
        f"Largest rate that trains in {STEPS} steps: {', '.join(rates)}. Steps to {GOAL:.0%} at "
        f"the best rate: {normed.steps_to_goal:.0f} with batch norm, {he.steps_to_goal:.0f} with "
        f"weights by He. Untrained, the ranges of activations differ between layers by a factor "
        f"of {width_ratio(normed.untrained):.1f} with it, {width_ratio(he.untrained):.1f} (He) "
        f"and {width_ratio(found['plain'].untrained):.0f} (default) without. Its noise falls as "
        f"the batch size to the power {slope:.2f}."
    )

    def draw(figure: Any) -> None:
        _draw(figure, found, noises)

    return Study(
        "batch-norm",
        "Batch norm lets deep nets train at higher rates and in fewer steps, keeps activations "
        "of all layers alike, and adds noise that falls with the batch size.",
        figures,
        verdict,
        holds,
        draw,
    )


def _draw(figure: Any, found: dict[str, Compared], noises: Array) -> None:
    figure.set_size_inches(10, 6.4)
    (rates, losses, gradients), (before, after, noisy) = figure.subplots(2, 3)
    layers = np.arange(1, DEPTH + 1)
    for i, (kind, c) in enumerate(found.items()):
        look = style(i)
        means = [np.mean([x.best for x in courses]) for courses in c.courses.values()]
        rates.semilogx(RATES, means, label=kind, **look)
        curve = np.convolve(c.courses[c.rate][0].losses, np.ones(10) / 10, "valid")
        losses.plot(curve, color=look["color"], label=f"{kind}, rate {c.rate:g}")
        gradients.semilogy(layers, c.gradients, **look)
        for axes, p in ((before, c.untrained), (after, c.trained)):
            bars = (p[:, 1] - p[:, 0], p[:, 2] - p[:, 1])
            place = layers + 0.2 * (i - 1)
            axes.errorbar(place, p[:, 1], bars, linestyle="", capsize=2, **look)
    noisy.loglog(BATCHES, noises, **style(2))
    noisy.loglog(BATCHES, noises[0] * np.sqrt(BATCHES[0] / np.array(BATCHES)), "k:", label="n^−½")
    rates.set(title="best test accuracy", xlabel="learning rate")
    losses.set(title="loss at the best rate", xlabel="step")
    gradients.set(title="gradient norm, untrained", xlabel="layer")
    before.set(title="activations, untrained (5, 50, 95 %)", xlabel="layer")
    after.set(title="activations, trained", xlabel="layer")
    noisy.set_xticks(BATCHES, [str(n) for n in BATCHES])
    noisy.set_yticks([0.05, 0.1, 0.2, 0.4], ["5 %", "10 %", "20 %", "40 %"])
    noisy.minorticks_off()
    noisy.set(title="noise of a picture's scores", xlabel="batch size n")
    for axes in figure.axes:
        axes.grid(alpha=0.3)
    for axes in (rates, losses, noisy):
        axes.legend(fontsize=8)
