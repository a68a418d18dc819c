"""MobileNetV1 under timm's keys (mobilenetv1_100; torchvision has none).

Howard et al.: MobileNets: efficient convolutional neural networks for mobile vision applications,
2017. A 3×3 convolution of all channels costs k²·ci·co a pixel; one of each channel by itself and a
1×1 convolution cost (k² + co)·ci, which is 8 to 9 times less.
"""

from __future__ import annotations

from striate import nn
from striate.graph import Value
from striate.models.blocks import halvings, initialise
from striate.models.registry import register

# Table 1 of the paper: output channels, blocks, stride of the first block.
STAGES = ((64, 1, 1), (128, 2, 2), (256, 2, 2), (512, 6, 2), (1024, 2, 2))


class DepthwiseSeparable(nn.Module):
    """Filter each channel by itself, then mix the channels by a 1×1 convolution.

    Args:
        in_channels, channels: of the images before and after.
        kernel_size, stride: of the first convolution.
        linear: whether no ReLU6 follows the second.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        linear: bool = False,
    ) -> None:
        super().__init__()
        self.conv_dw = nn.Conv2d(
            in_channels,
            in_channels,
            kernel_size,
            stride=stride,
            padding=kernel_size // 2,
            groups=in_channels,
            bias=False,
        )
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv_pw = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.act = nn.ReLU6()
        self.linear = linear

    def forward(self, x: Value) -> Value:
        """(n, in_channels, h, w) → (n, channels, ⌈h / stride⌉, ⌈w / stride⌉)."""
        x = self.bn2(self.conv_pw(self.act(self.bn1(self.conv_dw(x)))))
        return x if self.linear else self.act(x)


class MobileNetV1(nn.Module):
    """A 3×3 convolution, 13 depthwise separable ones, a dense layer.

    Args:
        num_classes: width of the last layer.
        in_channels: channels of the images.
        stem: "224" as in the paper; "32", for images of about 32×32 pixels, has stride 1 where the
            size is halved the first two times.

    Raises ArgumentError for another `stem`.
    """

    def __init__(self, num_classes: int = 1000, in_channels: int = 3, stem: str = "224") -> None:
        super().__init__()
        first, second = halvings("mobilenet_v1", stem)
        channels = 32
        self.conv_stem = nn.Conv2d(in_channels, channels, 3, stride=first, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.act = nn.ReLU6()
        stages: list[nn.Module] = []
        for i, (out_channels, depth, first_stride) in enumerate(STAGES):
            blocks: list[nn.Module] = []
            for block in range(depth):
                stride = 1 if block else second if i == 1 else first_stride
                blocks.append(DepthwiseSeparable(channels, out_channels, stride=stride))
                channels = out_channels
            stages.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*stages)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, num_classes)
        initialise(self)

    def forward(self, x: Value) -> Value:
        """(n, in_channels, h, w) → (n, num_classes)."""
        x = self.blocks(self.act(self.bn1(self.conv_stem(x))))
        return self.classifier(self.avgpool(x).flatten(1))


@register("mobilenet_v1")
def mobilenet_v1(
    *, num_classes: int = 1000, in_channels: int = 3, stem: str = "224"
) -> MobileNetV1:
    """MobileNetV1 of width 1; see `MobileNetV1`."""
    return MobileNetV1(num_classes, in_channels, stem)
