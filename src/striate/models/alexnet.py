"""AlexNet under torchvision's keys.

Krizhevsky: One weird trick for parallelizing convolutional neural networks, 2014: the net of
Krizhevsky, Sutskever, Hinton, 2012, on one device, without local response normalisation.
"""

from __future__ import annotations

from striate import nn
from striate.graph import Value
from striate.models.registry import register


class AlexNet(nn.Module):
    """Five convolutions with ReLU, three max pools, three dense layers with dropout.

    Args:
        num_classes: width of the last layer.
        in_channels: channels of the images.
    """

    def __init__(self, num_classes: int = 1000, in_channels: int = 3) -> None:
        super().__init__()
        layers = nn.Sequential(
            nn.Conv2d(in_channels, 64, 11, stride=4, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(64, 192, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(192, 384, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),
        )
        self.add_module("features", layers)
        self.avgpool = nn.AdaptiveAvgPool2d(6)
        self.classifier = nn.Sequential(
            nn.Dropout(0.5),
            nn.Linear(256 * 6 * 6, 4096),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Linear(4096, num_classes),
        )

    def forward(self, x: Value) -> Value:
        """(n, in_channels, h, w) → (n, num_classes); h and w at least 63."""
        x = self.avgpool(self.features(x))
        return self.classifier(x.flatten(1))


@register("alexnet")
def alexnet(*, num_classes: int = 1000, in_channels: int = 3) -> AlexNet:
    """AlexNet; see `AlexNet`."""
    return AlexNet(num_classes, in_channels)
