"""SqueezeNet 1.0 and 1.1 under torchvision's keys.

Iandola, Han, Moskewicz, Ashraf, Dally, Keutzer: SqueezeNet: AlexNet-level accuracy with 50x fewer
parameters, 2016; version 1.1 is the authors' own, with 2.4 times fewer multiplications.
"""

from __future__ import annotations

from striate import concat, nn
from striate.graph import Value
from striate.models.registry import register
from striate.nn import init


class Fire(nn.Module):
    """A 1×1 convolution squeezes the channels; a 1×1 and a 3×3 expand them side by side."""

    def __init__(self, in_channels: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(in_channels, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)
        self.relu = nn.ReLU()

    def forward(self, x: Value) -> Value:
        """(n, in_channels, h, w) → (n, 2 · expanded, h, w)."""
        x = self.relu(self.squeeze(x))
        x = concat((self.relu(self.expand1x1(x)), self.relu(self.expand3x3(x))), 1)
        return x  # noqa: RET504 - the name tells mypy what concat gives


class SqueezeNet(nn.Module):
    """A convolution, eight `Fire` modules between max pools, a 1×1 convolution to classes.

    Args:
        version: "1.0": 7×7 convolution to 96 channels, pools before the first, fourth and eighth
            `Fire`; "1.1": 3×3 convolution to 64, pools before the first, third and fifth.
        num_classes: channels of the last convolution, whose mean over the image is the result.
        in_channels: channels of the images.
    """

    def __init__(self, version: str, num_classes: int = 1000, in_channels: int = 3) -> None:
        super().__init__()
        channels, size, pools = {"1.0": (96, 7, (0, 3, 7)), "1.1": (64, 3, (0, 2, 4))}[version]
        layers: list[nn.Module] = [nn.Conv2d(in_channels, channels, size, stride=2), nn.ReLU()]
        for i, squeezed in enumerate((16, 16, 32, 32, 48, 48, 64, 64)):
            if i in pools:
                layers.append(nn.MaxPool2d(3, stride=2, ceil_mode=True))
            layers.append(Fire(channels, squeezed, 4 * squeezed))
            channels = 8 * squeezed
        self.add_module("features", nn.Sequential(*layers))
        last = nn.Conv2d(512, num_classes, 1)
        self.classifier = nn.Sequential(
            nn.Dropout(0.5), last, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                shape = module.weight.shape
                module.weight.assign(
                    init.normal(shape, 0.01) if module is last else init.kaiming_uniform(shape)
                )
                assert module.bias is not None
                module.bias.assign(init.zeros(module.bias.shape))

    def forward(self, x: Value) -> Value:
        """(n, in_channels, h, w) → (n, num_classes); h and w at least 17 (1.0: 21)."""
        x = self.features(x)
        return self.classifier(x)


@register("squeezenet1_0")
def squeezenet1_0(*, num_classes: int = 1000, in_channels: int = 3) -> SqueezeNet:
    """SqueezeNet 1.0; see `SqueezeNet`."""
    return SqueezeNet("1.0", num_classes, in_channels)


@register("squeezenet1_1")
def squeezenet1_1(*, num_classes: int = 1000, in_channels: int = 3) -> SqueezeNet:
    """SqueezeNet 1.1; see `SqueezeNet`."""
    return SqueezeNet("1.1", num_classes, in_channels)
