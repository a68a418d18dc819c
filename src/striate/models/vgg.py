"""VGG, with and without batch normalisation, under torchvision's keys.

Simonyan, Zisserman: Very deep convolutional networks for large-scale image recognition, 2015.
"""

from __future__ import annotations

from striate import nn
from striate.graph import Value
from striate.models.blocks import halvings, initialise
from striate.models.registry import register

# Table 1 of the paper: 3×3 convolutions in each of the five stages, by the number of layers with
# weights, three dense ones among them.
DEPTHS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
CHANNELS = (64, 128, 256, 512, 512)


class VGG(nn.Module):
    """Stages of 3×3 convolutions with ReLU, each ended by a 2×2 max pool.

    Args:
        layers: 11, 13, 16 or 19.
        norm: whether batch normalisation follows every convolution (2014 there was none).
        num_classes: width of the last layer.
        in_channels: channels of the images.
        stem: "224": the paper's head, average pool to 7×7 and three dense layers with dropout;
            "32": for images of 32×32 pixels, average pool to 1×1 and one dense layer.

    Raises ArgumentError for another `stem`.
    """

    def __init__(
        self,
        layers: int,
        norm: bool = True,
        num_classes: int = 1000,
        in_channels: int = 3,
        stem: str = "224",
    ) -> None:
        super().__init__()
        full = halvings("vgg", stem) == (2, 2)
        features: list[nn.Module] = []
        before = in_channels
        for channels, depth in zip(CHANNELS, DEPTHS[layers], strict=True):
            for _ in range(depth):
                features.append(nn.Conv2d(before, channels, 3, padding=1))
                if norm:
                    features.append(nn.BatchNorm2d(channels))
                features.append(nn.ReLU())
                before = channels
            features.append(nn.MaxPool2d(2))
        self.add_module("features", nn.Sequential(*features))
        self.avgpool = nn.AdaptiveAvgPool2d(7 if full else 1)
        self.classifier: nn.Module
        if full:
            self.classifier = nn.Sequential(
                nn.Linear(before * 7 * 7, 4096),
                nn.ReLU(),
                nn.Dropout(0.5),
                nn.Linear(4096, 4096),
                nn.ReLU(),
                nn.Dropout(0.5),
                nn.Linear(4096, num_classes),
            )
        else:
            self.classifier = nn.Linear(before, num_classes)
        initialise(self)

    def forward(self, x: Value) -> Value:
        """(n, in_channels, h, w) → (n, num_classes); h and w at least 32."""
        x = self.avgpool(self.features(x))
        return self.classifier(x.flatten(1))


@register("vgg11")
def vgg11(*, num_classes: int = 1000, in_channels: int = 3, stem: str = "224") -> VGG:
    """VGG-11; see `VGG`."""
    return VGG(11, False, num_classes, in_channels, stem)


@register("vgg11-bn")
def vgg11_bn(*, num_classes: int = 1000, in_channels: int = 3, stem: str = "224") -> VGG:
    """VGG-11 with batch normalisation; see `VGG`."""
    return VGG(11, True, num_classes, in_channels, stem)


@register("vgg13")
def vgg13(*, num_classes: int = 1000, in_channels: int = 3, stem: str = "224") -> VGG:
    """VGG-13; see `VGG`."""
    return VGG(13, False, num_classes, in_channels, stem)


@register("vgg13-bn")
def vgg13_bn(*, num_classes: int = 1000, in_channels: int = 3, stem: str = "224") -> VGG:
    """VGG-13 with batch normalisation; see `VGG`."""
    return VGG(13, True, num_classes, in_channels, stem)


@register("vgg16")
def vgg16(*, num_classes: int = 1000, in_channels: int = 3, stem: str = "224") -> VGG:
    """VGG-16; see `VGG`."""
    return VGG(16, False, num_classes, in_channels, stem)


@register("vgg16-bn")
def vgg16_bn(*, num_classes: int = 1000, in_channels: int = 3, stem: str = "224") -> VGG:
    """VGG-16 with batch normalisation; see `VGG`."""
    return VGG(16, True, num_classes, in_channels, stem)


@register("vgg19")
def vgg19(*, num_classes: int = 1000, in_channels: int = 3, stem: str = "224") -> VGG:
    """VGG-19; see `VGG`."""
    return VGG(19, False, num_classes, in_channels, stem)


@register("vgg19-bn")
def vgg19_bn(*, num_classes: int = 1000, in_channels: int = 3, stem: str = "224") -> VGG:
    """VGG-19 with batch normalisation; see `VGG`."""
    return VGG(19, True, num_classes, in_channels, stem)
