"""Small kernels for tests of what runs kernels, and tables of steps as the runner reads them."""

from dataclasses import dataclass

import numpy as np

from striate.ir import vec
from striate.ir.kernel import F32, I32, PTR, Unit
from striate.ir.runner import STEP_WORDS
from striate.ir.types import VOID
from striate.jit import load
from striate.kernels.spec import symbol


@dataclass(frozen=True)
class Reverse:
    """y[i] = x[n − 1 − i] + 1: every part reads what the others wrote in the step before."""

    def emit(self, machine):
        unit = Unit(machine)
        k = unit.kernel(symbol(self))
        x, y, n = k.buffer(0), k.buffer(1), k.size(0)
        start, stop = k.share(n)
        with k.loop(start, stop) as i:
            value = vec.load_scalar(k, x.at(n - i - 1))
            k.b.store(k.b.fadd(value, F32(1.0)), y.at(i).v)
        k.finish()
        return unit.text()


@dataclass(frozen=True)
class Count:
    """count[16 · part] += 1, and count[16 · part + 1] = parts."""

    def emit(self, machine):
        unit = Unit(machine)
        k = unit.kernel(symbol(self))
        mine = k.buffer(0, I32).at(k.part * 16)
        k.b.store(k.b.add(vec.load_scalar(k, mine), I32(1)), mine.v)
        k.b.store(k.b.trunc(k.parts.ir, I32), mine.at(1).v)
        k.finish()
        return unit.text()


@dataclass(frozen=True)
class Scale:
    """y[i] = x[i] · factor for one element of each part: i = 16 · part."""

    factor: float

    def emit(self, machine):
        unit = Unit(machine)
        k = unit.kernel(symbol(self))
        at = k.part * 16
        x = vec.broadcast(k, k.buffer(0).at(at))
        y = k.b.extract_element(k.b.fmul(x, vec.constant(k, self.factor)), I32(0))
        k.b.store(y, k.buffer(1).at(at).v)
        k.finish()
        return unit.text()


def meet(k, counter):
    """Wait until all parts have come here: so each must be in the hands of another thread."""
    here = k.b.atomic_rmw("add", counter.v, I32(1), "seq_cst")
    round_ = k.b.udiv(here, k.b.trunc(k.parts.ir, I32))
    wanted = k.b.mul(k.b.add(round_, I32(1)), k.b.trunc(k.parts.ir, I32))
    head, done = k.b.append_basic_block("meet"), k.b.append_basic_block("met")
    k.b.branch(head)
    k.b.position_at_end(head)
    k.b.call(k.unit.declare("sched_yield", I32, []), [])
    came = k.b.load_atomic(counter.v, "seq_cst", 4, typ=I32)
    k.b.cbranch(k.b.icmp_signed(">=", came, wanted), done, head)
    k.b.position_at_end(done)


@dataclass(frozen=True)
class Meet:
    """who[part] = worker, when every part has its thread; counter is zero at first."""

    def emit(self, machine):
        unit = Unit(machine)
        k = unit.kernel(symbol(self))
        meet(k, k.buffer(1, I32))
        k.b.store(k.b.trunc(k.worker.ir, I32), k.buffer(0, I32).at(k.part).v)
        k.finish()
        return unit.text()


@dataclass(frozen=True)
class Scratch:
    """y[i] = sum of 64 numbers that depend on i, written to this worker's scratch memory first."""

    def emit(self, machine):
        unit = Unit(machine)
        k = unit.kernel(symbol(self))
        start, stop = k.share(k.size(0))
        scratch = k.buffer(1).at(k.worker * 64)
        with k.loop(start, stop) as i:
            with k.loop(0, 64) as j:
                k.b.store(k.b.sitofp((i * j).ir, F32), scratch.at(j).v)

            def add(j, sums):
                return [k.b.fadd(sums[0], vec.load_scalar(k, scratch.at(j)))]

            (total,) = k.fold(0, 64, [F32(0.0)], add)
            k.b.store(total, k.buffer(0).at(i).v)
        k.finish()
        return unit.text()


@dataclass(frozen=True)
class Control:
    """The x86 floating-point control word: stored to out[16 · part], or taken from there.

    Each part is run by another thread; counter is zero at first.
    """

    put: bool

    def emit(self, machine):
        unit = Unit(machine)
        k = unit.kernel(symbol(self))
        meet(k, k.buffer(1, I32))
        name = "llvm.x86.sse.ldmxcsr" if self.put else "llvm.x86.sse.stmxcsr"
        k.b.call(unit.declare(name, VOID, [PTR]), [k.buffer(0, I32).at(k.part * 16).v])
        k.finish()
        return unit.text()


class Steps:
    """A table of steps (spec, arrays, sizes) that stays in memory as long as this object.

    `parts`: how many each is worth cutting into, one number for all or one for each.
    """

    def __init__(self, *steps, parts=1000):
        self.kept, rows = [], []
        worth = np.broadcast_to(parts, len(steps))
        for (spec, arrays, sizes), number in zip(steps, worth, strict=True):
            buffers = np.array([a.ctypes.data for a in arrays], np.int64)
            table = np.array([*sizes, 0], np.int64)
            self.kept.append((arrays, buffers, table))
            rows.append((load.address(spec), buffers.ctypes.data, table.ctypes.data, number))
        self.rows = np.array(rows, np.int64).reshape(-1, STEP_WORDS)
        self.count = len(rows)

    def run(self, pool, **options):
        """Walk all of them."""
        pool.run(self.rows.ctypes.data, self.count, **options)


def chain(length, size=1000, parts=1000):
    """Steps of which each turns the numbers of the one before round and adds 1."""
    x, y = np.arange(size, dtype=np.float32), np.zeros(size, np.float32)
    pairs = [(x, y), (y, x)] * (length // 2)
    return Steps(*((Reverse(), pair, (size,)) for pair in pairs), parts=parts), x
