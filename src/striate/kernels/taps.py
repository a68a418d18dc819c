"""The sum over the taps of a kernel, for the pixels of one register tile.

    acc[r][c] += x[a·dh·pitch + (r·sw + b·dw)·pixel + i] · w[((a·kw + b)·ci + i)·block + c·lanes …]

for kernel rows a, then columns b, then input channels i.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from striate.ir import vec
from striate.ir.kernel import Int, Kernel, Ptr
from striate.kernels.micro import in_rounds, multiply_step, steps_together, zeros

LONG_ROW = 512  # products of a kernel row; adding it to the total costs less than a hundredth
FURTHER = 1024  # elements of the weights ahead, where those of a tile do not stay in L2
IN_FLIGHT = 8  # multiply-adds that two units of four cycles have under way


@dataclass(frozen=True)
class Taps:
    """What a tile meets: `pixel` elements from pixel to pixel, `block` from input to input of w."""

    ci: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    pixel: int
    block: int

    def sum(
        self, k: Kernel, source: tuple[Ptr, Ptr, Int], met: tuple[Int, Int], rows: int, cols: int
    ) -> list[Any]:
        """Accumulators of `rows` pixels and `cols` vectors of output channels.

        `source` is x, w and the row pitch of x; `met` the numbers of kernel rows and columns, at
        least one of each. Columns that lie side by side are one run of kw·ci products: all of
        them are met. Rows of many products are summed up one by one and then added: a sum of kh
        sums loses √kh times less to rounding than one long sum.
        """
        x, w, pitch = source
        across = self.kernel[1] * self.ci

        def kernel_rows(a: Int, accs: list[Any]) -> list[Any]:
            """The kernel rows from a on, as many as there are accumulators for."""
            starts = [
                (x.at(b * self.dilation[0] * pitch), w.at(b * (across * self.block)))
                for b in (a + i for i in range(len(accs) // (rows * cols)))
            ]
            return self._run(k, starts, accs, met[1], rows, cols)

        accs = zeros(k, rows, cols)
        if self.kernel[0] == 1:
            return kernel_rows(k.int(0), accs)
        if across >= LONG_ROW:
            together = 2 if rows * cols < IN_FLIGHT else 1
            return self._added(k, met[0], kernel_rows, accs, together)
        return k.fold(0, met[0], accs, kernel_rows, at_least_once=True)

    def _run(
        self,
        k: Kernel,
        starts: list[tuple[Ptr, Ptr]],
        accs: list[Any],
        columns: Int,
        rows: int,
        cols: int,
    ) -> list[Any]:
        """Kernel rows that begin at `starts`, their columns side by side or run by run."""
        joined = self.dilation[1] == 1
        length = self.ci * (self.kernel[1] if joined else 1)
        tile, pixel = rows * cols, self.stride[1] * self.pixel
        # Tiles of few pixels read weights as fast as L2 and what lies beyond it give them.
        weights = 4 * self.ci * self.kernel[0] * self.kernel[1] * self.block
        far = weights > k.machine.l2_bytes // 2

        def column(b: Int, accs: list[Any]) -> list[Any]:
            def step(first: Int, u: int, accs: list[Any]) -> list[Any]:
                i = first + u
                out: list[Any] = []
                for t, (x, w) in enumerate(starts):
                    xi = x.at(b * (self.dilation[1] * self.pixel) + i)
                    wi = w.at((b * self.ci + i) * self.block)
                    if far:
                        vec.prefetch(k, wi.at(FURTHER))
                    own = accs[t * tile : (t + 1) * tile]
                    out += multiply_step(k, xi, wi, own, rows, cols, pixel)
                return out

            return in_rounds(k, length, accs, step, steps_together(k, rows, cols))

        if joined or self.kernel[1] == 1:
            return column(k.int(0), accs)
        return k.fold(0, columns, accs, column, at_least_once=True)

    def _added(
        self,
        k: Kernel,
        count: Int,
        kernel_rows: Callable[[Int, list[Any]], list[Any]],
        nothing: list[Any],
        together: int,
    ) -> list[Any]:
        """The sums of so many kernel rows; the total waits on the stack meanwhile.

        Sums of few pixels are fewer than the multiply-adds that a core has in flight: two kernel
        rows at a time keep it busy. They are added in the same order.
        """
        total = k.stack(len(nothing) * k.lanes)
        places = [total.at(i * k.lanes) for i in range(len(nothing))]
        for place, value in zip(places, nothing, strict=True):
            vec.store(k, value, place)

        def add(a: Int, some: int) -> None:
            sums = kernel_rows(a, nothing * some)
            for i, place in enumerate(places):
                whole = vec.load(k, place)
                for value in sums[i :: len(places)]:
                    whole = k.b.fadd(whole, value)
                vec.store(k, whole, place)

        several = count // together
        if together > 1:
            with k.loop(0, several) as a:
                add(a * together, together)
        with k.loop(several * together if together > 1 else 0, count) as a:
            add(a, 1)
        return [vec.load(k, place) for place in places]
