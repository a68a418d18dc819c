"""Padding, interpolation, concatenation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from striate.arith.padding import is_int
from striate.errors import ArgumentError, ShapeError
from striate.functional._dispatch import Tensor, functional, is_symbolic, run, to_array, to_value
from striate.functional._images import choice, image
from striate.functional.pooling import adaptive_avg_pool2d
from striate.graph import Value
from striate.graph.ops.axismap import AxisMap, Pad1d
from striate.graph.ops.eltwise import select
from striate.graph.ops.leaf import Const
from striate.graph.ops.resize import Resize1d
from striate.graph.ops.shape import Broadcast, pad_axis, slice_axis
from striate.graph.ops.shape import concat as join

MODES = {"nearest": "nearest", "nearest-exact": "nearest-exact", "bilinear": "linear"}
MODES |= {"bicubic": "cubic", "area": "area"}


@functional("x")
def pad(
    x: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None
) -> Tensor:
    """Pad images (N, C, H, W); `pad` is (left, right[, top, bottom[, front, back[, …]]]).

    The pairs run from the last axis forwards, as in PyTorch; negative numbers crop. Other dtypes
    than float32 are converted to it.

    Args:
        x: images.
        pad: two, four, six or eight ints; more than four only with mode="constant".
        mode: "constant", "reflect", "replicate" or "circular".
        value: what "constant" fills in; default 0.

    Raises ShapeError, ArgumentError, DTypeError.
    """
    image("pad", x)
    choice("pad", "mode", mode, ("constant", "reflect", "replicate", "circular"))
    pairs = _pairs(pad)
    if mode != "constant" and (len(pairs) > 2 or value):
        raise ArgumentError(f"pad: mode {mode!r} takes at most four numbers and no value")
    fill = float(value or 0.0)
    sides = dict(zip((3, 2, 1, 0), pairs, strict=False))
    for axis in (1, 0):
        x = _pad_plain(x, axis, *sides.get(axis, (0, 0)), fill)
    inner = {axis: side for axis, side in sides.items() if axis >= 2 and side != (0, 0)}
    rule = "zeros" if mode == "constant" else mode
    if fill == 0:
        return _pad_image(x, inner, rule)
    # Where padded ones are 0, there is the border: chosen, so that any value stays exact.
    ones = Broadcast((1, 1, *x.shape[2:]))(Const(1.0)())
    return select(_pad_image(ones, inner, rule), _pad_image(x, inner, rule), fill)


def _pad_image(x: Value, sides: dict[int, tuple[int, int]], mode: str) -> Value:
    for axis, (begin, end) in sides.items():
        x = AxisMap(axis, Pad1d(x.shape[axis], begin, end, mode))(x)
    return x


def _pad_plain(x: Value, axis: int, begin: int, end: int, value: float) -> Value:
    """Pad or crop batch or channels."""
    size = x.shape[axis]
    start, stop = max(0, -begin), size - max(0, -end)
    if start >= stop:
        raise ShapeError(f"pad: ({begin}, {end}) leaves nothing of axis {axis} of shape {x.shape}")
    return pad_axis(slice_axis(x, axis, start, stop), axis, max(0, begin), max(0, end), value)


def _pairs(pad: Sequence[int]) -> list[tuple[int, int]]:
    items = [pad] if isinstance(pad, int) else list(pad)
    if len(items) not in (2, 4, 6, 8) or not all(isinstance(p, int) for p in items):
        raise ArgumentError(f"pad must hold 2, 4, 6 or 8 ints, got {pad!r}")
    return list(zip(items[::2], items[1::2], strict=True))


@functional("x")
def interpolate(
    x: Tensor,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Tensor:
    """Resample images (N, C, H, W) to another height and width.

    Other dtypes than float32 are converted to it.

    Args:
        x: images.
        size: int or (height, width) of the result; or instead
        scale_factor: number or (height, width); the result has floor(H · factor) rows.
        mode: "nearest" (PyTorch's, which rounds down), "nearest-exact", "bilinear", "bicubic" or
            "area" (adaptive average).
        align_corners: for "bilinear" and "bicubic": map the centres of the corner pixels onto
            each other, instead of the corners of the images.
        recompute_scale_factor: compute with the ratio of the sizes, not with `scale_factor`.
        antialias: for "bilinear" and "bicubic": widen the filter when shrinking.

    Raises ShapeError, ArgumentError, DTypeError.
    """
    h, w = image("interpolate", x)
    choice("interpolate", "mode", mode, tuple(MODES))
    smooth = mode in ("bilinear", "bicubic")
    if not smooth and (align_corners is not None or antialias):
        raise ArgumentError(
            f"interpolate: align_corners and antialias belong to bilinear and bicubic, not {mode!r}"
        )
    if (size is None) == (scale_factor is None):
        raise ArgumentError("interpolate: give either size or scale_factor")
    scales: tuple[float | None, float | None] = (None, None)
    if size is None:
        fh, fw = _two("scale_factor", scale_factor)
        size = (math.floor(h * fh), math.floor(w * fw))
        scales = (None, None) if recompute_scale_factor else (float(fh), float(fw))
    elif recompute_scale_factor:
        raise ArgumentError("interpolate: recompute_scale_factor needs scale_factor")
    outputs = tuple(int(n) for n in _two("size", size))
    if min(outputs) < 1:
        raise ShapeError(f"interpolate: the result would have the size {outputs}")
    if mode == "area":
        return adaptive_avg_pool2d(x, outputs)
    for axis, n, scale in zip((2, 3), outputs, scales, strict=True):
        rule = Resize1d(x.shape[axis], n, MODES[mode], bool(align_corners), scale, bool(antialias))
        x = AxisMap(axis, rule)(x)
    return x


def _two(name: str, value: Any) -> tuple[Any, Any]:
    items = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(items) != 2 or not all(hasattr(v, "__float__") for v in items):
        raise ArgumentError(f"interpolate: {name} must be a number or a pair, got {value!r}")
    return items[0], items[1]


@functional("x")
def flatten(x: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """Merge the axes start_dim … end_dim into one. Raises ArgumentError."""
    return x.flatten(start_dim, end_dim)


@functional("x")
def transpose(x: Tensor, axes: Sequence[int] | None = None) -> Tensor:
    """Axis i of the result is axis `axes[i]` of x; default: all axes reversed.

    NumPy's transpose, which PyTorch calls permute. Raises ArgumentError.
    """
    return x.transpose(*(axes or ()))


@functional("x")
def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """Images (N, C, H, W) whose channels are dealt out from `groups` groups in turn.

    Channel i·groups + g of the result is channel g·(C / groups) + i of x: groups of a grouped
    convolution then see one another (ShuffleNet, arXiv:1707.01083, section 3.1).
    Raises ShapeError unless the channels can be divided.
    """
    image("channel_shuffle", x)
    n, c, h, w = x.shape
    if not is_int(groups) or groups < 1 or c % groups:
        raise ShapeError(f"channel_shuffle: {c} channels do not divide into groups={groups!r}")
    y: Value = x.reshape(n, groups, c // groups, h, w).transpose(0, 2, 1, 3, 4)
    return y.reshape(x.shape)


def concat(values: Sequence[Tensor], axis: int = 0) -> Tensor:
    """Join arrays or symbols along an axis; arrays become float32.

    Raises ShapeError unless all other sizes agree, ArgumentError for an axis out of range.
    """
    if is_symbolic(*values):
        return join([v for v in map(to_value, values) if v is not None], axis)
    arrays = {f"x{i}": to_array("concat", f"values[{i}]", v) for i, v in enumerate(values)}
    return run(_concat, arrays, {"axis": axis})


def _concat(axis: int, **values: Value) -> Value:
    return join(list(values.values()), axis)
