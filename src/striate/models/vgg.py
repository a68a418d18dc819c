"""VGG with batch normalisation, under torchvision's keys.

Simonyan, Zisserman: Very deep convolutional networks for large-scale image recognition, 2015.
"""

from __future__ import annotations

from striate import nn
from striate.errors import ArgumentError
from striate.graph import Value
from striate.models.registry import register
from striate.nn import init

# Output channels of the 3×3 convolutions; "M" is a 2×2 max pool.
VGG11 = (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M")


class VGG(nn.Module):
    """3×3 convolutions with batch normalisation and ReLU, halved five times by max pooling.

    Args:
        plan: output channels and pools, as `VGG11`.
        num_classes: width of the last layer.
        in_channels: channels of the images.
        stem: "224": the paper's head, average pool to 7×7 and three dense layers with dropout;
            "32": for images of 32×32 pixels, average pool to 1×1 and one dense layer.

    Raises ArgumentError for another `stem`.
    """

    def __init__(
        self,
        plan: tuple[int | str, ...],
        num_classes: int = 1000,
        in_channels: int = 3,
        stem: str = "224",
    ) -> None:
        super().__init__()
        if stem not in {"224", "32"}:
            raise ArgumentError(f"vgg: stem must be '224' or '32', got {stem!r}")
        layers: list[nn.Module] = []
        channels = in_channels
        for entry in plan:
            if isinstance(entry, str):
                layers.append(nn.MaxPool2d(2))
                continue
            conv = nn.Conv2d(channels, entry, 3, padding=1)
            layers += [conv, nn.BatchNorm2d(entry), nn.ReLU()]
            channels = entry
        self.add_module("features", nn.Sequential(*layers))
        self.avgpool = nn.AdaptiveAvgPool2d(7 if stem == "224" else 1)
        self.classifier: nn.Module
        if stem == "224":
            self.classifier = nn.Sequential(
                nn.Linear(channels * 7 * 7, 4096),
                nn.ReLU(),
                nn.Dropout(0.5),
                nn.Linear(4096, 4096),
                nn.ReLU(),
                nn.Dropout(0.5),
                nn.Linear(4096, num_classes),
            )
        else:
            self.classifier = nn.Linear(channels, num_classes)
        self._initialise()

    def _initialise(self) -> None:
        """torchvision's: convolutions by He with fan_out, dense weights N(0, 0.01), biases 0."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                shape = module.weight.shape
                module.weight.assign(
                    init.kaiming_normal(shape, mode="fan_out", nonlinearity="relu")
                )
            elif isinstance(module, nn.Linear):
                module.weight.assign(init.normal(module.weight.shape, 0.01))
            else:
                continue
            if module.bias is not None:
                module.bias.assign(init.zeros(module.bias.shape))

    def forward(self, x: Value) -> Value:
        """(n, in_channels, h, w) → (n, num_classes); h and w at least 32."""
        x = self.avgpool(self.features(x))
        return self.classifier(x.flatten(1))


@register("vgg11-bn")
def vgg11_bn(*, num_classes: int = 1000, in_channels: int = 3, stem: str = "224") -> VGG:
    """VGG-11 with batch normalisation; see `VGG`."""
    return VGG(VGG11, num_classes, in_channels, stem)
