"""Convolutions by their definition in float64, and the steps of a plan run by hand on guard pages.

Images are (n, c, h, w), weights (co, ci / groups, kh, kw). `begin` is the padding at the top and
left; what lies outside of an image counts as 0, also where that takes padding at the end.
"""

import numpy as np

from striate.engine.program import SCRATCH
from tests.guard import PARTS, guarded, guarded_front
from tests.kernel_call import call

UNIT_ROUNDOFF = 2.0**-24


def _reach(count, stride, begin, dilation, taps, size):
    """Row that output i meets at tap a, and whether it lies inside: both (count, taps)."""
    index = np.arange(count)[:, None] * stride - begin + np.arange(taps) * dilation
    return index, (index >= 0) & (index < size)


def patches(x, kernel, out, stride, begin, dilation):
    """(n, c, out_h, kh, out_w, kw): what each output meets at each tap."""
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (0, 1), (0, 1)))  # index -1 is outside
    axes = zip(out, stride, begin, dilation, kernel, x.shape[2:], strict=True)
    rows, cols = (np.where(inside, i, -1) for i, inside in (_reach(*axis) for axis in axes))
    return padded[:, :, rows][:, :, :, :, cols]


def convolution(x, w, out, stride=(1, 1), begin=(0, 0), dilation=(1, 1), groups=1):
    """y[n, o, i, j] = Σ x[n, c, i·sh - pt + a·dh, j·sw - pl + b·dw] · w[o, c, a, b]"""
    met = np.split(patches(x, w.shape[2:], out, stride, begin, dilation), groups, axis=1)
    parts = zip(met, np.split(w.astype(np.float64), groups), strict=True)
    return np.concatenate(
        [np.einsum("nciajb,ocab->noij", p, wg, optimize=True) for p, wg in parts], axis=1
    )


def input_gradient(dy, w, size, stride=(1, 1), begin=(0, 0), dilation=(1, 1), groups=1):
    """dx: each dy[n, o, i, j] · w[o, c, a, b] is added where the convolution read."""
    n, ci = dy.shape[0], w.shape[1]
    dx = np.zeros((n, ci * groups, *size))
    out, kernel = dy.shape[2:], w.shape[2:]
    axes = zip(out, stride, begin, dilation, kernel, size, strict=True)
    (rows, row_in), (cols, col_in) = (_reach(*axis) for axis in axes)
    for g, (dyg, wg) in enumerate(
        zip(np.split(dy.astype(np.float64), groups, 1), np.split(w, groups), strict=True)
    ):
        for a, b in np.ndindex(kernel):
            part = np.einsum("noij,oc->ncij", dyg, wg[:, :, a, b].astype(np.float64))
            i, j = np.flatnonzero(row_in[:, a]), np.flatnonzero(col_in[:, b])
            place = dx[:, g * ci : (g + 1) * ci]
            place[:, :, rows[i, a][:, None], cols[j, b]] += part[:, :, i[:, None], j]
    return dx


def weight_gradient(x, dy, kernel, stride=(1, 1), begin=(0, 0), dilation=(1, 1), groups=1):
    """dw[o, c, a, b] = Σ x[n, c, i·sh - pt + a·dh, j·sw - pl + b·dw] · dy[n, o, i, j]"""
    met = np.split(patches(x, kernel, dy.shape[2:], stride, begin, dilation), groups, axis=1)
    parts = zip(met, np.split(dy.astype(np.float64), groups, axis=1), strict=True)
    return np.concatenate([np.einsum("nciajb,noij->ocab", p, d, optimize=True) for p, d in parts])


def assert_sums(got, want, of_magnitudes, depth):
    """A float32 sum of `depth` products: |error| ≤ (depth + 2) · 2⁻²⁴ · Σ |x · w|, in any order.

    `of_magnitudes` is the same definition applied to |x| and |w|.
    """
    bound = (depth + 2) * UNIT_ROUNDOFF * of_magnitudes
    worst = np.abs(got - want) - bound
    assert got.shape == want.shape
    assert (worst <= 0).all(), f"beyond the bound by {worst.max()}, of {np.abs(want).max()}"


def integers(rng, *shape, most=4):
    """Small whole numbers: their sums are exact in float32, so results can be compared exactly."""
    return rng.integers(-most, most + 1, shape).astype(np.float32)


def nhwc(x):
    """As the kernels read images."""
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1))


def nchw(x):
    """The inverse of `nhwc`."""
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2))


def run_steps(steps, memory, parts=PARTS):
    """Run steps of a plan on copies of `memory` (buffer id → array) and return what is written.

    All buffers touch guard pages, at either end, and so does the scratch memory: exactly
    `step.scratch` elements for each part, full of NaN. For each number of parts the bits must be
    the same, and nothing that a step only reads may change. What no step writes stays NaN.
    """
    written = {b for step in steps for b in step.writes}
    results = []
    for place in (guarded, guarded_front):
        for count in parts:
            placed = {i: place(array) for i, array in memory.items()}
            for buffer in written:
                placed[buffer][...] = np.nan
            for step in steps:
                scratch = place(np.full(step.scratch * count, np.nan, np.float32))
                arrays = [scratch if b == SCRATCH else placed[b] for b in step.buffers]
                call(step.spec, arrays, step.sizes, count)
            for i, array in memory.items():
                assert i in written or array.tobytes() == placed[i].tobytes(), f"{i} was changed"
            results.append({i: placed[i].copy() for i in written})
    for other in results[1:]:
        for i in written:
            assert other[i].tobytes() == results[0][i].tobytes(), "parts or place change the bits"
    return results[0]
