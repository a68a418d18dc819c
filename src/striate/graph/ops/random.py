"""Random numbers as a pure function of a key and a place, so that every part computes its own."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from striate.errors import DTypeError
from striate.graph.value import Array, Node, Op, TensorType, Value

# Multipliers of the finalising mix of MurmurHash3 (A. Appleby, public domain).
MIX = (0x85EBCA6B, 0xC2B2AE35)
GOLDEN = 0x9E3779B9


def mix(h: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """A bijection of uint32 in which every input bit changes every output bit half the time.

    h ^= h >> 16;  h *= 0x85EBCA6B;  h ^= h >> 13;  h *= 0xC2B2AE35;  h ^= h >> 16
    """
    h = h ^ (h >> np.uint32(16))
    h = h * np.uint32(MIX[0])
    h = h ^ (h >> np.uint32(13))
    h = h * np.uint32(MIX[1])
    return h ^ (h >> np.uint32(16))


@dataclass(frozen=True)
class RandomUniform(Op):
    """Uniform f32 numbers in [0, 1) of `shape` from an i32 key (2,).

    With all arithmetic modulo 2³² and i the flat index in row-major (NCHW) order:

        k0 = mix(key0 + 0x9E3779B9);   k1 = mix(key1 ^ k0)
        r  = mix(mix(i + k0) ^ k1);    u = (r >> 8) / 2²⁴
    """

    shape: tuple[int, ...]

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        """`shape`."""
        (key,) = inputs
        if key != TensorType((2,), "i32"):
            raise DTypeError(f"the key must be i32 of shape (2,), got {key}")
        return (TensorType(self.shape),)

    def numpy(self, *arrays: Array) -> tuple[Array, ...]:
        """As above; float32 whatever the run's dtype."""
        key = arrays[0].astype(np.int32).view(np.uint32)
        with np.errstate(over="ignore"):
            k0 = mix(key[0:1] + np.uint32(GOLDEN))
            k1 = mix(key[1:2] ^ k0)
            index = np.arange(math.prod(self.shape), dtype=np.uint64).astype(np.uint32)
            r = mix(mix(index + k0) ^ k1)
        u = (r >> np.uint32(8)).astype(np.float32) * np.float32(2**-24)
        return (u.reshape(self.shape),)

    def grad(self, node: Node, *g: Value | None) -> tuple[Value | None, ...]:
        """None."""
        return (None,)
