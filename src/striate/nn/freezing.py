"""Which weights training leaves alone: what `freeze` and `unfreeze` of a module do."""

from __future__ import annotations

import fnmatch
from typing import TYPE_CHECKING, cast

from striate.errors import ArgumentError

if TYPE_CHECKING:
    from typing_extensions import Self

    from striate.nn.module import Module


class Freezable:
    """The part of `Module` that says what training changes."""

    def freeze(self, *patterns: str) -> Self:
        """Let training leave alone the weights that match a pattern; returns itself.

        Frozen weights have no gradient and no update in `compile_step`, and what only their
        gradients need is not computed. A frozen `BatchNorm2d` uses its running statistics in
        training too, and they stay as they are. Dropout goes on.

        Args:
            patterns: shell patterns, such as "layer[1-3]*" or "features", each for the path of a
                weight, or of a layer for all that is inside. A `BatchNorm2d` is frozen when all its
                weights are; one without weights, when its path matches.

        Raises ArgumentError for a pattern that matches nothing.
        """
        _set_frozen(cast("Module", self), patterns, True)
        return self

    def unfreeze(self, *patterns: str) -> Self:
        """Undo `freeze` for the weights that match a pattern; returns itself."""
        _set_frozen(cast("Module", self), patterns, False)
        return self


def _set_frozen(net: Module, patterns: tuple[str, ...], frozen: bool) -> None:
    from striate.nn.layers_norm import BatchNorm2d  # which is a Module

    weights = dict(net.named_parameters())
    layers = {path: module for path, module in net.named_modules() if path}

    def matches(path: str) -> bool:
        return any(_fits(path, pattern) for pattern in patterns)

    for pattern in patterns:
        if not any(_fits(path, pattern) for path in (*weights, *layers)):
            raise ArgumentError(
                f"no weight or layer of {type(net).__name__} matches {pattern!r}; its parts are "
                f"{', '.join(name for name, _ in net.named_children())}"
            )
    for path, param in weights.items():
        if matches(path):
            param.trainable = not frozen
    for path, module in layers.items():
        if isinstance(module, BatchNorm2d):
            own = [f"{path}.{name}" for name in module._parameters] or [path]
            if all(matches(name) for name in own):
                module.frozen = frozen


def _fits(path: str, pattern: str) -> bool:
    """Whether the pattern fits the path, or that of a layer which it is in."""
    parts = path.split(".")
    starts = (".".join(parts[:i]) for i in range(1, len(parts) + 1))
    return any(fnmatch.fnmatchcase(start, pattern) for start in starts)
