"""Running a program: addresses are filled in, then one native call walks the steps."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from striate.engine import arena, constants
from striate.engine.constants import Content, content_of
from striate.engine.program import SCRATCH, Program, Step, Task
from striate.engine.stopwatch import Stopwatch
from striate.errors import ShapeError
from striate.graph.value import Param
from striate.ir.runner import STEP_WORDS
from striate.jit.load import address, prepare
from striate.jit.pool import Pool, get_num_threads, pool

Array = npt.NDArray[np.generic]
Rows = npt.NDArray[np.int64]
DTYPES = {"f32": np.float32, "i32": np.int32, "u8": np.uint8}
# What a part should have to do at least, in bytes touched; so many multiply-accumulates take as
# long as a byte.
PART_BYTES = 32 * 1024
MACS_A_BYTE = 4


def parts_worth(program: Program, tasks: Sequence[Task]) -> list[int]:
    """For each step, how many parts its work is worth: bytes touched and multiply-accumulates.

    Those of a convolution count for the steps that read what the whole task reads.
    """
    worth = []
    for task in tasks:
        macs = task.node.op.macs(*(value.type for value in task.node.inputs))
        multiplying = [any(b in task.inputs for b in step.reads) for step in task.steps]
        for step, multiplies in zip(task.steps, multiplying, strict=True):
            work = sum(program.buffers[b].nbytes for b in (*step.reads, *step.writes))
            if multiplies:
                work += macs // (MACS_A_BYTE * sum(multiplying))
            worth.append(max(1, work // PART_BYTES))
    return worth


class Table:
    """Steps as the native runner reads them: (kernel, buffer table, size table, parts) a step."""

    def __init__(self, program: Program, tasks: Sequence[Task], *, alone: bool = False) -> None:
        steps = [step for task in tasks for step in task.steps]
        self.count = len(steps)
        slots = [b for step in steps for b in step.buffers]
        self.buffers = np.array(slots, np.int64)
        self.pointers = np.zeros(max(1, len(slots)), np.int64)
        self.sizes = np.array([s for step in steps for s in step.sizes] or [0], np.int64)
        rows, b, s = [], 0, 0
        first_pointer, first_size = self.pointers.ctypes.data, self.sizes.ctypes.data
        worth = parts_worth(program, tasks)
        for step, parts in zip(steps, worth, strict=True):
            rows.append((address(step.spec), first_pointer + 8 * b, first_size + 8 * s, parts))
            b, s = b + len(step.buffers), s + len(step.sizes)
        self.rows = np.array(rows, np.int64).reshape(-1, STEP_WORDS)
        self.address = self.rows.ctypes.data
        self.scratch = 4 * max((step.scratch for step in steps), default=0)
        # A program of small steps only keeps to the caller's thread.
        self.threads = 1 if alone or max(worth, default=1) == 1 else None


class Executable:
    """A program with its addresses. Calling it is thread-safe; callers take turns.

    `alone`: it runs on the caller's thread only.
    """

    def __init__(self, program: Program, *, alone: bool = False) -> None:
        self.program = program
        buffers = program.buffers
        self._lock = threading.Lock()
        steps = (*program.steps, *program.constant_steps)
        prepare([*(step.spec for step in steps), *program.prepared], get_num_threads())
        self._alone = alone
        self._table = Table(program, program.tasks, alone=alone)
        self._constant_table = Table(program, program.constants, alone=alone)
        for spec in program.prepared:
            address(spec)
        self._memory = np.zeros(max(buffers, default=0) + 1, np.int64)
        self._tables = [
            np.frombuffer(b.table, np.uint8).copy() for b in buffers.values() if b.kind == "table"
        ]
        for b, data in zip(
            [b for b in buffers.values() if b.kind == "table"], self._tables, strict=True
        ):
            self._memory[b.id] = data.ctypes.data
        for b in buffers.values():
            if b.param is not None:
                self._memory[b.id] = b.param.buffer.ctypes.data
        self._contents: dict[int, Content] = {
            number: content_of(constant, 4 * buffers[number].elements)
            for number, constant in program.kept.items()
        }
        for number, content in self._contents.items():
            self._memory[number] = content.block.address
        offsets = {**program.offsets, **program.constant_offsets}
        self._arena_ids = np.array(list(offsets), np.int64)
        self._arena_offsets = np.array(list(offsets.values()), np.int64)
        self._inputs = [buffers[i] for i in program.inputs]
        self._outputs = [buffers[i] for i in program.outputs]
        self._params = tuple(dict.fromkeys(p for c in program.kept.values() for p in c.params))
        self._written = tuple(param for param, _ in program.graph.assigns)
        self._stamp: tuple[int, ...] | None = None
        self._seen = -1  # changes of parameters when the stamp was taken
        self._at = 0  # address of the block that the table of steps is filled in for
        callers = (*self._inputs, *self._outputs)
        self._slots = [np.flatnonzero(self._table.buffers == b.id) for b in callers]

    def __call__(self, *arrays: Array) -> tuple[Array, ...]:
        """Run with these inputs; the results are new arrays of the caller's own."""
        outputs = [np.empty(b.shape, DTYPES[b.dtype]) for b in self._outputs]
        self.run_into(arrays, outputs)
        return tuple(outputs)

    def run_into(self, arrays: Sequence[Array], outputs: Sequence[Array]) -> None:
        """Run with these inputs and write the results into C-ordered arrays of their shapes."""
        if len(arrays) != len(self._inputs):
            raise ShapeError(f"expected {len(self._inputs)} inputs, got {len(arrays)}")
        inputs = [self._input(i, array) for i, array in enumerate(arrays)]
        with self._lock:
            for update in self.program.graph.host_updates:
                update()
            self._run(inputs, outputs)

    def _point(self, inputs: Sequence[Array], outputs: Sequence[Array]) -> None:
        for buffer, array in zip((*self._inputs, *self._outputs), (*inputs, *outputs), strict=True):
            self._memory[buffer.id] = array.__array_interface__["data"][0]

    def _input(self, index: int, array: Array) -> Array:
        buffer = self._inputs[index]
        if np.shape(array) != buffer.shape:
            raise ShapeError(f"input {index} has shape {np.shape(array)}, expected {buffer.shape}")
        return np.ascontiguousarray(array, DTYPES[buffer.dtype])

    def _run(self, inputs: Sequence[Array], outputs: Sequence[Array]) -> None:
        """Between runs only the caller's arrays lie elsewhere, as a rule: Python's share is small.

        After a run its caches are cold, and every line here takes ten times as long as in a test.
        """
        workers = pool()
        block = arena.take(self._needs(workers))
        try:
            if self._at == block.address:
                self._refresh_constants(workers)
                for slots, array in zip(self._slots, (*inputs, *outputs), strict=True):
                    self._table.pointers[slots] = array.__array_interface__["data"][0]
            else:
                self._point(inputs, outputs)
                self._settle(block.address, workers)
                self._fill(self._table)
                self._at = block.address
            self._walk(self._table, workers)
        finally:
            arena.give_back(block)
        for param in self._written:
            param.touch()

    def _needs(self, workers: Pool) -> int:
        """Bytes of a run: the arena, then a share of scratch for each thread."""
        share = max(self._table.scratch, self._constant_table.scratch)
        return self.program.memory_bytes + arena.ALIGNMENT + share * workers.threads

    def _settle(self, place: int, workers: Pool) -> None:
        """Give every buffer its address in memory at `place`, and have the constants computed."""
        self._memory[self._arena_ids] = self._arena_offsets + place
        self._memory[SCRATCH] = place + -(-self.program.memory_bytes // 64) * 64
        self._at = 0
        self._refresh_constants(workers)

    @property
    def bytes_alone(self) -> int:
        """Of a run on one thread: the arena, then its share of scratch."""
        share = max(self._table.scratch, self._constant_table.scratch)
        return self.program.memory_bytes + arena.ALIGNMENT + share

    def tables_at(
        self, places: Sequence[int], workers: Pool
    ) -> tuple[Rows, Rows, list[npt.NDArray[np.intp]]]:
        """Tables for runs beside one another, each on one thread in `bytes_alone` at its place.

        Returns: steps (places, steps, words), addresses (places, slots), and for each input and
        output the slots that hold its address.
        """
        table = self._table
        addresses = np.zeros((len(places), len(table.pointers)), np.int64)
        for mine, place in zip(addresses, places, strict=True):
            self.refresh(place, workers)
            np.take(self._memory, table.buffers, out=mine[: len(table.buffers)])
        rows = np.repeat(table.rows[None], len(places), 0)
        moved = addresses.ctypes.data - table.pointers.ctypes.data
        rows[:, :, 1] += moved + addresses.strides[0] * np.arange(len(places))[:, None]
        return rows, addresses, self._slots

    def refresh(self, place: int, workers: Pool) -> None:
        """Have the constants computed, if parameters have changed, in `bytes_alone` at `place`."""
        with self._lock:
            self._settle(place, workers)

    def step_by_step(self, *arrays: Array) -> tuple[list[Step], Callable[[int, int], None]]:
        """For measuring: the steps, and `run(first, stop)` that runs some of them again.

        The whole program has run once. The function stays usable as long as this executable is
        not called in another way.
        """
        inputs = [self._input(i, array) for i, array in enumerate(arrays)]
        outputs = [np.empty(b.shape, DTYPES[b.dtype]) for b in self._outputs]
        workers = pool()
        block = arena.Block(self._needs(workers))
        self._point(inputs, outputs)
        self._settle(block.address, workers)
        self._fill(self._table)
        self._walk(self._table, workers)
        kept = (inputs, outputs, block)

        def run(first: int, stop: int) -> None:
            assert kept
            workers.run(
                self._table.address + 8 * STEP_WORDS * first, stop - first, self._table.threads
            )

        return list(self.program.steps), run

    def stopwatch(self, *arrays: Array) -> Stopwatch:
        """For measuring: times `program.steps` on these inputs, in memory of its own.

        The program assigns parameters as it does when called, but does not tell anyone.
        """
        inputs = [self._input(i, array) for i, array in enumerate(arrays)]
        outputs = [np.empty(b.shape, DTYPES[b.dtype]) for b in self._outputs]
        workers = pool()
        table = Table(self.program, self.program.tasks, alone=self._alone)
        block = arena.Block(self._needs(workers))
        with self._lock:
            self._point(inputs, outputs)
            self._settle(block.address, workers)
            self._fill(table)
        kept = (self, table, inputs, outputs, block)
        return Stopwatch(table.rows, workers, table.threads, kept)

    def _fill(self, table: Table) -> None:
        """The addresses of all buffers as they are now."""
        np.take(self._memory, table.buffers, out=table.pointers[: len(table.buffers)])

    def _walk(self, table: Table, workers: Pool) -> None:
        workers.run(table.address, table.count, table.threads)

    def _refresh_constants(self, workers: Pool) -> None:
        """Compute anew what depends on parameters that have changed since."""
        changes = Param.changes
        if changes == self._seen or not self.program.kept:
            return
        stamp = tuple([p.version for p in self._params])
        if stamp == self._stamp:
            self._seen = changes
            return
        with constants.refreshing:
            stamps = {i: constant.stamp() for i, constant in self.program.kept.items()}
            if any(self._contents[i].stamp != new for i, new in stamps.items()):
                self._fill(self._constant_table)
                self._walk(self._constant_table, workers)
                for i, content in self._contents.items():
                    content.stamp = stamps[i]
        self._stamp, self._seen = stamp, changes
