"""MobileNetV3 under torchvision's keys.

Howard et al.: Searching for MobileNetV3, 2019.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from striate import nn
from striate.graph import Value
from striate.models.blocks import conv_bn, halvings, initialise, make_divisible
from striate.models.registry import register

conv = partial(conv_bn, eps=0.001, momentum=0.01)


class Row(NamedTuple):
    """A line of the paper's tables: kernel size, expanded and output channels, and so on."""

    size: int
    hidden: int
    channels: int
    excited: bool
    activation: type[nn.Module]
    stride: int


RE, HS = nn.ReLU, nn.Hardswish

# Tables 1 and 2 of the paper.
LARGE = (
    Row(3, 16, 16, False, RE, 1),
    Row(3, 64, 24, False, RE, 2),
    Row(3, 72, 24, False, RE, 1),
    Row(5, 72, 40, True, RE, 2),
    Row(5, 120, 40, True, RE, 1),
    Row(5, 120, 40, True, RE, 1),
    Row(3, 240, 80, False, HS, 2),
    Row(3, 200, 80, False, HS, 1),
    Row(3, 184, 80, False, HS, 1),
    Row(3, 184, 80, False, HS, 1),
    Row(3, 480, 112, True, HS, 1),
    Row(3, 672, 112, True, HS, 1),
    Row(5, 672, 160, True, HS, 2),
    Row(5, 960, 160, True, HS, 1),
    Row(5, 960, 160, True, HS, 1),
)
SMALL = (
    Row(3, 16, 16, True, RE, 2),
    Row(3, 72, 24, False, RE, 2),
    Row(3, 88, 24, False, RE, 1),
    Row(5, 96, 40, True, HS, 2),
    Row(5, 240, 40, True, HS, 1),
    Row(5, 240, 40, True, HS, 1),
    Row(5, 120, 48, True, HS, 1),
    Row(5, 144, 48, True, HS, 1),
    Row(5, 288, 96, True, HS, 2),
    Row(5, 576, 96, True, HS, 1),
    Row(5, 576, 96, True, HS, 1),
)


class InvertedResidual(nn.Module):
    """MobileNetV2's block, with squeeze-and-excitation where the table says so."""

    def __init__(self, in_channels: int, row: Row, stride: int) -> None:
        super().__init__()
        hidden = row.hidden
        layers: list[nn.Module] = []
        if hidden != in_channels:
            layers.append(conv(in_channels, hidden, activation=row.activation))
        layers.append(conv(hidden, hidden, row.size, stride, hidden, row.activation))
        if row.excited:
            squeezed = make_divisible(hidden // 4)
            layers.append(nn.SqueezeExcitation(hidden, squeezed, nn.ReLU, nn.Hardsigmoid))
        layers.append(conv(hidden, row.channels, activation=None))
        self.block = nn.Sequential(*layers)
        self.residual = stride == 1 and in_channels == row.channels

    def forward(self, x: Value) -> Value:
        """(n, in_channels, h, w) → (n, row.channels, ⌈h / stride⌉, ⌈w / stride⌉)."""
        return self.block(x) + x if self.residual else self.block(x)


class MobileNetV3(nn.Module):
    """A 3×3 convolution, inverted residuals, a 1×1 convolution, two dense layers.

    Args:
        rows: `LARGE` or `SMALL`.
        last: width of the first dense layer: 1280 or 1024.
        num_classes: width of the last layer.
        in_channels: channels of the images.
        stem: "224" as in the paper; "32", for images of about 32×32 pixels, has stride 1 where the
            size is halved the first two times.

    Raises ArgumentError for another `stem`.
    """

    def __init__(
        self,
        rows: tuple[Row, ...],
        last: int,
        num_classes: int = 1000,
        in_channels: int = 3,
        stem: str = "224",
    ) -> None:
        super().__init__()
        halving, second = halvings("mobilenet_v3", stem)
        channels = 16
        layers: list[nn.Module] = [conv(in_channels, channels, 3, halving, 1, nn.Hardswish)]
        for row in rows:
            stride = row.stride
            if stride == 2:
                stride, second = second, 2  # the first of them is the net's second halving
            layers.append(InvertedResidual(channels, row, stride))
            channels = row.channels
        layers.append(conv(channels, 6 * channels, activation=nn.Hardswish))
        self.add_module("features", nn.Sequential(*layers))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            nn.Linear(6 * channels, last),
            nn.Hardswish(),
            nn.Dropout(0.2),
            nn.Linear(last, num_classes),
        )
        initialise(self)

    def forward(self, x: Value) -> Value:
        """(n, in_channels, h, w) → (n, num_classes)."""
        x = self.avgpool(self.features(x))
        return self.classifier(x.flatten(1))


@register("mobilenet_v3_large")
def mobilenet_v3_large(
    *, num_classes: int = 1000, in_channels: int = 3, stem: str = "224"
) -> MobileNetV3:
    """MobileNetV3-Large of width 1; see `MobileNetV3`."""
    return MobileNetV3(LARGE, 1280, num_classes, in_channels, stem)


@register("mobilenet_v3_small")
def mobilenet_v3_small(
    *, num_classes: int = 1000, in_channels: int = 3, stem: str = "224"
) -> MobileNetV3:
    """MobileNetV3-Small of width 1; see `MobileNetV3`."""
    return MobileNetV3(SMALL, 1024, num_classes, in_channels, stem)
