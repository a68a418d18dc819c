"""The arithmetic of convolutions: sizes, costs, and the input gradient as plain convolutions."""

from __future__ import annotations

import math
from dataclasses import dataclass

from striate.arith.padding import Pair, Sides, dilated
from striate.errors import ShapeError

# Small groups: vectors that the inputs of one vector of outputs lie in, and products of an output
# and a kernel row, which are unrolled.
MOST_INPUT_VECTORS = 4
MOST_PRODUCTS = 64


def output_size(n: int, k: int, padding_total: int, stride: int = 1, dilation: int = 1) -> int:
    """Outputs along one axis: floor((n + p - k_d + s) / s) with k_d = (k - 1) · d + 1.

    Raises ShapeError, with the formula written out, when that is 0 or less.
    """
    k_d = dilated(k, dilation)
    size = (n + padding_total - k_d + stride) // stride
    if size <= 0:
        raise ShapeError(
            f"the kernel does not fit: floor((n + p - k_d + s) / s) = floor(({n} + {padding_total} "
            f"- {k_d} + {stride}) / {stride}) = {size} outputs, with size n = {n}, padding p = "
            f"{padding_total}, dilated kernel k_d = ({k} - 1) * {dilation} + 1, stride s = {stride}"
        )
    return size


@dataclass(frozen=True)
class Phase:
    """One part of the input gradient dx: every `out_stride`-th row and column from `out_offset`.

    It is a stride-1 convolution of the output gradient dy with some of the kernel's taps:

        dx[h0 + i·sh, w0 + j·sw] = Σ_a Σ_b dy[i - pt + a·dh, j - pl + b·dw] · w[taps[a, b]]

    for 0 <= i < rows, 0 <= j < cols, where dy outside its bounds counts as 0. `taps` holds
    `kh_taps · kw_taps` pairs (kh, kw), row by row; without taps, dx is 0 there.
    """

    out_offset: Pair
    out_stride: Pair
    out_size: Pair
    taps: tuple[Pair, ...]
    kh_taps: int
    kw_taps: int
    dilation: Pair
    padding_begin: Pair


@dataclass(frozen=True)
class ConvShape:
    """A convolution: x (n, ci, h, w) with weights (co, ci / groups, kh, kw).

    y[n, o, i, j] = Σ_c Σ_a Σ_b w[o, c, a, b] · x[n, c', i·sh - pt + a·dh, j·sw - pl + b·dw],
    where c' runs through the input channels of o's group and x outside its bounds counts as 0.

    Raises ShapeError when channels and groups do not divide or the kernel does not fit.
    """

    n: int
    ci: int
    h: int
    w: int
    co: int
    kh: int
    kw: int
    stride: Pair = (1, 1)
    padding: Sides = ((0, 0), (0, 0))
    dilation: Pair = (1, 1)
    groups: int = 1

    def __post_init__(self) -> None:
        if self.groups < 1 or self.ci % self.groups or self.co % self.groups:
            raise ShapeError(
                f"input channels ({self.ci}) and output channels ({self.co}) must be divisible by "
                f"groups ({self.groups})"
            )
        if min(*self.stride, *self.dilation, self.kh, self.kw) < 1:
            raise ShapeError(f"kernel, stride and dilation must be at least 1: {self}")
        # Called for their errors.
        _ = self.out_h, self.out_w

    @property
    def out_h(self) -> int:
        """Rows of the output."""
        return output_size(self.h, self.kh, sum(self.padding[0]), self.stride[0], self.dilation[0])

    @property
    def out_w(self) -> int:
        """Columns of the output."""
        return output_size(self.w, self.kw, sum(self.padding[1]), self.stride[1], self.dilation[1])

    def has_small_groups(self, lanes: int, *, turned: bool = False) -> bool:
        """Whether vectors of `lanes` run across groups, for one group would not fill half of one.

        With `turned` the roles of input and output channels are exchanged, as in the input
        gradient. A vector's inputs must come from few vectors, and the products of a kernel row
        from few instructions.
        """
        ci, co = self.ci // self.groups, self.co // self.groups
        if turned:
            ci, co = co, ci
        return (
            self.groups > 1
            and 2 * co <= lanes
            and lanes // co * ci <= MOST_INPUT_VECTORS * lanes
            and ci * self.kw <= MOST_PRODUCTS
        )

    def met(self, axis: int) -> int:
        """Pairs of an output and a tap along H (0) or W (1) that lie inside the image.

        They are those of the input gradient too, where a row of dx meets a row of dy at a tap.
        """
        taps, step = (self.kh, self.kw)[axis], self.dilation[axis]
        outputs, size = (self.out_h, self.out_w)[axis], (self.h, self.w)[axis]
        starts = (i * self.stride[axis] - self.padding[axis][0] for i in range(outputs))
        return sum(
            min(taps, -(-max(0, size - start) // step)) - min(taps, -(-max(0, -start) // step))
            for start in starts
        )

    @property
    def macs(self) -> int:
        """Multiply-accumulates, taps in the padding included."""
        taps = self.ci // self.groups * self.kh * self.kw
        return self.n * self.co * self.out_h * self.out_w * taps

    @property
    def bytes(self) -> int:
        """Bytes of input, weights and output in float32, each counted once."""
        x = self.n * self.ci * self.h * self.w
        w = self.co * (self.ci // self.groups) * self.kh * self.kw
        y = self.n * self.co * self.out_h * self.out_w
        return 4 * (x + w + y)

    def phases(self) -> tuple[Phase, ...]:
        """The input gradient as at most sh · sw stride-1 convolutions of dy (see `Phase`).

        Phases without rows or columns are left out; the others cover dx exactly once.
        """
        rows = _axis_phases(self.h, self.kh, self.stride[0], self.padding[0][0], self.dilation[0])
        cols = _axis_phases(self.w, self.kw, self.stride[1], self.padding[1][0], self.dilation[1])
        return tuple(
            Phase(
                out_offset=(row.offset, col.offset),
                out_stride=self.stride,
                out_size=(row.count, col.count),
                taps=tuple((a, b) for a in row.taps for b in col.taps),
                kh_taps=len(row.taps),
                kw_taps=len(col.taps),
                dilation=(row.dilation, col.dilation),
                padding_begin=(row.padding, col.padding),
            )
            for row in rows
            for col in cols
        )


@dataclass(frozen=True)
class _AxisPhase:
    offset: int
    count: int
    taps: tuple[int, ...]
    dilation: int
    padding: int


def _axis_phases(
    size: int, kernel: int, stride: int, pad_begin: int, dilation: int
) -> list[_AxisPhase]:
    """Phases along one axis.

    Row h of dx meets tap k of the kernel in row o of dy where h + pad = s·o + k·d. With
    h + pad = s·q + φ, 0 <= φ < s, that asks for k·d ≡ φ (mod s), and o = q + (φ - k·d) / s.
    The taps of a phase stand s / g apart (g = gcd(s, d)), so their rows of dy stand d / g apart,
    the last tap first.
    """
    phases = []
    for offset in range(min(stride, size)):
        q, phi = divmod(offset + pad_begin, stride)
        taps = [k for k in range(kernel - 1, -1, -1) if (k * dilation - phi) % stride == 0]
        step = dilation // math.gcd(stride, dilation) if taps else 1
        first_row = q + (phi - taps[0] * dilation) // stride if taps else 0
        count = -(-(size - offset) // stride)
        phases.append(_AxisPhase(offset, count, tuple(taps), step, -first_row))
    return phases
