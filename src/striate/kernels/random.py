"""Uniform random numbers from a key and a place; see graph/ops/random.py for the definition.

    k0 = mix(key[0] + 0x9E3779B9);   k1 = mix(key[1] ^ k0)                 (modulo 2³²)
    y  = (mix(mix(i + k0) ^ k1) >> 8) / 2²⁴

i is the flat index in logical NCHW order, y lies in memory as NHWC. Bytes moved: 4·n·c·h·w.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from striate.arith.machine import Machine
from striate.ir import vec
from striate.ir.kernel import F32, I32, Int, Kernel, Unit
from striate.kernels.span import RUN, int_lanes, splat_int, store, vectors, walk
from striate.kernels.spec import symbol

MIX = (0x85EBCA6B, 0xC2B2AE35)
GOLDEN = 0x9E3779B9


@dataclass(frozen=True)
class RandomUniform:
    """i32 key (2,) → y [n][h][w][c]. For other ranks: n = h = w = 1 and c elements."""

    BUFFERS: ClassVar[tuple[str, ...]] = ("key", "y")
    SIZES: ClassVar[tuple[str, ...]] = ("n", "c", "h", "w")

    def emit(self, machine: Machine) -> str:
        """LLVM IR text of the kernel."""
        unit = Unit(machine)
        k = unit.kernel(symbol(self))
        _build(k)
        k.finish()
        return unit.text()


def _number(like: Any, value: int) -> Any:
    """An i32, in every lane where `like` is a vector."""
    signed = value - 2**32 if value >= 2**31 else value
    return like.type(signed) if like.type == I32 else like.type([signed] * like.type.count)


def _mix(k: Kernel, h: Any) -> Any:
    """h ^= h >> 16;  h *= MIX[0];  h ^= h >> 13;  h *= MIX[1];  h ^= h >> 16"""
    for shift, factor in ((16, MIX[0]), (13, MIX[1]), (16, None)):
        h = k.b.xor(h, k.b.lshr(h, _number(h, shift)))
        if factor is not None:
            h = k.b.mul(h, _number(h, factor))
    return h


def _build(k: Kernel) -> None:
    """A unit of work is a run of channels of one pixel."""
    n, c, h, w = (k.size(i) for i in range(4))
    key, y = k.buffer(0, I32), k.buffer(1)
    first_word, second_word = (vec.load_scalar(k, key.at(i)) for i in range(2))
    k0 = _mix(k, k.b.add(first_word, _number(first_word, GOLDEN)))
    k1 = _mix(k, k.b.xor(second_word, k0))
    keys = vec.splat(k, k0), vec.splat(k, k1)
    # Where both orders agree, all elements are the channels of one pixel.
    same = k.b.or_(c.equals(1), (h * w).equals(1))
    images, pixels = k.select(same, k.int(1), n), k.select(same, k.int(1), h * w)
    channels = k.select(same, n * c * h * w, c)
    lane_steps = k.b.mul(int_lanes(k, range(k.lanes)), splat_int(k, pixels))
    runs = channels.ceil_div(RUN)

    def unit(at: list[Int]) -> None:
        image, pixel, run = at
        out = y.at((image * pixels + pixel) * channels)
        place = image * channels * pixels + pixel

        def body(channel: Int, lanes_on: Any) -> None:
            index = k.b.add(splat_int(k, place + channel * pixels), lane_steps)
            store(k, _uniform(k, index, keys), out.at(channel), lanes_on)

        vectors(k, (run * RUN + RUN).min(channels), body, start=run * RUN)

    start, stop = k.share(images * pixels * runs)
    walk(k, start, stop, (images, pixels, runs), unit)


def _uniform(k: Kernel, index: Any, keys: tuple[Any, Any]) -> Any:
    """(mix(mix(i + k0) ^ k1) >> 8) / 2²⁴, exact in float32."""
    r = _mix(k, k.b.xor(_mix(k, k.b.add(index, keys[0])), keys[1]))
    whole = k.b.sitofp(k.b.lshr(r, _number(r, 8)), vec.vector_type(k, F32))
    return k.b.fmul(whole, vec.constant(k, 2.0**-24))
