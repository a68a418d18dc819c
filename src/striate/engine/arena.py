"""Memory for runs, shared by all programs: flat however many shapes a net has seen."""

from __future__ import annotations

import contextlib
import mmap
import threading

import numpy as np
import numpy.typing as npt

ALIGNMENT = 64
KEPT = 4
HUGE_PAGE = 2 * 2**20


class Block:
    """Bytes whose address is a multiple of 64.

    Large blocks are mapped afresh and ask for huge pages: a program streams through its arena,
    and with pages of 4 KiB the address translation costs up to half of the time.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._memory: npt.NDArray[np.uint8]
        if size >= HUGE_PAGE:
            self._memory = _mapped(size + HUGE_PAGE)
            alignment = HUGE_PAGE
        else:
            self._memory = np.empty(size + ALIGNMENT, np.uint8)
            alignment = ALIGNMENT
        start = self._memory.ctypes.data
        self.address = start + -start % alignment

    def array(self, offset: int, elements: int, dtype: npt.DTypeLike) -> npt.NDArray[np.generic]:
        """A view of `elements` elements at a byte offset."""
        first = self.address - self._memory.ctypes.data + offset
        size = elements * np.dtype(dtype).itemsize
        return self._memory[first : first + size].view(dtype)


def _mapped(size: int) -> npt.NDArray[np.uint8]:
    """Private anonymous memory, given back to the system with the last reference."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return np.empty(size, np.uint8)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without huge pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint8)


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
