"""Loops over runs and grids: what the kernels that move data have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from striate.ir import vec
from striate.ir.kernel import I32, I64, Int, IntLike, Kernel, Ptr

# Elements of a run that one unit of work copies: 64 KiB, long enough to stream.
RUN = 16384


def vectors(k: Kernel, count: Int, body: Callable[[Int, Any], None], start: IntLike = 0) -> None:
    """`body(i, lanes_on)` for each vector of the elements start … count−1.

    `lanes_on` is None for whole vectors and a mask for the rest.
    """
    first = k.int(start)
    whole = first + (count - first) // k.lanes * k.lanes
    with k.loop(first, whole, k.lanes) as i:
        body(i, None)
    with k.when(whole < count):
        body(whole, vec.mask(k, count - whole))


def load(k: Kernel, p: Ptr, lanes_on: Any) -> Any:
    """A vector; lanes that are off are zero and not touched (None: all lanes are on)."""
    return vec.load(k, p) if lanes_on is None else vec.load_masked(k, p, lanes_on)


def store(k: Kernel, value: Any, p: Ptr, lanes_on: Any) -> None:
    """Write the lanes that are on (None: all lanes)."""
    if lanes_on is None:
        vec.store(k, value, p)
    else:
        vec.store_masked(k, value, p, lanes_on)


def load_int(k: Kernel, p: Ptr) -> Int:
    """An entry of an i32 table."""
    return Int(k, k.b.sext(vec.load_scalar(k, p), I64))


def int_lanes(k: Kernel, values: Sequence[int]) -> Any:
    """A constant vector of i32, one lane for each value."""
    return vec.vector_type(k, I32, len(values))(list(values))


def splat_int(k: Kernel, value: IntLike) -> Any:
    """The low 32 bits of an integer in every lane."""
    return vec.splat(k, k.b.trunc(k.int(value).ir, I32))


def copy_run(k: Kernel, to: Ptr, source: Ptr, count: Int) -> None:
    """to[i] = source[i] for i in 0 … count−1."""

    def body(i: Int, lanes_on: Any) -> None:
        store(k, load(k, source.at(i), lanes_on), to.at(i), lanes_on)

    vectors(k, count, body)


def fill_run(k: Kernel, to: Ptr, count: Int, value: Any) -> None:
    """to[i] = a lane of `value` for i in 0 … count−1; all lanes are equal."""
    vectors(k, count, lambda i, lanes_on: store(k, value, to.at(i), lanes_on))


def share_run(k: Kernel, count: Int) -> tuple[Int, Int]:
    """This part's elements [start, stop) of a run, cut at multiples of `RUN`."""
    first, last = k.share(count.ceil_div(RUN))
    return (first * RUN).min(count), (last * RUN).min(count)


def walk(
    k: Kernel,
    start: Int,
    stop: Int,
    extents: Sequence[IntLike],
    body: Callable[[list[Int]], None],
) -> None:
    """`body([i, j, …])` for the units start … stop−1 of a grid, the last index fastest.

    The first unit's indices are found by division, all others by counting.
    """
    sizes = [k.int(e) for e in extents]
    first: list[Int] = []
    rest = start
    for size in reversed(sizes[1:]):
        some = size.max(1)  # an empty grid has no units, but its extents are divided by
        first.insert(0, rest % some)
        rest = rest // some
    first.insert(0, rest)

    def step(_: Int, values: list[Any]) -> list[Any]:
        now = [Int(k, v) for v in values]
        body(now)
        out: list[Int] = []
        carry = k.int(1)
        for index, size in zip(reversed(now[1:]), reversed(sizes[1:]), strict=True):
            following = index + carry
            wraps = following >= size
            out.insert(0, k.select(wraps, k.int(0), following))
            carry = Int(k, k.b.zext(wraps, I64))
        out.insert(0, now[0] + carry)
        return [i.ir for i in out]

    k.fold(start, stop, [i.ir for i in first], step)
