"""The nets of the benchmarks in `torch.nn`, with Striate's names, so that weights load across."""

from __future__ import annotations

import torch
from torch import nn

import striate as st


class LeNetBN(nn.Module):
    """[conv 3×3 same, no bias → BN → ReLU → max pool 2] twice, dense 128, dense classes."""

    def __init__(self, classes: int = 10, channels: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 32, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(64)
        self.fc1 = nn.Linear(64 * 7 * 7, 128)
        self.fc2 = nn.Linear(128, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (N, classes)."""
        pool, relu = nn.functional.max_pool2d, nn.functional.relu
        x = pool(relu(self.bn1(self.conv1(x))), 2)
        x = pool(relu(self.bn2(self.conv2(x))), 2)
        return self.fc2(relu(self.fc1(x.flatten(1))))


def lenet_bn(classes: int = 10, channels: int = 1) -> LeNetBN:
    """A fresh net; raises RuntimeError if its parameters are not named as ours."""
    net = LeNetBN(classes, channels)
    ours = st.models.create("lenet-bn", num_classes=classes, in_channels=channels).state_dict()
    if list(ours) != list(net.state_dict()):
        raise RuntimeError(f"names differ: {list(ours)} and {list(net.state_dict())}")
    return net
