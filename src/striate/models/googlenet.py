"""GoogLeNet (Inception v1) with batch normalisation, under torchvision's keys.

Szegedy et al.: Going deeper with convolutions, 2015. As in torchvision the "5×5" branch has 3×3
convolutions, and the auxiliary heads, which helped training before batch normalisation, are left
out: `load_weights` passes over their keys.
"""

from __future__ import annotations

from striate import concat, nn
from striate.graph import Value
from striate.models.blocks import halvings
from striate.models.registry import register
from striate.nn import init

# Table 1 of the paper: output channels of 1×1; 3×3 reduced and 3×3; 5×5 reduced and 5×5; pool.
# A pool of the given size and stride 2 stands before.
STAGES = (
    (3, {"3a": (64, 96, 128, 16, 32, 32), "3b": (128, 128, 192, 32, 96, 64)}),
    (
        3,
        {
            "4a": (192, 96, 208, 16, 48, 64),
            "4b": (160, 112, 224, 24, 64, 64),
            "4c": (128, 128, 256, 24, 64, 64),
            "4d": (112, 144, 288, 32, 64, 64),
            "4e": (256, 160, 320, 32, 128, 128),
        },
    ),
    (2, {"5a": (256, 160, 320, 32, 128, 128), "5b": (384, 192, 384, 48, 128, 128)}),
)


class BasicConv2d(nn.Module):
    """Convolution, batch normalisation, ReLU; the size divided by the stride."""

    def __init__(self, in_channels: int, channels: int, size: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, channels, size, stride=stride, padding=size // 2, bias=False
        )
        self.bn = nn.BatchNorm2d(channels, eps=0.001)
        self.relu = nn.ReLU()

    def forward(self, x: Value) -> Value:
        """(n, in_channels, h, w) → (n, channels, ⌈h / stride⌉, ⌈w / stride⌉)."""
        return self.relu(self.bn(self.conv(x)))


class Inception(nn.Module):
    """Four branches side by side: 1×1, 1×1 → 3×3, 1×1 → 3×3, max pool → 1×1."""

    def __init__(self, in_channels: int, widths: tuple[int, int, int, int, int, int]) -> None:
        super().__init__()
        one, reduced3, three, reduced5, five, pooled = widths
        self.branch1 = BasicConv2d(in_channels, one, 1)
        self.branch2 = nn.Sequential(
            BasicConv2d(in_channels, reduced3, 1), BasicConv2d(reduced3, three, 3)
        )
        self.branch3 = nn.Sequential(
            BasicConv2d(in_channels, reduced5, 1), BasicConv2d(reduced5, five, 3)
        )
        self.branch4 = nn.Sequential(
            nn.MaxPool2d(3, stride=1, padding=1), BasicConv2d(in_channels, pooled, 1)
        )
        self.channels = one + three + five + pooled

    def forward(self, x: Value) -> Value:
        """(n, in_channels, h, w) → (n, one + three + five + pooled, h, w)."""
        branches = (self.branch1, self.branch2, self.branch3, self.branch4)
        x = concat([branch(x) for branch in branches], 1)
        return x


class GoogLeNet(nn.Module):
    """Three convolutions, nine Inception modules between max pools, one dense layer.

    Args:
        num_classes: width of the last layer.
        in_channels: channels of the images.
        stem: "224": 7×7 convolution of stride 2 and a max pool of stride 2; "32": 3×3 convolution
            of stride 1 and no pool, for images of about 32×32 pixels.

    Raises ArgumentError for another `stem`.
    """

    unused_keys = ("aux1.*", "aux2.*")

    def __init__(self, num_classes: int = 1000, in_channels: int = 3, stem: str = "224") -> None:
        super().__init__()
        first, second = halvings("googlenet", stem)
        self.conv1 = BasicConv2d(in_channels, 64, 7 if first == 2 else 3, first)
        self.maxpool1: nn.Module = (
            nn.MaxPool2d(3, stride=2, ceil_mode=True) if second == 2 else nn.Identity()
        )
        self.conv2 = BasicConv2d(64, 64, 1)
        self.conv3 = BasicConv2d(64, 192, 3)
        channels = 192
        for i, (size, modules) in enumerate(STAGES, 2):
            self.add_module(f"maxpool{i}", nn.MaxPool2d(size, stride=2, ceil_mode=True))
            for name, widths in modules.items():
                inception = Inception(channels, widths)
                self.add_module(f"inception{name}", inception)
                channels = inception.channels
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.2)
        self.fc = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):  # torchvision cuts the tails off
                module.weight.assign(init.normal(module.weight.shape, 0.01))

    def forward(self, x: Value) -> Value:
        """(n, in_channels, h, w) → (n, num_classes); h and w at least 15 ("32": 1)."""
        for _, child in self.named_children():
            x = child(x.flatten(1) if child is self.fc else x)
        return x


@register("googlenet")
def googlenet(*, num_classes: int = 1000, in_channels: int = 3, stem: str = "224") -> GoogLeNet:
    """GoogLeNet without auxiliary heads; see `GoogLeNet`."""
    return GoogLeNet(num_classes, in_channels, stem)
