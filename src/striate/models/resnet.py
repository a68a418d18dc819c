"""Residual networks, also grouped and wide, under torchvision's keys.

He, Zhang, Ren, Sun: Deep residual learning for image recognition, 2016.
Xie, Girshick, Dollár, Tu, He: Aggregated residual transformations for deep neural networks, 2017.
Zagoruyko, Komodakis: Wide residual networks, 2016.
"""

from __future__ import annotations

from striate import nn
from striate.graph import Value
from striate.models.blocks import halvings, initialise
from striate.models.registry import register


def shortcut(in_channels: int, channels: int, stride: int) -> nn.Sequential | None:
    """A 1×1 convolution that gives x the shape of F(x); None where it has that shape."""
    if stride == 1 and in_channels == channels:
        return None
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False),
        nn.BatchNorm2d(channels),
    )


class BasicBlock(nn.Module):
    """Two 3×3 convolutions around a shortcut: relu(F(x) + x); without groups."""

    expansion = 1

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int = 1,
        groups: int = 1,  # noqa: ARG002 - as Bottleneck
        group_width: int = 64,  # noqa: ARG002
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.downsample = shortcut(in_channels, channels, stride)

    def forward(self, x: Value) -> Value:
        """(n, in_channels, h, w) → (n, channels, ⌈h / stride⌉, ⌈w / stride⌉)."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolutions around a shortcut; the last widens to 4 · channels.

    The stride is on the 3×3 convolution, as in torchvision; the paper has it on the first 1×1.
    That convolution has `groups` groups and group_width · groups · channels / 64 channels.
    """

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int = 1,
        groups: int = 1,
        group_width: int = 64,
    ) -> None:
        super().__init__()
        width = channels * group_width // 64 * groups
        out_channels = self.expansion * channels
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU()
        self.downsample = shortcut(in_channels, out_channels, stride)

    def forward(self, x: Value) -> Value:
        """(n, in_channels, h, w) → (n, 4 · channels, ⌈h / stride⌉, ⌈w / stride⌉)."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """A stem, four stages of residual blocks with 64, 128, 256 and 512 channels, one dense layer.

    Args:
        block: `BasicBlock`, or `Bottleneck`, which gives four times the channels.
        depths: blocks in each stage: of `BasicBlock` (2, 2, 2, 2) is ResNet-18, (3, 4, 6, 3) is
            ResNet-34; of `Bottleneck` (3, 4, 6, 3) is ResNet-50, (3, 4, 23, 3) is ResNet-101 and
            (3, 8, 36, 3) is ResNet-152.
        num_classes: width of the last layer.
        in_channels: channels of the images.
        stem: "224": 7×7 convolution of stride 2 and a 3×3 max pool of stride 2; "32": 3×3
            convolution of stride 1 and no pool, for images of about 32×32 pixels.
        groups, group_width: of `Bottleneck`; 32 and 4 are ResNeXt-50 32×4d, 1 and 128 are
            Wide-ResNet-50-2.

    Raises ArgumentError for another `stem`.
    """

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        depths: tuple[int, int, int, int],
        num_classes: int = 1000,
        in_channels: int = 3,
        stem: str = "224",
        groups: int = 1,
        group_width: int = 64,
    ) -> None:
        super().__init__()
        first, second = halvings("resnet", stem)
        size = 7 if first == 2 else 3
        self.conv1 = nn.Conv2d(in_channels, 64, size, stride=first, padding=size // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.maxpool: nn.Module = (
            nn.MaxPool2d(3, stride=2, padding=1) if second == 2 else nn.Identity()
        )
        wide = 64
        for i, depth in enumerate(depths):
            channels, blocks = 64 << i, []
            for j in range(depth):
                stride = 2 if i > 0 and j == 0 else 1
                blocks.append(block(wide, channels, stride, groups, group_width))
                wide = block.expansion * channels
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(wide, num_classes)
        initialise(self, dense_std=None)

    def forward(self, x: Value) -> Value:
        """(n, in_channels, h, w) → (n, num_classes)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))


@register("resnet18")
def resnet18(*, num_classes: int = 1000, in_channels: int = 3, stem: str = "224") -> ResNet:
    """ResNet-18; see `ResNet`."""
    return ResNet(BasicBlock, (2, 2, 2, 2), num_classes, in_channels, stem)


@register("resnet34")
def resnet34(*, num_classes: int = 1000, in_channels: int = 3, stem: str = "224") -> ResNet:
    """ResNet-34; see `ResNet`."""
    return ResNet(BasicBlock, (3, 4, 6, 3), num_classes, in_channels, stem)


@register("resnet50")
def resnet50(*, num_classes: int = 1000, in_channels: int = 3, stem: str = "224") -> ResNet:
    """ResNet-50; see `ResNet`."""
    return ResNet(Bottleneck, (3, 4, 6, 3), num_classes, in_channels, stem)


@register("resnet101")
def resnet101(*, num_classes: int = 1000, in_channels: int = 3, stem: str = "224") -> ResNet:
    """ResNet-101; see `ResNet`."""
    return ResNet(Bottleneck, (3, 4, 23, 3), num_classes, in_channels, stem)


@register("resnet152")
def resnet152(*, num_classes: int = 1000, in_channels: int = 3, stem: str = "224") -> ResNet:
    """ResNet-152; see `ResNet`."""
    return ResNet(Bottleneck, (3, 8, 36, 3), num_classes, in_channels, stem)


@register("resnext50_32x4d")
def resnext50_32x4d(*, num_classes: int = 1000, in_channels: int = 3, stem: str = "224") -> ResNet:
    """ResNeXt-50 with 32 groups of 4 channels; see `ResNet`."""
    return ResNet(Bottleneck, (3, 4, 6, 3), num_classes, in_channels, stem, 32, 4)


@register("wide_resnet50_2")
def wide_resnet50_2(*, num_classes: int = 1000, in_channels: int = 3, stem: str = "224") -> ResNet:
    """ResNet-50 with twice the channels inside each block; see `ResNet`."""
    return ResNet(Bottleneck, (3, 4, 6, 3), num_classes, in_channels, stem, 1, 128)
