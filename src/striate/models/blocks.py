"""What networks of many families share: convolution blocks, widths, initial weights."""

from __future__ import annotations

from collections.abc import Callable

from striate import nn
from striate.errors import ArgumentError
from striate.nn import init


def conv_bn(
    in_channels: int,
    channels: int,
    kernel_size: int = 1,
    stride: int = 1,
    groups: int = 1,
    activation: Callable[[], nn.Module] | None = nn.ReLU,
    eps: float = 1e-5,
    momentum: float = 0.1,
) -> nn.Sequential:
    """Convolution that keeps ⌈size / stride⌉ pixels, batch normalisation, activation (or none)."""
    conv = nn.Conv2d(
        in_channels,
        channels,
        kernel_size,
        stride=stride,
        padding=kernel_size // 2,
        groups=groups,
        bias=False,
    )
    norm = nn.BatchNorm2d(channels, eps=eps, momentum=momentum)
    return nn.Sequential(conv, norm, *(() if activation is None else (activation(),)))


def make_divisible(channels: float, divisor: int = 8) -> int:
    """The multiple of `divisor` that is nearest, but not more than a tenth below `channels`."""
    nearest = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return nearest if nearest >= 0.9 * channels else nearest + divisor


def halvings(model: str, stem: str) -> tuple[int, int]:
    """The strides of a net's first two halvings: (2, 2) for stem "224", (1, 1) for "32".

    Without them a picture of 32×32 pixels meets the layers that one of 128×128 would.
    Raises ArgumentError for another `stem`.
    """
    if stem not in {"224", "32"}:
        raise ArgumentError(f"{model}: stem must be '224' or '32', got {stem!r}")
    return (2, 2) if stem == "224" else (1, 1)


def initialise(net: nn.Module, dense_std: float | None = 0.01, nonlinearity: str = "relu") -> None:
    """torchvision's usual start: convolutions by He with fan_out, biases 0.

    Dense weights are N(0, dense_std), or with None left as they are, with their biases.
    """
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            shape = module.weight.shape
            weight = init.kaiming_normal(shape, mode="fan_out", nonlinearity=nonlinearity)
        elif isinstance(module, nn.Linear) and dense_std is not None:
            weight = init.normal(module.weight.shape, dense_std)
        else:
            continue
        module.weight.assign(weight)
        if module.bias is not None:
            module.bias.assign(init.zeros(module.bias.shape))
