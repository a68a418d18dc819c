"""MobileNetV2 under torchvision's keys.

Sandler, Howard, Zhu, Zhmoginov, Chen: MobileNetV2: inverted residuals and linear bottlenecks, 2018.
"""

from __future__ import annotations

from striate import nn
from striate.graph import Value
from striate.models.blocks import conv_bn, halvings, initialise
from striate.models.registry import register

# Table 2 of the paper: expansion factor, output channels, blocks, stride of the first block.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class InvertedResidual(nn.Module):
    """Expand by a 1×1 convolution, filter each channel by itself, project by a linear 1×1.

    The input is added where the shapes allow it.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers.append(conv_bn(in_channels, hidden, activation=nn.ReLU6))
        layers += [
            conv_bn(hidden, hidden, 3, stride, hidden, nn.ReLU6),
            nn.Conv2d(hidden, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        ]
        self.conv = nn.Sequential(*layers)
        self.residual = stride == 1 and in_channels == channels

    def forward(self, x: Value) -> Value:
        """(n, in_channels, h, w) → (n, channels, ⌈h / stride⌉, ⌈w / stride⌉)."""
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(nn.Module):
    """A 3×3 convolution, 17 inverted residuals, a 1×1 convolution to 1280 channels, a dense layer.

    Args:
        num_classes: width of the last layer.
        in_channels: channels of the images.
        stem: "224" as in the paper; "32", for images of about 32×32 pixels, has stride 1 where the
            size is halved the first two times.

    Raises ArgumentError for another `stem`.
    """

    def __init__(self, num_classes: int = 1000, in_channels: int = 3, stem: str = "224") -> None:
        super().__init__()
        first, second = halvings("mobilenet_v2", stem)
        channels = 32
        layers: list[nn.Module] = [conv_bn(in_channels, channels, 3, first, 1, nn.ReLU6)]
        for i, (expansion, out_channels, depth, first_stride) in enumerate(STAGES):
            for block in range(depth):
                stride = 1 if block else second if i == 1 else first_stride
                layers.append(InvertedResidual(channels, out_channels, stride, expansion))
                channels = out_channels
        layers.append(conv_bn(channels, 1280, activation=nn.ReLU6))
        self.add_module("features", nn.Sequential(*layers))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, num_classes))
        initialise(self)

    def forward(self, x: Value) -> Value:
        """(n, in_channels, h, w) → (n, num_classes)."""
        x = self.avgpool(self.features(x))
        return self.classifier(x.flatten(1))


@register("mobilenet_v2")
def mobilenet_v2(
    *, num_classes: int = 1000, in_channels: int = 3, stem: str = "224"
) -> MobileNetV2:
    """MobileNetV2 of width 1; see `MobileNetV2`."""
    return MobileNetV2(num_classes, in_channels, stem)
