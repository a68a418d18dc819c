"""The arithmetic of pooling windows, one axis at a time, by PyTorch's rules."""

from __future__ import annotations

from typing import TypeAlias

from striate.arith.padding import Pair, dilated
from striate.errors import ShapeError

# The window of one output: elements start, start + step, … below stop, all inside the image.
Window: TypeAlias = tuple[int, int, int]


def pool_size(
    n: int, kernel: int, stride: int, padding: Pair, dilation: int = 1, ceil_mode: bool = False
) -> int:
    """Outputs of a pooling: floor or ceil of (n + begin + end - k_d) / s, plus 1.

    With `ceil_mode` a last window that would start in the end padding is dropped.

    Raises ShapeError when there is no output.
    """
    begin, end = padding
    span = n + begin + end - dilated(kernel, dilation)
    size = (span + (stride - 1 if ceil_mode else 0)) // stride + 1
    if ceil_mode and (size - 1) * stride >= n + begin:
        size -= 1
    if size <= 0:
        raise ShapeError(
            f"the pooling window does not fit: size {n} with padding {padding} is smaller than "
            f"the window ({kernel} - 1) * {dilation} + 1 = {dilated(kernel, dilation)}"
        )
    return size


def windows(
    n: int, kernel: int, stride: int, padding: Pair, dilation: int = 1, ceil_mode: bool = False
) -> tuple[Window, ...]:
    """The window of each output, clipped to the image (empty when it lies in the padding).

    Window i has the elements i·s - begin + t·d, 0 <= t < kernel.
    """
    result = []
    for i in range(pool_size(n, kernel, stride, padding, dilation, ceil_mode)):
        first = i * stride - padding[0]
        stop = min(first + dilated(kernel, dilation), n)
        start = first if first >= 0 else first % dilation
        result.append((start, max(start, stop), dilation))
    return tuple(result)


def adaptive_windows(n: int, outputs: int) -> tuple[Window, ...]:
    """Bins [floor(i·n / outputs), ceil((i + 1)·n / outputs)), which may overlap."""
    return tuple((i * n // outputs, -(-(i + 1) * n // outputs), 1) for i in range(outputs))


def average_counts(
    n: int,
    kernel: int,
    stride: int,
    padding: Pair,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    dilation: int = 1,
) -> tuple[int, ...]:
    """What the sum of each window is divided by (along this axis).

    Without `count_include_pad` the elements inside the image; with it the elements inside image
    and padding, so that a last window of `ceil_mode` that reaches beyond both counts fewer.
    """
    if not count_include_pad:
        inside = windows(n, kernel, stride, padding, dilation, ceil_mode)
        return tuple(len(range(*window)) for window in inside)
    result = []
    for i in range(pool_size(n, kernel, stride, padding, dilation, ceil_mode)):
        first = i * stride - padding[0]
        stop = min(first + dilated(kernel, dilation), n + padding[1])
        result.append(len(range(first, stop, dilation)))
    return tuple(result)
