"""Weights of Winograd's method: U = G g Gᵀ for every kernel g and point.

    [output block][tap][ci][block] → [output block][P][phase][ci][block]

`TransformWeights` does it once for all. Where few tiles share the weights, U is not worth its
way through memory, for it has 36 numbers for 9 with F(4×4, 3×3): the convolution reads the packed
weights and makes U of a few channels at a time, in L2 (`transform_channel`). The instructions are
the same, and so are the bits. Some 100 FLOPs a kernel of 3×3 with 36 points.
"""

from __future__ import annotations

from dataclasses import dataclass

from striate.arith.cook_toom import Filtering
from striate.arith.machine import Machine
from striate.ir import vec
from striate.ir.kernel import Int, IntLike, Kernel, Ptr, Unit
from striate.kernels.linear import combine
from striate.kernels.spec import symbol


@dataclass(frozen=True)
class TransformWeights:
    """All weights of a convolution.

    Buffers: packed weights, U. Sizes: blocks of `block` output channels, ci.
    """

    block: int
    filtering: Filtering

    def emit(self, machine: Machine) -> str:
        """LLVM IR text of the kernel."""
        unit = Unit(machine)
        k = unit.kernel(symbol(self))
        f, width = self.filtering, self.block
        blocks, ci = k.size(0), k.size(1)
        held = k.stack(f.side * f.taps * k.lanes)
        start, stop = k.share(blocks * ci)
        with k.loop(start, stop) as i:
            ob, c = i // ci, i % ci
            g = k.buffer(0).at((ob * (f.kernel**2) * ci + c) * width)
            for row in range(f.stride):
                for col in range(f.stride):
                    phase = ob * (f.points * f.phases) + (row * f.stride + col)
                    u = k.buffer(1).at((phase * ci + c) * width)
                    steps = (ci * width, ci * (f.phases * width))
                    transform_channel(k, f, g, u, held, width=width, steps=steps, phase=(row, col))
        k.finish()
        return unit.text()


def transform_channel(
    k: Kernel,
    f: Filtering,
    g: Ptr,
    u: Ptr,
    held: Ptr,
    *,
    width: int,
    steps: tuple[Int, IntLike],
    phase: tuple[int, int] = (0, 0),
) -> None:
    """U of one input channel and `width` output channels, for one phase of the stride.

    `steps`: elements from tap to tap of g and from point to point of u. `held`: room on the stack
    for side · taps vectors.
    """
    for lane in range(0, width, k.lanes):
        _transform(k, f, g.at(lane), u.at(lane), held, steps, phase)


def _transform(
    k: Kernel,
    f: Filtering,
    g: Ptr,
    u: Ptr,
    held: Ptr,
    steps: tuple[Int, IntLike],
    phase: tuple[int, int],
) -> None:
    """One vector of output channels; its phase may have a tap less than others."""
    tap, point = steps
    rows, cols = f.present(phase[0]), f.present(phase[1])
    down = [row[:rows] for row in f.transforms.g]
    across = [row[:cols] for row in f.transforms.g]
    for b in range(cols):
        taps = [(a * f.stride + phase[0]) * f.kernel + b * f.stride + phase[1] for a in range(rows)]
        column = [vec.load(k, g.at(tap * number)) for number in taps]
        for r, value in enumerate(combine(k, down, column)):
            vec.store(k, value, held.at((r * f.taps + b) * k.lanes))
    for r in range(f.side):
        line = [vec.load(k, held.at((r * f.taps + b) * k.lanes)) for b in range(cols)]
        for value in combine(k, across, line):
            vec.store(k, value, u)
            u = u.at(point)
