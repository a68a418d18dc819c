"""Single convolution layers: forward, input gradient, weight gradient, and their share of the peak.

    python -m bench.kernels --quick --threads 1

Ours: the kernel's steps of a program, on NHWC memory as inside every program. The forward pass
reads packed weights, as in inference, where they are packed once; the input gradient includes
packing and the weight gradient includes the last step to OIHW order, as in training.
"direct" rows are measured with `algorithm="direct"`; "winograd" rows are what a program does by
itself, in GFLOP/s of the direct convolution, so their share of the peak may exceed 1.
PyTorch: `torch.nn.functional.conv2d` and `torch.ops.aten.convolution_backward` on channels-last
tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
import torch

from bench.facts import facts
from bench.tables import aligned, check_marks, describe, markdown, write_between_marks
from bench.timing import Timing, interleave
from striate import engine
from striate.graph import Trace
from striate.graph.ops.conv import Conv2d, ConvInputGrad, ConvWeightGrad

Array = npt.NDArray[np.float32]
DIRECTIONS = ("forward", "input gradient", "weight gradient")
ALGORITHMS = ("direct", "auto")
MARKS = ("<!-- kernels: begin -->", "<!-- kernels: end -->")
HEAD = (
    *("layer", "direction", "kernel", "threads", "GFLOP/s", "spread", "of peak", "wanted"),
    *("PyTorch", "ratio", "max error"),
)
WANTED = {"forward": 0.90, "forward 1×1": 0.85, "input gradient": 0.85, "weight gradient": 0.80}


@dataclass(frozen=True)
class Layer:
    """n images of ci × h × h, co kernels of k × k, stride s, padding k // 2."""

    n: int
    ci: int
    h: int
    co: int
    k: int
    s: int = 1

    def __str__(self) -> str:
        text = f"{self.ci},{self.h},{self.h} → {self.co}, {self.k}×{self.k}"
        return text + (f"/{self.s}" if self.s > 1 else "") + (f", n={self.n}" * (self.n > 1))

    @property
    def has_winograd(self) -> bool:
        """Whether a program uses Winograd's method for it."""
        return self.k == 3 and self.s == 1

    @property
    def out(self) -> int:
        """Output rows and columns."""
        return (self.h + 2 * (self.k // 2) - self.k) // self.s + 1

    @property
    def flops(self) -> int:
        """Two for each multiply-accumulate; the same for all three directions."""
        return 2 * self.n * self.out**2 * self.co * self.ci * self.k**2


LAYERS = (
    Layer(1, 64, 56, 64, 3),
    Layer(1, 128, 28, 128, 3),
    Layer(14, 256, 12, 256, 3),
    Layer(14, 512, 8, 512, 3),
    Layer(1, 3, 224, 64, 7, 2),
    Layer(1, 64, 56, 128, 3, 2),
    Layer(1, 256, 56, 64, 1),
    Layer(1, 64, 56, 256, 1),
    Layer(1, 1024, 14, 256, 1),
    Layer(4, 64, 32, 64, 3),
)


def cases() -> list[tuple[Layer, str, str]]:
    """(layer, direction, algorithm) of every line of the table."""
    return [
        (layer, direction, algorithm)
        for direction in DIRECTIONS
        for layer in LAYERS
        for algorithm in ALGORITHMS
        if algorithm == "direct" or layer.has_winograd
    ]


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    layer: str
    direction: str
    algorithm: str
    threads: int
    gflops: float
    share: float
    torch_gflops: float
    ratio: float
    spread: tuple[float, float]
    wanted: float
    error: float


def _ours(
    layer: Layer, direction: str, algorithm: str, arrays: dict[str, Array]
) -> tuple[Callable[[], None], Array]:
    """A call that runs the layer's kernel, and its result in NCHW."""
    pad = ((layer.k // 2,) * 2,) * 2
    stride = (layer.s, layer.s)
    names = {"forward": "xw", "input gradient": "gw", "weight gradient": "xg"}[direction]
    with Trace() as trace:
        a, b = (trace.input(name, arrays[name].shape) for name in names)
        if direction == "forward":
            out = Conv2d(stride, pad)(a, b)
        elif direction == "input gradient":
            out = ConvInputGrad(stride, pad, in_h=layer.h, in_w=layer.h)(a, b)
        else:
            out = ConvWeightGrad(stride, pad, kh=layer.k, kw=layer.k)(a, b)
        graph = trace.graph(out)
    executable = engine.build(graph, training=True, algorithm=algorithm)
    (result,) = executable(arrays[names[0]], arrays[names[1]])
    steps, run = executable.step_by_step(arrays[names[0]], arrays[names[1]])
    skip = ("NCHW", "NHWC", "copy") + (("pack", "transform") if direction == "forward" else ())
    chosen = [i for i, step in enumerate(steps) if not step.label.startswith(skip)]
    runs = _runs(chosen)

    def call() -> None:
        for first, stop in runs:
            run(first, stop)

    return call, result


def _runs(indices: list[int]) -> list[tuple[int, int]]:
    """Neighbouring indices as (first, stop)."""
    runs: list[tuple[int, int]] = []
    for i in indices:
        if runs and runs[-1][1] == i:
            runs[-1] = (runs[-1][0], i + 1)
        else:
            runs.append((i, i + 1))
    return runs


def _theirs(
    layer: Layer, direction: str, arrays: dict[str, Array]
) -> tuple[Callable[[], torch.Tensor], Array]:
    x, w, g = (
        torch.from_numpy(arrays[name]).contiguous(memory_format=torch.channels_last)
        for name in "xwg"
    )
    pad, stride = [layer.k // 2] * 2, [layer.s] * 2

    def forward() -> torch.Tensor:
        return torch.nn.functional.conv2d(x, w, None, stride, pad)

    def backward() -> torch.Tensor:
        mask = [direction == "input gradient", direction == "weight gradient", False]
        grads = torch.ops.aten.convolution_backward(
            g, x, w, None, stride, pad, [1, 1], False, [0, 0], 1, mask
        )
        return grads[0] if mask[0] else grads[1]

    call = forward if direction == "forward" else backward
    return call, call().contiguous().numpy()


def measure(
    layer: Layer, direction: str, algorithm: str, threads: int, rounds: int, seconds: float
) -> Row:
    """Both contenders and the machine's peak, interleaved."""
    rng = np.random.default_rng(0)
    shapes = {
        "x": (layer.n, layer.ci, layer.h, layer.h),
        "w": (layer.co, layer.ci, layer.k, layer.k),
        "g": (layer.n, layer.co, layer.out, layer.out),
    }
    arrays = {k: rng.standard_normal(s).astype(np.float32) for k, s in shapes.items()}
    ours, result = _ours(layer, direction, algorithm, arrays)
    with torch.inference_mode():
        theirs, reference = _theirs(layer, direction, arrays)
        error = float(np.abs(result - reference).max() / reference.std())
        peaks: list[float] = []

        def peak() -> None:
            peaks.append(engine.measure_peak(threads, 0.002))

        times = interleave({"ours": ours, "torch": theirs, "peak": peak}, rounds, seconds)
    return _row(layer, direction, algorithm, threads, times, max(peaks), error)


def _row(
    layer: Layer,
    direction: str,
    algorithm: str,
    threads: int,
    times: dict[str, Timing],
    peak: float,
    error: float,
) -> Row:
    speed = {name: layer.flops / t.median / 1e9 for name, t in times.items()}
    slow, fast = layer.flops / times["ours"].high / 1e9, layer.flops / times["ours"].low / 1e9
    kind = "forward 1×1" if direction == "forward" and layer.k == 1 else direction
    return Row(
        str(layer),
        direction,
        "winograd" if algorithm == "auto" else "direct",
        threads,
        speed["ours"],
        speed["ours"] / peak,
        speed["torch"],
        times["torch"].median / times["ours"].median,
        (slow, fast),
        WANTED[kind],
        error,
    )


# ---------------------------------------------------------------------------- table and command


def cells(row: Row) -> tuple[str, ...]:
    """A line of the table."""
    return (
        *(row.layer, row.direction, row.algorithm, str(row.threads), f"{row.gflops:.0f}"),
        f"{row.spread[0]:.0f}–{row.spread[1]:.0f}",
        f"{row.share:.2f}" + ("" if row.share >= row.wanted else " ✗"),
        *(f"{row.wanted:.2f}", f"{row.torch_gflops:.0f}", f"{row.ratio:.2f}", f"{row.error:.0e}"),
    )


@click.command()
@click.option("--quick", is_flag=True, help="Fewer and shorter rounds, for a first look.")
@click.option("--threads", multiple=True, type=click.IntRange(1), default=(1, 2), show_default=True)
@click.option("--write", type=Path, help="Put the table into this page, between its marks.")
def main(quick: bool, threads: tuple[int, ...], write: Path | None) -> None:
    """Measure the convolution kernels in all three directions beside PyTorch's.

    Example: python -m bench.kernels --quick --threads 1
    """
    rounds, seconds = (3, 0.02) if quick else (9, 0.08)
    if write is not None:
        check_marks(write, MARKS)
    rows, peaks = [], {}
    for count in sorted({min(count, engine.get_num_threads()) for count in threads}):
        engine.set_num_threads(count)
        torch.set_num_threads(count)
        peaks[str(count)] = engine.measure_peak(count, 0.3)
        for layer, direction, way in cases():
            click.echo(f"{count} thread(s) · {layer} · {direction} · {way}", err=True)
            rows.append(measure(layer, direction, way, count, rounds, seconds))
    command = "python -m bench.kernels"
    known = facts([], "quick" if quick else "full", "native", command) | {"peak": peaks}
    lines = [cells(row) for row in sorted(rows, key=lambda row: row.share >= row.wanted)]
    legend = "✗: below the wanted share of the peak. Ratio: PyTorch's time ÷ ours."
    click.echo(f"{describe(known)}\n\n{aligned(HEAD, lines)}\n\n{legend}")
    if write is not None:
        head = f"Machine: {describe(known)}. Command: `{command}`."
        write_between_marks(write, f"{head}\n\n{markdown(HEAD, lines)}", MARKS)


if __name__ == "__main__":
    main()
