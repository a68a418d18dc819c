"""Memory for runs, shared by all programs: flat however many shapes a net has seen."""

from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt

ALIGNMENT = 64
KEPT = 4


class Block:
    """Uninitialised bytes whose address is a multiple of 64."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._memory: npt.NDArray[np.uint8] = np.empty(size + ALIGNMENT, np.uint8)
        start = self._memory.ctypes.data
        self.address = start + -start % ALIGNMENT

    def array(self, offset: int, elements: int, dtype: npt.DTypeLike) -> npt.NDArray[np.generic]:
        """A view of `elements` elements at a byte offset."""
        first = self.address - self._memory.ctypes.data + offset
        size = elements * np.dtype(dtype).itemsize
        return self._memory[first : first + size].view(dtype)


_free: list[Block] = []
_lock = threading.Lock()


def take(size: int) -> Block:
    """A block of at least `size` bytes: the smallest free one that fits, else a new one."""
    with _lock:
        fitting = [b for b in _free if b.size >= size]
        if fitting:
            block = min(fitting, key=lambda b: b.size)
            _free.remove(block)
            return block
        if _free:
            _free.remove(min(_free, key=lambda b: b.size))  # grows into the new one
    return Block(max(size, 4096))


def give_back(block: Block) -> None:
    """Let other programs use the block; only the few largest are kept."""
    with _lock:
        _free.append(block)
        if len(_free) > KEPT:
            _free.remove(min(_free, key=lambda b: b.size))
