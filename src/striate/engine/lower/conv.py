"""Convolutions and dense layers: which kernel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from striate.arith.conv import ConvShape
from striate.arith.expr import Expr
from striate.arith.layout import GroupedWeights, WinogradWeights, pitch_of
from striate.engine.layout import conv_shape
from striate.engine.lower.context import Lowering
from striate.engine.lower.direct import forward as direct_forward
from striate.engine.lower.direct import input_gradient as direct_input_gradient
from striate.engine.lower.gemm import matrix_product
from striate.engine.lower.grouped import grouped
from striate.engine.lower.winograd import winograd
from striate.engine.program import SCRATCH
from striate.graph.ops.conv import Conv2d, ConvInputGrad
from striate.graph.ops.fused import FusedConv
from striate.graph.value import Node, Value
from striate.kernels.epilogue import Epilogue
from striate.kernels.prologue import Prologue


def is_matrix_product(shape: ConvShape) -> bool:
    """Whether a convolution is a product of a pixel matrix with a weight matrix."""
    return (
        (shape.kh, shape.kw) == (1, 1)
        and shape.stride == (1, 1)
        and shape.padding == ((0, 0), (0, 0))
        and shape.groups == 1
    )


def lower_conv(low: Lowering, node: Node, inputs: Sequence[int], outputs: Sequence[int]) -> None:
    """Conv2d and ConvInputGrad, bare or with what is fused with them."""
    op = node.op
    prologue = Prologue(pitch=pitch_of(low.layout(node.inputs[0])))
    epilogue = Epilogue(pitch=pitch_of(low.layout(Value(node))))
    if isinstance(op, FusedConv):
        prologue = replace(prologue, expr=op.before, operands=op.before_operands)
        if op.expr != Expr.identity():
            epilogue = replace(epilogue, expr=op.expr, operands=op.operands)
        op = op.conv
    assert isinstance(op, (Conv2d, ConvInputGrad))
    shape = conv_shape(op, node)
    forward = isinstance(op, Conv2d)
    slots = [inputs[0], inputs[1], outputs[0], SCRATCH, *inputs[2:]]
    weights = low.layout(node.inputs[1])
    if isinstance(weights, WinogradWeights):
        winograd(low, slots, shape, epilogue, weights.filtering, forward=forward)
    elif isinstance(weights, GroupedWeights):
        grouped(low, slots, shape, epilogue, weights, forward=forward)
    elif is_matrix_product(shape):
        m = shape.n * shape.h * shape.w
        ci, co = (shape.ci, shape.co) if forward else (shape.co, shape.ci)
        matrix_product(low, slots, m, ci, co, epilogue, prologue)
    elif forward:
        direct_forward(low, slots, shape, epilogue)
    else:
        direct_input_gradient(low, slots, shape, epilogue)
