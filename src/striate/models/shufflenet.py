"""ShuffleNetV2 under torchvision's keys.

Ma, Zhang, Zheng, Sun: ShuffleNet V2: practical guidelines for efficient CNN architecture design,
2018.
"""

from __future__ import annotations

from striate import concat, nn
from striate.graph import Value
from striate.models.blocks import halvings
from striate.models.registry import register

# Table 5 of the paper: output channels of stages 2, 3 and 4.
WIDTHS = {"x0.5": (48, 96, 192), "x1.0": (116, 232, 464)}


def pointwise(in_channels: int, channels: int) -> list[nn.Module]:
    """1×1 convolution, batch normalisation, ReLU."""
    conv = nn.Conv2d(in_channels, channels, 1, bias=False)
    return [conv, nn.BatchNorm2d(channels), nn.ReLU()]


def depthwise(channels: int, stride: int) -> list[nn.Module]:
    """3×3 convolution of each channel by itself, batch normalisation."""
    conv = nn.Conv2d(channels, channels, 3, stride=stride, padding=1, groups=channels, bias=False)
    return [conv, nn.BatchNorm2d(channels)]


class InvertedResidual(nn.Module):
    """Half of the channels pass, half are worked on; then both are shuffled.

    Where the size is halved, both halves are worked on, each from all channels.
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.half = channels // 2
        self.split = stride == 1 and in_channels == channels
        entering = self.half if self.split else in_channels
        self.branch1 = nn.Sequential()
        if not self.split:
            self.branch1 = nn.Sequential(
                *depthwise(in_channels, stride), *pointwise(in_channels, self.half)
            )
        self.branch2 = nn.Sequential(
            *pointwise(entering, self.half),
            *depthwise(self.half, stride),
            *pointwise(self.half, self.half),
        )
        self.shuffle = nn.ChannelShuffle(2)

    def forward(self, x: Value) -> Value:
        """(n, in_channels, h, w) → (n, channels, ⌈h / stride⌉, ⌈w / stride⌉)."""
        left, right = (x[:, : self.half], x[:, self.half :]) if self.split else (x, x)
        return self.shuffle(concat((self.branch1(left), self.branch2(right)), 1))


class ShuffleNetV2(nn.Module):
    """A 3×3 convolution, three stages of 4, 8 and 4 blocks, a 1×1 convolution, a dense layer.

    Args:
        widths: output channels of the stages, as in `WIDTHS`.
        num_classes: width of the last layer.
        in_channels: channels of the images.
        stem: "224": convolution and max pool of stride 2; "32": convolution of stride 1 and no
            pool, for images of about 32×32 pixels.

    Raises ArgumentError for another `stem`.
    """

    stage2: nn.Sequential
    stage3: nn.Sequential
    stage4: nn.Sequential

    def __init__(
        self,
        widths: tuple[int, int, int],
        num_classes: int = 1000,
        in_channels: int = 3,
        stem: str = "224",
    ) -> None:
        super().__init__()
        first, second = halvings("shufflenet_v2", stem)
        before = 24
        conv = nn.Conv2d(in_channels, before, 3, stride=first, padding=1, bias=False)
        self.conv1 = nn.Sequential(conv, nn.BatchNorm2d(before), nn.ReLU())
        self.maxpool: nn.Module = (
            nn.MaxPool2d(3, stride=2, padding=1) if second == 2 else nn.Identity()
        )
        for i, (channels, depth) in enumerate(zip(widths, (4, 8, 4), strict=True), 2):
            blocks = [InvertedResidual(before, channels, 2)]
            blocks += [InvertedResidual(channels, channels, 1) for _ in range(depth - 1)]
            self.add_module(f"stage{i}", nn.Sequential(*blocks))
            before = channels
        self.conv5 = nn.Sequential(*pointwise(before, 1024))
        self.fc = nn.Linear(1024, num_classes)

    def forward(self, x: Value) -> Value:
        """(n, in_channels, h, w) → (n, num_classes)."""
        x = self.maxpool(self.conv1(x))
        x = self.conv5(self.stage4(self.stage3(self.stage2(x))))
        return self.fc(x.mean((2, 3)))


@register("shufflenet_v2_x0_5")
def shufflenet_v2_x0_5(
    *, num_classes: int = 1000, in_channels: int = 3, stem: str = "224"
) -> ShuffleNetV2:
    """ShuffleNetV2 of width 0.5; see `ShuffleNetV2`."""
    return ShuffleNetV2(WIDTHS["x0.5"], num_classes, in_channels, stem)


@register("shufflenet_v2_x1_0")
def shufflenet_v2_x1_0(
    *, num_classes: int = 1000, in_channels: int = 3, stem: str = "224"
) -> ShuffleNetV2:
    """ShuffleNetV2 of width 1; see `ShuffleNetV2`."""
    return ShuffleNetV2(WIDTHS["x1.0"], num_classes, in_channels, stem)
