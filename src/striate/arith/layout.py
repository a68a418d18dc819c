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
    """Weights transformed for Winograd's method: [output block][point][phase][channel][block].

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


def groups_of_a_vector(co: int, lanes: int) -> int:
    """Groups of `co` output channels that share a vector."""
    return max(1, lanes // co)


@dataclass(frozen=True)
class GroupedWeights:
    """Weights of small groups: [phase][vector][tap][input channel][lane].

    A vector has the output channels of as many groups as fit; other lanes are 0. `phases` and
    `swap` as in `PackedWeights`.
    """

    lanes: int
    groups: int
    phases: tuple[tuple[Tap, ...], ...]
    swap: bool

    def __str__(self) -> str:
        return f"grouped{' swap' if self.swap else ''}"

    def channels(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """(output, input) channels of one group as the kernel that reads them sees it."""
        outer, inner = shape[0] // self.groups, shape[1]
        return (inner, outer) if self.swap else (outer, inner)

    def order(self, shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        """Flat numbers of the taps of each phase."""
        return tuple(tuple(a * shape[3] + b for a, b in taps) for taps in self.phases)

    def elements(self, shape: tuple[int, ...]) -> int:
        """Float32 elements that the buffer holds, fill included."""
        return sum(self.phase_elements(shape))

    def phase_elements(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Float32 elements of each phase."""
        co, ci = self.channels(shape)
        vectors = -(-self.groups // groups_of_a_vector(co, self.lanes))
        return tuple(vectors * len(taps) * ci * self.lanes for taps in self.phases)


Layout = Plain | Nhwc | PackedWeights | Hwio | WinogradWeights | GroupedWeights
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
