"""Convolutions and dense layers: which kernel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from striate.arith.conv import ConvShape
from striate.arith.cook_toom import Filtering
from striate.arith.expr import Expr
from striate.arith.layout import GroupedWeights, Layout, PackedWeights, pitch_of
from striate.engine.layout import conv_of, conv_shape
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


def is_matrix_product(shape: ConvShape, *, forward: bool) -> bool:
    """Whether a convolution is a product of a pixel matrix with a weight matrix.

    A stride picks the pixels; its input gradient has rows of zeros between them.
    """
    return (
        (shape.kh, shape.kw) == (1, 1)
        and (forward or shape.stride == (1, 1))
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
        epilogue = replace(epilogue, pool=op.pool)
        op = op.conv
    assert isinstance(op, (Conv2d, ConvInputGrad))
    shape = conv_shape(op, node)
    forward = isinstance(op, Conv2d)
    slots = [inputs[0], inputs[1], outputs[0], SCRATCH, *inputs[2:]]
    weights, tile = low.layout(node.inputs[1]), low.tile(node)
    if tile:
        filtering = Filtering(tile, shape.kh, shape.stride[0], shape.dilation[0])
        packed = isinstance(weights, PackedWeights)
        winograd(low, slots, shape, epilogue, filtering, forward=forward, packed=packed)
    elif isinstance(weights, GroupedWeights):
        grouped(low, slots, shape, epilogue, weights, forward=forward)
    elif is_matrix_product(shape, forward=forward):
        matrix_product(low, slots, shape, epilogue, prologue, forward=forward)
    elif forward:
        direct_forward(low, slots, shape, epilogue)
    else:
        direct_input_gradient(low, slots, shape, epilogue)


def can_pool(node: Node, weights: Layout, tile: int) -> bool:
    """Whether the kernel of a forward convolution can store 2×2 maxima instead of its outputs.

    That of Winograd's method can where its tiles hold whole windows, the direct one always.
    """
    op = conv_of(node)
    if not isinstance(op, Conv2d):
        return False
    if tile:
        return tile % 2 == 0 and op.dilation == (1, 1)
    product = is_matrix_product(conv_shape(op, node), forward=True)
    return isinstance(weights, PackedWeights) and not product
