"""Layers that move or summarise pixels and have no weights."""

from __future__ import annotations

from typing import Any, TypeAlias

import striate.functional as F
from striate.errors import ArgumentError
from striate.nn.layers_conv import Padding, Pair, pair
from striate.nn.module import Module, Tensor

OutputSize: TypeAlias = "int | tuple[int | None, int | None] | None"


class _Windows(Module):
    """Windows of `kernel_size`, `stride` apart (default: side by side)."""

    def __init__(
        self, kernel_size: Pair, stride: Pair | None, padding: Padding, ceil_mode: bool
    ) -> None:
        super().__init__()
        self.kernel_size = pair("kernel_size", kernel_size)
        self.stride = self.kernel_size if stride is None else pair("stride", stride)
        self.padding = padding
        self.ceil_mode = ceil_mode

    def extra_repr(self) -> str:
        """As in PyTorch."""
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding!r}, "
            f"ceil_mode={self.ceil_mode}"
        )


class MaxPool2d(_Windows):
    """Largest value of each window; a NaN wins.

    Args:
        kernel_size, stride, dilation: int or (height, width); stride defaults to kernel_size.
        padding: int, (ph, pw) or ((top, bottom), (left, right)); padded pixels never win.
        ceil_mode: count the windows by rounding up; one that would start in the end padding is
            dropped.
    """

    def __init__(
        self,
        kernel_size: Pair,
        stride: Pair | None = None,
        padding: Padding = 0,
        dilation: Pair = 1,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__(kernel_size, stride, padding, ceil_mode)
        self.dilation = pair("dilation", dilation)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) → (n, c, out_h, out_w)."""
        return F.max_pool2d(
            x, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode
        )


class AvgPool2d(_Windows):
    """Mean of each window.

    Args: as `MaxPool2d`, and
        count_include_pad: whether padded zeros count in the divisor.
        divisor_override: a divisor for all windows.
    """

    def __init__(
        self,
        kernel_size: Pair,
        stride: Pair | None = None,
        padding: Padding = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        super().__init__(kernel_size, stride, padding, ceil_mode)
        if divisor_override == 0:
            raise ArgumentError("divisor_override must not be 0")
        self.count_include_pad = count_include_pad
        self.divisor_override = divisor_override

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) → (n, c, out_h, out_w)."""
        return F.avg_pool2d(
            x,
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            self.divisor_override,
        )


class LPPool2d(_Windows):
    """(Σ xᵖ)^(1/p) of each window, p = norm_type; as in PyTorch xᵖ, not |x|ᵖ, and no padding."""

    def __init__(
        self,
        norm_type: float,
        kernel_size: Pair,
        stride: Pair | None = None,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__(kernel_size, stride, 0, ceil_mode)
        if norm_type == 0:
            raise ArgumentError("norm_type must not be 0")
        self.norm_type = norm_type

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) → (n, c, out_h, out_w)."""
        return F.lp_pool2d(x, self.norm_type, self.kernel_size, self.stride, self.ceil_mode)

    def extra_repr(self) -> str:
        """As in PyTorch."""
        return (
            f"norm_type={self.norm_type}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"ceil_mode={self.ceil_mode}"
        )


class _Adaptive(Module):
    """Bins such that the output has `output_size`; None keeps the input's size of that axis."""

    def __init__(self, output_size: OutputSize) -> None:
        super().__init__()
        both: Any = output_size if isinstance(output_size, tuple) else (output_size, output_size)
        sizes = [v for v in both if v is not None]
        if len(both) != 2 or not all(isinstance(v, int) and v > 0 for v in sizes):
            raise ArgumentError(
                f"output_size must be an int of at least 1, None, or a pair, got {output_size!r}"
            )
        self.output_size = output_size

    def extra_repr(self) -> str:
        """As in PyTorch."""
        return f"output_size={self.output_size}"


class AdaptiveAvgPool2d(_Adaptive):
    """Mean of bin i = [⌊i·I/O⌋, ⌈(i + 1)·I/O⌉) along each axis of size I, O outputs."""

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) → (n, c, *output_size)."""
        return F.adaptive_avg_pool2d(x, self.output_size)


class AdaptiveMaxPool2d(_Adaptive):
    """Largest value of each bin; the bins are those of `AdaptiveAvgPool2d`."""

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) → (n, c, *output_size)."""
        return F.adaptive_max_pool2d(x, self.output_size)


class Flatten(Module):
    """Merge the axes start_dim … end_dim into one; by default all but the batch."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim = start_dim
        self.end_dim = end_dim

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) → (n, c·h·w) by default."""
        return x.flatten(self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        """As in PyTorch."""
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class Identity(Module):
    """x; takes any arguments and ignores them, as in PyTorch."""

    def __init__(self, *args: object, **kwargs: object) -> None:  # noqa: ARG002
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        """x."""
        return x


class ZeroPad2d(Module):
    """Zeros around images: `padding` is an int or (left, right, top, bottom); negative crops."""

    def __init__(self, padding: int | tuple[int, int, int, int]) -> None:
        super().__init__()
        sides: tuple[Any, ...] = (padding,) * 4 if isinstance(padding, int) else tuple(padding)
        if len(sides) != 4 or not all(isinstance(p, int) for p in sides):
            raise ArgumentError(
                f"padding must be an int or (left, right, top, bottom), got {padding!r}"
            )
        self.padding = sides

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) → (n, c, h + top + bottom, w + left + right)."""
        return F.pad(x, self.padding)

    def extra_repr(self) -> str:
        """As in PyTorch."""
        return f"{self.padding}"


class Upsample(Module):
    """Resize images to `size`, or by `scale_factor`.

    Args: as torch.nn.Upsample; `mode` is "nearest", "bilinear" or "bicubic".

    Raises ArgumentError unless exactly one of `size` and `scale_factor` is given.
    """

    def __init__(
        self,
        size: Pair | None = None,
        scale_factor: float | tuple[float, float] | None = None,
        mode: str = "nearest",
        align_corners: bool | None = None,
        recompute_scale_factor: bool | None = None,
    ) -> None:
        super().__init__()
        if (size is None) == (scale_factor is None):
            raise ArgumentError(
                "give either size or scale_factor, got "
                f"size={size!r}, scale_factor={scale_factor!r}"
            )
        self.size = size
        self.scale_factor = scale_factor
        self.mode = mode
        self.align_corners = align_corners
        self.recompute_scale_factor = recompute_scale_factor

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) → (n, c, *size)."""
        return F.interpolate(
            x,
            self.size,
            self.scale_factor,
            self.mode,
            self.align_corners,
            self.recompute_scale_factor,
        )

    def extra_repr(self) -> str:
        """As in PyTorch."""
        what = "scale_factor" if self.size is None else "size"
        return f"{what}={getattr(self, what)}, mode={self.mode!r}"
