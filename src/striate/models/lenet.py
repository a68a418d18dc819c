"""LeNet-5 and a modern small net of its size.

LeCun, Bottou, Bengio, Haffner: Gradient-based learning applied to document recognition, 1998.
"""

from __future__ import annotations

from striate import nn
from striate.errors import ArgumentError
from striate.graph import Value
from striate.models.registry import register


class LeNet(nn.Module):
    """LeNet-5 as textbooks draw it: two 5×5 convolutions, three dense layers, average pooling.

    Args:
        num_classes: width of the last layer.
        in_channels: channels of the images.
        image_size: height and width of the images in pixels, a multiple of 4, at least 12.
        activation: "sigmoid" with average pooling (1998) or "relu" with max pooling.

    Raises ArgumentError for an image size or activation outside these.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 1,
        image_size: int = 28,
        activation: str = "sigmoid",
    ) -> None:
        super().__init__()
        if image_size < 12 or image_size % 4:
            raise ArgumentError(
                f"lenet: image_size must be a multiple of 4, at least 12, got {image_size}"
            )
        if activation not in {"sigmoid", "relu"}:
            raise ArgumentError(
                f"lenet: activation must be 'sigmoid' or 'relu', got {activation!r}"
            )
        side = (image_size // 2 - 4) // 2
        self.conv1 = nn.Conv2d(in_channels, 6, 5, padding=2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * side * side, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, num_classes)
        self.act = nn.ReLU() if activation == "relu" else nn.Sigmoid()
        self.pool = nn.MaxPool2d(2) if activation == "relu" else nn.AvgPool2d(2)

    def forward(self, x: Value) -> Value:
        """(n, in_channels, image_size, image_size) → (n, num_classes)."""
        x = self.pool(self.act(self.conv1(x)))
        x = self.pool(self.act(self.conv2(x)))
        x = self.act(self.fc1(x.flatten(1)))
        x = self.act(self.fc2(x))
        return self.fc3(x)


class LeNetBN(nn.Module):
    """[conv 3×3 → BN → ReLU → max pool 2] with 32, then 64 channels; dense 128 → ReLU → classes.

    Args:
        num_classes: width of the last layer.
        in_channels: channels of the images.
        image_size: height and width of the images in pixels, at least 4.

    Raises ArgumentError for a smaller image.
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 1, image_size: int = 28) -> None:
        super().__init__()
        if image_size < 4:
            raise ArgumentError(f"lenet-bn: image_size must be at least 4, got {image_size}")
        side = image_size // 4
        self.conv1 = nn.Conv2d(in_channels, 32, 3, padding="same", bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.conv2 = nn.Conv2d(32, 64, 3, padding="same", bias=False)
        self.bn2 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(64 * side * side, 128)
        self.fc2 = nn.Linear(128, num_classes)

    def forward(self, x: Value) -> Value:
        """(n, in_channels, image_size, image_size) → (n, num_classes)."""
        x = self.pool(self.relu(self.bn1(self.conv1(x))))
        x = self.pool(self.relu(self.bn2(self.conv2(x))))
        x = self.relu(self.fc1(x.flatten(1)))
        return self.fc2(x)


@register("lenet")
def lenet(
    *,
    num_classes: int = 10,
    in_channels: int = 1,
    image_size: int = 28,
    activation: str = "sigmoid",
) -> LeNet:
    """LeNet-5; see `LeNet`."""
    return LeNet(num_classes, in_channels, image_size, activation)


@register("lenet-bn")
def lenet_bn(*, num_classes: int = 10, in_channels: int = 1, image_size: int = 28) -> LeNetBN:
    """A LeNet with batch normalisation; see `LeNetBN`."""
    return LeNetBN(num_classes, in_channels, image_size)
