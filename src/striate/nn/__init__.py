"""Layers and networks: `Module`, and PyTorch's layers under PyTorch's names and arguments."""

from striate.nn.containers import ModuleList, Sequential
from striate.nn.init import manual_seed
from striate.nn.layers_act import (
    ELU,
    GELU,
    Hardsigmoid,
    Hardswish,
    LeakyReLU,
    Mish,
    PReLU,
    ReLU,
    ReLU6,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Tanh,
)
from striate.nn.layers_channel import ChannelShuffle, PixelShuffle, SqueezeExcitation
from striate.nn.layers_conv import Conv2d, ConvTranspose2d, Linear
from striate.nn.layers_local import (
    GroupNorm,
    InstanceNorm2d,
    LayerNorm,
    LayerNorm2d,
    LocalResponseNorm,
)
from striate.nn.layers_norm import BatchNorm2d, Dropout, StochasticDepth, SyncBatchNorm
from striate.nn.layers_pool import (
    AdaptiveAvgPool2d,
    AdaptiveMaxPool2d,
    AvgPool2d,
    Flatten,
    Identity,
    LPPool2d,
    MaxPool2d,
    Upsample,
    ZeroPad2d,
)
from striate.nn.module import Module, Parameter

__all__ = [
    "ELU",
    "GELU",
    "AdaptiveAvgPool2d",
    "AdaptiveMaxPool2d",
    "AvgPool2d",
    "BatchNorm2d",
    "ChannelShuffle",
    "Conv2d",
    "ConvTranspose2d",
    "Dropout",
    "Flatten",
    "GroupNorm",
    "Hardsigmoid",
    "Hardswish",
    "Identity",
    "InstanceNorm2d",
    "LPPool2d",
    "LayerNorm",
    "LayerNorm2d",
    "LeakyReLU",
    "Linear",
    "LocalResponseNorm",
    "MaxPool2d",
    "Mish",
    "Module",
    "ModuleList",
    "PReLU",
    "Parameter",
    "PixelShuffle",
    "ReLU",
    "ReLU6",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "SqueezeExcitation",
    "StochasticDepth",
    "SyncBatchNorm",
    "Tanh",
    "Upsample",
    "ZeroPad2d",
    "manual_seed",
]
