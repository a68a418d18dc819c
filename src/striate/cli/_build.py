"""From settings to objects: net, optimiser, schedule, class weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from striate.cli._output import note
from striate.errors import ArgumentError

if TYPE_CHECKING:
    from striate.cli._settings import Settings
    from striate.data import Dataset, Recipe
    from striate.nn import Module
    from striate.train.optim import Optimizer
    from striate.train.schedule import Schedule

SMALL_PICTURE = 96  # up to this side a net's stem for small pictures is taken


def refuse_impossible(settings: Settings, resume: bool = False) -> None:
    """Raise ArgumentError for what is wrong whatever the pictures are, before they are read."""
    from striate import models
    from striate.data import Augment

    Augment.parse(settings.augment)
    if "stem" not in models.options(settings.model) and settings.stem is not None:
        raise ArgumentError(f"--stem: {settings.model} has no choice of stems; leave it out")
    if settings.weights is not None and not resume and not _path(settings.weights).is_file():
        raise ArgumentError(f"--weights: there is no file {settings.weights}")
    if settings.schedule == "onecycle" and settings.warmup:
        raise ArgumentError("--warmup: the schedule onecycle has a rise of its own; leave it out")


def resolve(settings: Settings, recipe: Recipe) -> Settings:
    """Settings with nothing left open: the pictures are brought to `recipe`."""
    stem = settings.stem or usual_stem(settings.model, recipe.size)
    return replace(
        settings.with_optimizer_defaults(),
        stem=stem,
        image_size=recipe.size,
        channels=recipe.channels,
        resize=recipe.resize,
    )


def usual_stem(model: str, size: tuple[int, int] | None) -> str | None:
    """The stem for pictures of this size; None for a network that has no choice of stems."""
    from striate import models

    if "stem" not in models.options(model) or size is None:
        return None
    return "32" if min(size) <= SMALL_PICTURE else "224"


def build_net(settings: Settings, classes: int, resume: bool = False) -> Module:
    """The net with its initial weights: drawn by the seed, then those of --weights.

    A run that is resumed has all of them in its checkpoint.
    """
    from striate.io.weights import load_weights
    from striate.nn.init import manual_seed

    assert settings.channels is not None
    manual_seed(settings.seed)
    net = create_net(settings.model, classes, settings.channels, settings.image_size, settings.stem)
    if settings.weights is not None and not resume:
        left_out = load_weights(net, _path(settings.weights), skip_head=None).missing
        but = f", but for {', '.join(left_out)}" if left_out else ""
        note(f"weights of {settings.weights}{but}")
    if settings.freeze is not None:
        net.freeze(*(pattern.strip() for pattern in settings.freeze.split(",")))
    return net


def _path(text: str) -> Path:
    return Path(text).expanduser()


def create_net(
    name: str, classes: int | None, channels: int, size: tuple[int, int] | None, stem: str | None
) -> Module:
    """A registered network for such pictures. Raises ArgumentError if it cannot take them."""
    from striate import models

    arguments: dict[str, Any] = {"num_classes": classes, "in_channels": channels}
    known = models.options(name)
    if "stem" in known:
        arguments["stem"] = stem
    if "image_size" in known and size is not None:
        height, width = size
        if height != width:
            raise ArgumentError(
                f"{name} takes square pictures, not {height}x{width} (height x width); "
                f"{min(height, width)}x{min(height, width)} would do"
            )
        arguments["image_size"] = height
    return models.create(name, **arguments)


def build_optimizer(settings: Settings) -> Optimizer:
    """The optimiser; its rate is the highest of the schedule."""
    from striate.train import optim

    assert settings.lr is not None
    assert settings.momentum is not None
    assert settings.weight_decay is not None
    lr, momentum, decay = settings.lr, settings.momentum, settings.weight_decay
    if settings.optimizer == "sgd":
        return optim.SGD(lr, momentum=momentum, weight_decay=decay)
    if settings.optimizer == "rmsprop":
        return optim.RMSprop(lr, momentum=momentum, weight_decay=decay)
    rule = {"adam": optim.Adam, "adamw": optim.AdamW}[settings.optimizer]
    return rule(lr, betas=(momentum, 0.999), weight_decay=decay)


def build_schedule(settings: Settings, steps_per_epoch: int) -> Schedule | None:
    """The schedule, with its warm-up; None for a constant rate."""
    from striate.train import schedule as schedules

    steps = settings.epochs * steps_per_epoch
    chosen: schedules.Schedule
    if settings.schedule == "onecycle":
        assert settings.lr is not None
        return schedules.OneCycle(settings.lr)
    if settings.schedule == "cosine":
        chosen = schedules.Cosine()
    elif settings.schedule == "step":
        # a tenth of the rate after each third of the run
        chosen = schedules.Step(max(1, steps // 3), by="step")
    elif settings.schedule == "plateau":
        chosen = schedules.ReduceOnPlateau(patience=3)
    else:
        chosen = schedules.Step(steps, gamma=1.0, by="step")
    if not settings.warmup:
        return chosen
    unit = 1 if chosen.by == "epoch" else steps_per_epoch
    return schedules.Warmup(chosen, round(settings.warmup * unit))


def class_weights(settings: Settings, train: Dataset) -> np.ndarray | None:
    """Weights (classes,) that make rare classes count as much as common ones; None: equal."""
    if settings.class_weights == "none":
        return None
    # w_c = N / (classes · N_c), so that the mean weight over the pictures is 1
    counts = np.bincount(train.labels, minlength=len(train.classes))
    return len(train) / (len(counts) * np.maximum(counts, 1))
