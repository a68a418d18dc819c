"""Data movement: elements only change places, whatever they are."""

from __future__ import annotations

from typing import Any

import numpy as np

import striate.functional as F
from striate.errors import ShapeError
from striate.graph import Value
from striate.graph.ops.axismap import Take1d
from striate.graph.ops.shape import normalise_axis
from striate.onnx.axes import along
from striate.onnx.handling import Call, Ints, handler
from striate.onnx.value import Tensor


def reshaped(call: Call, shape: Ints) -> Any:
    """Input 0 in another shape, known or not."""
    item = call.item(0)
    if not isinstance(item, Tensor):
        return item.reshape(shape)
    return Tensor(item.value.reshape(shape), item.dtype, item.exact, item.finish)


@handler("Reshape", known=(1,))
def reshape(call: Call) -> Any:
    """0 keeps the size of the axis (unless `allowzero`), -1 is what is left."""
    wanted = call.integers("shape") if call.opset < 5 else call.numbers(1)
    old = call.shape(0)
    if not call.integer("allowzero", 0):
        if any(n == 0 and i >= len(old) for i, n in enumerate(wanted)):
            raise ShapeError(f"Reshape: {old} has no axis for every 0 of {wanted}")
        wanted = tuple(old[i] if n == 0 else n for i, n in enumerate(wanted))
    total = int(np.prod(old))
    known = int(np.prod([n for n in wanted if n != -1]))
    if -1 in wanted and known and total % known == 0:
        wanted = tuple(total // known if n == -1 else n for n in wanted)
    if -1 in wanted or int(np.prod(wanted)) != total:
        raise ShapeError(f"Reshape: {old} ({total} elements) cannot become {wanted}")
    return reshaped(call, wanted)


@handler("Flatten")
def flatten(call: Call) -> Any:
    """The axes before `axis` as one, and the others as one."""
    shape = call.shape(0)
    axis = call.integer("axis", 1)
    axis = axis + len(shape) if axis < 0 else axis
    return reshaped(call, (int(np.prod(shape[:axis])), int(np.prod(shape[axis:]))))


def _axes(call: Call) -> Ints | None:
    """An attribute before opset 13, then a known input."""
    if call.opset < 13:
        return call.integers("axes") if call.has("axes") else None
    return call.numbers(1) if call.given(1) else None


@handler("Unsqueeze", known=(1,))
def unsqueeze(call: Call) -> Any:
    """With axes of size 1 that end up at `axes`."""
    axes, shape = _axes(call) or (), list(call.shape(0))
    total = len(shape) + len(axes)
    for axis in sorted(normalise_axis(a, total) for a in axes):
        shape.insert(axis, 1)
    return reshaped(call, tuple(shape))


@handler("Squeeze", known=(1,))
def squeeze(call: Call) -> Any:
    """Without axes of size 1: those given, or all."""
    axes, shape = _axes(call), call.shape(0)
    if axes is None:
        chosen = {i for i, n in enumerate(shape) if n == 1}
    else:
        chosen = {normalise_axis(a, len(shape)) for a in axes}
    if any(shape[i] != 1 for i in chosen):
        raise ShapeError(f"Squeeze: the axes {sorted(chosen)} of shape {shape} have not size 1")
    return reshaped(call, tuple(n for i, n in enumerate(shape) if i not in chosen))


@handler("Transpose")
def transpose(call: Call) -> Any:
    """Axis i of the result is axis perm[i] of the input; all reversed without `perm`."""
    perm = call.integers("perm", tuple(range(len(call.shape(0))))[::-1])
    if call.known(0):
        return np.transpose(call.array(0), perm)
    return call.like(F.transpose(call.source(), perm))


@handler("Concat")
def concat(call: Call) -> Any:
    """Join along `axis`."""
    axis = call.integer("axis", 1 if call.opset < 4 else None)
    count = len(call.inputs)
    if call.all_known:
        return np.concatenate([call.array(i) for i in range(count)], axis)
    parts = [i for i in range(count) if 0 not in call.shape(i)]
    exact = all(not isinstance(x, Tensor) or x.exact for x in call.inputs)
    return Tensor(F.concat([call.source(i) for i in parts], axis), call.dtype(0), exact)


@handler("Gather", known=(1,))
def gather(call: Call) -> Any:
    """Slices of input 0 along `axis` at known indices; negative ones count from the end."""
    indices, shape = call.array(1), call.shape(0)
    axis = normalise_axis(call.integer("axis", 0), len(shape))
    if indices.size and not -shape[axis] <= indices.min() <= indices.max() < shape[axis]:
        raise ShapeError(f"Gather: indices lie outside axis {axis} of shape {shape}")
    if call.known(0):
        return np.take(call.array(0), indices, axis)
    picked = tuple(int(i) % shape[axis] for i in indices.reshape(-1))
    y = take(call.source(), axis, picked)
    return call.like(y.reshape(*shape[:axis], *indices.shape, *shape[axis + 1 :]))


def take(x: Value, axis: int, indices: Ints) -> Value:
    """The slices of `x` at known indices, each at least 0, along one axis."""
    start = indices[0] if indices else 0
    if indices == tuple(range(start, start + len(indices))):
        return x[(slice(None),) * axis + (slice(start, start + len(indices)),)]
    return along(x, axis, Take1d(x.shape[axis], indices))
