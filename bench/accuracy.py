"""Time to an accuracy on Fashion-MNIST: LeNet-BN, same recipe, starting weights and batches.

SGD with the defaults of `striate train`: learning rate 0.02 with a cosine schedule over 5 epochs,
momentum 0.9, weight decay 5e-4, batches of 64. Both train until their accuracy on the test
pictures, looked at after each epoch, reaches the target. Times are of the training steps alone,
without the first one of all, in which programs are compiled.
PyTorch takes part in its fastest mode, which short runs of all three find out.
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from bench.cases import ACCURACY, ACCURACY_RATIO
from bench.job import Array, Job, Learner, Sgd
from bench.measure import PYTORCH
from bench.process import ContenderError, Crew
from bench.rows import OURS, Row
from bench.timing import timing

NET, ARGUMENTS = "lenet-bn", {"num_classes": 10, "in_channels": 1}
TITLE = "{net} to {percent:.0f} % on {data}"
TRIAL_BATCHES, TEST_BATCH = 60, 500
TRIAL = -1  # the number of the epoch that only tells which mode is fastest


@dataclass(frozen=True)
class Recipe:
    """How the nets learn."""

    data: str = "fashion-mnist"
    epochs: int = 5
    batch: int = 64
    seed: int = 0
    lr: float = 0.02
    momentum: float = 0.9
    weight_decay: float = 5e-4
    target: float = ACCURACY

    def rate(self, epoch: int) -> float:
        """Of an epoch: lr · (1 + cos(π · epoch / epochs)) / 2."""
        return self.lr * (1 + math.cos(math.pi * epoch / self.epochs)) / 2


def title(recipe: Recipe) -> str:
    """Of the row."""
    return TITLE.format(net=NET, percent=100 * recipe.target, data=recipe.data)


# ---------------------------------------------------------------------------- in a worker


def epochs(make: Callable[[Job, Sgd], Learner], job: Job) -> Callable[[int], dict[str, float]]:
    """`epoch(i)` trains one: seconds of its steps, and the accuracy afterwards.

    Pictures are read, shuffled and normalised by Striate for all contenders alike.
    """
    from striate.data import Loader, fit_recipe, load

    recipe = Recipe(**job.settings())
    sets = load(recipe.data)
    normal = fit_recipe(sets.train)
    train, test = sets.train.with_recipe(normal), sets.test.with_recipe(normal)
    loader = Loader(train, recipe.batch, shuffle=True, seed=recipe.seed)
    tests = list(Loader(test, TEST_BATCH).epoch(0))
    learner = make(job, Sgd(recipe.lr, recipe.momentum, recipe.weight_decay))

    def epoch(number: int) -> dict[str, float]:
        if number == TRIAL:
            return _trial(learner, list(loader.epoch(0))[:TRIAL_BATCHES])
        batches = list(loader.epoch(number))
        learner.set_rate(recipe.rate(number))
        start = time.perf_counter()
        for i, (x, y) in enumerate(batches):
            learner.step(learner.load(x, y))
            if number == 0 and i == 0:
                start = time.perf_counter()
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "accuracy": _accuracy(learner.predict, tests)}

    return epoch


def _trial(learner: Learner, batches: list[Any]) -> dict[str, float]:
    """Median seconds a step."""
    seconds = []
    for x, y in batches:
        start = time.perf_counter()
        learner.step(learner.load(x, y))
        seconds.append(time.perf_counter() - start)
    return {"seconds": float(np.median(seconds))}


def _accuracy(predict: Callable[[Array], Array], batches: list[tuple[Array, Array]]) -> float:
    """Share of right answers."""
    right = sum(int((predict(x).argmax(1) == y).sum()) for x, y in batches)
    return right / sum(len(y) for _, y in batches)


# ---------------------------------------------------------------------------- in the parent


def measure(recipe: Recipe, threads: int, peers: list[str], say: Callable[[str], None]) -> Row:
    """The row. Raises ContenderError if ours fails, or if the target is not reached."""
    modes = [peer for peer in peers if peer in PYTORCH]
    with tempfile.TemporaryDirectory(prefix="striate-bench-") as folder, closing(Crew()) as crew:
        jobs = {p: Job(p, "accuracy", NET, ARGUMENTS, threads, folder) for p in (OURS, *modes)}
        _write(jobs[OURS], recipe)
        best, notes = _fastest(modes, jobs, crew)
        names = [OURS, *([best] if best else [])]
        done = {peer: _train(peer, jobs[peer], recipe, crew, say) for peer in names}
    values = {peer: timing([seconds]) for peer, (seconds, _, _) in done.items()}
    notes += [
        f"{peer} reached {100 * accuracy:.2f} % on {recipe.data} after {count} epochs"
        f" ({threads} thread(s))"
        for peer, (_, accuracy, count) in done.items()
    ]
    return Row("accuracy", title(recipe), threads, values, ACCURACY_RATIO, notes=tuple(notes))


def _write(job: Job, recipe: Recipe) -> None:
    import striate as st

    st.manual_seed(recipe.seed)
    np.savez(job.path("weights.npz"), **st.models.create(NET, **ARGUMENTS).state_dict())
    job.path("recipe.json").write_text(json.dumps(asdict(recipe)))


def _fastest(modes: list[str], jobs: dict[str, Job], crew: Crew) -> tuple[str, list[str]]:
    """PyTorch's fastest mode ("" if none runs), and a note for each that does not run."""
    seconds, notes = {}, []
    for peer in modes:
        try:
            crew.get(peer).prepare(jobs[peer])
            crew.get(peer).receive()
            seconds[peer] = crew.get(peer).ask(do="epoch", epoch=TRIAL)["seconds"]
        except ContenderError as error:
            notes.append(f"{peer} was left out: {error}")
        crew.drop(peer)
    return min(seconds, key=seconds.__getitem__, default=""), notes


def _train(
    peer: str, job: Job, recipe: Recipe, crew: Crew, say: Callable[[str], None]
) -> tuple[float, float, int]:
    """(seconds, accuracy, epochs) at the target; raises ContenderError if it is not reached."""
    crew.get(peer).prepare(job)
    crew.get(peer).receive()
    seconds = 0.0
    for number in range(recipe.epochs):
        answer = crew.get(peer).ask(do="epoch", epoch=number)
        seconds += answer["seconds"]
        say(f"{peer}: epoch {number + 1}, {seconds:.1f} s, {100 * answer['accuracy']:.2f} %")
        if answer["accuracy"] >= recipe.target:
            crew.drop(peer)
            return seconds, answer["accuracy"], number + 1
    reached = f"{100 * answer['accuracy']:.2f} %"
    raise ContenderError(f"{peer} reached {reached} in {recipe.epochs} epochs, not the target")
