"""1×1 convolution is a dense layer over channels."""

from __future__ import annotations

from typing import Any

import numpy as np

import striate.functional as F
from striate.studies.nets import Array, clothes
from striate.studies.study import Study, show

# (batch, in, out, height, width): of a first block, an odd one, and one of many channels
SHAPES = ((4, 3, 8, 28, 28), (1, 5, 7, 9, 11), (2, 256, 64, 14, 14))
# Rows: luma of ITU-R BT.601; red against blue; the mean of green and blue.
MIXING = np.array([[0.299, 0.587, 0.114], [1, 0, -1], [0, 0.5, 0.5]], np.float32)


def unequal(shape: tuple[int, int, int, int, int], seed: int) -> tuple[int, float]:
    """Outputs whose bits differ between 1×1 convolution and dense layer; largest difference."""
    n, ci, co, h, w = shape
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, ci, h, w), np.float32)
    weight = rng.standard_normal((co, ci), np.float32)
    bias = rng.standard_normal(co, np.float32)
    y = F.conv2d(x, weight[:, :, None, None], bias)
    # dense: every pixel is a row of ci numbers
    z = F.linear(x.transpose(0, 2, 3, 1).reshape(-1, ci), weight, bias)
    z = z.reshape(n, h, w, co).transpose(0, 3, 1, 2)
    return int((y != z).sum()), float(abs(y - z).max())


def touched(seed: int) -> tuple[int, int]:
    """Pixels and channels that change when one number of one pixel does."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((1, 8, 12, 12), np.float32)
    weight = rng.standard_normal((6, 8, 1, 1), np.float32)
    other = x.copy()
    other[0, 3, 5, 7] += 1
    changed = (F.conv2d(x, weight) != F.conv2d(other, weight))[0]
    return int(changed.any(0).sum()), int(changed[:, 5, 7].sum())


def shuffled_equal(seed: int) -> bool:
    """Whether pixels shuffled before a 1×1 convolution give its outputs shuffled, to the bit."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((2, 8, 1, 144), np.float32)
    weight = rng.standard_normal((6, 8, 1, 1), np.float32)
    order = rng.permutation(144)
    return bool((F.conv2d(x[..., order], weight) == F.conv2d(x, weight)[..., order]).all())


def run(seed: int) -> Study:
    """The study for numbers drawn from `seed`."""
    found = [unequal(shape, seed) for shape in SHAPES]
    outputs = sum(n * co * h * w for n, _, co, h, w in SHAPES)
    pixels, channels = touched(seed)
    shuffle = shuffled_equal(seed)
    x = clothes(10, 1).x[[1, 5, 7], 0][None]  # three garments as red, green and blue
    mixed = F.conv2d(x, MIXING[:, :, None, None])
    truth = np.einsum("oc,nchw->nohw", MIXING.astype(np.float64), x)
    figures: dict[str, float] = {
        "outputs_compared": outputs,
        "outputs_unequal": sum(count for count, _ in found),
        "largest_difference": max(value for _, value in found),
        "pixels_changed_by_one": pixels,
        "channels_changed_by_one": channels,
        "shuffle_commutes": float(shuffle),
        "mixing_error": float(abs(mixed - truth).max()),
        "weights_1x1": 256 * 64,
        "weights_3x3": 256 * 64 * 9,
    }
    # Equal to the bit on this machine's kernels; the claim is equality up to float32 rounding of
    # sums of 256 products of standard normals, which is below 1e-4.
    holds = (
        figures["largest_difference"] < 1e-4
        and (pixels, channels) == (1, 6)
        and shuffle
        and figures["mixing_error"] < 1e-6
    )
    equal = figures["outputs_unequal"] == 0
    verdict = (
        f"{outputs:,} outputs of both, {'all equal to the bit' if equal else 'equal to rounding'} "
        f"(largest difference {figures['largest_difference']:.1g}). One number changed reaches "
        f"{pixels} pixel and all {channels} channels of it; shuffled pixels give shuffled outputs."
    )

    def draw(figure: Any) -> None:
        _draw(figure, x[0], mixed[0])

    return Study(
        "one-by-one",
        "A 1×1 convolution is a dense layer applied to the channels of each pixel by itself.",
        figures,
        verdict,
        holds,
        draw,
    )


def _draw(figure: Any, x: Array, mixed: Array) -> None:
    grid = figure.subplots(2, 4)
    for axes, picture, name in zip(grid[0], x, ("red", "green", "blue"), strict=False):
        show(axes, picture, f"channel in: {name}")
    show(grid[0, 3], x.transpose(1, 2, 0), "together, as colour")
    for axes, picture, row in zip(grid[1], mixed, MIXING, strict=False):
        terms = " ".join(
            f"{value:+.3g} {name}" for value, name in zip(row, "rgb", strict=True) if value
        )
        show(axes, picture, f"out: {terms}", signed=row.min() < 0)
    show(grid[1, 3], MIXING, "kernel: out (down) × in (across)", signed=True)
    for (i, j), value in np.ndenumerate(MIXING):
        colour = "white" if abs(value) == 1 else "black"
        text = f"{value:.3g}"
        grid[1, 3].text(j, i, text, ha="center", va="center", fontsize=8, color=colour)
