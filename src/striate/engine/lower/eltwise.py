"""Maps and reductions: loops over collapsed axes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from striate.arith.expr import Expr
from striate.engine.lower.context import Lowering
from striate.engine.lower.dims import Axis, collapse, in_memory, patterns
from striate.errors import UnsupportedError
from striate.graph.ops.eltwise import Fused, Map
from striate.graph.ops.fused import FusedReduce
from striate.graph.ops.norm import ChannelStats
from striate.graph.ops.reduce import Reduce as ReduceOp
from striate.graph.value import Node
from striate.kernels import stats
from striate.kernels.eltwise import Eltwise
from striate.kernels.reduce import (
    Reduce,
    ReduceFinish,
    chunk_count,
    chunk_rows,
    scratch_elements,
)

MOST_DIMS = 4
# What `add_reduction` runs.
CHUNK_SUM = Reduce("sum", Expr.identity(), ("xxx",), True, False)


def add_map(
    low: Lowering,
    expr: Expr,
    inputs: Sequence[int],
    shapes: Sequence[Sequence[int]],
    outputs: Sequence[int],
    space: Sequence[int],
    *,
    label: str,
) -> None:
    """One elementwise step: `shapes` are the operands' sizes in memory order along `space`."""
    axes = collapse(space, shapes) or [Axis(1, ("x",) * len(inputs))]
    if len(axes) > MOST_DIMS:
        raise UnsupportedError(
            f"{label}: operands of sizes {shapes} broadcast over {tuple(space)} in {len(axes)} "
            f"alternations; at most {MOST_DIMS} are supported: reshape or split the expression"
        )
    spec = Eltwise(expr, len(axes), patterns(axes, len(inputs)))
    low.step(spec, [*inputs, *outputs], [a.extent for a in axes], writes=outputs, label=label)


def _space(low: Lowering, node: Node) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """The sizes of a node's space in memory order, and of its operands along it."""
    value = node.outputs()[0]
    operands = [v.shape for v in node.inputs]
    if isinstance(node.op, (FusedReduce, ReduceOp)):
        sizes = [tuple(s) for s in operands]
        ndim = max(map(len, sizes))
        padded = [(1,) * (ndim - len(s)) + s for s in sizes]
        shape = tuple(max(column) for column in zip(*padded, strict=True))
    else:
        shape = value.shape
    ndim, layout = len(shape), low.layout(value)
    return in_memory(shape, layout, ndim), [in_memory(s, layout, ndim) for s in operands]


def lower_map(low: Lowering, node: Node, inputs: Sequence[int], outputs: Sequence[int]) -> None:
    """Fused or single maps."""
    op = node.op
    assert isinstance(op, (Fused, Map))
    expr = op.expr if isinstance(op, Fused) else Expr.single(op.kind)
    space, operands = _space(low, node)
    add_map(low, expr, inputs, operands, outputs, space, label=shown(expr))


def shown(expr: Expr) -> str:
    """The first six operations of an expression, as labels name it."""
    names = [str(code[0]) for code in expr.code if code[0] != "const"]
    return "+".join(names[:6]) + ("…" if len(names) > 6 else "") or "copy"


def lower_broadcast(
    low: Lowering, node: Node, inputs: Sequence[int], outputs: Sequence[int]
) -> None:
    """A broadcast that nothing could take into its own loop."""
    space, operands = _space(low, node)
    add_map(low, Expr.identity(), inputs, operands, outputs, space, label="broadcast")


# -- reductions -----------------------------------------------------------------------------------


def lower_reduce(low: Lowering, node: Node, inputs: Sequence[int], outputs: Sequence[int]) -> None:
    """Reductions over any axes: one pass for each run of neighbouring axes, the innermost first."""
    op = node.op
    assert isinstance(op, (FusedReduce, ReduceOp))
    expr = op.expr if isinstance(op, FusedReduce) else Expr.identity()
    space, operands = _space(low, node)
    marks = in_memory(
        tuple(2 if i in op.axes else 1 for i in range(len(space))),
        low.layout(node.outputs()[0]),
        len(space),
    )
    kinds = ["reduce" if m == 2 else "keep" for m in marks]
    axes = collapse(space, operands, kinds)
    if not any(a.kind == "reduce" for a in axes):
        add_map(low, expr, inputs, operands, outputs, space, label=f"{op.kind} of single elements")
        return
    # Whether partial sums are made must not depend on the batch size: an image has the same bits
    # whatever batch it came in. So it hangs on which axes are kept, not on how long they are.
    chunked = kinds[0] == "reduce"
    current = list(inputs)
    while any(a.kind == "reduce" for a in axes):
        split = max(i for i, a in enumerate(axes) if a.kind == "reduce")
        outer, inner = _merged(axes[:split]), _merged(axes[split + 1 :])
        if outer is None or inner is None:
            current = _materialise(low, expr, current, axes, len(outputs))
            expr = Expr.identity(len(outputs))
            axes = _dense(axes, len(outputs))
            continue
        rest = axes[:split] + axes[split + 1 :]
        final = not any(a.kind == "reduce" for a in rest)
        elements = math.prod(a.extent for a in rest)
        targets = list(outputs) if final else [low.temporary(elements) for _ in outputs]
        loops = (outer, axes[split], inner)
        _reduce_once(low, op.kind, expr, current, loops, targets, chunked=chunked)
        current, expr = targets, Expr.identity(len(targets))
        axes = _dense(rest, len(targets))


