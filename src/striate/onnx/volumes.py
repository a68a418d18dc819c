"""Three-dimensional convolution and pooling of (N, C, D, H, W), made of two-dimensional ones.

A kernel of depth kd is a sum of kd flat kernels on planes; pooling goes along one axis after the
other. Right first: a plane is read kd times.
"""

from __future__ import annotations

from collections.abc import Sequence

from striate import functional as F
from striate.arith.padding import Pair, dilated
from striate.errors import ShapeError
from striate.graph import Value
from striate.graph.ops.shape import pad_axis, slice_axis, spread_axis

Triple = tuple[int, int, int]
Sides = Sequence[Pair]  # begin and end of depth, height, width


def conv3d(
    x: Value,
    w: Value,
    bias: Value | None,
    stride: Triple,
    padding: Sides,
    dilation: Triple,
    groups: int,
) -> Value:
    """y[d] = Σ_t conv2d(x[d·stride + t·dilation − begin], w[:, :, t]).

    The weights are (co, ci/groups, kd, kh, kw). Twice N·co·Do·Ho·Wo·ci/groups·kd·kh·kw FLOPs.
    """
    depth, taps = x.shape[2] + sum(padding[0]), w.shape[2]
    count = (depth - dilated(taps, dilation[0])) // stride[0] + 1
    if count < 1:
        raise ShapeError(f"a kernel {w.shape[2:]} does not fit images {x.shape[2:]} with {padding}")
    planes = pad_axis(x.transpose(0, 2, 1, 3, 4), 1, *padding[0])
    total: Value | None = None
    for t in range(taps):
        first = t * dilation[0]
        part = planes[:, first : first + (count - 1) * stride[0] + 1 : stride[0]]
        y = F.conv2d(
            part.reshape(-1, *part.shape[2:]),
            w[:, :, t],
            bias if t == 0 else None,
            stride=stride[1:],
            padding=tuple(padding[1:]),
            dilation=dilation[1:],
            groups=groups,
        )
        total = y if total is None else total + y
    assert total is not None
    return total.reshape(x.shape[0], count, *total.shape[1:]).transpose(0, 2, 1, 3, 4)


def conv_transpose3d(
    x: Value,
    w: Value,
    bias: Value | None,
    stride: Triple,
    padding: Sides,
    output_padding: Triple,
    dilation: Triple,
    groups: int,
) -> Value:
    """The transpose of `conv3d`: plane d adds to the planes d·stride + t·dilation − begin."""
    n, _, depth, h, v = x.shape
    s, d, (begin, end) = stride[0], dilation[0], padding[0]
    whole = (depth - 1) * s + dilated(w.shape[2], d) + output_padding[0]
    planes = x.transpose(0, 2, 1, 3, 4).reshape(n * depth, -1, h, v)
    total: Value | None = None
    for t in range(w.shape[2]):
        y = F.conv_transpose2d(
            planes,
            w[:, :, t],
            None,
            stride=stride[1:],
            padding=tuple(padding[1:]),
            output_padding=output_padding[1:],
            groups=groups,
            dilation=dilation[1:],
        )
        spread = spread_axis(y.reshape(n, depth, *y.shape[1:]), 1, s)
        placed = pad_axis(spread, 1, t * d, whole - t * d - spread.shape[1])
        total = placed if total is None else total + placed
    assert total is not None
    total = slice_axis(total, 1, begin, whole - end).transpose(0, 2, 1, 3, 4)
    return total if bias is None else total + bias.reshape(1, -1, 1, 1, 1)


def max_pool3d(
    x: Value, kernel: Triple, stride: Triple, padding: Sides, dilation: Triple, ceil_mode: bool
) -> Value:
    """Maxima of windows, planes first."""
    n, c, depth = x.shape[:3]
    y = F.max_pool2d(
        x.reshape(n, c * depth, *x.shape[3:]),
        kernel[1:],
        stride[1:],
        tuple(padding[1:]),
        dilation[1:],
        ceil_mode,
    )
    columns = y.reshape(n * c, 1, depth, -1)
    z: Value = F.max_pool2d(
        columns, (kernel[0], 1), (stride[0], 1), (padding[0], (0, 0)), (dilation[0], 1), ceil_mode
    )
    return z.reshape(n, c, -1, *y.shape[2:])
