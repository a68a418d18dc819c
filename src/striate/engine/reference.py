"""The slow twin: the same program, task by task, with NumPy meaning.

It reads and writes the same buffers in the same memory orders as the native runner, so after
each task the two can be compared. It is the definition, the debugger and the test oracle.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from striate.arith.layout import NHWC, PLAIN, Layout, NhwcSlice
from striate.engine.layouts_numpy import elements_in, from_memory, to_memory
from striate.engine.program import Program, Task
from striate.graph.value import Node, Value

Array = npt.NDArray[np.generic]
DTYPES = {"f32": np.float32, "i32": np.int32, "u8": np.uint8}


class Memory:
    """Flat arrays for every buffer of a program, made as they are written."""

    def __init__(self, program: Program, inputs: Sequence[Array]) -> None:
        self.program = program
        self.flat: dict[int, Array] = {}
        for number, array in zip(program.inputs, inputs, strict=True):
            buffer = program.buffers[number]
            self.flat[number] = np.ascontiguousarray(array, DTYPES[buffer.dtype]).ravel()
        for buffer in program.buffers.values():
            if buffer.param is not None:
                self.flat[buffer.id] = buffer.param.buffer.reshape(-1)
            elif buffer.kind == "table":
                self.flat[buffer.id] = np.frombuffer(buffer.table, DTYPES[buffer.dtype])

    def read(self, number: int, value: Value, layout: Layout) -> Array:
        """The logical array of a value in a buffer."""
        if isinstance(layout, NhwcSlice):
            there = elements_in(layout, self._buffer(number), value.shape)
            return from_memory(NHWC, there.reshape(-1), value.shape)
        return from_memory(layout, self._buffer(number), value.shape)

    def write(self, number: int, value: Value, layout: Layout, array: Array) -> Array:
        """Put a value into its buffer; returns the elements that hold it."""
        there = elements_in(layout, self._buffer(number), value.shape)
        flat = to_memory(NHWC if isinstance(layout, NhwcSlice) else layout, array)
        there[...] = flat.reshape(there.shape)
        return there

    def _buffer(self, number: int) -> Array:
        """The flat array of a buffer; of a slice, what follows its first element in its home."""
        buffer = self.program.buffers[number]
        if buffer.home is not None:
            assert isinstance(buffer.layout, NhwcSlice)
            return self._buffer(buffer.home)[buffer.layout.start :]
        if number not in self.flat:
            self.flat[number] = np.zeros(buffer.elements, DTYPES[buffer.dtype])
        return self.flat[number]


def run_tasks(
    program: Program,
    inputs: Sequence[Array],
    watch: Callable[[Task, int, Array], None] | None = None,
) -> tuple[Array, ...]:
    """Run every task by its op's `numpy`; returns the outputs.

    `watch(task, buffer, elements)` is called after each task for each buffer it wrote;
    `elements` is a view of what it wrote there, pixels × channels in a slice.
    """
    memory = Memory(program, inputs)
    for task in (*program.constants, *program.tasks):
        node: Node = task.node
        read = [
            memory.read(number, value, program.layouts.get(value, PLAIN))
            for number, value in zip(task.inputs, node.inputs, strict=True)
        ]
        if not task.steps:
            continue
        results = node.op.numpy(*read)
        for number, value, array in zip(task.outputs, node.outputs(), results, strict=True):
            layout = program.layouts.get(value, PLAIN)
            flat = memory.write(number, value, layout, array)
            if watch is not None:
                watch(task, number, flat)
    return tuple(
        memory.flat[number].reshape(program.buffers[number].shape) for number in program.outputs
    )
