"""The head of a net: the layer that gives the classes."""

from __future__ import annotations

from striate import nn
from striate.errors import ArgumentError


def head(net: nn.Module) -> str:
    """The path of the last dense layer or convolution of a net that gives classes: its head.

    The last by definition, as in all registered networks. Raises ArgumentError if there is none.
    """
    paths = [p for p, m in net.named_modules() if p and isinstance(m, (nn.Linear, nn.Conv2d))]
    if not paths:
        raise ArgumentError(f"{type(net).__name__} has no dense layer or convolution as its head")
    return paths[-1]


def replace_head(net: nn.Module, num_classes: int) -> nn.Module:
    """Give a net a new last layer for `num_classes` classes; everything else stays.

    The new layer has PyTorch's default initial weights, drawn by `striate.manual_seed`. A net made
    by `create` remembers its new number of classes, so it is saved and loaded as before.

    Returns: the net. Raises ArgumentError for a net without a head, or no positive number.
    """
    path = head(net)
    owner, _, name = path.rpartition(".")
    old = net.get_submodule(path)
    new: nn.Module
    if isinstance(old, nn.Conv2d):
        new = nn.Conv2d(
            old.in_channels,
            num_classes,
            old.kernel_size,
            old.stride,
            old.padding,
            old.dilation,
            old.groups,
            old.bias is not None,
        )
    else:
        assert isinstance(old, nn.Linear)
        new = nn.Linear(old.in_features, num_classes, old.bias is not None)
    setattr(net.get_submodule(owner) if owner else net, name, new.train(old.training))
    if net.arch is not None:
        arguments = {**net.arch["arguments"], "num_classes": num_classes}
        net.arch = {**net.arch, "arguments": arguments}
    return net
