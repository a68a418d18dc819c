"""Where buffers lie: the plan of one arena, and the blocks that runs share."""

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from striate.arith.expr import Expr
from striate.engine import arena
from striate.engine.memory import ALIGNMENT, lifetimes, place, shared
from striate.engine.memory import arena as place_all
from striate.engine.plan import plan
from striate.engine.program import Buffer, Step
from striate.graph import Trace
from striate.graph.ops.eltwise import m
from striate.graph.ops.reduce import Reduce
from striate.graph.value import Param
from striate.jit.target import machine
from striate.kernels.clock import Clock
from striate.kernels.eltwise import Eltwise

SPAN = st.tuples(st.integers(0, 20), st.integers(0, 8), st.integers(0, 3000))


def overlaps(a, b):
    return a[0] < b[1] and b[0] < a[1]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(SPAN, max_size=30))
def test_no_two_buffers_alive_at_once_share_bytes(entries):
    spans = {i: (first, first + length) for i, (first, length, _) in enumerate(entries)}
    sizes = {i: size for i, (_, _, size) in enumerate(entries)}
    offsets, total = place(spans, sizes)
    assert offsets.keys() == spans.keys()
    whole = {i: -(-sizes[i] // ALIGNMENT) * ALIGNMENT for i in spans}
    assert total <= sum(whole.values())
    for i, (first, last) in spans.items():
        assert offsets[i] % ALIGNMENT == 0
        assert 0 <= offsets[i] <= offsets[i] + whole[i] <= total
        for j in range(i):
            if first <= spans[j][1] and spans[j][0] <= last:
                bytes_of = [(offsets[k], offsets[k] + whole[k]) for k in (i, j)]
                assert not overlaps(*bytes_of), (i, j)
    # No plan is smaller than what is alive at one time.
    for time in range(30):
        alive = sum(whole[i] for i, (first, last) in spans.items() if first <= time <= last)
        assert alive <= total


def test_buffers_of_a_chain_take_turns():
    spans = {i: (i, i + 1) for i in range(10)}
    offsets, total = place(spans, dict.fromkeys(spans, 640))
    assert total == 2 * 640
    assert set(offsets.values()) == {0, 640}


def test_a_hole_is_filled():
    spans = {1: (0, 9), 2: (0, 2), 3: (4, 9), 4: (5, 9)}
    offsets, total = place(spans, {1: 1000, 2: 512, 3: 448, 4: 64})
    assert total == 1024 + 512
    assert sorted(offsets.values()) == [0, 1024, 1024, 1024 + 448]


def chain_of_reductions(depth):
    """Every link needs a pass of its own, so its input is stored."""
    with Trace() as trace:
        y = x = trace.input("x", (64, 48))
        for _ in range(depth):
            y = y * Reduce("sum", (1,))(y) - Reduce("max", (0,))(y)
        return trace.graph(y, m("add", x, 1.0))


def test_lifetimes_of_a_program():
    program = plan(chain_of_reductions(16), machine(), 2)
    spans = lifetimes(program.steps, program.buffers)
    assert spans.keys() == program.offsets.keys()
    assert all(program.buffers[b].kind == "arena" for b in spans)
    for i, step in enumerate(program.steps):
        for b in (*step.reads, *step.writes):
            if b in spans:
                assert spans[b][0] <= i <= spans[b][1]
    # Nothing has taken the place of what an earlier step wrote and this one reads.
    owner, written = {}, set()
    for task in program.tasks:
        assert {b for b in task.inputs if b in spans} <= written
        for step in task.steps:
            for b in written.intersection(step.reads):
                assert owner[program.offsets[b]] == b
            now = {b for b in step.writes if b in spans}
            owner.update({program.offsets[b]: b for b in now})
            written |= now


def test_a_deeper_chain_needs_no_more_memory():
    short, long = (plan(chain_of_reductions(d), machine(), 2).arena_bytes for d in (36, 72))
    assert 64 * 48 * 4 < short <= long < 1.1 * short


# -- elementwise steps write over what they read for the last time ---------------------------------


def step(buffers, writes, operands=None):
    """A step on `buffers`; elementwise if patterns of its operands are given."""
    spec = Clock()
    if operands is not None:
        expr = Expr(len(operands), (), (0,) * len(writes))
        spec = Eltwise(expr, len(operands[0]), operands)
    reads = tuple(dict.fromkeys(b for b in buffers if b not in writes))
    return Step(spec, buffers, (), reads, writes, "")


def owners(steps, sizes):
    buffers = {i: Buffer(i, "arena", n) for i, n in sizes.items()}
    spans = lifetimes(steps, buffers)
    return shared(steps, spans, {i: 4 * n for i, n in sizes.items()})


SIZES = {1: 100, 2: 100, 3: 100, 4: 100, 5: 100}


def test_a_chain_of_maps_works_in_one_place():
    steps = [step((1,), (1,)), step((1, 2), (2,), ("x",)), step((2, 3), (3,), ("x",))]
    assert owners(steps, SIZES) == {1: 1, 2: 1, 3: 1}
    buffers = {i: Buffer(i, "arena", 100) for i in (1, 2, 3)}
    assert place_all(steps, buffers) == ({1: 0, 2: 0, 3: 0}, 448)


@pytest.mark.parametrize(
    ("last", "sizes"),
    [
        (step((1, 2), (2,), ("x1",)), SIZES),  # read again for later elements
        (step((1, 1, 2), (2,), ("xx", "x1")), SIZES),  # read in two ways
        (step((1, 2), (2,), ("x",)), {1: 100, 2: 50}),  # another size
        (step((1, 2), (2,)), SIZES),  # a kernel that promises nothing
    ],
)
def test_what_may_not_be_written_over(last, sizes):
    assert owners([step((1,), (1,)), last], sizes) == {1: 1, 2: 2}


def test_what_is_read_later_is_not_written_over():
    steps = [step((1,), (1,)), step((1, 2), (2,), ("x",)), step((1, 2, 3), (3,), ("x", "x"))]
    assert owners(steps, SIZES) == {1: 1, 2: 2, 3: 1}


def test_each_operand_is_given_away_once():
    steps = [step((1, 2), (1, 2)), step((1, 2, 3, 4, 5), (3, 4, 5), ("x", "x"))]
    found = owners(steps, SIZES)
    assert sorted(found.values()) == [1, 1, 2, 2, 5]


def test_parameters_inputs_and_outputs_are_not_in_the_arena():
    w = Param("w", np.ones((4, 4), np.float32))
    with Trace() as trace:
        x = trace.input("x", (4, 4))
        graph = trace.graph(x + w)
    assert plan(graph, machine(), 1).arena_bytes == 0


# -- blocks ----------------------------------------------------------------------------------------


@pytest.fixture
def no_free_blocks(monkeypatch):
    monkeypatch.setattr(arena, "_free", [])


@pytest.mark.usefixtures("no_free_blocks")
def test_a_block_is_used_again():
    block = arena.take(10_000)
    assert block.address % arena.ALIGNMENT == 0
    arena.give_back(block)
    assert arena.take(9_000) is block
    other = arena.take(9_600)
    assert other is not block
    arena.give_back(block)
    arena.give_back(other)
    assert arena.take(9_500) is other  # the smallest that fits
    assert arena.take(9_500) is block


@pytest.mark.usefixtures("no_free_blocks")
def test_blocks_stay_few_and_grow():
    for size in range(10_000, 200_000, 1_000):
        arena.give_back(arena.take(size))
        assert len(arena._free) == 1
    blocks = [arena.take(size) for size in range(1_000_000, 1_010_000, 1_000)]
    for block in blocks:
        arena.give_back(block)
    assert len(arena._free) == arena.KEPT
    assert min(b.size for b in arena._free) == blocks[-arena.KEPT].size


@pytest.mark.usefixtures("no_free_blocks")
def test_a_block_is_one_callers_at_a_time():
    wrong = []

    def work(mark):
        for i in range(300):
            block = arena.take(5_000 + 100 * (i % 7))
            numbers = block.array(64, 1_000, np.int32)
            numbers[...] = mark
            if (numbers != mark).any():
                wrong.append(mark)
            arena.give_back(block)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_view_of_a_block_lies_where_it_should():
    block = arena.Block(1_000)
    view = block.array(64, 5, np.float32)
    assert view.shape == (5,)
    assert view.ctypes.data == block.address + 64
    assert block.array(0, 250, np.float32).nbytes == 1_000
