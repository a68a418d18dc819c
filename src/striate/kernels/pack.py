"""Weights between plain OIHW order and the orders that convolution kernels read and write.

    PackWeights:  y[phase][g][ob][t][i][b] = w[g·co_g + ob·block + b, i, tap]
      with swap:  y[phase][g][jb][t][i][b] = w[g·co_g + i, jb·block + b, tap]
    UnpackHwio:   w[g·co_g + o, i, tap] = y[g][tap][i][o]

`tap` = a·kw + b is tap t of the phase, and w is (groups·co_g, ci_g, kh, kw). The last block is
filled with zeros. A row of w (its ci_g·kh·kw elements) is contiguous, so all three work on
blocks of `lanes` rows × `lanes` elements that are transposed in registers: whole vectors on both
sides, 8 bytes moved for each weight.

With swap the lanes are input channels of one row, so the rows of a block are the kh·kw taps of
neighbouring input channels. For 1×1 kernels that is a copy.

Numbers of channels are sizes, and only what is left of them after whole blocks shapes the code:
one kernel packs the weights of nearly all layers that have the same window.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from striate.arith.machine import Machine
from striate.ir import vec
from striate.ir.kernel import I64, Int, IntLike, Kernel, Ptr, Unit
from striate.kernels.span import copy_run, load, share_run, store
from striate.kernels.spec import symbol

FROM, TO = 0, 1
Tap = tuple[int, int]


@dataclass(frozen=True)
class PackWeights:
    """Plain weights → `arith.layout.PackedWeights` with the same block, groups, phases and swap.

    The sizes `co_g` and `ci_g` count the output and input channels of one group of the plain
    weights; `co_rest` and `ci_rest` are what is left of them after whole blocks, 0 where it does
    not matter (`for_channels`). With swap, taps that no phase has are left out.

    Raises ValueError for a tap that is outside of the kernel, occurs twice or, without swap, is
    in no phase.
    """

    block: int
    kernel: tuple[int, int]
    phases: tuple[tuple[Tap, ...], ...]
    swap: bool
    co_rest: int
    ci_rest: int

    BUFFERS: ClassVar[tuple[str, ...]] = ("w", "packed")
    SIZES: ClassVar[tuple[str, ...]] = ("groups", "co_g", "ci_g")

    @classmethod
    def for_channels(
        cls,
        block: int,
        kernel: tuple[int, int],
        phases: tuple[tuple[Tap, ...], ...],
        swap: bool,
        co_g: int,
        ci_g: int,
    ) -> PackWeights:
        """The kernel for weights of this many channels a group."""
        return cls(block, kernel, phases, swap, 0 if swap else co_g % block, ci_g % block)

    def __post_init__(self) -> None:
        height, width = self.kernel
        taps = [tap for phase in self.phases for tap in phase]
        missing = {(a, b) for a in range(height) for b in range(width)} - set(taps)
        if len(taps) + len(missing) != self.taps or (missing and not self.swap):
            raise ValueError(
                f"phases {self.phases} do not share the taps of a {self.kernel} kernel"
            )

    @property
    def taps(self) -> int:
        """Taps of the kernel."""
        return self.kernel[0] * self.kernel[1]

    def emit(self, machine: Machine) -> str:
        """LLVM IR text of the kernel.

        Raises ValueError when the block is not a multiple of the machine's lanes.
        """
        if self.block % machine.lanes:
            raise ValueError(f"block {self.block} is not a multiple of {machine.lanes} lanes")
        unit = Unit(machine)
        k = unit.kernel(symbol(self))
        if self.swap:
            _pack_swapped(k, self)
        else:
            _pack(k, self)
        k.finish()
        return unit.text()


@dataclass(frozen=True)
class UnpackHwio:
    """[group][kh][kw][ci_g][co_g] (weight gradients) → plain OIHW."""

    kernel: tuple[int, int]
    groups: int
    co_g: int
    ci_g: int

    BUFFERS: ClassVar[tuple[str, ...]] = ("hwio", "w")
    SIZES: ClassVar[tuple[str, ...]] = ()

    @property
    def taps(self) -> int:
        """Taps of the kernel."""
        return self.kernel[0] * self.kernel[1]

    def emit(self, machine: Machine) -> str:
        """LLVM IR text of the kernel."""
        unit = Unit(machine)
        k = unit.kernel(symbol(self))
        if self.co_g == self.ci_g == 1:  # depthwise: both orders are [group][tap]
            start, stop = share_run(k, k.int(self.groups * self.taps))
            copy_run(k, k.buffer(TO).at(start), k.buffer(FROM).at(start), stop - start)
        else:
            _unpack(k, self)
        k.finish()
        return unit.text()


# -- lanes along the output channels ---------------------------------------------------------------


def _pack(k: Kernel, spec: PackWeights) -> None:
    """A unit of work is an output block of a group."""
    groups, co_g, ci_g = (k.size(i) for i in range(3))
    row, blocks = ci_g * spec.taps, co_g.ceil_div(spec.block)
    place = _Places(k, spec.taps, ci_g, spec.ci_rest)

    def unit(source: Ptr, target: Ptr, rows: int) -> None:
        def panel(e: Int, width: int, at: Callable[[int], Int]) -> None:
            lanes_on = None if width == k.lanes else vec.mask(k, width)
            line = source.at(e)
            for half in range(0, spec.block, k.lanes):
                taken = []
                for _ in range(min(rows - half, k.lanes)):
                    taken.append(load(k, line, lanes_on))
                    line = line.at(row)
                for m, column in enumerate(_transposed(k, taken)[:width]):
                    vec.store(k, column, target.at(at(m)).at(half))

        place.sweep(panel)

    start, stop = k.share(groups * blocks)
    with k.loop(start, stop) as u:
        group, ob = u // blocks, u % blocks
        source = k.buffer(FROM).at((group * co_g + ob * spec.block) * row)
        places = _tap_places(spec, u, groups * blocks, ci_g)
        place.fill([places[t] for t in range(spec.taps)], spec.block)
        _whole_or_rest(
            k,
            ob < co_g // spec.block,
            spec.block,
            spec.co_rest,
            lambda rows: unit(source, k.buffer(TO), rows),
        )


def _unpack(k: Kernel, spec: UnpackHwio) -> None:
    """A unit of work is a vector of output channels of a group."""
    row = spec.ci_g * spec.taps
    blocks = -(-spec.co_g // k.lanes)
    place = _Places(k, spec.taps, spec.ci_g, spec.ci_g)
    place.fill([k.int(t * spec.ci_g * spec.co_g) for t in range(spec.taps)], spec.co_g)

    def unit(source: Ptr, target: Ptr, rows: int) -> None:
        channels_on = None if rows == k.lanes else vec.mask(k, rows)

        def panel(e: Int, width: int, at: Callable[[int], Int]) -> None:
            taken = [load(k, source.at(at(m)), channels_on) for m in range(width)]
            lanes_on = None if width == k.lanes else vec.mask(k, width)
            for r, line in enumerate(_transposed(k, taken)[:rows]):
                store(k, line, target.at(e).at(r * row), lanes_on)

        place.sweep(panel)

    start, stop = k.share(spec.groups * blocks)
    with k.loop(start, stop) as u:
        group, cb = u // blocks, u % blocks
        source = k.buffer(FROM).at(group * (row * spec.co_g) + cb * k.lanes)
        target = k.buffer(TO).at((group * spec.co_g + cb * k.lanes) * row)
        _whole_or_rest(
            k,
            cb < spec.co_g // k.lanes,
            k.lanes,
            spec.co_g % k.lanes,
            lambda rows: unit(source, target, rows),
        )


class _Places:
    """Where element e = i·taps + t of a row lies in the other order: base[t] + i·step.

    The places of `lanes` input channels stand in a table on the stack; a 1×1 kernel needs none.
    A row has `ci` input channels; `ci_rest` is ci modulo a multiple of the lanes.
    """

    def __init__(self, k: Kernel, taps: int, ci: IntLike, ci_rest: int) -> None:
        self.k, self.taps, self.row = k, taps, k.int(ci) * taps
        self.rest = ci_rest * taps % k.lanes
        self.period = k.lanes * taps  # elements after which the table repeats
        self.table = Ptr(k, k.b.alloca(I64, size=self.period), I64) if taps > 1 else None
        self.base, self.step = k.int(0), 0

    def fill(self, bases: Sequence[Int], step: int) -> None:
        """Set base[t] and the distance between input channels."""
        k, self.step = self.k, step
        if self.table is None:
            self.base = bases[0]
            return
        with k.loop(0, k.lanes) as i:
            for t, base in enumerate(bases):
                k.b.store((base + i * step).ir, self.table.at(i * self.taps + t).v)

    def sweep(self, panel: Callable[[Int, int, Callable[[int], Int]], None]) -> None:
        """`panel(e, width, at)` for each vector of elements e … e+width−1 of a row.

        at(m) is the place of element e+m.
        """
        k, lanes = self.k, self.k.lanes
        whole = self.row // lanes * lanes
        with (
            k.loop(0, whole, self.period) as first,
            k.loop(first, (first + self.period).min(whole), lanes) as e,
        ):
            panel(e, lanes, self._at(first, e))
        if self.rest:
            panel(whole, self.rest, self._at(whole // self.period * self.period, whole))

    def _at(self, first: Int, e: Int) -> Callable[[int], Int]:
        k, table = self.k, self.table
        if table is None:
            return lambda m: self.base + (e + m) * self.step
        before = first // self.taps * self.step

        def at(m: int) -> Int:
            return before + Int(k, k.b.load(table.at(e - first + m).v, typ=I64))

        return at


# -- lanes along the input channels ----------------------------------------------------------------


def _pack_swapped(k: Kernel, spec: PackWeights) -> None:
    """A unit of work is a block of input channels of a group, for all its output channels."""
    groups, co_g, ci_g = (k.size(i) for i in range(3))
    row, blocks = ci_g * spec.taps, ci_g.ceil_div(spec.block)
    start, stop = k.share(groups * blocks)
    with k.loop(start, stop) as u:
        group, jb = u // blocks, u % blocks
        source = k.buffer(FROM).at(group * (co_g * row) + jb * (spec.block * spec.taps))
        places = _tap_places(spec, u, groups * blocks, co_g)
        targets = {t: k.buffer(TO).at(place) for t, place in places.items()}

        def unit(rows: int, source: Ptr = source, targets: dict[int, Ptr] = targets) -> None:
            with k.loop(0, co_g) as i:
                to = {t: target.at(i * spec.block) for t, target in targets.items()}
                for half in range(0, spec.block, k.lanes):
                    on = max(0, min(rows - half, k.lanes))
                    _spread(
                        k,
                        source.at(i * row).at(half * spec.taps),
                        on,
                        spec.taps,
                        {t: target.at(half) for t, target in to.items()},
                    )

        _whole_or_rest(k, jb < ci_g // spec.block, spec.block, spec.ci_rest, unit)


def _spread(k: Kernel, source: Ptr, on: int, taps: int, targets: Mapping[int, Ptr]) -> None:
    """targets[t][lane] = source[lane·taps + t] for the first `on` lanes, zero for the others."""
    if taps == 1:
        lanes_on = None if on == k.lanes else vec.mask(k, on)
        vec.store(k, load(k, source, lanes_on), targets[0])
        return
    for t in range(0, taps, k.lanes):
        width = min(k.lanes, taps - t)
        lanes_on = None if width == k.lanes else vec.mask(k, width)
        taken = [load(k, source.at(lane * taps + t), lanes_on) for lane in range(on)]
        for m, column in enumerate(_transposed(k, taken)[:width]):
            if t + m in targets:
                vec.store(k, column, targets[t + m])


# -- shared ----------------------------------------------------------------------------------------


def _tap_places(spec: PackWeights, unit: Int, units: Int, inner: Int) -> dict[int, Int]:
    """Offset of [phase][unit][t][0][0] in the packed order, by tap a·kw + b of the plain kernel.

    `inner` is the number of input channels as the reader of the packed weights sees them.
    """
    places: dict[int, Int] = {}
    tap_size, before = inner * spec.block, 0  # taps of the phases before
    for phase in spec.phases:
        for t, (a, b) in enumerate(phase):
            taps = units * before + unit * len(phase) + t
            places[a * spec.kernel[1] + b] = taps * tap_size
        before += len(phase)
    return places


def _transposed(k: Kernel, rows: Sequence[Any]) -> list[Any]:
    """Transpose up to `lanes` vectors, missing ones being zero."""
    return vec.transpose(k, [*rows, *[vec.constant(k, 0.0)] * (k.lanes - len(rows))])


def _whole_or_rest(
    k: Kernel, is_whole: Any, whole: int, rest: int, run: Callable[[int], None]
) -> None:
    """`run(rows)` for the rows of a block: `whole` where the i1 holds, else `rest`, if any."""
    if not rest:
        run(whole)
        return
    with k.either(is_whole) as (inside, last):
        with inside:
            run(whole)
        with last:
            run(rest)
