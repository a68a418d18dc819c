"""SqueezeNet 1.1 under torchvision's keys.

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
    """A 3×3 convolution, eight `Fire` modules between max pools, a 1×1 convolution to classes.

    Args:
        num_classes: channels of the last convolution, whose mean over the image is the result.
        in_channels: channels of the images.
    """

    def __init__(self, num_classes: int = 1000, in_channels: int = 3) -> None:
        super().__init__()

        def pool() -> nn.MaxPool2d:
            return nn.MaxPool2d(3, stride=2, ceil_mode=True)

        layers = nn.Sequential(
            nn.Conv2d(in_channels, 64, 3, stride=2),
            nn.ReLU(),
            pool(),
            Fire(64, 16, 64),
            Fire(128, 16, 64),
            pool(),
            Fire(128, 32, 128),
            Fire(256, 32, 128),
            pool(),
            Fire(256, 48, 192),
            Fire(384, 48, 192),
            Fire(384, 64, 256),
            Fire(512, 64, 256),
        )
        self.add_module("features", layers)
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
        """(n, in_channels, h, w) → (n, num_classes); h and w at least 17."""
        x = self.features(x)
        return self.classifier(x)


@register("squeezenet1_1")
def squeezenet1_1(*, num_classes: int = 1000, in_channels: int = 3) -> SqueezeNet:
    """SqueezeNet 1.1; see `SqueezeNet`."""
    return SqueezeNet(num_classes, in_channels)
