"""MobileNetV2 under torchvision's keys.

Sandler, Howard, Zhu, Zhmoginov, Chen: MobileNetV2: inverted residuals and linear bottlenecks, 2018.
"""

from __future__ import annotations

from striate import nn
from striate.graph import Value
from striate.models.registry import register
from striate.nn import init

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


def conv_bn(
    in_channels: int, channels: int, kernel_size: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Convolution, batch normalisation and ReLU6."""
    conv = nn.Conv2d(
        in_channels,
        channels,
        kernel_size,
        stride=stride,
        padding=kernel_size // 2,
        groups=groups,
        bias=False,
    )
    return nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU6())


class InvertedResidual(nn.Module):
    """Expand by a 1×1 convolution, filter each channel by itself, project by a linear 1×1.

    The input is added where the shapes allow it.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers.append(conv_bn(in_channels, hidden, 1))
        layers += [
            conv_bn(hidden, hidden, 3, stride, groups=hidden),
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
    """

    def __init__(self, num_classes: int = 1000, in_channels: int = 3) -> None:
        super().__init__()
        channels = 32
        layers: list[nn.Module] = [conv_bn(in_channels, channels, 3, stride=2)]
        for expansion, out_channels, depth, first_stride in STAGES:
            for block in range(depth):
                stride = first_stride if block == 0 else 1
                layers.append(InvertedResidual(channels, out_channels, stride, expansion))
                channels = out_channels
        layers.append(conv_bn(channels, 1280, 1))
        self.add_module("features", nn.Sequential(*layers))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, num_classes))
        self._initialise()

    def _initialise(self) -> None:
        """torchvision's: convolutions by He with fan_out, dense weights N(0, 0.01), bias 0."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                shape = module.weight.shape
                module.weight.assign(init.kaiming_normal(shape, mode="fan_out"))
            elif isinstance(module, nn.Linear):
                module.weight.assign(init.normal(module.weight.shape, 0.01))
                assert module.bias is not None
                module.bias.assign(init.zeros(module.bias.shape))

    def forward(self, x: Value) -> Value:
        """(n, in_channels, h, w) → (n, num_classes)."""
        x = self.avgpool(self.features(x))
        return self.classifier(x.flatten(1))


@register("mobilenet_v2")
def mobilenet_v2(*, num_classes: int = 1000, in_channels: int = 3) -> MobileNetV2:
    """MobileNetV2 of width 1; see `MobileNetV2`."""
    return MobileNetV2(num_classes, in_channels)
