"""What one contender is asked to prepare, and what it then offers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]
Call = Callable[[], Any]
LR, MOMENTUM = 0.01, 0.9  # of the training steps that are timed


@dataclass(frozen=True)
class Job:
    """One contender's part of a row.

    `work` is "layer", "infer", "train" or "accuracy"; `net` with its `arguments` the network, or
    "conv" and "dense" for a layer. Its folder holds `weights.npz`, `x.npy` and `y.npy`.
    """

    peer: str
    work: str
    net: str
    arguments: dict[str, Any]
    threads: int
    folder: str

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def path(self, name: str) -> Path:
        """A file that the contenders of this row share."""
        return Path(self.folder, name)

    def load(self, name: str) -> Array:
        """An array of the folder."""
        return np.load(self.path(f"{name}.npy"))

    def weights(self) -> dict[str, Array]:
        """The shared weights by their keys."""
        with np.load(self.path("weights.npz")) as file:
            return dict(file)

    def settings(self) -> dict[str, Any]:
        """Of the work "accuracy": see `bench.accuracy.Recipe`."""
        return dict(json.loads(self.path("recipe.json").read_text()))


class Learner(NamedTuple):
    """A net that is being trained by SGD with momentum.

    `load(x, y)` gives a batch as the library wants it; `step(batch)` the loss, after an update;
    `predict(x)` the logits; `set_rate(lr)` changes the learning rate.
    """

    load: Callable[[Array, Array], Any]
    step: Callable[[Any], float]
    predict: Callable[[Array], Array]
    set_rate: Callable[[float], None]

    def call(self, job: Job) -> tuple[Call, Array]:
        """The step on the job's batch again and again, and its first loss."""
        batch = self.load(job.load("x"), job.load("y"))
        return lambda: self.step(batch), np.array([self.step(batch)], np.float32)


def drop_nothing(net: Any, dropout: type[Any]) -> Any:
    """The net with p = 0 in its layers of this type.

    Every library draws other numbers, and first losses could not be compared.
    """
    for layer in net.modules():
        if isinstance(layer, dropout):
            layer.p = 0.0
    return net


class Sgd(NamedTuple):
    """Its settings."""

    lr: float = LR
    momentum: float = MOMENTUM
    weight_decay: float = 0.0
