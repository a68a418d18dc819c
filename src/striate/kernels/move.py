"""Copies between strided arrays. Elements have four bytes, of any dtype."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from striate.arith.machine import Machine
from striate.ir import vec
from striate.ir.kernel import Int, Kernel, Unit
from striate.kernels.span import RUN, copy_run, walk
from striate.kernels.spec import symbol


@dataclass(frozen=True)
class CopyStrided:
    """dst[dst_offset + Σ_d i_d·dst_stride_d] = src[src_offset + Σ_d i_d·src_stride_d].

    For all i_d in 0 … extent_d−1 of `dims` loops, the last one innermost. Strides and offsets
    are elements; source strides may be 0 (repeat) or negative (reverse). With both innermost
    strides 1, runs are copied in whole vectors, else element by element. A source of a
    concatenation, a slice, a flip and a permutation are each one call.

    Bytes moved: 8 · Π extent_d.
    """

    dims: int

    BUFFERS: ClassVar[tuple[str, ...]] = ("src", "dst")

    def __post_init__(self) -> None:
        if self.dims < 1:
            raise ValueError(f"a copy has at least one loop, got {self.dims}")

    def sizes(
        self,
        extents: Sequence[int],
        src_strides: Sequence[int],
        dst_strides: Sequence[int],
        src_offset: int = 0,
        dst_offset: int = 0,
    ) -> tuple[int, ...]:
        """The table of run-time sizes: extents, source strides, destination strides, offsets.

        Raises ValueError unless there is one of each a loop.
        """
        for numbers in (extents, src_strides, dst_strides):
            if len(numbers) != self.dims:
                raise ValueError(f"{self} takes {self.dims} numbers, got {tuple(numbers)}")
        return (*extents, *src_strides, *dst_strides, src_offset, dst_offset)

    def emit(self, machine: Machine) -> str:
        """LLVM IR text of the kernel."""
        unit = Unit(machine)
        k = unit.kernel(symbol(self))
        _copy(k, self.dims)
        k.finish()
        return unit.text()


def _copy(k: Kernel, dims: int) -> None:
    """A unit of work is a run along the innermost loop, cut at multiples of `RUN`."""
    extents, src_strides, dst_strides = (
        [k.size(table * dims + d) for d in range(dims)] for table in range(3)
    )
    src, dst = k.buffer(0).at(k.size(3 * dims)), k.buffer(1).at(k.size(3 * dims + 1))
    runs = extents[-1].ceil_div(RUN)
    units = runs
    for extent in extents[:-1]:
        units = units * extent
    contiguous = k.every(src_strides[-1].equals(1), dst_strides[-1].equals(1))

    def unit(at: list[Int]) -> None:
        first = at[-1] * RUN
        index = [*at[:-1], first]
        source, target = src, dst
        for d in range(dims):
            source = source.at(index[d] * src_strides[d])
            target = target.at(index[d] * dst_strides[d])
        count = (extents[-1] - first).min(RUN)
        with k.either(contiguous) as (together, apart):
            with together:
                copy_run(k, target, source, count)
            with apart, k.loop(0, count) as i:
                element = vec.load_scalar(k, source.at(i * src_strides[-1]))
                k.b.store(element, target.at(i * dst_strides[-1]).v).align = 4

    start, stop = k.share(units)
    walk(k, start, stop, (*extents[:-1], runs), unit)
