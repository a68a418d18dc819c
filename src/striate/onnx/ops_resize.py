"""Resize and Upsample."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from striate.onnx.axes import along
from striate.onnx.handling import Call, handler
from striate.onnx.resample import Resample1d
from striate.onnx.value import Array

WHERE = (
    "half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric",
    "tf_crop_and_resize", "tf_half_pixel_for_nn",
)  # fmt: skip


class Sizes(NamedTuple):
    """What becomes of an axis: its new size, the factor before rounding, the share that is used."""

    size: int
    scale: float
    roi: tuple[float, float] = (0.0, 1.0)


@handler("Upsample", since=7)
def upsample(call: Call) -> Any:
    """Resize of before version 10: places are j / scale, and the nearest is the one below."""
    scales = call.array(1).tolist() if call.opset >= 9 else call.node.attributes["scales"]
    return _enlarged(call, scales)


@handler("Resize", since=10, known=(1, 2, 3))
def resize(call: Call) -> Any:
    """All modes and coordinates; sizes or factors for all axes, or for those named."""
    if call.opset < 11:
        return _enlarged(call, call.array(1).tolist())
    where = call.text("coordinate_transformation_mode", "half_pixel")
    if where not in WHERE:
        raise call.unsupported(f"coordinate_transformation_mode {where!r}", ", ".join(WHERE))
    nearest = call.text("nearest_mode", "round_prefer_floor")
    return _resized(call, _wanted(call, where), where=where, nearest=nearest)


def _enlarged(call: Call, scales: Sequence[float]) -> Any:
    """By a factor for each axis, in the way that was the only one before version 11."""
    pairs = enumerate(zip(call.shape(0), scales, strict=True))
    sizes = {axis: Sizes(math.floor(n * s), float(s)) for axis, (n, s) in pairs}
    return _resized(call, sizes, where="asymmetric", nearest="floor")


def _wanted(call: Call, where: str) -> dict[int, Sizes]:
    """The axes that are named, and what becomes of them."""
    shape = call.shape(0)
    axes = [a % len(shape) for a in call.integers("axes", tuple(range(len(shape))))]
    roi = [0.0] * len(axes) + [1.0] * len(axes)
    if where == "tf_crop_and_resize":
        roi = [float(r) for r in call.array(1)]
    if call.given(3) and call.array(3).size:
        outputs = [int(n) for n in call.array(3)]
        policy = call.text("keep_aspect_ratio_policy", "stretch")
        scales = [n / shape[a] for n, a in zip(outputs, axes, strict=True)]
        if policy != "stretch":
            scale = min(scales) if policy == "not_larger" else max(scales)
            scales = [scale] * len(axes)
            outputs = [math.floor(scale * shape[a] + 0.5) for a in axes]
    else:
        scales = [float(s) for s in call.array(2)]
        outputs = [math.floor(shape[a] * s) for a, s in zip(axes, scales, strict=True)]
    ends = zip(roi[: len(axes)], roi[len(axes) :], strict=True)
    return {a: Sizes(n, s, e) for a, n, s, e in zip(axes, outputs, scales, ends, strict=True)}


def _resized(call: Call, sizes: dict[int, Sizes], *, where: str, nearest: str) -> Any:
    mode = call.text("mode", "nearest").removeprefix("bi")
    if mode not in ("nearest", "linear", "cubic"):
        raise call.unsupported(f"mode {mode!r}", "nearest, linear, cubic")
    x, before = call.source(0) if mode == "nearest" else call.symbol(0), call.shape(0)
    outside: Array = np.zeros((), bool)
    for axis, (size, scale, roi) in sizes.items():
        rule = Resample1d(
            before[axis],
            size,
            scale,
            mode,
            where,
            nearest,
            call.real("cubic_coeff_a", -0.75),
            bool(call.integer("exclude_outside", 0)),
            bool(call.integer("antialias", 0)) and scale < 1,
            roi,
        )
        beyond = np.array([rule.outside(j) for j in range(size)])
        outside = outside | beyond.reshape(-1, *(1,) * (len(before) - axis - 1))
        if rule.rows() != tuple(((j, 1.0),) for j in range(before[axis])):
            x = along(x, axis, rule)
    if outside.any():
        x = x + np.where(outside, np.float32(call.real("extrapolation_value", 0.0)), 0)
    return x
