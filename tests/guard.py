"""Copies of arrays that touch an unreadable page: a kernel that oversteps a buffer dies there.

`outcome` runs a kernel on such copies. Linux only (mmap and mprotect); a test that asks for one
elsewhere is skipped.
"""

import ctypes
import mmap
import sys

import numpy as np
import pytest

from tests.kernel_call import call

PROT_NONE = 0
PARTS = (1, 2, 3, 7)


def _pages(nbytes):
    """Bytes of whole pages that hold `nbytes`, between two unreadable pages."""
    if not sys.platform.startswith("linux"):
        pytest.skip("guard pages need Linux")
    page = mmap.PAGESIZE
    room = -(-nbytes // page) * page
    memory = np.frombuffer(mmap.mmap(-1, room + 2 * page), dtype=np.uint8)
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for start in (0, page + room):
        if protect(memory.ctypes.data + start, page, PROT_NONE) != 0:
            raise OSError(ctypes.get_errno(), "mprotect")
    return memory[page : page + room]


def _copy(array, place):
    out = place.view(array.dtype).reshape(array.shape)
    out[...] = array
    return out


def guarded(array):
    """A copy of `array` whose last byte lies just before an unreadable page."""
    room = _pages(array.nbytes)
    return _copy(array, room[room.size - array.nbytes :])


def guarded_front(array):
    """A copy of `array` whose first byte lies just after an unreadable page."""
    return _copy(array, _pages(array.nbytes)[: array.nbytes])


def outcome(spec, buffers, sizes, out, parts=PARTS):
    """What the kernel writes to the buffer number `out`.

    It runs on guard pages at either end, for each number of parts, on an output that held
    different numbers before; all results must be the same to the bit and the inputs unchanged.
    """
    results = []
    for place in (guarded, guarded_front):
        for count in parts:
            placed = [place(b) for b in buffers]
            placed[out][...] = len(results) + 0.5 if placed[out].dtype == np.float32 else -77
            call(spec, placed, sizes, count)
            for i, (before, after) in enumerate(zip(buffers, placed, strict=True)):
                assert i == out or before.tobytes() == after.tobytes(), f"input {i} was changed"
            results.append(placed[out].copy())
    for other in results[1:]:
        assert other.tobytes() == results[0].tobytes(), "parts or place change the result"
    return results[0]
