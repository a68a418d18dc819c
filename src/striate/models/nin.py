"""Network in network.

Lin, Chen, Yan: Network in network, 2014: 1×1 convolutions between the others, and the mean of each
class's map as the result, in place of dense layers.
"""

from __future__ import annotations

from striate import nn
from striate.graph import Value
from striate.models.blocks import halvings
from striate.models.registry import register

# Of each block: kernel size, stride, padding, output channels of its three convolutions. The last
# ones give the classes. "224" is the authors' net for ImageNet (7 595 176 parameters for 1000
# classes), "32" the paper's for CIFAR-10 (966 986 for 10).
BLOCKS = {
    "224": (
        (11, 4, 0, (96, 96, 96)),
        (5, 1, 2, (256, 256, 256)),
        (3, 1, 1, (384, 384, 384)),
        (3, 1, 1, (1024, 1024)),
    ),
    "32": ((5, 1, 2, (192, 160, 96)), (5, 1, 2, (192, 192, 192)), (3, 1, 1, (192, 192))),
}


class NiN(nn.Module):
    """Blocks of one convolution and two 1×1 convolutions, with pools between them.

    Args:
        num_classes: channels of the last convolution, whose mean over the image is the result.
        in_channels: channels of the images.
        stem: "224": four blocks, the first 11×11 of stride 4; "32": three blocks, the first 5×5 of
            stride 1, for images of about 32×32 pixels.

    Raises ArgumentError for another `stem`.
    """

    def __init__(self, num_classes: int = 1000, in_channels: int = 3, stem: str = "224") -> None:
        super().__init__()
        halvings("nin", stem)
        layers: list[nn.Module] = []
        before, last = in_channels, len(BLOCKS[stem]) - 1
        for i, (size, stride, padding, widths) in enumerate(BLOCKS[stem]):
            for j, channels in enumerate(widths if i < last else (*widths, num_classes)):
                shape = (size, stride, padding) if j == 0 else (1, 1, 0)
                layers += [nn.Conv2d(before, channels, *shape), nn.ReLU()]
                before = channels
            if i < last:
                average = stem == "32" and i == 1
                pool = nn.AvgPool2d if average else nn.MaxPool2d
                layers.append(pool(3, stride=2, ceil_mode=True))
            if i == last - 1 or (stem == "32" and i < last):
                layers.append(nn.Dropout(0.5))
        self.add_module("features", nn.Sequential(*layers))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()

    def forward(self, x: Value) -> Value:
        """(n, in_channels, h, w) → (n, num_classes); h and w at least 31 ("32": 1)."""
        x = self.features(x)
        return self.flatten(self.avgpool(x))


@register("nin")
def nin(*, num_classes: int = 1000, in_channels: int = 3, stem: str = "224") -> NiN:
    """Network in network; see `NiN`."""
    return NiN(num_classes, in_channels, stem)
