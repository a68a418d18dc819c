"""Small nets and their graphs, for tests of what runs them."""

import numpy as np

import striate.functional as F
from striate import nn
from striate.graph import Trace, gradients
from striate.graph.value import Param
from striate.nn.tracing import symbolic_call


def param(name, *shape, seed=0):
    return Param(name, np.random.default_rng(seed).standard_normal(shape, np.float32))


def picture(*shape, seed=1):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def small_net(channels=12):
    """conv, BN, ReLU, max pool, 1×1 conv, mean and a dense layer: any image size fits."""
    return nn.Sequential(
        nn.Conv2d(3, channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(channels, 20, 1),
        nn.ReLU(),
        nn.Conv2d(20, 20, 3, stride=2, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(20, 5),
    )


def inference(net, shape):
    with Trace() as trace:
        output, _ = symbolic_call(net, trace, [shape], False)
        return trace.graph(output)


def training(net, shape):
    """Loss, output and the gradient of every parameter."""
    with Trace() as trace:
        output, _ = symbolic_call(net, trace, [shape], True)
        loss = F.cross_entropy(output, trace.input("labels", shape[:1], "i32"))
        return trace.graph(loss, output, *gradients(loss, list(net.parameters())))
