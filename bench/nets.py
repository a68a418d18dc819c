"""The nets of the benchmarks in `torch.nn`, with Striate's names, so that weights load across.

Nothing of Striate is imported: a process that runs them holds PyTorch's memory only.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn
from torch.nn.functional import max_pool2d, relu

# Output channels of the 3×3 convolutions of VGG-11; "M" is a 2×2 max pool.
VGG11 = (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M")
# Table 2 of MobileNetV2's paper: expansion factor, output channels, blocks, stride of the first.
STAGES = (
    *((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)),
    *((6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)),
)


class LeNetBN(nn.Module):
    """[conv 3×3 same, no bias → BN → ReLU → max pool 2] twice, dense 128, dense classes."""

    def __init__(self, num_classes: int = 10, in_channels: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 32, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(64)
        self.fc1 = nn.Linear(64 * 7 * 7, 128)
        self.fc2 = nn.Linear(128, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (N, classes)."""
        x = max_pool2d(relu(self.bn1(self.conv1(x))), 2)
        x = max_pool2d(relu(self.bn2(self.conv2(x))), 2)
        return self.fc2(relu(self.fc1(x.flatten(1))))


class Residual(nn.Module):
    """Two 3×3 convolutions, or with `wide` 1×1, 3×3 and 1×1 to four times the channels."""

    def __init__(self, ci: int, channels: int, stride: int, wide: bool) -> None:
        super().__init__()
        co = 4 * channels if wide else channels
        first = (ci, channels, 1, 1) if wide else (ci, channels, 3, stride)
        second = (channels, channels, 3, stride if wide else 1)
        convolutions = [first, second, (channels, co, 1, 1)][: 3 if wide else 2]
        for i, (a, b, k, s) in enumerate(convolutions, 1):
            self.add_module(f"conv{i}", nn.Conv2d(a, b, k, s, k // 2, bias=False))
            self.add_module(f"bn{i}", nn.BatchNorm2d(b))
        self.depth = len(convolutions)
        self.downsample = None
        if stride != 1 or ci != co:
            conv = nn.Conv2d(ci, co, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(co))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """relu(F(x) + x)."""
        y = x
        for i in range(1, self.depth + 1):
            y = self.get_submodule(f"bn{i}")(self.get_submodule(f"conv{i}")(y))
            y = relu(y) if i < self.depth else y
        return relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """Stem, four stages, one dense layer."""

    def __init__(
        self, depths: tuple[int, ...], wide: bool, num_classes: int, in_channels: int, stem: str
    ) -> None:
        super().__init__()
        large = stem == "224"
        shape = (7, 2, 3) if large else (3, 1, 1)
        self.conv1 = nn.Conv2d(in_channels, 64, *shape, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if large else nn.Identity()
        ci = 64
        for stage, depth in enumerate(depths):
            channels, blocks = 64 << stage, []
            for i in range(depth):
                blocks.append(Residual(ci, channels, 2 if stage and i == 0 else 1, wide))
                ci = 4 * channels if wide else channels
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(ci, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (N, classes)."""
        x = self.maxpool(relu(self.bn1(self.conv1(x))))
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
        return self.fc(x.mean((2, 3)))


class Features(nn.Module):
    """`features`, a mean over blocks of the image, `classifier`."""

    def __init__(self, features: nn.Module, classifier: nn.Module, side: int | None = 1) -> None:
        super().__init__()
        self.features = features
        self.avgpool = nn.Identity() if side is None else nn.AdaptiveAvgPool2d(side)
        self.classifier = classifier

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (N, classes)."""
        x = self.avgpool(self.features(x))
        return self.classifier(x if isinstance(self.avgpool, nn.Identity) else x.flatten(1))


class Fire(nn.Module):
    """Squeeze, then expand by 1×1 and by 3×3."""

    def __init__(self, ci: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(ci, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, ci, h, w) → (n, 2 · expanded, h, w)."""
        x = relu(self.squeeze(x))
        return torch.cat([relu(self.expand1x1(x)), relu(self.expand3x3(x))], 1)


class DenseLayer(nn.Module):
    """BN, ReLU, 1×1, BN, ReLU, 3×3; the result joins the channels of the input."""

    def __init__(self, ci: int, growth: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(ci)
        self.conv1 = nn.Conv2d(ci, 4 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, ci, h, w) → (n, ci + growth, h, w)."""
        y = self.conv2(relu(self.norm2(self.conv1(relu(self.norm1(x))))))
        return torch.cat([x, y], 1)


class InvertedResidual(nn.Module):
    """1×1 to `expansion` times the channels, depthwise 3×3, linear 1×1."""

    def __init__(self, ci: int, co: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = ci * expansion
        layers = [_conv_bn(ci, hidden, 1)] if expansion != 1 else []
        layers += [
            _conv_bn(hidden, hidden, 3, stride, hidden),
            nn.Conv2d(hidden, co, 1, bias=False),
            nn.BatchNorm2d(co),
        ]
        self.conv = nn.Sequential(*layers)
        self.residual = stride == 1 and ci == co

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, ci, h, w) → (n, co, ⌈h / stride⌉, ⌈w / stride⌉)."""
        return x + self.conv(x) if self.residual else self.conv(x)


def _conv_bn(ci: int, co: int, k: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(ci, co, k, stride, k // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(co), nn.ReLU6())


def lenet_bn(num_classes: int = 10, in_channels: int = 1) -> nn.Module:
    """LeNet-BN for 28×28 pictures."""
    return LeNetBN(num_classes, in_channels)


def resnet18(num_classes: int = 1000, in_channels: int = 3, stem: str = "224") -> nn.Module:
    """ResNet-18."""
    return ResNet((2, 2, 2, 2), False, num_classes, in_channels, stem)


def resnet50(num_classes: int = 1000, in_channels: int = 3, stem: str = "224") -> nn.Module:
    """ResNet-50 with the stride on the 3×3 convolutions."""
    return ResNet((3, 4, 6, 3), True, num_classes, in_channels, stem)


def vgg11_bn(num_classes: int = 1000, in_channels: int = 3, stem: str = "224") -> nn.Module:
    """VGG-11 with batch normalisation."""
    layers: list[nn.Module] = []
    ci = in_channels
    for entry in VGG11:
        if isinstance(entry, str):
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [nn.Conv2d(ci, entry, 3, padding=1), nn.BatchNorm2d(entry), nn.ReLU()]
            ci = entry
    head: nn.Module = nn.Linear(512, num_classes)
    if stem == "224":
        head = nn.Sequential(
            nn.Linear(512 * 7 * 7, 4096),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(4096, num_classes),
        )
    return Features(nn.Sequential(*layers), head, 7 if stem == "224" else 1)


def squeezenet1_1(num_classes: int = 1000, in_channels: int = 3) -> nn.Module:
    """SqueezeNet 1.1."""
    layers: list[nn.Module] = [nn.Conv2d(in_channels, 64, 3, 2), nn.ReLU()]
    for fires in (
        [(64, 16, 64), (128, 16, 64)],
        [(128, 32, 128), (256, 32, 128)],
        [(256, 48, 192), (384, 48, 192), (384, 64, 256), (512, 64, 256)],
    ):
        layers += [nn.MaxPool2d(3, 2, ceil_mode=True), *(Fire(*fire) for fire in fires)]
    last = nn.Conv2d(512, num_classes, 1)
    head = nn.Sequential(nn.Dropout(), last, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Features(nn.Sequential(*layers), head, None)


def densenet121(num_classes: int = 1000, in_channels: int = 3, stem: str = "224") -> nn.Module:
    """DenseNet-121; with stem "32" its first convolution is 3×3 of stride 1, without a pool."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    large = stem == "224"
    size, stride = (7, 2) if large else (3, 1)
    layers["conv0"] = nn.Conv2d(in_channels, 64, size, stride, size // 2, bias=False)
    layers["norm0"], layers["relu0"] = nn.BatchNorm2d(64), nn.ReLU()
    if large:
        layers["pool0"] = nn.MaxPool2d(3, 2, 1)
    ci = 64
    for block, depth in enumerate((6, 12, 24, 16), 1):
        dense = [(f"denselayer{i + 1}", DenseLayer(ci + 32 * i, 32)) for i in range(depth)]
        layers[f"denseblock{block}"] = nn.Sequential(OrderedDict(dense))
        ci += 32 * depth
        if block < 4:
            steps = OrderedDict[str, nn.Module](norm=nn.BatchNorm2d(ci), relu=nn.ReLU())
            steps["conv"] = nn.Conv2d(ci, ci // 2, 1, bias=False)
            steps["pool"] = nn.AvgPool2d(2)
            layers[f"transition{block}"] = nn.Sequential(steps)
            ci //= 2
    layers["norm5"], layers["relu5"] = nn.BatchNorm2d(ci), nn.ReLU()
    return Features(nn.Sequential(layers), nn.Linear(ci, num_classes))


def mobilenet_v2(num_classes: int = 1000, in_channels: int = 3, stem: str = "224") -> nn.Module:
    """MobileNetV2; with stem "32" without its first two halvings."""
    ci, halving = 32, 2 if stem == "224" else 1
    layers: list[nn.Module] = [_conv_bn(in_channels, ci, 3, halving)]
    for stage, (expansion, co, depth, stride) in enumerate(STAGES):
        first = halving if stage == 1 else stride
        for i in range(depth):
            layers.append(InvertedResidual(ci, co, first if i == 0 else 1, expansion))
            ci = co
    layers.append(_conv_bn(ci, 1280, 1))
    head = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, num_classes))
    return Features(nn.Sequential(*layers), head)
