"""The products of Winograd's method: M[p] = V[p] · U[p] for each point p, in partial sums.

V is [partial sum][point][tile][channel], M is [point][tile][block]; FLOPs: 2 · P · tiles · ci · co.
Loops:

    U is given:             output block → point → register tiles → partial sum
    weights are packed:     partial sum → output block → its U → point → register tiles

U is given in the order in which it is read. With packed weights V of a partial sum stays in L2 for
a group of output blocks, and so do U and M. The products of an output are added in the same order,
so the bits are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from striate.arith.cook_toom import Filtering
from striate.arith.winograd import takes_packed_weights
from striate.ir import vec
from striate.ir.kernel import I64, PTR, Int, Kernel, Ptr
from striate.kernels.micro import LINE, Ahead, dispatch, multiply_run, zeros
from striate.kernels.patches import Sums, step_of
from striate.kernels.winograd_weights import transform_channel


@dataclass(frozen=True)
class Block:
    """The tiles of a unit of work: V and M, U of packed weights, first tile and count.

    `v_step` and `m_step` lead from point to point; M has all points of an output block together.
    """

    v: Ptr
    m: Ptr
    u: Ptr
    v_step: Int
    m_step: Int
    first: Int
    count: Int


@dataclass(frozen=True)
class _Coming:
    """What the products fetch for the next ones, from `start` on: `step` elements each.

    It takes some `passes` over the weights to fetch all. `step` is 0 where one pass reads weights
    faster than memory gives them: the order is left to the processor, and the same line is fetched
    again and again.
    """

    start: Ptr
    step: Int
    passes: int


def room_for_weights(ci: int, width: int, filtering: Filtering) -> int:
    """Elements of U of one partial sum of `width` output channels."""
    return filtering.points * _weights_step(Sums(ci), width)


def _weights_step(sums: Sums, width: int) -> int:
    """Elements of that U from point to point."""
    return step_of(sums.longest, width)


class Products:
    """Inner functions of a kernel, and the loops that call them.

    `fetch(tile, ob)` asks for the memory of a tile of outputs, which is written after the products.
    """

    def __init__(
        self,
        k: Kernel,
        weights: Ptr,
        ci: int,
        width: int,
        filtering: Filtering,
        fetch: Callable[[Int, Int], None],
    ) -> None:
        self.k, self.weights, self.ci, self.width = k, weights, ci, width
        self.filtering, self.points, self.fetch = filtering, filtering.points, fetch
        self.sums = Sums.of(ci, filtering)
        self.pitch = self.sums.pitch(k.lanes, filtering)
        self.made_step = _weights_step(self.sums, width)
        # Two passes, of which there are mostly more, fetch the weights of the next products.
        self.every = max(1, 2 * LINE // width)
        self.bodies = [self._body(rows) for rows in range(1, k.machine.rows + 1)]
        self.transform = self._transform_function() if takes_packed_weights(filtering) else None

    def run(self, block: Block, begin: Int, end: Int, packed: Int) -> None:
        """All products of the output blocks begin … end−1, whose M lie one behind the other."""
        if self.transform is None:
            self._with_given(block, begin, end)
            return
        with self.k.either(packed > 0) as (inside, given):
            with inside:
                self._with_packed(block, begin, end)
            with given:
                self._with_given(block, begin, end)

    def _with_given(self, block: Block, begin: Int, end: Int) -> None:
        k, whole = self.k, self.sums.depth * self.width
        step = k.select(block.count > k.machine.rows, k.int(LINE // self.every), k.int(0))
        with k.loop(begin, end) as ob, k.loop(0, self.points) as p:
            self._fetch_outputs(block, p, ob)
            u = self.weights.at((ob * self.points + p) * whole)
            # The weights of the next point lie behind these.
            coming = _Coming(u.at(whole), step, 2)
            sums = (k.int(0), k.int(self.sums.count))
            self._multiply(block, p, sums, (u, self._sums(block, p, ob - begin)), coming)

    def _with_packed(self, block: Block, begin: Int, end: Int) -> None:
        k, step = self.k, self.made_step
        with k.loop(0, self.sums.count) as i, k.loop(begin, end) as ob:
            self._make_weights(block.u, i, ob)
            following = self._following(i, ob, begin, end)
            with k.loop(0, self.points) as p:
                with k.when((i + 1).equals(self.sums.count)):
                    self._fetch_outputs(block, p, ob)
                self._fetch_weights(following, p)
                # U is in L2, and in order: it needs no fetching.
                inputs = self._inputs(block, p + 1, i)
                coming = _Coming(inputs, k.int(LINE // self.every), 2 * self.every)
                u = block.u.at(p * step).at(0 - self.sums.start(i) * self.width)
                m = self._sums(block, p, ob - begin)
                self._multiply(block, p, (i, i + 1), (u, m), coming)

    def _make_weights(self, u: Ptr, i: Int, ob: Int) -> None:
        """U of partial sum i of the packed weights."""
        k, start = self.k, self.sums.start(i)
        w = self._packed(i, ob)
        with k.loop(0, self.sums.stop(i) - start) as c:
            k.call(self.transform, w.at(c * self.width), u.at(c * self.width))

    def _packed(self, i: Int, ob: Int) -> Ptr:
        """The packed weights of partial sum i at the first tap."""
        block = self.filtering.kernel**2 * self.ci * self.width
        return self.weights.at(ob * block).at(self.sums.start(i) * self.width)

    def _following(self, i: Int, ob: Int, begin: Int, end: Int) -> Ptr:
        """The packed weights that are transformed next: those of the next output block."""
        k, more = self.k, ob + 1 < end
        return self._packed(k.select(more, i, i + 1), k.select(more, ob + 1, begin))

    def _inputs(self, block: Block, p: Int, i: Int) -> Ptr:
        """V of point p for partial sum i."""
        return block.v.at(p * block.v_step).at(self._place(block.v_step, i))

    def _place(self, v_step: Int, i: Int) -> Int:
        """Where in V partial sum i of a point begins."""
        return i * self.points * v_step if self.sums.apart else self.sums.start(i)

    def _sums(self, block: Block, p: Int, number: Int) -> Ptr:
        """M of point p and an output block of the group."""
        return block.m.at((number * self.points + p) * block.m_step)

    def _multiply(
        self,
        block: Block,
        p: Int,
        sums: tuple[Int, Int],
        places: tuple[Ptr, Ptr],
        coming: _Coming,
    ) -> None:
        """Partial sums sums[0] … sums[1]−1 of point p for all tiles; `places` in U and M."""
        k, (u, m) = self.k, places
        passes = block.count.ceil_div(k.machine.rows)
        length, longer = block.count // passes, block.count % passes
        v, channels = block.v.at(p * block.v_step), self.sums.stop(sums[1] - 1)
        channels = channels - self.sums.start(sums[0])
        with k.loop(0, passes) as t:
            j = t * length + t.min(longer)
            rows = k.select(t < longer, length + 1, length)
            ahead = coming.start.at(t.min(coming.passes - 1) * channels * coming.step)
            args = (
                *(v.at(j * self.pitch), u, m.at(j * self.width), ahead),
                *(block.v_step, coming.step, *sums),
            )
            dispatch(k, rows, k.machine.rows, lambda r: k.call(self.bodies[r - 1], *args))

    def _fetch_outputs(self, block: Block, p: Int, ob: Int) -> None:
        """At each point ask for the lines of some tiles of outputs, while products are computed."""
        k, count = self.k, block.count
        with k.loop(p * count // self.points, (p + 1) * count // self.points) as tile:
            self.fetch(block.first + tile, ob)

    def _fetch_weights(self, following: Ptr, p: Int) -> None:
        """At each point ask for some lines of packed weights."""
        k, taps = self.k, self.filtering.kernel**2
        lines = max(1, self.sums.longest * self.width // LINE)  # of one tap
        total = lines * taps
        with k.loop(p * total // self.points, (p + 1) * total // self.points) as line:
            tap, place = line // lines, line % lines
            source = following.at(tap * (self.ci * self.width)).at(place * LINE)
            vec.prefetch(k, source, into=2)

    def _body(self, rows: int) -> Any:
        """product(v, u, m, ahead, v_step, further, begin, end): those partial sums of `rows` tiles.

        The first of all is stored, so that nothing has to be set to zero or read back for it.
        """
        k = self.k.unit.function(f"product{rows}", [PTR, PTR, PTR, PTR, *[I64] * 4])
        v, u, m, ahead = (Ptr(k, a) for a in k.function.args[:4])
        v_step, further, begin, end = (Int(k, a) for a in k.function.args[4:])
        cols = self.width // k.lanes
        places = [m.at(number * k.lanes) for number in range(rows * cols)]
        before = self.sums.start(begin)

        def run(i: Int, start: Int, length: Int) -> list[Any]:
            return multiply_run(
                k,
                v.at(self._place(v_step, i)),
                u.at(start * self.width),
                zeros(k, rows, cols),
                rows=rows,
                cols=cols,
                length=length,
                row_stride=self.pitch,
                block=self.width,
                multiple=self.sums.unit,
                ahead=Ahead(ahead.at((start - before) * further), further, every=self.every),
            )

        with k.when(begin.equals(0)):
            first = k.int(0)
            values = run(first, first, self.sums.stop(first))
            for place, value in zip(places, values, strict=True):
                vec.store(k, value, place)
        if self.sums.count > 1:
            with k.loop(begin.max(1), end) as i:
                start, stop = self.sums.start(i), self.sums.stop(i)
                for place, value in zip(places, run(i, start, stop - start), strict=True):
                    vec.store(k, k.b.fadd(vec.load(k, place), value), place)
        k.finish()
        return k.function

    def _transform_function(self) -> Any:
        """weights(w, u): U of one input channel of a block of packed weights, for a partial sum."""
        k, f = self.k.unit.function("weights", [PTR, PTR]), self.filtering
        g, u = (Ptr(k, a) for a in k.function.args)
        held = k.stack(f.side * f.taps * k.lanes)
        steps = (k.int(self.ci * self.width), self.made_step)
        transform_channel(k, f, g, u, held, width=self.width, steps=steps)
        k.finish()
        return k.function
