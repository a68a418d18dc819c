"""Layers that weigh or reorder channels."""

from __future__ import annotations

from collections.abc import Callable

import striate.functional as F
from striate.errors import ShapeError
from striate.nn.layers_act import ReLU, Sigmoid
from striate.nn.layers_conv import Conv2d, positive
from striate.nn.layers_pool import AdaptiveAvgPool2d
from striate.nn.module import Module, Tensor


class SqueezeExcitation(Module):
    """Each channel times a number that is worked out from the means of all: torchvision's layer.

    y = x · scale(fc2(act(fc1(mean over the image of x)))), with dense layers written as 1×1
    convolutions. Hu, Shen, Sun: Squeeze-and-excitation networks, 2018.

    Args:
        input_channels: channels of the images.
        squeeze_channels: channels between the two dense layers.
        activation: makes the layer between them.
        scale_activation: makes the layer that gives the factors.
    """

    def __init__(
        self,
        input_channels: int,
        squeeze_channels: int,
        activation: Callable[[], Module] = ReLU,
        scale_activation: Callable[[], Module] = Sigmoid,
    ) -> None:
        super().__init__()
        self.avgpool = AdaptiveAvgPool2d(1)
        self.fc1 = Conv2d(input_channels, squeeze_channels, 1)
        self.fc2 = Conv2d(squeeze_channels, input_channels, 1)
        self.activation = activation()
        self.scale_activation = scale_activation()

    def forward(self, x: Tensor) -> Tensor:
        """(n, input_channels, h, w) → the same shape."""
        scale = self.fc2(self.activation(self.fc1(self.avgpool(x))))
        return self.scale_activation(scale) * x


class ChannelShuffle(Module):
    """Deal the channels out from `groups` groups in turn: ShuffleNet, arXiv:1707.01083.

    Channel i·groups + g of the result is channel g·(c / groups) + i of x.
    """

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = positive("groups", groups)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) → the same shape. Raises ShapeError unless c divides into groups."""
        return F.channel_shuffle(x, self.groups)

    def extra_repr(self) -> str:
        """As in PyTorch."""
        return f"groups={self.groups}"


class PixelShuffle(Module):
    """Channels to pixels: r = upscale_factor times the height and width, r² times fewer channels.

    Pixel (i·r + a, j·r + b) of channel c is pixel (i, j) of channel c·r² + a·r + b of x. Shi et
    al.: Real-time single image and video super-resolution using … sub-pixel convolution, 2016.
    """

    def __init__(self, upscale_factor: int) -> None:
        super().__init__()
        self.upscale_factor = positive("upscale_factor", upscale_factor)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c · r², h, w) → (n, c, h · r, w · r). Raises ShapeError for other channels."""
        r = self.upscale_factor
        n, channels, h, w = x.shape
        if channels % (r * r):
            raise ShapeError(f"{channels} channels are no multiple of upscale_factor² = {r * r}")
        y = x.reshape(n, channels // (r * r), r, r, h, w).transpose(0, 1, 4, 2, 5, 3)
        return y.reshape(n, -1, h * r, w * r)

    def extra_repr(self) -> str:
        """As in PyTorch."""
        return f"upscale_factor={self.upscale_factor}"
