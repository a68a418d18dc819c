"""Residual networks under torchvision's keys.

He, Zhang, Ren, Sun: Deep residual learning for image recognition, 2016.
"""

from __future__ import annotations

from striate import nn
from striate.errors import ArgumentError
from striate.graph import Value
from striate.models.registry import register
from striate.nn import init


def shortcut(in_channels: int, channels: int, stride: int) -> nn.Sequential | None:
    """A 1×1 convolution that gives x the shape of F(x); None where it has that shape."""
    if stride == 1 and in_channels == channels:
        return None
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False),
        nn.BatchNorm2d(channels),
    )


class BasicBlock(nn.Module):
    """Two 3×3 convolutions around a shortcut: relu(F(x) + x)."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
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
    """

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        out_channels = self.expansion * channels
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
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
            ResNet-34; of `Bottleneck` (3, 4, 6, 3) is ResNet-50.
        num_classes: width of the last layer.
        in_channels: channels of the images.
        stem: "224": 7×7 convolution of stride 2 and a 3×3 max pool of stride 2; "32": 3×3
            convolution of stride 1 and no pool, for images of about 32×32 pixels.

    Raises ArgumentError for another `stem`.
    """

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        depths: tuple[int, int, int, int],
        num_classes: int = 1000,
        in_channels: int = 3,
        stem: str = "224",
    ) -> None:
        super().__init__()
        if stem not in {"224", "32"}:
            raise ArgumentError(f"resnet: stem must be '224' or '32', got {stem!r}")
        if stem == "224":
            self.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
        else:
            self.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.maxpool: nn.Module = (
            nn.MaxPool2d(3, stride=2, padding=1) if stem == "224" else nn.Identity()
        )
        wide = block.expansion
        self.layer1 = self._stage(block, 64, 64, depths[0], stride=1)
        self.layer2 = self._stage(block, 64 * wide, 128, depths[1], stride=2)
        self.layer3 = self._stage(block, 128 * wide, 256, depths[2], stride=2)
        self.layer4 = self._stage(block, 256 * wide, 512, depths[3], stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(512 * wide, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                shape = module.weight.shape
                module.weight.assign(
                    init.kaiming_normal(shape, mode="fan_out", nonlinearity="relu")
                )

    @staticmethod
    def _stage(
        block: type[BasicBlock | Bottleneck],
        in_channels: int,
        channels: int,
        depth: int,
        stride: int,
    ) -> nn.Sequential:
        rest = [block(block.expansion * channels, channels) for _ in range(depth - 1)]
        return nn.Sequential(block(in_channels, channels, stride), *rest)

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
