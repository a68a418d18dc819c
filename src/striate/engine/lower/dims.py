"""Collapsing axes: a broadcast over many axes becomes a loop over few.

Axes of size 1 disappear, and neighbouring axes along which every operand behaves alike become
one. A batch of images with a factor for each channel, (n, h, w, c) and (1, 1, 1, c), is a loop over
(n·h·w, c), whatever n, h and w are: one kernel for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from striate.arith.layout import Layout, Nhwc


@dataclass(frozen=True)
class Axis:
    """One loop: its extent, a letter for each operand ("x" varies, "1" is repeated), a class."""

    extent: int
    letters: tuple[str, ...]
    kind: str = ""


def in_memory(shape: tuple[int, ...], layout: Layout, ndim: int) -> tuple[int, ...]:
    """Sizes in memory order, outermost first, with leading 1s up to `ndim` axes."""
    padded = (1,) * (ndim - len(shape)) + shape
    if isinstance(layout, Nhwc) and ndim == 4:
        n, c, h, w = padded
        return (n, h, w, c)
    return padded


def collapse(
    space: Sequence[int],
    operands: Sequence[Sequence[int]],
    kinds: Sequence[str] | None = None,
) -> list[Axis]:
    """Loops over `space` for operands whose sizes (same number of axes) are 1 or the space's."""
    kinds = kinds or [""] * len(space)
    axes: list[Axis] = []
    for axis, extent in enumerate(space):
        if extent == 1:
            continue
        letters = tuple("1" if sizes[axis] == 1 else "x" for sizes in operands)
        last = axes[-1] if axes else None
        if last is not None and (last.letters, last.kind) == (letters, kinds[axis]):
            axes[-1] = Axis(last.extent * extent, letters, kinds[axis])
        else:
            axes.append(Axis(extent, letters, kinds[axis]))
    return axes


def patterns(axes: Sequence[Axis], count: int) -> tuple[str, ...]:
    """For each operand its letters along all loops."""
    return tuple("".join(a.letters[i] for a in axes) for i in range(count))
