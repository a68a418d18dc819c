"""Kernels learned from pictures and their edges, as cross-correlation and as convolution."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from striate import nn
from striate.nn import manual_seed
from striate.studies.nets import Array, clothes
from striate.studies.study import Study, show
from striate.train.optim import SGD
from striate.train.step import compile_step

EDGE = np.array([[1, -1]], np.float32)  # [left − right]: the edges of the textbook
EMBOSS = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]], np.float32)  # no symmetry under turning

TOLERANCE = 1e-3  # of weights about 1: float32 training ends near 1e-5


def correlated(x: Array, kernel: Array) -> Array:
    """y[i, j] = Σ kernel[r, s] · x[i + r, j + s], by NumPy: what the nets learn from."""
    h, w = (size - k + 1 for size, k in zip(x.shape[2:], kernel.shape, strict=True))
    y = np.zeros((*x.shape[:2], h, w), np.float32)
    for r, s in np.ndindex(*kernel.shape):
        y += kernel[r, s] * x[:, :, r : r + h, s : s + w]
    return y


class Learned(NamedTuple):
    """A kernel (kh, kw) learned with `flip_kernel` off and on, and the losses of both."""

    truth: Array
    correlation: Array
    convolution: Array
    losses: tuple[list[float], list[float]]

    @property
    def error(self) -> float:
        """Of the two, the largest distance of a weight from the truth, or the truth turned."""
        turned = self.truth[::-1, ::-1]
        return float(
            max(abs(self.correlation - self.truth).max(), abs(self.convolution - turned).max())
        )

    @property
    def as_learned(self) -> float:
        """Largest distance between the two kernels as they are."""
        return float(abs(self.correlation - self.convolution).max())

    @property
    def turned(self) -> float:
        """Largest distance between the one and the other turned by 180°."""
        return float(abs(self.correlation - self.convolution[::-1, ::-1]).max())


def learn(x: Array, kernel: Array, seed: int, steps: int = 2000) -> Learned:
    """Learn a kernel from pictures x and what it makes of them, from two random beginnings."""
    y = correlated(x, kernel)
    manual_seed(seed)
    found = []
    losses = []
    for flip in (False, True):
        net = nn.Conv2d(1, 1, kernel.shape, bias=False, flip_kernel=flip)
        step = compile_step(net, loss="mse", optimizer=SGD(lr=0.2, momentum=0.9))
        losses.append([step(x, y) for _ in range(steps)])
        found.append(np.array(net.weight.data[0, 0]))
    return Learned(kernel, found[0], found[1], (losses[0], losses[1]))


def run(seed: int) -> Study:
    """The study for beginnings drawn from `seed`."""
    x = clothes(64, 1).x
    kernels = {"edge": learn(x, EDGE, seed), "emboss": learn(x, EMBOSS, seed + 1)}
    figures = {
        f"{name}_{what}": value
        for name, k in kernels.items()
        for what, value in (
            ("error", k.error),
            ("difference_as_learned", k.as_learned),
            ("difference_turned", k.turned),
        )
    }
    figures |= {
        "edge_correlation_left": float(kernels["edge"].correlation[0, 0]),
        "edge_correlation_right": float(kernels["edge"].correlation[0, 1]),
        "edge_convolution_left": float(kernels["edge"].convolution[0, 0]),
        "edge_convolution_right": float(kernels["edge"].convolution[0, 1]),
    }
    holds = all(max(k.error, k.turned) < TOLERANCE and k.as_learned > 1 for k in kernels.values())
    edge, emboss = kernels["edge"], kernels["emboss"]
    left, right = edge.correlation[0]
    other_left, other_right = edge.convolution[0]
    verdict = (
        f"From edges made with [1, −1], cross-correlation learns [{left:.3f}, {right:.3f}] and "
        f"convolution [{other_left:.3f}, {other_right:.3f}]. The two 3×3 kernels differ by up to "
        f"{emboss.as_learned:.2f} as learned, by {emboss.turned:.0e} with one turned by 180°."
    )

    def draw(figure: Any) -> None:
        _draw(figure, kernels)

    return Study(
        "learned-kernels",
        "A layer learns its kernel from examples, and whether it computes convolution or "
        "cross-correlation only turns what it learns by 180°.",
        figures,
        verdict,
        holds,
        draw,
    )


def _draw(figure: Any, kernels: dict[str, Learned]) -> None:
    left, right = figure.subfigures(1, 2, width_ratios=(3, 2))
    for row, k in zip(left.subplots(2, 3), kernels.values(), strict=True):
        names = ("made with", "learned by cross-correlation", "learned by convolution")
        for axes, name, kernel in zip(row, names, k[:3], strict=True):
            show(axes, kernel, name, signed=True)
            for (i, j), value in np.ndenumerate(kernel):
                dark = abs(value) > 0.6 * abs(kernel).max()
                colour = "white" if dark else "black"
                axes.text(
                    j,
                    i,
                    f"{round(float(value), 2) + 0.0:.2f}",
                    ha="center",
                    va="center",
                    color=colour,
                )
    axes = right.subplots()
    for (name, k), line in zip(kernels.items(), ("-", "--"), strict=True):
        for losses, colour, way in zip(
            k.losses, ("#0072B2", "#D55E00"), ("cross-correlation", "convolution"), strict=True
        ):
            axes.semilogy(losses, line, color=colour, label=f"{name}, {way}")
    axes.set(xlabel="step", ylabel="mean squared error")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
