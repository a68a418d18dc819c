"""Pieces of a batch dealt out to the threads: each runs whole programs by itself.

When all threads work on one layer, each reads what another has written a moment ago, perhaps into
a cache that it does not share, and waits for the others after every layer. A thread that takes
pieces of its own does neither. The runner sees one step (`kernels.deal`), whose parts are pieces.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np

from striate.engine import arena
from striate.engine.run import Array, Executable
from striate.ir.runner import LARGE_PART, STEP_WORDS
from striate.jit.load import address
from striate.jit.pool import Pool, pool
from striate.kernels.deal import PLACE_WORDS, Deal


class Dealt:
    """Runs an executable for one piece on many of them; callers take turns."""

    def __init__(self, executable: Executable) -> None:
        self.executable = executable
        self._lock = threading.Lock()
        self._kernel = address(Deal())
        self._at = (0, 0)  # address of the block, and threads, that the tables are filled in for

    def run_into(self, arrays: Sequence[Array], outputs: Sequence[Array], pieces: int) -> None:
        """Run with these inputs, so many pieces one after the other, and write the results.

        All arrays are C-ordered, of the program's types, and `pieces` times as long as its own.
        """
        with self._lock:
            for update in self.executable.program.graph.host_updates:
                update()
            workers = pool()
            share = -(-self.executable.bytes_alone // arena.ALIGNMENT) * arena.ALIGNMENT
            block = arena.take(share * workers.threads)
            try:
                if self._at != (block.address, workers.threads):
                    self._fill(block, share, workers)
                self.executable.refresh(block.address, workers)
                self._point((*arrays, *outputs), pieces)
                workers.run(self._step.ctypes.data, 1)
            finally:
                arena.give_back(block)

    def _fill(self, block: arena.Block, share: int, workers: Pool) -> None:
        """Tables of steps and addresses for every worker."""
        self._at = (0, 0)
        at = [block.address + share * i for i in range(workers.threads)]
        self._rows, self._addresses, slots = self.executable.tables_at(at, workers)
        self._places = np.zeros((sum(map(len, slots)), PLACE_WORDS), np.int64)
        self._places[:, 0] = np.concatenate(slots)
        self._caller = np.repeat(np.arange(len(slots)), [len(s) for s in slots])
        self._buffers = np.array(
            [a.ctypes.data for a in (self._rows, self._addresses, self._places)], np.int64
        )
        steps, width = self._rows.shape[1], self._addresses.shape[1]
        self._sizes = np.array([0, steps, width, len(self._places)], np.int64)
        tables = self._buffers.ctypes.data, self._sizes.ctypes.data
        self._step = np.array([self._kernel, *tables, 0], np.int64)
        assert len(self._step) == STEP_WORDS
        self._at = (block.address, workers.threads)

    def _point(self, arrays: Sequence[Array], pieces: int) -> None:
        """The caller's arrays; each piece is worth a part of its own."""
        first = np.array([a.ctypes.data for a in arrays], np.int64)
        size = np.array([a.nbytes // pieces for a in arrays], np.int64)
        self._places[:, 1], self._places[:, 2] = first[self._caller], size[self._caller]
        self._sizes[0], self._step[-1] = pieces, pieces * LARGE_PART
