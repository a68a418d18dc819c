"""A small builder for kernels: Python `for` unrolls, `with k.loop(...)` loops.

Values are wrapped so that kernel code reads like arithmetic. `Int` folds constants in Python,
so an offset that is known while generating costs no instruction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Union

from llvmlite import ir

from striate.arith.machine import Machine
from striate.ir.types import F32, I1, I8, I32, I64, KERNEL, PTR, VOID

IntLike = Union["Int", int]
Whole = int  # inside Kernel, `int` is the method
# The argument `part` carries two numbers: the part below, the worker who runs it above.
WORKER_SHIFT = 16


class Int:
    """A 64-bit integer: a Python int while it is known, an instruction's result otherwise."""

    __slots__ = ("k", "v")

    def __init__(self, k: Kernel, v: Any) -> None:
        self.k, self.v = k, v

    @property
    def known(self) -> bool:
        """Whether the value is known while generating."""
        return isinstance(self.v, int)

    @property
    def ir(self) -> Any:
        """The LLVM value."""
        return ir.Constant(I64, self.v) if self.known else self.v

    def _binary(self, other: IntLike, op: str, fold: Callable[[int, int], int]) -> Int:
        b = other if isinstance(other, Int) else Int(self.k, other)
        if self.known and b.known:
            return Int(self.k, fold(self.v, b.v))
        return Int(self.k, getattr(self.k.b, op)(self.ir, b.ir))

    def __add__(self, other: IntLike) -> Int:
        if isinstance(other, int) and other == 0:
            return self
        return self._binary(other, "add", lambda a, b: a + b)

    def __radd__(self, other: int) -> Int:
        return self + other

    def __sub__(self, other: IntLike) -> Int:
        if isinstance(other, int) and other == 0:
            return self
        return self._binary(other, "sub", lambda a, b: a - b)

    def __rsub__(self, other: int) -> Int:
        return Int(self.k, other) - self

    def __mul__(self, other: IntLike) -> Int:
        if isinstance(other, int) and other == 1:
            return self
        return self._binary(other, "mul", lambda a, b: a * b)

    def __rmul__(self, other: int) -> Int:
        return self * other

    def __floordiv__(self, other: IntLike) -> Int:
        """Division of non-negative numbers."""
        if isinstance(other, int) and other == 1:
            return self
        return self._binary(other, "udiv", lambda a, b: a // b)

    def __mod__(self, other: IntLike) -> Int:
        """Remainder of non-negative numbers."""
        return self._binary(other, "urem", lambda a, b: a % b)

    def ceil_div(self, other: IntLike) -> Int:
        """⌈self / other⌉ of non-negative numbers."""
        return (self + other - 1) // other

    def _compare(self, other: IntLike, op: str) -> Any:
        b = other if isinstance(other, Int) else Int(self.k, other)
        return self.k.b.icmp_signed(op, self.ir, b.ir)

    def __lt__(self, other: IntLike) -> Any:
        return self._compare(other, "<")

    def __le__(self, other: IntLike) -> Any:
        return self._compare(other, "<=")

    def __gt__(self, other: IntLike) -> Any:
        return self._compare(other, ">")

    def __ge__(self, other: IntLike) -> Any:
        return self._compare(other, ">=")

    def equals(self, other: IntLike) -> Any:
        """self == other, as an i1."""
        return self._compare(other, "==")

    def min(self, other: IntLike) -> Int:
        """The smaller of the two."""
        b = other if isinstance(other, Int) else Int(self.k, other)
        if self.known and b.known:
            return Int(self.k, min(self.v, b.v))
        return Int(self.k, self.k.b.select(self < b, self.ir, b.ir))

    def max(self, other: IntLike) -> Int:
        """The larger of the two."""
        b = other if isinstance(other, Int) else Int(self.k, other)
        if self.known and b.known:
            return Int(self.k, max(self.v, b.v))
        return Int(self.k, self.k.b.select(self > b, self.ir, b.ir))


class Ptr:
    """An address of elements of one type."""

    __slots__ = ("elem", "k", "v")

    def __init__(self, k: Kernel, v: Any, elem: Any = F32) -> None:
        self.k, self.v, self.elem = k, v, elem

    def at(self, index: IntLike) -> Ptr:
        """The address `index` elements further on."""
        i = index if isinstance(index, Int) else Int(self.k, index)
        if i.known and i.v == 0:
            return self
        return Ptr(self.k, self.k.b.gep(self.v, [i.ir], source_etype=self.elem), self.elem)

    def cast(self, elem: Any) -> Ptr:
        """The same address, read as another element type."""
        return Ptr(self.k, self.v, elem)


class Kernel:
    """Builds one function; `Unit` holds the module."""

    def __init__(self, unit: Unit, function: ir.Function) -> None:
        self.unit, self.machine, self.function = unit, unit.machine, function
        self.b = ir.IRBuilder(function.append_basic_block("entry"))
        self.lanes = unit.machine.lanes
        self._entry = self.b.block

    # -- integers and control ---------------------------------------------------------------------

    def int(self, value: IntLike) -> Int:
        """A known or computed 64-bit integer."""
        return value if isinstance(value, Int) else Int(self, value)

    @contextmanager
    def loop(self, start: IntLike, stop: IntLike, step: Whole = 1) -> Iterator[Int]:
        """for i in range(start, stop, step), as a loop of the kernel."""
        first, last = self.int(start), self.int(stop)
        b = self.b
        before = b.block
        head, body, done = (b.append_basic_block(n) for n in ("head", "body", "done"))
        b.branch(head)
        b.position_at_end(head)
        i = b.phi(I64)
        i.add_incoming(first.ir, before)
        b.cbranch(b.icmp_signed("<", i, last.ir), body, done)
        b.position_at_end(body)
        yield Int(self, i)
        i.add_incoming(b.add(i, ir.Constant(I64, step)), b.block)
        b.branch(head)
        b.position_at_end(done)

    def fold(
        self,
        start: IntLike,
        stop: IntLike,
        init: Sequence[Any],
        body: Callable[[Int, list[Any]], Sequence[Any]],
        step: Whole = 1,
        at_least_once: bool = False,
    ) -> list[Any]:
        """Loop that carries registers: `body(i, values)` returns the next values (LLVM values).

        With `at_least_once` the test stands at the end of the loop only.
        """
        first, last = self.int(start), self.int(stop)
        b = self.b
        before = b.block
        head = b.append_basic_block("head")
        body_block = head if at_least_once else b.append_basic_block("body")
        done = b.append_basic_block("done")
        b.branch(head)
        b.position_at_end(head)
        i = b.phi(I64)
        i.add_incoming(first.ir, before)
        phis = [b.phi(v.type) for v in init]
        for phi, v in zip(phis, init, strict=True):
            phi.add_incoming(v, before)
        if not at_least_once:
            b.cbranch(b.icmp_signed("<", i, last.ir), body_block, done)
            b.position_at_end(body_block)
        out = list(body(Int(self, i), list(phis)))
        following = b.add(i, ir.Constant(I64, step))
        i.add_incoming(following, b.block)
        for phi, v in zip(phis, out, strict=True):
            phi.add_incoming(v, b.block)
        if at_least_once:
            b.cbranch(b.icmp_signed("<", following, last.ir), head, done)
        else:
            b.branch(head)
        b.position_at_end(done)
        return out if at_least_once else list(phis)

    def start_or(self, fresh: Any, value: Any, otherwise: Callable[[], list[Any]]) -> list[Any]:
        """Registers that are `value` if the i1 `fresh` holds, else what `otherwise` computes."""
        b, before = self.b, self.b.block
        work, go = b.append_basic_block("otherwise"), b.append_basic_block("go")
        b.cbranch(fresh, go, work)
        b.position_at_end(work)
        computed = otherwise()
        after = b.block
        b.branch(go)
        b.position_at_end(go)
        phis = [b.phi(v.type) for v in computed]
        for phi, v in zip(phis, computed, strict=True):
            phi.add_incoming(value, before)
            phi.add_incoming(v, after)
        return phis

    @contextmanager
    def when(self, condition: Any) -> Iterator[None]:
        """Run the block only if the i1 `condition` holds."""
        with self.b.if_then(condition):
            yield

    @contextmanager
    def either(self, condition: Any) -> Iterator[tuple[Any, Any]]:
        """Two blocks, entered as `with yes:` and `with no:`."""
        with self.b.if_else(condition) as arms:
            yield arms

    def select(self, condition: Any, yes: Any, no: Any) -> Any:
        """One of two wrapped or raw values of the same kind."""
        if isinstance(yes, (Int, Ptr)):
            chosen = self.b.select(condition, _raw(yes), _raw(no))
            return Ptr(self, chosen, yes.elem) if isinstance(yes, Ptr) else Int(self, chosen)
        return self.b.select(condition, yes, no)

    def every(self, *conditions: Any) -> Any:
        """All of the i1 `conditions`."""
        out = conditions[0]
        for condition in conditions[1:]:
            out = self.b.and_(out, condition)
        return out

    def call(self, function: ir.Function, *args: Any) -> Any:
        """Call another function of this unit."""
        return self.b.call(function, [_raw(a) for a in args])

    def fence(self) -> None:
        """A bound that the compiler moves no load or store across; no instruction."""
        self.b.fence("acq_rel", "singlethread")

    def finish(self) -> None:
        """Return from the function."""
        self.b.ret_void()

    # -- arguments of a kernel: void k(ptr buffers, ptr sizes, i32 part, i32 parts) -------------

    def buffer(self, index: Whole, elem: Any = F32) -> Ptr:
        """Address in slot `index` of the buffer table."""
        slot = self.b.gep(self.function.args[0], [ir.Constant(I64, index)], source_etype=PTR)
        return Ptr(self, self.b.load(slot, typ=PTR), elem)

    def size(self, index: Whole) -> Int:
        """Run-time size `index`."""
        slot = self.b.gep(self.function.args[1], [ir.Constant(I64, index)], source_etype=I64)
        return Int(self, self.b.load(slot, typ=I64))

    @property
    def part(self) -> Int:
        """Number of this part of the work, from 0."""
        low = ir.Constant(I32, (1 << WORKER_SHIFT) - 1)
        return Int(self, self.b.zext(self.b.and_(self.function.args[2], low), I64))

    @property
    def worker(self) -> Int:
        """Number of the thread that runs this part, from 0: it has scratch memory of its own."""
        above = self.b.lshr(self.function.args[2], ir.Constant(I32, WORKER_SHIFT))
        return Int(self, self.b.zext(above, I64))

    @property
    def parts(self) -> Int:
        """Number of parts that the work is split into."""
        return Int(self, self.b.sext(self.function.args[3], I64))

    def share(self, total: IntLike) -> tuple[Int, Int]:
        """This part's contiguous share [start, stop) of `total` units of work."""
        units, part, parts = self.int(total), self.part, self.parts
        return units * part // parts, units * (part + 1) // parts

    def entry_alloca(self, typ: Any, align: Whole = 64) -> Any:
        """Stack space, allocated once a call."""
        here = self.b.block
        self.b.position_at_start(self._entry)
        slot = self.b.alloca(typ)
        slot.align = align
        self.b.position_at_end(here)
        return slot

    def stack(self, elements: Whole) -> Ptr:
        """Stack space for float32 elements, aligned to a cache line."""
        slot = self.entry_alloca(ir.ArrayType(F32, elements))
        slot.type = PTR  # llvmlite would check stores against the array's type
        return Ptr(self, slot, F32)


class Unit:
    """One LLVM module: a kernel, its inner functions and the intrinsics they need."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.module = ir.Module(name="kernel")
        self.module.triple = machine.triple
        self._declared: dict[str, ir.Function] = {}

    def kernel(self, name: str) -> Kernel:
        """The one exported function, with the uniform signature."""
        return Kernel(self, ir.Function(self.module, KERNEL, name=name))

    def function(self, name: str, args: Sequence[Any]) -> Kernel:
        """An inner function; its arguments are `k.function.args`."""
        function = ir.Function(self.module, ir.FunctionType(VOID, list(args)), name=name)
        function.linkage = "internal"
        function.attributes.add("noinline")
        return Kernel(self, function)

    def declare(self, name: str, result: Any, args: Sequence[Any]) -> ir.Function:
        """An external function or intrinsic, declared once."""
        if name not in self._declared:
            kind = ir.FunctionType(result, list(args))
            self._declared[name] = ir.Function(self.module, kind, name=name)
        return self._declared[name]

    def text(self) -> str:
        """The module as LLVM IR."""
        return str(self.module)


def _raw(value: Any) -> Any:
    if isinstance(value, Int):
        return value.ir
    return value.v if isinstance(value, Ptr) else value


__all__ = ["F32", "I1", "I8", "I32", "I64", "PTR", "Int", "IntLike", "Kernel", "Ptr", "Unit"]
