"""What an output can see, and what it listens to: the theoretical field and the gradient's."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from striate import nn
from striate.nn import manual_seed
from striate.report.summary import summary
from striate.studies.nets import Array, input_gradient
from striate.studies.study import Study, style

SIDE = 96  # pixels of the pictures: the largest field below, 68, lies well inside
CHANNELS = 16
DEPTHS = (1, 2, 4, 8, 16)
POOLED_DEPTHS = (1, 2, 4, 8)  # 16 layers would see 1020 pixels
ENERGY = 0.95


def make_net(depth: int, pooled: bool) -> nn.Module:
    """`depth` 3×3 convolutions with ReLU between them; pooled: halved after each second."""
    layers: list[nn.Module] = []
    for i in range(depth):
        layers.append(nn.Conv2d(CHANNELS if i else 1, CHANNELS, 3, padding=1, bias=False))
        if i + 1 < depth:
            layers.append(nn.ReLU())
            if pooled and i % 2:
                layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


class Seen(NamedTuple):
    """The field of the middle output.

    Attributes:
        theoretical: its size by arithmetic, in pixels.
        effective: size of the centred square that holds 95 % of the squared gradient.
        spread: standard deviation of the squared gradient along an axis, in pixels.
        outside: largest gradient outside the theoretical field.
        rim: whether some pixel on each side of the field's rim has a gradient.
        map: (SIDE, SIDE) mean squared gradient, 1 at most.
        box: (first row, first column) of the field.
    """

    theoretical: int
    effective: float
    spread: float
    outside: float
    rim: bool
    map: Array
    box: tuple[int, int]


def look(net: nn.Module, seed: int, pictures: int = 16) -> Seen:
    """Gradients of the middle outputs of a net for random pictures (1, SIDE, SIDE)."""
    last = summary(net, (1, SIDE, SIDE)).rows[-1]
    field = last["receptive_field"]
    assert field is not None
    h = last["output"][1]
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((pictures, 1, SIDE, SIDE), np.float32)
    pick = np.zeros((pictures, CHANNELS, h, h), np.float32)
    pick[:, :, h // 2, h // 2] = rng.standard_normal((pictures, CHANNELS))
    gradient = input_gradient(net, x, pick)[:, 0].astype(np.float64)
    size = field["size"][0]
    start = field["offset"][0] + h // 2 * field["stride"][0]
    return measure((gradient**2).mean(0), start, size)


def measure(energy: Array, start: int, size: int) -> Seen:
    """The figures of a map of squared gradients whose field is a square from `start` on."""
    inside = np.zeros(energy.shape, bool)
    inside[start : start + size, start : start + size] = True
    field = energy[inside].reshape(size, size)
    away = abs(np.arange(size) - (size - 1) / 2)  # from the middle; halves where size is even
    radius = np.maximum(away[:, None], away[None, :])
    total = field.sum()
    squares = ((2 * r + 1, field[radius <= r].sum()) for r in np.unique(radius))
    effective = next(side for side, held in squares if held >= ENERGY * total)
    spread = np.sqrt((field.sum(1) * away**2).sum() / total)
    rim = all(side.any() for side in (field[0], field[-1], field[:, 0], field[:, -1]))
    outside = float(energy[~inside].max())
    shown = energy / energy.max()
    return Seen(size, float(effective), float(spread), outside, rim, shown, (start, start))


def run(seed: int) -> Study:
    """The study for weights and pictures drawn from `seed`."""
    found: dict[str, dict[int, Seen]] = {}
    manual_seed(seed)
    for kind, depths in (("plain", DEPTHS), ("pooled", POOLED_DEPTHS)):
        found[kind] = {d: look(make_net(d, kind == "pooled"), seed) for d in depths}
    figures = {
        f"{kind}_{what}_depth_{depth}": float(getattr(seen, what))
        for kind, rows in found.items()
        for depth, seen in rows.items()
        for what in ("theoretical", "effective", "spread")
    }
    every = [seen for rows in found.values() for seen in rows.values()]
    plain, pooled = found["plain"], found["pooled"]
    share = {d: plain[d].effective / plain[d].theoretical for d in DEPTHS}
    # spread ∝ depth^power; a sum of independent steps has ½, the theoretical field tends to 1
    deep = DEPTHS[1:]
    power = np.polyfit(np.log(deep), np.log([plain[d].spread for d in deep]), 1)[0]
    figures |= {
        "largest_gradient_outside": max(seen.outside for seen in every),
        "fields_whose_rim_is_reached": float(sum(seen.rim for seen in every)),
        "fields": float(len(every)),
        "power_of_depth": float(power),
    }
    exact = figures["largest_gradient_outside"] == 0 and all(seen.rim for seen in every)
    narrow = share[16] < 0.75 * share[4] and 0.35 < power < 0.7
    wider = pooled[8].effective > 1.5 * plain[8].effective
    verdict = (
        f"Outside the theoretical field the gradient is {'exactly 0' if exact else 'not 0'}. At "
        f"depth 4, 8, 16 it is {', '.join(str(plain[d].theoretical) for d in (4, 8, 16))} pixels "
        f"wide, but {ENERGY:.0%} of the squared gradient lies within "
        f"{', '.join(f'{plain[d].effective:.0f}' for d in (4, 8, 16))}: the spread grows as depth "
        f"to the power {power:.2f}. With pooling, depth 8 sees {pooled[8].theoretical} and listens "
        f"to {pooled[8].effective:.0f}."
    )

    def draw(figure: Any) -> None:
        _draw(figure, found)

    return Study(
        "receptive-field",
        "The theoretical field grows with depth, the effective one like its square root, and "
        "pooling widens both.",
        figures,
        verdict,
        bool(exact and narrow and wider),
        draw,
    )


def _draw(figure: Any, found: dict[str, dict[int, Seen]]) -> None:
    from matplotlib.patches import Rectangle

    lines, maps = figure.subfigures(1, 2, width_ratios=(2, 3))
    axes = lines.subplots()
    for i, (kind, rows) in enumerate(found.items()):
        for what, dash in (("theoretical", "-"), ("effective", "--")):
            values = [getattr(seen, what) for seen in rows.values()]
            axes.loglog(list(rows), values, dash, label=f"{kind}, {what}", **style(i))
    axes.set(xlabel="3×3 convolutions", ylabel="pixels", title="width of the field")
    axes.set_xticks(DEPTHS, [str(d) for d in DEPTHS])
    axes.set_yticks([3, 5, 10, 20, 40, 80], ["3", "5", "10", "20", "40", "80"])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    for axes, (kind, depth) in zip(
        maps.subplots(1, 3), (("plain", 4), ("plain", 16), ("pooled", 8)), strict=True
    ):
        seen = found[kind][depth]
        axes.imshow(np.sqrt(seen.map), cmap="magma", interpolation="nearest")
        row, col = seen.box
        size = seen.theoretical
        axes.add_patch(Rectangle((col - 0.5, row - 0.5), size, size, fill=False, edgecolor="w"))
        axes.set_title(f"{kind}, depth {depth}: |gradient|", fontsize=9)
        axes.set_axis_off()
