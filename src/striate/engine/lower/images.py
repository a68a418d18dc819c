"""Max pooling and maps along an axis of images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from striate.arith.layout import Nhwc, pitch_of
from striate.arith.pool import Window
from striate.engine.lower.context import Lowering
from striate.engine.lower.eltwise import shown
from striate.graph.ops.axismap import AxisMap as AxisMapOp
from striate.graph.ops.fused import FusedPool
from striate.graph.ops.pool import MaxPool as MaxPoolOp
from striate.graph.ops.pool import MaxPoolGrad as MaxPoolGradOp
from striate.graph.ops.pool import MaxPoolIndices as MaxPoolIndicesOp
from striate.graph.value import Node
from striate.kernels.axismap import AxisMap
from striate.kernels.maxpool import MOST_UNROLLED, MaxPool, MaxPoolGrad, MaxPoolIndices
from striate.kernels.prologue import AS_THEY_ARE, Prologue


def whole_window(rows: Sequence[Window], cols: Sequence[Window]) -> tuple[int, int] | None:
    """The size that most windows have, if it is small enough to unroll."""
    (kh, often_h), (kw, often_w) = (
        Counter(len(range(*w)) for w in windows).most_common(1)[0] for windows in (rows, cols)
    )
    usual = 2 * often_h >= len(rows) and 2 * often_w >= len(cols)
    return (kh, kw) if usual and kh * kw <= MOST_UNROLLED else None


def disjoint(windows: Sequence[Window]) -> bool:
    """Whether the windows ascend and no two share an element."""
    return all(w[2] == 1 for w in windows) and all(a[1] <= b[0] for a, b in pairwise(windows))


def lower_max_pool(
    low: Lowering, node: Node, inputs: Sequence[int], outputs: Sequence[int]
) -> None:
    """MaxPool, its indices and its gradient: the windows are tables."""
    op, before = node.op, AS_THEY_ARE
    if isinstance(op, FusedPool):
        before, op = Prologue(op.before, op.before_operands), op.pool
    assert isinstance(op, (MaxPoolOp, MaxPoolIndicesOp, MaxPoolGradOp))
    n, c, h, w = node.inputs[0].shape
    rows, cols = op.windows_h, op.windows_w
    kernel = whole_window(rows, cols)
    spec: MaxPool | MaxPoolIndices | MaxPoolGrad
    if isinstance(op, MaxPoolGradOp):
        spec = MaxPoolGrad(kernel, disjoint(rows) and disjoint(cols), before)
    else:
        pitch = pitch_of(low.layout(node.outputs()[0]))
        pool = isinstance(op, MaxPoolOp)
        spec = MaxPool(kernel, pitch, before) if pool else MaxPoolIndices(kernel)
    tables = [low.table([i for window in windows for i in window]) for windows in (rows, cols)]
    size = "×".join(map(str, kernel)) if kernel else "adaptive"
    own = len(inputs) - len(before.operands)
    drawn = f"{shown(before.expr)}, " if before.expr is not None else ""
    low.step(
        spec,
        [*inputs[:own], *outputs, *tables, *inputs[own:]],
        (n, h, w, c, len(rows), len(cols)),
        writes=outputs,
        label=f"{drawn}{type(spec).__name__} {size}",
    )


def lower_axis_map(
    low: Lowering, node: Node, inputs: Sequence[int], outputs: Sequence[int]
) -> None:
    """A sparse linear map along the height or width: the rows are tables."""
    op = node.op
    assert isinstance(op, AxisMapOp)
    n, c, h, w = node.inputs[0].shape
    nhwc = isinstance(low.layout(node.outputs()[0]), Nhwc)
    if op.axis == 2:
        outer, inner = (n, w * c) if nhwc else (n * c, w)
    else:
        outer, inner = (n * h, c) if nhwc else (n * c * h, 1)
    rule = op.rule
    table = rule.rows()
    starts = [0]
    for row in table:
        starts.append(starts[-1] + len(row))
    flat = [entry for row in table for entry in row]
    tables = [
        low.table(starts),
        low.table([index for index, _ in flat] or [0]),
        low.table([weight for _, weight in flat] or [0.0], "f32"),
    ]
    low.step(
        AxisMap(pitch_of(low.layout(node.outputs()[0]))),
        [*inputs, *outputs, *tables],
        (outer, rule.in_size, rule.out_size, inner),
        writes=outputs,
        label=f"{type(rule).__name__} along {'height' if op.axis == 2 else 'width'}",
    )
