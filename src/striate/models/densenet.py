"""DenseNet under torchvision's keys.

Huang, Liu, van der Maaten, Weinberger: Densely connected convolutional networks, 2017.
"""

from __future__ import annotations

from striate import concat, nn
from striate.graph import Value
from striate.models.blocks import halvings
from striate.models.registry import register
from striate.nn import init

BOTTLENECK = 4  # a 1×1 convolution gives this many times the growth, for the 3×3 to read


class DenseLayer(nn.Module):
    """H of the paper: BN, ReLU, 1×1 convolution, BN, ReLU, 3×3 convolution to `growth` channels."""

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(in_channels, BOTTLENECK * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(BOTTLENECK * growth)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(BOTTLENECK * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Value) -> Value:
        """(n, in_channels, h, w) → (n, growth, h, w)."""
        x = self.conv1(self.relu1(self.norm1(x)))
        return self.conv2(self.relu2(self.norm2(x)))


class DenseBlock(nn.Module):
    """Layers that each read the outputs of all before: x_l = H_l([x_0, x_1, …, x_{l−1}])."""

    def __init__(self, depth: int, in_channels: int, growth: int) -> None:
        super().__init__()
        for i in range(depth):
            self.add_module(f"denselayer{i + 1}", DenseLayer(in_channels + i * growth, growth))

    def forward(self, x: Value) -> Value:
        """(n, in_channels, h, w) → (n, in_channels + depth · growth, h, w)."""
        for _, layer in self.named_children():
            x = concat((x, layer(x)), 1)
        return x


def transition(in_channels: int) -> nn.Sequential:
    """Half the channels by a 1×1 convolution, half the height and width by average pooling."""
    return nn.Sequential(
        {
            "norm": nn.BatchNorm2d(in_channels),
            "relu": nn.ReLU(),
            "conv": nn.Conv2d(in_channels, in_channels // 2, 1, bias=False),
            "pool": nn.AvgPool2d(2),
        }
    )


class DenseNet(nn.Module):
    """A stem, four dense blocks with transitions between, one dense layer.

    Args:
        depths: layers in each block: (6, 12, 24, 16) is DenseNet-121, (6, 12, 32, 32) DenseNet-169.
        growth: channels that each layer adds (k of the paper).
        num_classes: width of the last layer.
        in_channels: channels of the images.
        stem: "224": 7×7 convolution of stride 2 and a 3×3 max pool of stride 2; "32": 3×3
            convolution of stride 1 and no pool, for images of about 32×32 pixels.

    Raises ArgumentError for another `stem`.
    """

    def __init__(
        self,
        depths: tuple[int, int, int, int],
        growth: int = 32,
        num_classes: int = 1000,
        in_channels: int = 3,
        stem: str = "224",
    ) -> None:
        super().__init__()
        first, second = halvings("densenet", stem)
        channels, size = 2 * growth, 7 if first == 2 else 3
        layers: dict[str, nn.Module] = {
            "conv0": nn.Conv2d(
                in_channels, channels, size, stride=first, padding=size // 2, bias=False
            ),
            "norm0": nn.BatchNorm2d(channels),
            "relu0": nn.ReLU(),
        }
        if second == 2:
            layers["pool0"] = nn.MaxPool2d(3, stride=2, padding=1)
        for i, depth in enumerate(depths, 1):
            layers[f"denseblock{i}"] = DenseBlock(depth, channels, growth)
            channels += depth * growth
            if i < len(depths):
                layers[f"transition{i}"] = transition(channels)
                channels //= 2
        layers["norm5"] = nn.BatchNorm2d(channels)
        self.add_module("features", nn.Sequential(layers))
        self.relu = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.assign(init.kaiming_normal(module.weight.shape))
        assert self.classifier.bias is not None
        self.classifier.bias.assign(init.zeros(self.classifier.bias.shape))

    def forward(self, x: Value) -> Value:
        """(n, in_channels, h, w) → (n, num_classes); h and w at least 29 ("32": 8)."""
        x = self.avgpool(self.relu(self.features(x)))
        return self.classifier(x.flatten(1))


@register("densenet121")
def densenet121(*, num_classes: int = 1000, in_channels: int = 3, stem: str = "224") -> DenseNet:
    """DenseNet-121 with growth 32; see `DenseNet`."""
    return DenseNet((6, 12, 24, 16), 32, num_classes, in_channels, stem)


@register("densenet169")
def densenet169(*, num_classes: int = 1000, in_channels: int = 3, stem: str = "224") -> DenseNet:
    """DenseNet-169 with growth 32; see `DenseNet`."""
    return DenseNet((6, 12, 32, 32), 32, num_classes, in_channels, stem)