def _merged(axes: list[Axis]) -> Axis | None:
    """Neighbouring loops as one: possible where every operand behaves alike along all of them."""
    if not axes:
        return Axis(1, ())
    if len({a.letters for a in axes}) > 1:
        return None
    return Axis(math.prod(a.extent for a in axes), axes[0].letters)


def _dense(axes: list[Axis], operands: int) -> list[Axis]:
    """The same loops for operands that vary along all of them."""
    extents = [a.extent for a in axes]
    return collapse(extents, [extents] * operands, [a.kind for a in axes])


def _materialise(
    low: Lowering, expr: Expr, inputs: list[int], axes: list[Axis], outputs: int
) -> list[int]:
    """The expression's results in memory, where its operands lie too differently for one pass."""
    space = [a.extent for a in axes]
    shapes = [[a.extent if a.letters[i] == "x" else 1 for a in axes] for i in range(len(inputs))]
    targets = [low.temporary(math.prod(space)) for _ in range(outputs)]
    add_map(low, expr, inputs, shapes, targets, space, label="operands of a reduction")
    return targets


def _reduce_once(
    low: Lowering,
    kind: str,
    expr: Expr,
    inputs: Sequence[int],
    loops: tuple[Axis, Axis, Axis],
    outputs: Sequence[int],
    *,
    chunked: bool,
) -> None:
    """One reduction over the middle loop; with `chunked` in partial sums, added up by a second."""
    outer, middle, inner = loops
    # A loop that is not there (one image, one channel) gets the mark that it has as a rule, so
    # that a batch of one needs no kernel of its own.
    marks = tuple(
        "".join((axis.letters or middle.letters)[i] for axis in loops) for i in range(len(inputs))
    )
    spec = Reduce(kind, expr, marks, inner.extent > 1, chunked)
    extents = (outer.extent, middle.extent, inner.extent)
    sizes = (*extents, chunk_rows(spec, middle.extent))
    label = f"{kind} of {len(outputs)}" if len(outputs) > 1 else kind
    if not chunked:
        low.step(spec, [*inputs, *outputs], sizes, writes=outputs, label=label)
        return
    partial = low.temporary(scratch_elements(spec, sizes))
    low.step(spec, [*inputs, *outputs, partial], sizes, writes=[partial], label=label)
    count = chunk_count(spec, middle.extent)
    low.step(
        ReduceFinish(kind, len(outputs)),
        [partial, *outputs],
        (count, outer.extent * inner.extent),
        writes=outputs,
        label=f"{label} of parts",
    )


def add_reduction(low: Lowering, source: int, target: int, count: int, elements: int) -> None:
    """target[i] = Σ_j source[j, i], j ascending."""
    loops = (Axis(1, ()), Axis(count, ("x",)), Axis(elements, ("x",)))
    _reduce_once(low, "sum", Expr.identity(), [source], loops, [target], chunked=False)


def lower_stats(low: Lowering, node: Node, inputs: Sequence[int], outputs: Sequence[int]) -> None:
    """Mean and variance of each channel."""
    assert isinstance(node.op, ChannelStats)
    n, c, h, w = node.inputs[0].shape
    sizes = (n * h * w, c, stats.chunk_rows(n * h * w))
    partial = low.temporary(stats.scratch_elements(sizes))
    low.step(
        stats.ChannelStats(),
        [*inputs, *outputs, partial],
        sizes,
        writes=[partial],
        label="channel statistics",
    )
    low.step(
        stats.StatsFinish(), [partial, *outputs], sizes, writes=outputs, label="mean and variance"
    )
