"""How the direct convolution is cut into units of work, and how they are dealt out."""

from itertools import pairwise, product

import pytest

from striate.engine.lower.context import GOOD_BALANCE, SCRATCH_FILL, Lowering
from striate.engine.lower.conv import lower_conv
from striate.engine.lower.direct import choose_rows, dealt
from striate.graph import Trace
from striate.graph.ops.conv import Conv2d
from striate.jit import target

SAME = Conv2d(padding=((1, 1), (1, 1)))


def anything(_rows):
    return True


def longest(images, rows, blocks, row_block, chunks, threads):
    """Rows · blocks of the busiest thread, counted unit by unit as the kernel numbers them."""
    starts, parts = range(0, rows, row_block), range(chunks)
    units = [
        min(row_block, rows - start) * (blocks * (c + 1) // chunks - blocks * c // chunks)
        for _, start, c in product(range(images), starts, parts)
    ]
    share = [len(units) * t // threads for t in range(threads + 1)]
    return max(sum(units[a:b]) for a, b in pairwise(share))


def test_units_are_weighed_by_what_they_compute():
    for case in product((1, 2, 3), (1, 2, 5, 7), (1, 3, 8), (1, 2, 3, 7), (1, 2, 3), (1, 2, 3, 4)):
        images, rows, blocks, row_block, chunks, threads = case
        if row_block <= rows and chunks <= blocks:
            share = images * rows * blocks / (threads * longest(*case))
            assert dealt(*case) == pytest.approx(share)
    assert dealt(0, 7, 4, 2, 2, 3) == 1.0


def test_as_many_rows_as_fit_and_work_for_everyone():
    assert choose_rows(1, 56, 4, 1, (20).__ge__) == (19, 1)
    assert choose_rows(1, 56, 4, 2, anything) == (28, 1)
    assert choose_rows(2, 56, 4, 2, anything) == (56, 1)
    # 4 + 3 rows would leave a thread idle for an eighth of the time
    assert choose_rows(1, 7, 4, 2, anything) == (7, 2)
    assert choose_rows(1, 3, 1, 8, (0).__ge__) == (1, 1)
    for rows, blocks, threads in product(range(1, 15), range(1, 9), range(1, 5)):
        way = choose_rows(1, rows, blocks, threads, anything)
        if rows * blocks >= 8 * threads:
            assert dealt(1, rows, blocks, *way, threads) >= 0.75


def test_large_weights_are_dealt_out_before_rows():
    assert choose_rows(1, 8, 32, 2, anything) == (4, 1)
    assert choose_rows(1, 8, 32, 2, anything, blocks_first=True) == (8, 2)
    assert choose_rows(1, 8, 1, 2, anything, blocks_first=True) == (4, 1)
    assert dealt(1, 8, 32, 8, 2, 2) >= GOOD_BALANCE


def planned(shape, co, threads, op=SAME):
    """(rows of a unit, chunks, scratch elements) of a 3×3 convolution."""
    with Trace() as trace:
        x, w = trace.input("x", shape), trace.input("w", (co, shape[1], 3, 3))
        value = op(x, w)
    low = Lowering({}, target.reference_machine("avx2"), threads)
    ids = [low.make("arena", v.type) for v in (x, w, value)]
    lower_conv(low, value.node, ids[:-1], ids[-1:])
    (step,) = low.take_steps()
    return *step.sizes[11:13], step.scratch


def test_each_thread_reads_its_own_weights_where_they_are_more_than_the_inputs():
    assert planned((1, 512, 2, 2), 512, 2)[:2] == (2, 2)
    assert planned((1, 512, 2, 2), 512, 4)[:2] == (2, 4)
    assert planned((1, 32, 56, 56), 32, 2)[1] == 1


def test_weights_that_fill_l2_are_read_for_more_rows():
    """A block of 16 outputs has 9 · ci · 64 bytes; with 512 inputs more than half of L2."""
    l2 = target.reference_machine("avx2").l2_bytes
    rows, _, scratch = planned((1, 512, 14, 14), 512, 1)
    assert l2 // 4 < 4 * scratch <= 9 * 512 * 64
    assert scratch == (rows + 2) * 16 * 512 + SCRATCH_FILL
    assert 4 * planned((1, 256, 14, 14), 256, 1)[2] <= l2 // 4


def test_a_dilated_kernel_copies_nothing():
    assert planned((1, 32, 28, 28), 32, 2, Conv2d((1, 1), ((6, 6), (6, 6)), (6, 6)))[2] == 0
