"""Memory orders in NumPy: where each element of a logical array lies in a buffer.

The slow runner and the tests use these; they are the definition that the reordering kernels
are measured against. All functions keep the dtype.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from striate.arith.layout import (
    GroupedWeights,
    Hwio,
    Layout,
    Nhwc,
    NhwcSlice,
    PackedWeights,
    Plain,
    WinogradWeights,
    groups_of_a_vector,
    product,
)

Array = NDArray[Any]


def elements_in(layout: Layout, flat: Array, shape: tuple[int, ...]) -> Array:
    """The elements of `flat` that hold a value of this shape, in their order: a view.

    The buffer of a slice begins with the slice's first element.
    """
    if isinstance(layout, NhwcSlice):
        n, c, h, w = shape
        steps = (layout.pitch * flat.itemsize, flat.itemsize)
        return np.lib.stride_tricks.as_strided(flat, (n * h * w, c), steps)
    return flat[: layout.elements(shape)]


def to_memory(layout: Layout, logical: Array) -> Array:
    """The buffer (1-D) that holds `logical` in this order.

    Images are (n, c, h, w), weights (co, ci/groups, kh, kw).
    """
    if isinstance(layout, Plain):
        return np.ascontiguousarray(logical).reshape(-1)
    if isinstance(layout, Nhwc):
        return np.ascontiguousarray(logical.transpose(0, 2, 3, 1)).reshape(-1)
    if isinstance(layout, Hwio):
        co, ci, kh, kw = logical.shape
        grouped = logical.reshape(layout.groups, co // layout.groups, ci, kh, kw)
        return np.ascontiguousarray(grouped.transpose(0, 3, 4, 2, 1)).reshape(-1)
    if isinstance(layout, WinogradWeights):
        return _to_winograd(layout, logical)
    if isinstance(layout, GroupedWeights):
        return _grouped_order(layout, logical, logical.shape)
    return pack_numpy(layout, logical)


def from_memory(layout: Layout, flat: Array, shape: tuple[int, ...]) -> Array:
    """The logical array of this shape that the buffer `flat` holds; the inverse of `to_memory`."""
    if isinstance(layout, Plain):
        return flat[: product(shape)].reshape(shape)
    if isinstance(layout, Nhwc):
        n, c, h, w = shape
        return flat[: product(shape)].reshape(n, h, w, c).transpose(0, 3, 1, 2)
    if isinstance(layout, Hwio):
        co, ci, kh, kw = shape
        grouped = flat[: product(shape)].reshape(layout.groups, kh, kw, ci, co // layout.groups)
        return np.ascontiguousarray(grouped.transpose(0, 4, 3, 1, 2)).reshape(shape)
    if isinstance(layout, WinogradWeights):
        return _from_winograd(layout, flat, shape)
    return unpack_numpy(layout, flat, shape)


def _to_winograd(layout: WinogradWeights, w: Array) -> Array:
    """U = G g Gᵀ of every kernel and phase, [output block][point][phase][input channel][block]."""
    f = layout.filtering
    g = np.array(f.transforms.g, np.float64)
    _, ci = layout.packed.channels(w.shape)
    packed = pack_numpy(layout.packed, w.astype(np.float64))
    kernels = packed.reshape(-1, f.kernel, f.kernel, ci, layout.packed.block)
    missing = f.taps * f.stride - f.kernel
    whole = np.pad(kernels, ((0, 0), (0, missing), (0, missing), (0, 0), (0, 0)))
    taps = whole.reshape(-1, f.taps, f.stride, f.taps, f.stride, ci, layout.packed.block)
    u: Array = np.einsum("pa,qb,oaxbyil->opqxyil", g, g, taps)
    return u.astype(w.dtype).reshape(-1)


def _from_winograd(layout: WinogradWeights, flat: Array, shape: tuple[int, ...]) -> Array:
    """The kernels whose transforms these are, by least squares: 36 or 16 numbers stand for 9."""
    f = layout.filtering
    back = np.linalg.pinv(np.array(f.transforms.g, np.float64))
    _, ci = layout.packed.channels(shape)
    points = flat[: layout.elements(shape)].astype(np.float64)
    u = points.reshape(-1, f.side, f.side, f.stride, f.stride, ci, layout.packed.block)
    taps = np.einsum("ap,bq,opqxyil->oaxbyil", back, back, u)
    size = f.taps * f.stride
    kernels = taps.reshape(-1, size, size, ci, layout.packed.block)[:, : f.kernel, : f.kernel]
    return unpack_numpy(layout.packed, kernels.astype(flat.dtype).reshape(-1), shape)


def pack_numpy(layout: PackedWeights, w: Array) -> Array:
    """Weights (co, ci/groups, kh, kw) in the order [phase][group][output block][tap][ci][block]."""
    return _packed_order(layout, w, w.shape)


def unpack_numpy(
    layout: PackedWeights | GroupedWeights, flat: Array, shape: tuple[int, ...]
) -> Array:
    """The weights of this shape whose packed order is `flat`; taps of no phase are zero."""
    numbers = np.arange(1, product(shape) + 1).reshape(shape)
    number = (
        _grouped_order(layout, numbers, shape)
        if isinstance(layout, GroupedWeights)
        else _packed_order(layout, numbers, shape)
    )
    out: Array = np.zeros(product(shape), flat.dtype)
    there = number > 0  # 0 marks the fill of the last block
    out[number[there] - 1] = flat[: number.size][there]
    return out.reshape(shape)


def _grouped_order(layout: GroupedWeights, w: Array, shape: tuple[int, ...]) -> Array:
    outer, inner, kh, kw = shape
    grouped = w.reshape(layout.groups, outer // layout.groups, inner, kh * kw)
    if layout.swap:
        grouped = grouped.swapaxes(1, 2)
    co, ci = layout.channels(shape)
    together = groups_of_a_vector(co, layout.lanes)
    vectors = -(-layout.groups // together)
    filled = np.zeros((vectors * together, co, ci, kh * kw), w.dtype)
    filled[: layout.groups] = grouped
    lanes = np.zeros((vectors, layout.lanes, ci, kh * kw), w.dtype)
    lanes[:, : together * co] = filled.reshape(vectors, together * co, ci, kh * kw)
    # [vector][lane][ci][tap] → [vector][tap][ci][lane]
    phases = [lanes[..., list(taps)].transpose(0, 3, 2, 1) for taps in layout.order(shape)]
    return np.concatenate([phase.reshape(-1) for phase in phases])


def _packed_order(layout: PackedWeights, w: Array, shape: tuple[int, ...]) -> Array:
    outer, inner, kh, kw = shape
    grouped = w.reshape(layout.groups, outer // layout.groups, inner, kh, kw)
    if layout.swap:
        grouped = grouped.swapaxes(1, 2)
    co, ci = layout.channels(shape)
    blocks = -(-co // layout.block)
    filled = np.zeros((layout.groups, blocks * layout.block, ci, kh, kw), w.dtype)
    filled[:, :co] = grouped
    blocked = filled.reshape(layout.groups, blocks, layout.block, ci, kh, kw)
    phases = [
        np.stack([blocked[..., a, b] for a, b in phase], axis=2)  # [group][block no][tap][b][ci]
        .swapaxes(3, 4)
        .reshape(-1)
        for phase in layout.phases
        if phase
    ]
    return np.concatenate(phases) if phases else np.zeros(0, w.dtype)
