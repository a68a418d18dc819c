"""ConvNeXt-Tiny under torchvision's keys.

Liu, Mao, Wu, Feichtenhofer, Darrell, Xie: A ConvNet for the 2020s, 2022.
"""

from __future__ import annotations

import numpy as np

import striate.functional as F
from striate import nn
from striate.graph import Value
from striate.models.registry import register
from striate.nn import init

# Section 2.2 of the paper: channels and blocks of each stage.
TINY = ((96, 3), (192, 3), (384, 9), (768, 3))
DROP = 0.1  # probability of leaving the last block out in training; it rises from 0
SCALE = 1e-6  # of every branch at first


class ChannelLinear(nn.Linear):
    """A dense layer over the channels of every pixel: a 1×1 convolution with a dense weight."""

    def forward(self, x: Value) -> Value:
        """(n, in_features, h, w) → (n, out_features, h, w)."""
        x = F.conv2d(x, self.weight.reshape(*self.weight.shape, 1, 1), self.bias)
        return x  # noqa: RET504 - the name tells mypy what conv2d gives


class Block(nn.Module):
    """7×7 of each channel by itself, normalise the channels, dense to 4 times and back; plus x.

    torchvision turns the axes round for the dense layers and back; here nothing has to be moved,
    and `Identity` keeps the numbers of the layers.
    """

    def __init__(self, channels: int, drop: float) -> None:
        super().__init__()
        self.layer_scale = nn.Parameter(np.full((channels, 1, 1), SCALE))
        self.block = nn.Sequential(
            nn.Conv2d(channels, channels, 7, padding=3, groups=channels),
            nn.Identity(),
            nn.LayerNorm2d(channels),
            ChannelLinear(channels, 4 * channels),
            nn.GELU(),
            ChannelLinear(4 * channels, channels),
            nn.Identity(),
        )
        self.stochastic_depth = nn.StochasticDepth(drop)

    def forward(self, x: Value) -> Value:
        """(n, channels, h, w) → the same shape."""
        return self.stochastic_depth(self.layer_scale * self.block(x)) + x


class ConvNeXt(nn.Module):
    """A 4×4 convolution of stride 4, four stages of blocks, 2×2 of stride 2 between, dense layer.

    Args:
        sizes: channels and blocks of each stage, as `TINY`.
        num_classes: width of the last layer.
        in_channels: channels of the images.
    """

    def __init__(
        self, sizes: tuple[tuple[int, int], ...], num_classes: int = 1000, in_channels: int = 3
    ) -> None:
        super().__init__()
        total, index, before = sum(depth for _, depth in sizes), 0, in_channels
        layers: list[nn.Module] = []
        for channels, depth in sizes:
            if not layers:
                conv = nn.Conv2d(before, channels, 4, stride=4)
                layers.append(nn.Sequential(conv, nn.LayerNorm2d(channels)))
            else:
                conv = nn.Conv2d(before, channels, 2, stride=2)
                layers.append(nn.Sequential(nn.LayerNorm2d(before), conv))
            drops = [DROP * (index + i) / (total - 1) for i in range(depth)]
            layers.append(nn.Sequential(*(Block(channels, drop) for drop in drops)))
            before, index = channels, index + depth
        self.add_module("features", nn.Sequential(*layers))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            nn.LayerNorm2d(before), nn.Flatten(), nn.Linear(before, num_classes)
        )
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):  # torchvision cuts tails 100σ away
                module.weight.assign(init.normal(module.weight.shape, 0.02))
                assert module.bias is not None
                module.bias.assign(init.zeros(module.bias.shape))

    def forward(self, x: Value) -> Value:
        """(n, in_channels, h, w) → (n, num_classes); h and w at least 32."""
        x = self.avgpool(self.features(x))
        return self.classifier(x)


@register("convnext_tiny")
def convnext_tiny(*, num_classes: int = 1000, in_channels: int = 3) -> ConvNeXt:
    """ConvNeXt-Tiny; see `ConvNeXt`."""
    return ConvNeXt(TINY, num_classes, in_channels)
