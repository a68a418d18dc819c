"""What fusion makes: reductions of an expression, convolutions with an epilogue, and pooling of an
expression.

They mean exactly what the nodes they replace meant, one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from striate.arith.expr import Expr
from striate.arith.pool import windows
from striate.graph.ops.eltwise import Fused
from striate.graph.ops.pool import MaxPool, MaxPoolGrad
from striate.graph.ops.reduce import Reduce
from striate.graph.value import Array, Op, TensorType


@dataclass(frozen=True)
class FusedReduce(Op):
    """Every output of `expr`, broadcast to a common shape, reduced over `axes` (kept as 1)."""

    kind: str
    axes: tuple[int, ...]
    expr: Expr

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        """One type for each output of the expression."""
        whole = TensorType(np.broadcast_shapes(*(t.shape for t in inputs)))
        return Reduce(self.kind, self.axes).infer(whole) * len(self.expr.outputs)

    def numpy(self, *arrays: Array) -> tuple[Array, ...]:
        """The expression, then the reductions."""
        shape = np.broadcast_shapes(*(a.shape for a in arrays))
        reduce = Reduce(self.kind, self.axes)
        whole = (np.broadcast_to(a, shape) for a in Fused(self.expr).numpy(*arrays))
        return tuple(reduce.numpy(a)[0] for a in whole)


@dataclass(frozen=True)
class FusedConv(Op):
    """`conv`, then `expr` on its result (input 0) and further operands.

    `operands` says how each further operand lies on the result: "channel", "full" or "scalar".
    With `before` the convolution reads that expression on its first input (input 0) and operands
    of its own, `before_operands`: "channel" or "scalar". They are the last inputs of the node.
    With `pool` the result is the largest element of each whole 2×2 window, two rows and columns
    apart; `operands` lie on what it is taken from.
    """

    conv: Op
    expr: Expr
    operands: tuple[str, ...]
    before: Expr | None = None
    before_operands: tuple[str, ...] = ()
    pool: bool = False

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        """The convolution's type, or that of its pooled result."""
        types = self.conv.infer(*inputs[:2])
        return pool_of(types[0]).infer(*types) if self.pool else types

    def numpy(self, *arrays: Array) -> tuple[Array, ...]:
        """The expression before, the convolution, the expression, then the pooling."""
        x, w, *others = arrays
        after = others[: len(self.operands)]
        if self.before is not None:
            ahead = _laid(self.before_operands, others[len(after) :], x.shape)
            (x,) = Fused(self.before).numpy(x, *ahead)
        (y,) = self.conv.numpy(x, w)
        (y,) = Fused(self.expr).numpy(y, *_laid(self.operands, after, y.shape))
        return pool_of(TensorType(y.shape)).numpy(y) if self.pool else (y,)

    def macs(self, *inputs: TensorType) -> int:
        """Those of the convolution."""
        return self.conv.macs(*inputs[:2])


@dataclass(frozen=True)
class FusedPool(Op):
    """`pool`, or its gradient, of what `before` makes of its first input (input 0) and operands.

    `before_operands` says how each operand lies on the images: "channel" or "scalar". They are the
    last inputs of the node.
    """

    pool: MaxPool | MaxPoolGrad
    before: Expr
    before_operands: tuple[str, ...]

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        """The type of the pooling or of its gradient."""
        return self.pool.infer(*inputs[: len(inputs) - len(self.before_operands)])

    def numpy(self, *arrays: Array) -> tuple[Array, ...]:
        """The expression, then the pooling or its gradient."""
        count = len(arrays) - len(self.before_operands)
        (x, *others), ahead = arrays[:count], arrays[count:]
        (x,) = Fused(self.before).numpy(x, *_laid(self.before_operands, ahead, x.shape))
        return self.pool.numpy(x, *others)


def pool_of(images: TensorType) -> MaxPool:
    """Max pooling of whole 2×2 windows, two rows and columns apart."""
    rows, cols = (windows(size, 2, 2, (0, 0)) for size in images.shape[2:])
    return MaxPool(rows, cols)


def _laid(kinds: Sequence[str], arrays: Sequence[Array], shape: tuple[int, ...]) -> list[Array]:
    """Operands in shapes that broadcast to images of `shape`."""
    return [
        a.reshape(1, -1, 1, 1) if kind == "channel" else a.reshape(shape if a.size > 1 else ())
        for kind, a in zip(kinds, arrays, strict=True)
    ]
