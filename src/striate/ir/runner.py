"""The native runner: threads walk the steps of a program and take parts of them as they come.

A step is a row of four words: kernel, buffer table, size table, and the most parts that it is
worth cutting into. The runner cuts it into that many, but no more than one for each thread, or
several (`most parts`) as long as each is LARGE_PART times what is worth a part: taking one costs
some 0.15 µs when others take, too. A thread that is free
takes the next part; who finishes the last one goes on to the next step. So nobody waits for a
thread that has no processor unless it holds a part, and nobody waits for a sleeping one to wake.
Steps of one part are run by whoever finished the step before: they cost nobody a word. Which
thread takes which part changes no bit, for results do not depend on `parts`.

The state block is shared by the threads; words that are written at different times lie in cache
lines of their own.

    offset  what
    0       hand: the parts that are left, lo (u16) … hi (u16), and the turn (u32), as one i64
    64      parts of the step that are finished (i32)
    128     1 if somebody may be asleep (i32)
    192     steps (ptr), 200 number of steps (i64), 208 number of the step (i64),
    216     most parts of a step (i32), 220 threads (i32)

The hand is taken from by compare and swap: even workers from the low end, odd ones from the high
end, so that two threads keep to their half of the memory from step to step. A new turn comes with
every step that is handed out, and with the end of the program (then lo = hi = IDLE).

Functions: `run(steps, count)` walks the steps on this thread alone; `begin(state, steps, count)`
starts a program, and `work(state, worker)` takes parts until it ends: worker 0 is the caller.
With `futex` the other workers stay in `work`, spinning or asleep, until `stop(state)`. A kernel's
`part` carries the worker in its upper half: scratch memory belongs to the worker. Flush-to-zero
and denormals-are-zero are set while steps run and restored afterwards, so the caller's
floating-point state stays as it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llvmlite import ir

from striate.arith.machine import Machine
from striate.ir.kernel import I32, I64, PTR, WORKER_SHIFT, Int, Kernel, Unit
from striate.ir.types import KERNEL, VOID

HAND, FINISHED, ASLEEP, STEPS, COUNT, STEP, MOST_PARTS, THREADS = (
    0,
    64,
    128,
    192,
    200,
    208,
    216,
    220,
)
TURN = HAND + 4  # its upper half (little endian)
STATE_BYTES = 256
STEP_WORDS = 4
LARGE_PART = 8
LARGEST_PARTS = 0xFFFD  # so that no number of parts looks like the two that follow
IDLE, STOP = 0xFFFF_FFFF, 0xFFFE_FFFE  # lower halves of the hand: no part is left, and why
FUTEX_CALL = {"x86_64": 202, "aarch64": 98}
FUTEX_WAIT_PRIVATE, FUTEX_WAKE_PRIVATE = 128, 129
# Spinning: within a program the others are microseconds away; after a while the processor is
# offered to others, then given up, in case a thread that holds a part waits for one. Between
# programs a worker spins some 50 µs, then sleeps.
SPINS_BEFORE_YIELD = 4000
YIELDS_BEFORE_SLEEP = 1000
SPINS_BEFORE_SLEEP = 2000
FTZ_AND_DAZ = 0x8040
FPCR_FLUSH = 1 << 24
YIELD_HINT = 1


@dataclass(frozen=True)
class Runner:
    """`futex`: workers may sleep in the kernel (Linux). Otherwise they leave `work` instead."""

    futex: bool

    @property
    def functions(self) -> tuple[str, ...]:
        """Names of the exported functions."""
        names = ("striate_run", "striate_begin", "striate_work", "striate_stop")
        return names if self.futex else names[:3]

    def emit(self, machine: Machine) -> str:
        """LLVM IR text; the exported functions are named in `functions`."""
        unit = Unit(machine)
        build = _Build(unit, machine, self.futex)
        build.run()
        build.begin()
        build.work()
        if self.futex:
            build.stop()
        return unit.text()


class _Build:
    def __init__(self, unit: Unit, machine: Machine, futex: bool) -> None:
        self.unit, self.machine, self.futex = unit, machine, futex
        self.advance = self._advance()

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

    # -- steps ------------------------------------------------------------------------------------

    def _row(self, k: Kernel, steps: Any, i: Any) -> Any:
        first = k.b.mul(i, ir.Constant(I64, STEP_WORDS))
        return k.b.gep(steps, [first], source_etype=PTR)

    def _call(self, k: Kernel, row: Any, part: Any, parts: Any) -> None:
        kernel, buffers, sizes = (
            k.b.load(k.b.gep(row, [ir.Constant(I64, j)], source_etype=PTR), typ=kind)
            for j, kind in enumerate((KERNEL.as_pointer(), PTR, PTR))
        )
        k.b.call(kernel, [buffers, sizes, part, parts])

    def _parts(self, k: Kernel, state: Any, row: Any) -> Any:
        """One for each thread; fewer where the row says so, more where parts are still large."""
        b = k.b
        worth = Int(k, b.load(b.gep(row, [ir.Constant(I64, 3)], source_etype=PTR), typ=I64))
        most, threads = (
            Int(k, b.sext(b.load(self._word(k, state, offset), typ=I32), I64))
            for offset in (MOST_PARTS, THREADS)
        )
        several = (worth // LARGE_PART).min(most)
        return b.trunc(worth.min(threads.max(several)).ir, I32)

    def _advance(self) -> Any:
        """advance(state, i, worker): run steps of one part from i on, hand out the one after.

        All steps before i are finished; nobody else writes to the state until the new turn.
        """
        k = self._function("advance", [PTR, I64, I32])
        k.function.linkage = "internal"
        b = k.b
        state, first, worker = k.function.args
        count = b.load(self._word(k, state, COUNT), typ=I64)
        steps = b.load(self._word(k, state, STEPS), typ=PTR)
        before = b.block
        head, look, alone, out = (b.append_basic_block(n) for n in ("head", "look", "alone", "out"))
        b.branch(head)
        b.position_at_end(head)
        i = b.phi(I64)
        i.add_incoming(first, before)
        b.cbranch(b.icmp_signed("<", i, count), look, out)
        b.position_at_end(look)
        row = self._row(k, steps, i)
        parts = self._parts(k, state, row)
        all_of_them = b.shl(b.zext(parts, I64), ir.Constant(I64, 16))
        b.cbranch(b.icmp_signed(">", parts, ir.Constant(I32, 1)), out, alone)
        b.position_at_end(alone)
        self._call(k, row, b.shl(worker, ir.Constant(I32, WORKER_SHIFT)), ir.Constant(I32, 1))
        i.add_incoming(b.add(i, ir.Constant(I64, 1)), b.block)
        b.branch(head)
        b.position_at_end(out)
        left = b.phi(I64)
        left.add_incoming(ir.Constant(I64, IDLE), head)
        left.add_incoming(all_of_them, look)
        b.store(i, self._word(k, state, STEP))
        self._new_turn(k, state, left)
        k.finish()
        return k.function

    def _new_turn(self, k: Kernel, state: Any, left: Any) -> None:
        """Put `left` into the lower half of the hand, and wake who is asleep."""
        b = k.b
        hand = self._word(k, state, HAND)
        turn = b.lshr(b.load_atomic(hand, "monotonic", 8, typ=I64), ir.Constant(I64, 32))
        turn = b.shl(b.add(turn, ir.Constant(I64, 1)), ir.Constant(I64, 32))
        b.atomic_rmw("xchg", hand, b.or_(turn, left), "seq_cst")
        if self.futex:
            asleep = self._word(k, state, ASLEEP)
            zero = ir.Constant(I32, 0)
            somebody = b.load_atomic(asleep, "seq_cst", 4, typ=I32)
            with k.when(b.icmp_signed("!=", somebody, zero)):
                b.atomic_rmw("xchg", asleep, zero, "seq_cst")
                everybody = ir.Constant(I32, 2**31 - 1)
                self._futex(k, self._word(k, state, TURN), FUTEX_WAKE_PRIVATE, everybody)

    def run(self) -> None:
        """Emit `run` (steps, count)."""
        k = self._function("striate_run", [PTR, I64])
        steps, count = k.function.args
        restore = self._flush_denormals(k)
        with k.loop(0, Int(k, count)) as i:
            self._call(k, self._row(k, steps, i.ir), ir.Constant(I32, 0), ir.Constant(I32, 1))
        restore()
        k.finish()

    def begin(self) -> None:
        """Emit `begin` (state, steps, count)."""
        k = self._function("striate_begin", [PTR, PTR, I64])
        state, steps, count = k.function.args
        restore = self._flush_denormals(k)
        k.b.store(steps, self._word(k, state, STEPS))
        k.b.store(count, self._word(k, state, COUNT))
        # Nothing to take yet, but sleepers wake meanwhile, and nobody falls asleep.
        self._new_turn(k, state, ir.Constant(I64, 0))
        k.b.call(self.advance, [state, ir.Constant(I64, 0), ir.Constant(I32, 0)])
        restore()
        k.finish()

    def stop(self) -> None:
        """Emit `stop` (state): between programs, let the workers leave."""
        k = self._function("striate_stop", [PTR])
        self._new_turn(k, k.function.args[0], ir.Constant(I64, STOP))
        k.finish()

    # -- taking parts -----------------------------------------------------------------------------

    def work(self) -> None:
        """Emit `work` (state, worker): take parts as long as there are any, then wait for more."""
        k = self._function("striate_work", [PTR, I32])
        b = k.b
        state, worker = k.function.args
        restore = self._flush_denormals(k)
        names = ("look", "take", "none", "report", "why", "wait", "leave")
        look, take, none, report, why, wait, leave = map(b.append_basic_block, names)
        zero = ir.Constant(I32, 0)
        mine, parts = k.entry_alloca(I32, 4), k.entry_alloca(I32, 4)  # done, and of how many
        b.store(zero, mine)
        b.branch(look)
        b.position_at_end(look)
        hand = b.load_atomic(self._word(k, state, HAND), "acquire", 8, typ=I64)
        left = b.trunc(hand, I32)
        lo, hi = b.and_(left, ir.Constant(I32, 0xFFFF)), b.lshr(left, ir.Constant(I32, 16))
        b.cbranch(b.icmp_unsigned("<", lo, hi), take, none)
        b.position_at_end(take)
        last = b.sub(hi, ir.Constant(I32, 1))
        self._take(k, hand, (lo, last), mine, parts)
        b.branch(look)
        b.position_at_end(none)
        b.cbranch(b.icmp_signed("!=", b.load(mine, typ=I32), zero), report, why)
        b.position_at_end(report)
        self._report(k, mine, parts)
        b.branch(look)
        b.position_at_end(why)
        idle = b.icmp_signed("==", left, ir.Constant(I32, IDLE - 2**32))
        gone = b.icmp_signed("==", left, ir.Constant(I32, STOP - 2**32))
        goes_when_idle = b.icmp_signed("==", worker, zero) if self.futex else ir.IntType(1)(1)
        b.cbranch(b.or_(gone, b.and_(idle, goes_when_idle)), leave, wait)
        b.position_at_end(wait)
        self._wait(k, state, b.trunc(b.lshr(hand, ir.Constant(I64, 32)), I32), idle)
        b.branch(look)
        b.position_at_end(leave)
        restore()
        k.finish()

    def _take(self, k: Kernel, hand: Any, ends: tuple[Any, Any], mine: Any, parts: Any) -> None:
        """Take one of the parts at the ends, unless somebody was quicker, and run it."""
        b = k.b
        state, worker = k.function.args
        odd = b.trunc(worker, ir.IntType(1))
        rest = b.add(hand, b.select(odd, ir.Constant(I64, -(1 << 16)), ir.Constant(I64, 1)))
        pair = b.cmpxchg(self._word(k, state, HAND), hand, rest, "acq_rel", "acquire")
        with k.when(b.extract_value(pair, 1)):
            # As long as this part is not reported, the step stays and so does its table.
            part = b.select(odd, ends[1], ends[0])
            step = b.load(self._word(k, state, STEP), typ=I64)
            row = self._row(k, b.load(self._word(k, state, STEPS), typ=PTR), step)
            count = self._parts(k, state, row)
            b.store(count, parts)
            self._call(k, row, b.or_(part, b.shl(worker, ir.Constant(I32, WORKER_SHIFT))), count)
            b.store(b.add(b.load(mine, typ=I32), ir.Constant(I32, 1)), mine)

    def _report(self, k: Kernel, mine: Any, parts: Any) -> None:
        """Add the finished parts to those of the others; who completes the step goes on."""
        b = k.b
        state, worker = k.function.args
        zero = ir.Constant(I32, 0)
        finished, done = self._word(k, state, FINISHED), b.load(mine, typ=I32)
        now = b.add(b.atomic_rmw("add", finished, done, "acq_rel"), done)
        b.store(zero, mine)
        with k.when(b.icmp_signed("==", now, b.load(parts, typ=I32))):
            b.store(zero, finished)
            following = b.add(b.load(self._word(k, state, STEP), typ=I64), ir.Constant(I64, 1))
            b.call(self.advance, [state, following, worker])

    def _wait(self, k: Kernel, state: Any, turn: Any, idle: Any) -> None:
        """Wait for another turn: pause, then yield, then sleep; between programs sooner."""
        b = k.b
        word = self._word(k, state, TURN)
        before = b.block
        names = ("spin", "more", "slow", "yield", "sleep", "go")
        spin, more, slow, offer, sleep, go = map(b.append_basic_block, names)
        b.branch(spin)
        b.position_at_end(spin)
        spins = b.phi(I32)
        spins.add_incoming(ir.Constant(I32, 0), before)
        changed = b.icmp_signed("!=", b.load_atomic(word, "acquire", 4, typ=I32), turn)
        b.cbranch(changed, go, more)
        b.position_at_end(more)
        most = [ir.Constant(I32, n) for n in (SPINS_BEFORE_SLEEP, SPINS_BEFORE_YIELD)]
        following = b.add(spins, ir.Constant(I32, 1))
        self._pause(k)
        spins.add_incoming(following, more)
        b.cbranch(b.icmp_signed("<", following, b.select(idle, *most)), spin, slow)
        b.position_at_end(slow)
        if self.futex:
            longest = ir.Constant(I32, SPINS_BEFORE_YIELD + YIELDS_BEFORE_SLEEP)
            b.cbranch(b.or_(idle, b.icmp_signed(">", following, longest)), sleep, offer)
        else:
            b.branch(offer)
        b.position_at_end(offer)
        if "windows" not in self.machine.triple:
            b.call(self.unit.declare("sched_yield", I32, []), [])
        spins.add_incoming(following if self.futex else ir.Constant(I32, 0), offer)
        b.branch(spin)
        b.position_at_end(sleep)
        if self.futex:
            b.atomic_rmw("xchg", self._word(k, state, ASLEEP), ir.Constant(I32, 1), "seq_cst")
            self._futex(k, word, FUTEX_WAIT_PRIVATE, turn)
        spins.add_incoming(ir.Constant(I32, 0), sleep)
        b.branch(spin)
        b.position_at_end(go)

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

    # -- floating-point state ---------------------------------------------------------------------

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
