"""The native runner: walks the steps of a program on all threads, with a barrier after each.

A step is three addresses: kernel, buffer table, size table. The state block is shared by the
threads; words that different threads write lie in cache lines of their own.

    offset  what
    0       epoch (i32): the caller adds 1 to start the workers
    64      barrier: parts that have arrived (i32)
    128     barrier: generation (i32)
    192     workers asleep (i32)
    256     steps (ptr), 264 number of steps (i64), 272 parts (i32), 276 stop (i32)

Functions: `run(state, steps, count, part, parts)` walks the steps as one part;
`lead(state, steps, count, parts)` starts the sleeping or spinning workers and runs part 0;
`work(state, part)` is a worker's life. Flush-to-zero and denormals-are-zero are set while steps
run and restored afterwards, so the caller's floating-point state stays as it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llvmlite import ir

from striate.arith.machine import Machine
from striate.ir.kernel import I32, I64, PTR, Int, Kernel, Unit
from striate.ir.types import VOID

EPOCH, ARRIVED, GENERATION, ASLEEP, STEPS, COUNT, PARTS, STOP = (
    0,
    64,
    128,
    192,
    256,
    264,
    272,
    276,
)
STATE_BYTES = 320
FUTEX_CALL = {"x86_64": 202, "aarch64": 98}
FUTEX_WAIT_PRIVATE, FUTEX_WAKE_PRIVATE = 128, 129
# Spinning: within a program a partner is microseconds away; after a while the processor is
# given up, in case the partner has none. Between programs a worker spins some 50 µs, then sleeps.
SPINS_BEFORE_YIELD = 4000
SPINS_BEFORE_SLEEP = 2000
FTZ_AND_DAZ = 0x8040
FPCR_FLUSH = 1 << 24
YIELD_HINT = 1


@dataclass(frozen=True)
class Runner:
    """`futex`: workers may sleep in the kernel (Linux). Otherwise only `run` is emitted."""

    futex: bool

    @property
    def functions(self) -> tuple[str, ...]:
        """Names of the exported functions."""
        names = ("striate_run", "striate_lead", "striate_work")
        return names if self.futex else names[:1]

    def emit(self, machine: Machine) -> str:
        """LLVM IR text; the exported functions are named in `functions`."""
        unit = Unit(machine)
        build = _Build(unit, machine, self.futex)
        build.run()
        if self.futex:
            build.lead()
            build.work()
        return unit.text()


class _Build:
    def __init__(self, unit: Unit, machine: Machine, futex: bool) -> None:
        self.unit, self.machine, self.futex = unit, machine, futex
        self.walk: Any = None

    def _function(self, name: str, args: list[Any]) -> Kernel:
        kind = ir.FunctionType(VOID, args)
        return Kernel(self.unit, ir.Function(self.unit.module, kind, name=name))

    def _word(self, k: Kernel, state: Any, offset: int) -> Any:
        return k.b.gep(state, [ir.Constant(I64, offset)], source_etype=ir.IntType(8))

    def _pause(self, k: Kernel) -> None:
        if self.machine.triple.startswith(("x86", "i686")):
            k.b.call(self.unit.declare("llvm.x86.sse2.pause", VOID, []), [])
        else:
            hint = self.unit.declare("llvm.aarch64.hint", VOID, [I32])
            k.b.call(hint, [ir.Constant(I32, YIELD_HINT)])

    # -- walking the steps ------------------------------------------------------------------------

    def run(self) -> None:
        """Emit `run`: state, steps, count, part, parts."""
        k = self._function("striate_run", [PTR, PTR, I64, I32, I32])
        self.walk = k.function
        state, steps, count, part, parts = k.function.args
        restore = self._flush_denormals(k)
        kernel_type = ir.FunctionType(VOID, [PTR, PTR, I32, I32])
        several = k.b.icmp_signed(">", parts, ir.Constant(I32, 1))
        with k.loop(0, Int(k, count)) as i:
            step = k.b.gep(steps, [(i * 3).ir], source_etype=PTR)
            kernel, buffers, sizes = (
                k.b.load(k.b.gep(step, [ir.Constant(I64, j)], source_etype=PTR), typ=kind)
                for j, kind in enumerate((kernel_type.as_pointer(), PTR, PTR))
            )
            k.b.call(kernel, [buffers, sizes, part, parts])
            with k.when(several):
                self._barrier(k, state, parts)
        restore()
        k.finish()

    def _barrier(self, k: Kernel, state: Any, parts: Any) -> None:
        """The last part to arrive opens the next generation; the others wait for it."""
        b = k.b
        arrived, generation = self._word(k, state, ARRIVED), self._word(k, state, GENERATION)
        mine = b.load_atomic(generation, "monotonic", 4, typ=I32)
        before = b.atomic_rmw("add", arrived, ir.Constant(I32, 1), "acq_rel")
        last = b.icmp_signed("==", b.add(before, ir.Constant(I32, 1)), parts)
        with b.if_else(last) as (yes, no):
            with yes:
                b.atomic_rmw("xchg", arrived, ir.Constant(I32, 0), "monotonic")
                b.atomic_rmw("add", generation, ir.Constant(I32, 1), "release")
            with no:
                self._spin(k, generation, mine, None)

    def _spin(self, k: Kernel, word: Any, old: Any, asleep: Any) -> None:
        """Wait until `word` differs from `old`: pause, and after a while yield or sleep."""
        b = k.b
        before = b.block
        head, more, slow, done = (b.append_basic_block(n) for n in ("spin", "more", "slow", "go"))
        b.branch(head)
        b.position_at_end(head)
        spins = b.phi(I32)
        spins.add_incoming(ir.Constant(I32, 0), before)
        changed = b.icmp_signed("!=", b.load_atomic(word, "acquire", 4, typ=I32), old)
        b.cbranch(changed, done, more)
        b.position_at_end(more)
        self._pause(k)
        most = SPINS_BEFORE_YIELD if asleep is None else SPINS_BEFORE_SLEEP
        following = b.add(spins, ir.Constant(I32, 1))
        spins.add_incoming(following, more)
        b.cbranch(b.icmp_signed("<", following, ir.Constant(I32, most)), head, slow)
        b.position_at_end(slow)
        if asleep is not None:
            self._sleep(k, word, old, asleep)
        elif "windows" not in self.machine.triple:
            b.call(self.unit.declare("sched_yield", I32, []), [])
        spins.add_incoming(ir.Constant(I32, 0), b.block)
        b.branch(head)
        b.position_at_end(done)

    def _flush_denormals(self, k: Kernel) -> Any:
        """Set flush-to-zero; returns what emits the restoring of the caller's state."""
        b = k.b
        if self.machine.triple.startswith(("x86", "i686")):
            slot = k.entry_alloca(I32, 4)
            changed = k.entry_alloca(I32, 4)
            get = self.unit.declare("llvm.x86.sse.stmxcsr", VOID, [PTR])
            put = self.unit.declare("llvm.x86.sse.ldmxcsr", VOID, [PTR])
            b.call(get, [slot])
            b.store(b.or_(b.load(slot, typ=I32), ir.Constant(I32, FTZ_AND_DAZ)), changed)
            b.call(put, [changed])
            return lambda: b.call(put, [slot])
        get = self.unit.declare("llvm.aarch64.get.fpcr", I64, [])
        put = self.unit.declare("llvm.aarch64.set.fpcr", VOID, [I64])
        old = b.call(get, [])
        b.call(put, [b.or_(old, ir.Constant(I64, FPCR_FLUSH))])
        return lambda: b.call(put, [old])

    # -- starting and sleeping (Linux) ------------------------------------------------------------

    def _futex(self, k: Kernel, word: Any, operation: int, value: Any) -> None:
        number = FUTEX_CALL[self.machine.triple.split("-")[0]]
        call = self.unit.declare("syscall", I64, [I64, PTR, I64, I64, PTR])
        k.b.call(
            call,
            [
                ir.Constant(I64, number),
                word,
                ir.Constant(I64, operation),
                k.b.sext(value, I64),
                ir.Constant(PTR, None),
            ],
        )

    def _sleep(self, k: Kernel, word: Any, old: Any, asleep: Any) -> None:
        """Sleep until woken, unless the word has changed already (the kernel checks again)."""
        one = ir.Constant(I32, 1)
        k.b.atomic_rmw("add", asleep, one, "seq_cst")
        self._futex(k, word, FUTEX_WAIT_PRIVATE, old)
        k.b.atomic_rmw("sub", asleep, one, "seq_cst")

    def lead(self) -> None:
        """Emit `lead` (state, steps, count, parts): hand the steps out and run part 0."""
        k = self._function("striate_lead", [PTR, PTR, I64, I32])
        b = k.b
        state, steps, count, parts = k.function.args
        for value, offset in ((steps, STEPS), (count, COUNT), (parts, PARTS)):
            b.store(value, self._word(k, state, offset))
        epoch = self._word(k, state, EPOCH)
        b.atomic_rmw("add", epoch, ir.Constant(I32, 1), "seq_cst")
        asleep = b.load_atomic(self._word(k, state, ASLEEP), "seq_cst", 4, typ=I32)
        with k.when(b.icmp_signed(">", asleep, ir.Constant(I32, 0))):
            self._futex(k, epoch, FUTEX_WAKE_PRIVATE, ir.Constant(I32, 2**31 - 1))
        b.call(self.walk, [state, steps, count, ir.Constant(I32, 0), parts])
        k.finish()

    def work(self) -> None:
        """Emit `work` (state, part): wait for an epoch, run its steps, until told to stop."""
        k = self._function("striate_work", [PTR, I32])
        b = k.b
        state, part = k.function.args
        epoch, asleep = self._word(k, state, EPOCH), self._word(k, state, ASLEEP)
        before = b.block
        wait, go, leave = (b.append_basic_block(n) for n in ("wait", "steps", "leave"))
        b.branch(wait)
        b.position_at_end(wait)
        seen = b.phi(I32)
        seen.add_incoming(ir.Constant(I32, 0), before)
        self._spin(k, epoch, seen, asleep)
        now = b.load_atomic(epoch, "acquire", 4, typ=I32)
        stop = b.load(self._word(k, state, STOP), typ=I32)
        b.cbranch(b.icmp_signed("!=", stop, ir.Constant(I32, 0)), leave, go)
        b.position_at_end(go)
        values = [
            b.load(self._word(k, state, offset), typ=kind)
            for offset, kind in ((STEPS, PTR), (COUNT, I64), (PARTS, I32))
        ]
        b.call(self.walk, [state, values[0], values[1], part, values[2]])
        seen.add_incoming(now, b.block)
        b.branch(wait)
        b.position_at_end(leave)
        k.finish()
