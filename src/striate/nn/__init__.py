"""Layers and networks: `Module`, and PyTorch's layers under PyTorch's names and arguments."""

from striate.nn.containers import ModuleList, Sequential
from striate.nn.init import manual_seed
from striate.nn.layers_act import (
    ELU,
    GELU,
    Hardsigmoid,
    Hardswish,
    LeakyReLU,
    PReLU,
    ReLU,
    ReLU6,
    Sigmoid,
    SiLU,
    Softmax,
    Tanh,
)
from striate.nn.layers_conv import Conv2d, ConvTranspose2d, Linear
from striate.nn.layers_norm import BatchNorm2d, Dropout
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
    "Conv2d",
    "ConvTranspose2d",
    "Dropout",
    "Flatten",
    "Hardsigmoid",
    "Hardswish",
    "Identity",
    "LPPool2d",
    "LeakyReLU",
    "Linear",
    "MaxPool2d",
    "Module",
    "ModuleList",
    "PReLU",
    "Parameter",
    "ReLU",
    "ReLU6",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Tanh",
    "Upsample",
    "ZeroPad2d",
    "manual_seed",
]
