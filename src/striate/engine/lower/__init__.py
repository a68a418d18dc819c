"""From operation to kernel: one rule an operation. This room chooses; it emits nothing."""

from __future__ import annotations

from striate.engine.layout import Reorder
from striate.engine.lower.context import Rule
from striate.engine.lower.conv import lower_conv
from striate.engine.lower.eltwise import lower_broadcast, lower_map, lower_reduce, lower_stats
from striate.engine.lower.images import lower_axis_map, lower_max_pool
from striate.engine.lower.move import (
    lower_concat,
    lower_one_hot,
    lower_pixels,
    lower_random,
    lower_reorder,
    lower_shuffle,
    lower_take,
    lower_transpose,
)
from striate.engine.lower.weight_gradient import lower_weight_gradient
from striate.graph.ops.axismap import AxisMap
from striate.graph.ops.conv import Conv2d, ConvInputGrad, ConvWeightGrad
from striate.graph.ops.eltwise import Fused, Map
from striate.graph.ops.fused import FusedConv, FusedPool, FusedReduce
from striate.graph.ops.labels import OneHot
from striate.graph.ops.norm import ChannelStats
from striate.graph.ops.pixels import NormalisePixels
from striate.graph.ops.pool import MaxPool, MaxPoolGrad, MaxPoolIndices
from striate.graph.ops.random import RandomUniform
from striate.graph.ops.reduce import Reduce
from striate.graph.ops.shape import Broadcast, Concat, Flip, Slice
from striate.graph.ops.transpose import ShuffleChannels, Transpose
from striate.graph.value import Op

RULES: dict[type[Op], Rule] = {
    Conv2d: lower_conv,
    ConvInputGrad: lower_conv,
    FusedConv: lower_conv,
    ConvWeightGrad: lower_weight_gradient,
    Fused: lower_map,
    Map: lower_map,
    Broadcast: lower_broadcast,
    FusedReduce: lower_reduce,
    Reduce: lower_reduce,
    ChannelStats: lower_stats,
    MaxPool: lower_max_pool,
    MaxPoolIndices: lower_max_pool,
    MaxPoolGrad: lower_max_pool,
    FusedPool: lower_max_pool,
    AxisMap: lower_axis_map,
    Reorder: lower_reorder,
    Concat: lower_concat,
    Slice: lower_take,
    Flip: lower_take,
    Transpose: lower_transpose,
    ShuffleChannels: lower_shuffle,
    OneHot: lower_one_hot,
    NormalisePixels: lower_pixels,
    RandomUniform: lower_random,
}
