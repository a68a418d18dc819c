"""EfficientNet-B0 under torchvision's keys, and EfficientNet-Lite0 under timm's.

Tan, Le: EfficientNet: rethinking model scaling for convolutional neural networks, 2019. Bigger nets
of the family have α^φ times the depth, β^φ times the width and γ^φ times the image size, with
α·β²·γ² ≈ 2, so that φ more costs 2^φ times as much; B0 is φ = 0.
"""

from __future__ import annotations

from functools import partial

from striate import nn
from striate.graph import Value
from striate.models.blocks import conv_bn, halvings, initialise
from striate.models.mobilenet_v1 import DepthwiseSeparable
from striate.models.registry import register
from striate.nn import init

conv = partial(conv_bn, activation=nn.SiLU)

# Table 1 of the paper: expansion, kernel size, stride of the first block, output channels, blocks.
STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
BLOCKS = sum(depth for *_, depth in STAGES)


class MBConv(nn.Module):
    """Expand, filter each channel by itself, weigh the channels, project; the input is added.

    Args:
        in_channels, channels: of the images before and after.
        expansion: how many times the channels are expanded.
        kernel_size, stride: of the middle convolution.
        drop: probability of leaving the block out in training, where the input is added.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        expansion: int,
        kernel_size: int,
        stride: int,
        drop: float,
    ) -> None:
        super().__init__()
        hidden = in_channels * expansion
        layers: list[nn.Module] = [] if expansion == 1 else [conv(in_channels, hidden)]
        layers += [
            conv(hidden, hidden, kernel_size, stride, hidden),
            nn.SqueezeExcitation(hidden, max(1, in_channels // 4), activation=nn.SiLU),
            conv(hidden, channels, activation=None),
        ]
        self.block = nn.Sequential(*layers)
        self.stochastic_depth = nn.StochasticDepth(drop)
        self.residual = stride == 1 and in_channels == channels

    def forward(self, x: Value) -> Value:
        """(n, in_channels, h, w) → (n, channels, ⌈h / stride⌉, ⌈w / stride⌉)."""
        y = self.block(x)
        return self.stochastic_depth(y) + x if self.residual else y


class EfficientNet(nn.Module):
    """A 3×3 convolution, 16 `MBConv` blocks, a 1×1 convolution, a dense layer.

    Args:
        num_classes: width of the last layer.
        in_channels: channels of the images.
        stem: "224" as in the paper; "32", for images of about 32×32 pixels, has stride 1 where the
            size is halved the first two times.

    Raises ArgumentError for another `stem`.
    """

    def __init__(self, num_classes: int = 1000, in_channels: int = 3, stem: str = "224") -> None:
        super().__init__()
        first, second = halvings("efficientnet", stem)
        channels, index = 32, 0
        stages = [conv(in_channels, channels, 3, first)]
        for i, (expansion, size, first_stride, out_channels, depth) in enumerate(STAGES):
            blocks = []
            for block in range(depth):
                stride = 1 if block else second if i == 1 else first_stride
                drop = 0.2 * index / BLOCKS
                blocks.append(MBConv(channels, out_channels, expansion, size, stride, drop))
                channels, index = out_channels, index + 1
            stages.append(nn.Sequential(*blocks))
        stages.append(conv(channels, 4 * channels))
        self.add_module("features", nn.Sequential(*stages))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        last = nn.Linear(4 * channels, num_classes)
        self.classifier = nn.Sequential(nn.Dropout(0.2), last)
        initialise(self, dense_std=None)
        bound = num_classes**-0.5
        last.weight.assign(init.uniform(last.weight.shape, -bound, bound))
        assert last.bias is not None
        last.bias.assign(init.zeros(last.bias.shape))

    def forward(self, x: Value) -> Value:
        """(n, in_channels, h, w) → (n, num_classes)."""
        x = self.avgpool(self.features(x))
        return self.classifier(x.flatten(1))


class LiteBlock(nn.Module):
    """`MBConv` without weighing the channels, with ReLU6, under timm's names."""

    def __init__(
        self, in_channels: int, channels: int, expansion: int, kernel_size: int, stride: int
    ) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.conv_pw = nn.Conv2d(in_channels, hidden, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.conv_dw = nn.Conv2d(
            hidden,
            hidden,
            kernel_size,
            stride=stride,
            padding=kernel_size // 2,
            groups=hidden,
            bias=False,
        )
        self.bn2 = nn.BatchNorm2d(hidden)
        self.conv_pwl = nn.Conv2d(hidden, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.act = nn.ReLU6()
        self.residual = stride == 1 and in_channels == channels

    def forward(self, x: Value) -> Value:
        """(n, in_channels, h, w) → (n, channels, ⌈h / stride⌉, ⌈w / stride⌉)."""
        y = self.act(self.bn1(self.conv_pw(x)))
        y = self.act(self.bn2(self.conv_dw(y)))
        y = self.bn3(self.conv_pwl(y))
        return y + x if self.residual else y


class EfficientNetLite(nn.Module):
    """`EfficientNet` without squeeze-and-excitation and with ReLU6, for plain integer hardware.

    Arguments as of `EfficientNet`. Keys as of timm's efficientnet_lite0, whose padding is the same
    at both ends; the weights called tf_… were trained with TensorFlow's, which is not.
    """

    def __init__(self, num_classes: int = 1000, in_channels: int = 3, stem: str = "224") -> None:
        super().__init__()
        first, second = halvings("efficientnet_lite", stem)
        channels = 32
        self.conv_stem = nn.Conv2d(in_channels, channels, 3, stride=first, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.act = nn.ReLU6()
        stages: list[nn.Module] = []
        for i, (expansion, size, first_stride, out_channels, depth) in enumerate(STAGES):
            blocks: list[nn.Module] = []
            for block in range(depth):
                stride = 1 if block else second if i == 1 else first_stride
                if expansion == 1:
                    blocks.append(DepthwiseSeparable(channels, out_channels, linear=True))
                else:
                    blocks.append(LiteBlock(channels, out_channels, expansion, size, stride))
                channels = out_channels
            stages.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*stages)
        self.conv_head = nn.Conv2d(channels, 1280, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(1280)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.2)
        self.classifier = nn.Linear(1280, num_classes)
        initialise(self)

    def forward(self, x: Value) -> Value:
        """(n, in_channels, h, w) → (n, num_classes)."""
        x = self.blocks(self.act(self.bn1(self.conv_stem(x))))
        x = self.act(self.bn2(self.conv_head(x)))
        return self.classifier(self.dropout(self.avgpool(x).flatten(1)))


@register("efficientnet_b0")
def efficientnet_b0(
    *, num_classes: int = 1000, in_channels: int = 3, stem: str = "224"
) -> EfficientNet:
    """EfficientNet-B0; see `EfficientNet`."""
    return EfficientNet(num_classes, in_channels, stem)


@register("efficientnet_lite0")
def efficientnet_lite0(
    *, num_classes: int = 1000, in_channels: int = 3, stem: str = "224"
) -> EfficientNetLite:
    """EfficientNet-Lite0; see `EfficientNetLite`."""
    return EfficientNetLite(num_classes, in_channels, stem)
