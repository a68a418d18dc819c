"""What a user may say about how convolutions are computed."""

from __future__ import annotations

from dataclasses import dataclass

from striate.arith.winograd import ALGORITHMS
from striate.errors import ArgumentError


@dataclass(frozen=True)
class Options:
    """Wishes of one program.

    Attributes:
        algorithm: of 3×3 convolutions of stride 1: "auto" for the cheapest, "direct",
            "winograd-f2" or "winograd-f4". Layers that this one cannot compute, and those with
            fewer than 16 channels, are computed directly.
        max_relative_error: bound for the largest error that is expected of a layer's results,
            relative to their RMS; ways beyond it are left out. None: no bound.
        tune: whether ways whose costs are close are timed; None: in inference, not in training.

    Raises ArgumentError for an unknown algorithm and a bound that is not above 0.
    """

    algorithm: str = "auto"
    max_relative_error: float | None = None
    tune: bool | None = None

    def __post_init__(self) -> None:
        if self.algorithm not in ALGORITHMS:
            raise ArgumentError(
                f"algorithm={self.algorithm!r} is not known; choose one of {', '.join(ALGORITHMS)}"
            )
        if self.max_relative_error is not None and not self.max_relative_error > 0:
            raise ArgumentError(
                f"max_relative_error must be above 0, got {self.max_relative_error}"
            )


DEFAULT = Options()
