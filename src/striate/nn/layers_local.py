"""Normalisation of each image by itself: no statistics are kept, training and evaluation agree."""

from __future__ import annotations

import striate.functional as F
from striate.errors import ArgumentError, UnsupportedError
from striate.graph import Param
from striate.nn import init
from striate.nn.layers_conv import positive
from striate.nn.module import Module, Parameter, Tensor


class _Affine(Module):
    """`weight` and `bias` of one shape, at first 1 and 0, or None."""

    weight: Param | None
    bias: Param | None

    def __init__(self, shape: tuple[int, ...], eps: float, affine: bool, bias: bool = True) -> None:
        super().__init__()
        self.eps = eps
        self.weight = Parameter(init.ones(shape)) if affine else None
        self.bias = Parameter(init.zeros(shape)) if affine and bias else None


class GroupNorm(_Affine):
    """Each group of channels of each image with mean 0 and deviation 1, then scaled by channel.

    Args:
        num_groups: divides num_channels.
        num_channels: channels of the images.
        eps: keeps the root away from 0.
        affine: whether there are `weight` and `bias`, (num_channels,).

    Wu, He: Group normalization, 2018. Raises ArgumentError for groups that do not divide.
    """

    def __init__(
        self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True
    ) -> None:
        super().__init__((positive("num_channels", num_channels),), eps, affine)
        if num_channels % positive("num_groups", num_groups):
            raise ArgumentError(
                f"num_channels={num_channels} must be divisible by num_groups={num_groups}"
            )
        self.num_groups = num_groups
        self.num_channels = num_channels
        self.affine = affine

    def forward(self, x: Tensor) -> Tensor:
        """(n, num_channels, h, w) or (n, num_channels) → the same shape."""
        return F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        """As in PyTorch."""
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}"


class InstanceNorm2d(_Affine):
    """Each channel of each image with mean 0 and deviation 1; with `affine` then scaled.

    Arguments as torch.nn.InstanceNorm2d. `momentum` is for running statistics, which are not kept:
    track_running_stats=True raises UnsupportedError.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,  # noqa: ARG002 - of the running statistics
        affine: bool = False,
        track_running_stats: bool = False,
    ) -> None:
        super().__init__((positive("num_features", num_features),), eps, affine)
        if track_running_stats:
            raise UnsupportedError(
                "InstanceNorm2d keeps no running statistics: leave out track_running_stats=True"
            )
        self.num_features = num_features
        self.affine = affine

    def forward(self, x: Tensor) -> Tensor:
        """(n, num_features, h, w) → the same shape; more than one pixel."""
        return F.instance_norm(x, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        """As in PyTorch, but for the running statistics."""
        return f"{self.num_features}, eps={self.eps}, affine={self.affine}"


class LayerNorm(_Affine):
    """The last axes, of shape `normalized_shape`, with mean 0 and deviation 1, then scaled.

    Ba, Kiros, Hinton: Layer normalization, 2016. For the channels of images see `LayerNorm2d`.
    """

    def __init__(
        self,
        normalized_shape: int | tuple[int, ...],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
    ) -> None:
        sizes = (normalized_shape,) if isinstance(normalized_shape, int) else normalized_shape
        self.normalized_shape = tuple(positive("normalized_shape", size) for size in sizes)
        super().__init__(self.normalized_shape, eps, elementwise_affine, bias)
        self.elementwise_affine = elementwise_affine

    def forward(self, x: Tensor) -> Tensor:
        """(…, *normalized_shape) → the same shape."""
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        """As in PyTorch."""
        return (
            f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"
        )


class LayerNorm2d(_Affine):
    """The channels of every pixel with mean 0 and deviation 1, then scaled: torchvision's layer."""

    def __init__(self, num_channels: int, eps: float = 1e-6) -> None:
        super().__init__((positive("num_channels", num_channels),), eps, affine=True)
        self.num_channels = num_channels

    def forward(self, x: Tensor) -> Tensor:
        """(n, num_channels, h, w) → the same shape."""
        return F.layer_norm2d(x, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        """Channels and eps."""
        return f"{self.num_channels}, eps={self.eps}"


class LocalResponseNorm(Module):
    """x / (k + alpha / size · Σ x²)^beta, the sum over `size` neighbouring channels.

    Krizhevsky, Sutskever, Hinton: ImageNet classification with deep convolutional neural networks,
    2012, section 3.3, with PyTorch's division by `size`.
    """

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        super().__init__()
        self.size = positive("size", size)
        self.alpha = alpha
        self.beta = beta
        self.k = k

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) → the same shape."""
        return F.local_response_norm(x, self.size, self.alpha, self.beta, self.k)

    def extra_repr(self) -> str:
        """As in PyTorch."""
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"
