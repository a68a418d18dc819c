"""Layers with weights on windows of images, and the dense layer."""

from __future__ import annotations

from typing import Any, TypeAlias

import striate.functional as F
from striate.errors import ArgumentError
from striate.graph import Param
from striate.nn import init
from striate.nn.module import Module, Parameter, Tensor

Pair: TypeAlias = "int | tuple[int, int]"
Padding: TypeAlias = "int | str | tuple[int, int] | tuple[tuple[int, int], tuple[int, int]]"


def pair(name: str, value: Any, least: int = 1) -> tuple[int, int]:
    """(height, width) of an int or a pair. Raises ArgumentError below `least`."""
    both = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(both) != 2 or not all(isinstance(v, int) and v >= least for v in both):
        raise ArgumentError(f"{name} must be an int or a pair of at least {least}, got {value!r}")
    return both[0], both[1]


def positive(name: str, value: Any) -> int:
    """The value. Raises ArgumentError unless it is an int of at least 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ArgumentError(f"{name} must be an int of at least 1, got {value!r}")
    return value


def check_groups(in_channels: int, out_channels: int, groups: int) -> None:
    """Raise ArgumentError unless both channel counts are multiples of `groups`."""
    positive("in_channels", in_channels)
    positive("out_channels", out_channels)
    positive("groups", groups)
    for name, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
        if channels % groups:
            raise ArgumentError(f"{name}={channels} must be divisible by groups={groups}")


class Conv2d(Module):
    """Cross-correlation of images (n, in_channels, h, w) with `out_channels` kernels.

    Args:
        in_channels, out_channels: both divisible by `groups`.
        kernel_size, stride, dilation: int or (height, width).
        padding: int, (ph, pw) per side, ((top, bottom), (left, right)), "same" (⌈size / stride⌉
            outputs, the odd excess at the end), "valid" or "full".
        groups: channel groups that do not see each other.
        bias: whether to add a number per output channel.
        padding_mode: "zeros", "reflect", "replicate" or "circular".
        flip_kernel: True for the mathematical convolution: the kernel is turned by 180°.

    Attributes:
        weight: (out_channels, in_channels / groups, kh, kw), at first uniform in ±1/√fan_in.
        bias: (out_channels,), likewise, or None.

    Raises ArgumentError for arguments outside these.
    """

    bias: Param | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Padding = 0,
        dilation: Pair = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        flip_kernel: bool = False,
    ) -> None:
        super().__init__()
        check_groups(in_channels, out_channels, groups)
        if padding_mode not in {"zeros", "reflect", "replicate", "circular"}:
            raise ArgumentError(
                "padding_mode must be 'zeros', 'reflect', 'replicate' or 'circular', got "
                f"{padding_mode!r}"
            )
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = pair("kernel_size", kernel_size)
        self.stride = pair("stride", stride)
        self.padding = padding
        self.dilation = pair("dilation", dilation)
        self.groups = groups
        self.padding_mode = padding_mode
        self.flip_kernel = flip_kernel
        shape = (out_channels, in_channels // groups, *self.kernel_size)
        self.weight = Parameter(init.default_weight(shape))
        fan_in = init.fans(shape)[0]
        self.bias = Parameter(init.default_bias(out_channels, fan_in)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(n, in_channels, h, w) → (n, out_channels, out_h, out_w)."""
        return F.conv2d(
            x,
            self.weight,
            self.bias,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
            padding_mode=self.padding_mode,
            flip_kernel=self.flip_kernel,
        )

    def extra_repr(self) -> str:
        """As in PyTorch: what is not at its default."""
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"
        text += f", stride={self.stride}"
        if self.padding not in (0, (0, 0)):
            text += f", padding={self.padding!r}"
        if self.dilation != (1, 1):
            text += f", dilation={self.dilation}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        if self.bias is None:
            text += ", bias=False"
        if self.padding_mode != "zeros":
            text += f", padding_mode={self.padding_mode}"
        return text + (", flip_kernel=True" if self.flip_kernel else "")


class ConvTranspose2d(Module):
    """Transposed convolution: the gradient of `Conv2d` for its input, as a layer.

    Args: as torch.nn.ConvTranspose2d; `output_padding` adds rows and columns at the end, fewer
        than the stride or the dilation. `padding` is an int or a pair.

    Attributes:
        weight: (in_channels, out_channels / groups, kh, kw), at first uniform in ±1/√fan_in,
            where fan_in is counted as PyTorch does: out_channels / groups · kh · kw.
        bias: (out_channels,), likewise, or None.

    Raises ArgumentError for arguments outside these.
    """

    bias: Param | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Pair = 0,
        output_padding: Pair = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Pair = 1,
    ) -> None:
        super().__init__()
        check_groups(in_channels, out_channels, groups)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = pair("kernel_size", kernel_size)
        self.stride = pair("stride", stride)
        self.padding = pair("padding", padding, 0)
        self.output_padding = pair("output_padding", output_padding, 0)
        self.groups = groups
        self.dilation = pair("dilation", dilation)
        limits = zip(self.output_padding, self.stride, self.dilation, strict=True)
        if any(extra >= max(s, d) for extra, s, d in limits):
            raise ArgumentError(
                f"output_padding={output_padding!r} must be smaller than stride={stride!r} or "
                f"dilation={dilation!r}"
            )
        shape = (in_channels, out_channels // groups, *self.kernel_size)
        self.weight = Parameter(init.default_weight(shape))
        fan_in = init.fans(shape)[0]
        self.bias = Parameter(init.default_bias(out_channels, fan_in)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(n, in_channels, h, w) → (n, out_channels, …): (h − 1)·s − 2p + d(k − 1) + extra + 1."""
        return F.conv_transpose2d(
            x,
            self.weight,
            self.bias,
            stride=self.stride,
            padding=self.padding,
            output_padding=self.output_padding,
            groups=self.groups,
            dilation=self.dilation,
        )

    def extra_repr(self) -> str:
        """As in PyTorch: what is not at its default."""
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"
        text += f", stride={self.stride}"
        for name, default in (
            ("padding", (0, 0)),
            ("output_padding", (0, 0)),
            ("groups", 1),
            ("dilation", (1, 1)),
        ):
            value = getattr(self, name)
            text += "" if value == default else f", {name}={value}"
        return text + (", bias=False" if self.bias is None else "")


class Linear(Module):
    """Dense layer: x · weightᵀ + bias along the last axis.

    Attributes:
        weight: (out_features, in_features), at first uniform in ±1/√in_features.
        bias: (out_features,), likewise, or None.

    Raises ArgumentError for sizes below 1.
    """

    bias: Param | None

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        self.in_features = positive("in_features", in_features)
        self.out_features = positive("out_features", out_features)
        self.weight = Parameter(init.default_weight((out_features, in_features)))
        self.bias = Parameter(init.default_bias(out_features, in_features)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(…, in_features) → (…, out_features)."""
        return F.linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        """As in PyTorch."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}"
        )
