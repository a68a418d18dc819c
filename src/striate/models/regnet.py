"""RegNetY under torchvision's keys.

Radosavovic, Kosaraju, Girshick, He, Dollár: Designing network design spaces, 2020.
"""

from __future__ import annotations

import itertools
import math

from striate import nn
from striate.graph import Value
from striate.models.blocks import conv_bn, halvings
from striate.models.registry import register
from striate.nn import init


def stages(depth: int, w0: float, wa: float, wm: float) -> list[tuple[int, int]]:
    """(width, blocks) of each stage: section 3.3 of the paper.

    Block j would have u_j = w0 + wa · j channels. That is rounded to a power of wm times w0,
    s_j = round(log_wm (u_j / w0)), w_j = w0 · wm^s_j, and then to a multiple of 8; neighbours of
    the same width are one stage.
    """
    exponents = [round(math.log((w0 + wa * j) / w0, wm)) for j in range(depth)]
    widths = [8 * round(w0 * wm**s / 8) for s in exponents]
    return [(width, len(list(blocks))) for width, blocks in itertools.groupby(widths)]


class BottleneckTransform(nn.Module):
    """1×1, grouped 3×3, squeeze-and-excitation, linear 1×1."""

    def __init__(self, in_channels: int, channels: int, stride: int, group_width: int) -> None:
        super().__init__()
        self.a = conv_bn(in_channels, channels)
        self.b = conv_bn(channels, channels, 3, stride, channels // group_width)
        self.se = nn.SqueezeExcitation(channels, round(in_channels / 4))
        self.c = conv_bn(channels, channels, activation=None)

    def forward(self, x: Value) -> Value:
        """(n, in_channels, h, w) → (n, channels, ⌈h / stride⌉, ⌈w / stride⌉)."""
        return self.c(self.se(self.b(self.a(x))))


class Block(nn.Module):
    """relu(F(x) + x), with a 1×1 convolution on x where its shape changes."""

    def __init__(self, in_channels: int, channels: int, stride: int, group_width: int) -> None:
        super().__init__()
        self.proj: nn.Module | None = None
        if stride != 1 or in_channels != channels:
            self.proj = conv_bn(in_channels, channels, stride=stride, activation=None)
        self.f = BottleneckTransform(in_channels, channels, stride, group_width)
        self.activation = nn.ReLU()

    def forward(self, x: Value) -> Value:
        """(n, in_channels, h, w) → (n, channels, ⌈h / stride⌉, ⌈w / stride⌉)."""
        shortcut = x if self.proj is None else self.proj(x)
        return self.activation(shortcut + self.f(x))


class RegNet(nn.Module):
    """A 3×3 convolution, four stages of one width each, a dense layer.

    Args:
        sizes: (width, blocks) of each stage, as `stages` gives them.
        group_width: channels of a group of the 3×3 convolutions.
        num_classes: width of the last layer.
        in_channels: channels of the images.
        stem: "224" as in the paper; "32", for images of about 32×32 pixels, has stride 1 where the
            size is halved the first two times.

    Raises ArgumentError for another `stem`.
    """

    def __init__(
        self,
        sizes: list[tuple[int, int]],
        group_width: int,
        num_classes: int = 1000,
        in_channels: int = 3,
        stem: str = "224",
    ) -> None:
        super().__init__()
        first, second = halvings("regnet", stem)
        before = 32
        self.stem = conv_bn(in_channels, before, 3, first)
        trunk: dict[str, nn.Module] = {}
        for i, (channels, depth) in enumerate(sizes, 1):
            blocks: dict[str, nn.Module] = {}
            for j in range(depth):
                stride = 1 if j else second if i == 1 else 2
                blocks[f"block{i}-{j}"] = Block(before, channels, stride, group_width)
                before = channels
            trunk[f"block{i}"] = nn.Sequential(blocks)
        self.trunk_output = nn.Sequential(trunk)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(before, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = math.prod(module.kernel_size) * module.out_channels
                module.weight.assign(init.normal(module.weight.shape, math.sqrt(2 / fan_out)))
        self.fc.weight.assign(init.normal(self.fc.weight.shape, 0.01))
        assert self.fc.bias is not None
        self.fc.bias.assign(init.zeros(self.fc.bias.shape))

    def forward(self, x: Value) -> Value:
        """(n, in_channels, h, w) → (n, num_classes)."""
        x = self.trunk_output(self.stem(x))
        return self.fc(self.avgpool(x).flatten(1))


@register("regnet_y_400mf")
def regnet_y_400mf(*, num_classes: int = 1000, in_channels: int = 3, stem: str = "224") -> RegNet:
    """RegNetY of 400 million multiplications: 48, 104, 208 and 440 channels; see `RegNet`."""
    return RegNet(stages(16, 48, 27.89, 2.09), 8, num_classes, in_channels, stem)
