"""Largest errors of convolutions against float64, for each way of computing them.

`python -m bench.errors --write docs/performance.md` renews the table there. Inputs and output
gradients are drawn from a normal distribution, weights from one of variance 1/products; an error
is the largest difference from PyTorch's result in float64, relative to the RMS of that result,
in the worst of three draws. Beside it stands what `arith/rounding.py` expects.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
import torch

from bench.tables import markdown, write_between_marks
from striate import engine
from striate.graph import Trace
from striate.graph.ops.conv import Conv2d, ConvInputGrad, ConvWeightGrad

Array = npt.NDArray[np.float32]
MARKS = "<!-- errors: begin -->", "<!-- errors: end -->"
DRAWS = 3
DIRECTIONS = ("forward", "input gradient", "weight gradient")
HEAD = ("layer", "way", *(name for d in DIRECTIONS for name in (d, "expected")))


@dataclass(frozen=True)
class Layer:
    """ci × h × h, co kernels of k × k, stride s, padding k // 2."""

    ci: int
    h: int
    co: int
    k: int = 3
    s: int = 1
    groups: int = 1

    def __str__(self) -> str:
        kind = "" if self.groups == 1 else " depthwise"
        stride = f"/{self.s}" if self.s > 1 else ""
        return f"{self.ci},{self.h},{self.h} → {self.co}, {self.k}×{self.k}{stride}{kind}"

    @property
    def ways(self) -> tuple[str, ...]:
        """Algorithms that can compute it."""
        winograd = self.k == 3 and self.s == 1 and self.groups == 1
        return ("direct", "winograd-f2", "winograd-f4") if winograd else ("direct",)

    def draw(self, seed: int) -> tuple[Array, Array, Array]:
        """Inputs, weights, output gradients."""
        rng = np.random.default_rng(seed)
        fan, out = self.ci // self.groups * self.k**2, -(-self.h // self.s)
        w = rng.standard_normal((self.co, self.ci // self.groups, self.k, self.k)) / fan**0.5
        x = rng.standard_normal((1, self.ci, self.h, self.h), np.float32)
        return x, w.astype(np.float32), rng.standard_normal((1, self.co, out, out), np.float32)

    def exact(self, x: Array, w: Array, g: Array) -> list[npt.NDArray[np.float64]]:
        """The three results in float64."""
        xt, wt, gt = (torch.from_numpy(a).double() for a in (x, w, g))
        stride, pad = [self.s] * 2, [self.k // 2] * 2
        y = torch.nn.functional.conv2d(xt, wt, None, stride, pad, 1, self.groups)
        dx, dw, _ = torch.ops.aten.convolution_backward(
            gt, xt, wt, None, stride, pad, [1, 1], False, [0, 0], self.groups, [True, True, False]
        )
        return [y.numpy(), dx.numpy(), dw.numpy()]

    def ours(self, way: str, x: Array, w: Array, g: Array) -> list[tuple[Array, float]]:
        """The three results of one way, and the errors to be expected of them."""
        stride, pad = (self.s,) * 2, ((self.k // 2,) * 2,) * 2
        common = {"stride": stride, "padding": pad, "groups": self.groups}
        calls = (
            (Conv2d(**common), x, w),
            (ConvInputGrad(**common, in_h=self.h, in_w=self.h), g, w),
            (ConvWeightGrad(**common, kh=self.k, kw=self.k), x, g),
        )
        found = []
        for op, a, b in calls:
            with Trace() as trace:
                graph = trace.graph(op(trace.input("a", a.shape), trace.input("b", b.shape)))
            program = engine.build(graph, training=True, algorithm=way)
            (choice,) = program.program.choices
            found.append((program(a, b)[0], choice.way.error))
        return found


LAYERS = (
    Layer(64, 56, 64),
    Layer(128, 28, 128),
    Layer(256, 14, 256),
    Layer(512, 7, 512),
    Layer(512, 14, 512),
    Layer(64, 56, 128, 3, 2),
    Layer(256, 56, 64, 1),
    Layer(2048, 7, 512, 1),
    Layer(3, 224, 64, 7, 2),
    Layer(256, 28, 256, 3, 1, 256),
)


def rows() -> list[tuple[str, ...]]:
    """One for each layer and way."""
    table = []
    for layer in LAYERS:
        errors: dict[str, list[tuple[float, float]]] = {way: [(0.0, 0.0)] * 3 for way in layer.ways}
        for seed in range(DRAWS):
            arrays = layer.draw(seed)
            exact = layer.exact(*arrays)
            for way, worst in errors.items():
                for i, (result, expected) in enumerate(layer.ours(way, *arrays)):
                    error = np.abs(result - exact[i]).max() / np.sqrt((exact[i] ** 2).mean())
                    worst[i] = (max(worst[i][0], float(error)), expected)
        for way, worst in errors.items():
            cells = [f"{value:.1e}" for pair in worst for value in pair]
            table.append((str(layer), way, *cells))
            click.echo("  ".join(table[-1]), err=True)
    return table


@click.command()
@click.option("--write", type=Path, help="Put the table into this Markdown file.")
def main(write: Path | None) -> None:
    """Measure errors and print the table."""
    text = markdown(HEAD, rows())
    click.echo(text)
    if write is not None:
        write_between_marks(write, text, MARKS)


if __name__ == "__main__":
    main()
