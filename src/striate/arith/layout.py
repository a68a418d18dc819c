"""Memory orders of a value. The logical shape never changes, only where each element lies."""

from __future__ import annotations

from dataclasses import dataclass

from striate.arith.cook_toom import Filtering

Tap = tuple[int, int]


@dataclass(frozen=True)
class Plain:
    """Row-major order of the logical shape (NCHW for images, OIHW for weights)."""

    def __str__(self) -> str:
        return "plain"

    def elements(self, shape: tuple[int, ...]) -> int:
        """Float32 elements that the buffer holds."""
        return product(shape)


@dataclass(frozen=True)
class Nhwc:
    """Images with the channel innermost: the order inside a program."""

    def __str__(self) -> str:
        return "nhwc"

    def elements(self, shape: tuple[int, ...]) -> int:
        """Float32 elements that the buffer holds."""
        return product(shape)


@dataclass(frozen=True)
class NhwcSlice(Nhwc):
    """Channels `start` … of NHWC images that have `pitch` channels: a part of a concatenation."""

    pitch: int
    start: int

    def __str__(self) -> str:
        return f"nhwc {self.start}… of {self.pitch}"


@dataclass(frozen=True)
class PackedWeights:
    """Weights (co, ci/groups, kh, kw) in the order in which a convolution kernel reads them.

    [phase][group][output block][tap][input channel][block], the last block filled with zeros.
    `phases` lists for each phase the taps (kh, kw) in reading order. With `swap` the roles of
    input and output channels are exchanged, as the input gradient needs it.
    """

    block: int
    groups: int
    phases: tuple[tuple[Tap, ...], ...]
    swap: bool

    def __str__(self) -> str:
        taps = "+".join(str(len(p)) for p in self.phases)
        return f"packed(block={self.block} taps={taps}{' swap' if self.swap else ''})"

    def channels(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """(output, input) channels of one group as the kernel that reads them sees it."""
        outer, inner = shape[0] // self.groups, shape[1]
        return (inner, outer) if self.swap else (outer, inner)

    def elements(self, shape: tuple[int, ...]) -> int:
        """Float32 elements that the buffer holds, fill included."""
        co, ci = self.channels(shape)
        taps = sum(len(p) for p in self.phases)
        return self.groups * -(-co // self.block) * self.block * taps * ci


@dataclass(frozen=True)
class Hwio:
    """Weight gradients as they are computed: [group][kh][kw][ci/groups][co/groups]."""

    groups: int

    def __str__(self) -> str:
        return "hwio"

    def elements(self, shape: tuple[int, ...]) -> int:
        """Float32 elements that the buffer holds."""
        return product(shape)


@dataclass(frozen=True)
class WinogradWeights:
    """Weights transformed for Winograd's method: [point][output block][phase][channel][block].

    `packed` is the order that they are transformed from; it has one group and all taps of the
    kernel, row by row. Phases are those of `filtering`, row by row.
    """

    packed: PackedWeights
    filtering: Filtering

    def __str__(self) -> str:
        swap = " swap" if self.packed.swap else ""
        return f"winograd({self.filtering} block={self.packed.block}{swap})"

    def elements(self, shape: tuple[int, ...]) -> int:
        """Float32 elements that the buffer holds: the points of all phases instead of the taps."""
        f = self.filtering
        return self.packed.elements(shape) // f.kernel**2 * f.phases * f.points


@dataclass(frozen=True)
class DepthwiseWeights:
    """Weights (c, 1, kh, kw) of a depthwise convolution: [phase][tap][channel].

    `phases` has each phase's taps (row, column) in their order.
    """

    phases: tuple[tuple[tuple[int, int], ...], ...]

    def __str__(self) -> str:
        return "depthwise"

    def order(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Flat numbers of the taps, phase after phase."""
        return tuple(a * shape[3] + b for taps in self.phases for a, b in taps)

    def elements(self, shape: tuple[int, ...]) -> int:
        """Float32 elements that the buffer holds."""
        return shape[0] * len(self.order(shape))


Layout = Plain | Nhwc | PackedWeights | Hwio | WinogradWeights | DepthwiseWeights
PLAIN = Plain()
NHWC = Nhwc()


def pitch_of(layout: Layout) -> int:
    """Elements from one pixel of NHWC images to the next; 0: as many as they have channels."""
    return layout.pitch if isinstance(layout, NhwcSlice) else 0


def product(shape: tuple[int, ...]) -> int:
    """Product of all sizes; 1 for a scalar."""
    total = 1
    for size in shape:
        total *= size
    return total
