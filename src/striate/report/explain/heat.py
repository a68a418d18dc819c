"""Where the net looks: Grad-CAM, and how far a grey patch lowers a class's probability."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from striate import engine
from striate.errors import UnsupportedError
from striate.graph import Graph
from striate.graph.grad import gradients
from striate.graph.ops.leaf import Input
from striate.graph.symbol import TensorType
from striate.report.explain.traced import Traced

Array = np.ndarray[Any, Any]

PATCHES_ACROSS = 7  # a patch is a seventh of the picture's side, and moves by half of that


class GradCam(NamedTuple):
    """`maps` (classes, h, w) of the layer `title`, or why there are none."""

    title: str
    maps: Array | None
    why: str = ""


def probabilities(scores: Array, *, ready: bool) -> Array:
    """Of (n, classes) scores by softmax in float64; as they are if they are probabilities."""
    wide = scores.astype(np.float64)
    if ready:
        return wide
    # p_i = exp(s_i − max s) / Σ_j exp(s_j − max s)
    weights = np.exp(wide - wide.max(axis=1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def gives_probabilities(scores: Array) -> bool:
    """Whether a net ends in a softmax: its outputs are not negative and add up to 1."""
    return bool((scores >= 0).all() and abs(float(scores.sum(dtype=np.float64)) - 1) < 1e-4)


def grad_cam(traced: Traced, x: Array, classes: Sequence[int]) -> GradCam:
    """Grad-CAM of the last layer that has more than one pixel (Selvaraju et al., 2017).

        α_c = mean over i, j of ∂score / ∂A[c, i, j];   cam[i, j] = max(0, Σ_c α_c · A[c, i, j])

    A is the layer's output, and the score that of the class before a softmax of ours.
    """
    wide = [v for v in traced.layers if v.output.ndim == 4 and min(v.output.shape[2:]) > 1]
    if not wide:
        return GradCam("", None, "no layer of this net has more than one pixel")
    layer = max(wide, key=lambda v: traced.depth[v.output])
    chosen = Input("class", TensorType(traced.output.shape))()
    try:
        (slope,) = gradients((traced.output * chosen).sum(), [layer.output])
    except UnsupportedError as error:
        return GradCam(layer.title, None, str(error))
    if slope is None:
        return GradCam(layer.title, None, "the scores do not depend on it")
    program = engine.build(Graph((traced.image, chosen), (layer.output, slope)))
    maps = []
    for index in classes:
        one = np.zeros(traced.output.shape, np.float32)
        one[0, index] = 1
        a, g = (array[0].astype(np.float64) for array in program(x, one))
        maps.append(np.maximum((g.mean((1, 2))[:, None, None] * a).sum(0), 0))
    return GradCam(layer.title, np.stack(maps))


class Occlusion(NamedTuple):
    """How far a patch lowers a probability.

    Attributes:
        maps: (classes, rows, columns) of p − p with the patch.
        rows, cols: first row or column of each patch, which may be shorter at the border.
        size: (height, width) of a patch.
    """

    maps: Array
    rows: list[int]
    cols: list[int]
    size: tuple[int, int]


def occlude(
    scores: Callable[[Array], Array], x: Array, grey: Array, classes: Sequence[int], *, ready: bool
) -> Occlusion:
    """Cover the picture x (1, C, H, W) with a patch of the colour `grey` (C,), place by place."""
    h, w = x.shape[2:]
    size = (max(1, -(-h // PATCHES_ACROSS)), max(1, -(-w // PATCHES_ACROSS)))
    starts = [_starts(side, patch) for side, patch in zip((h, w), size, strict=True)]
    places = [(i, j) for i in starts[0] for j in starts[1]]
    whole = probabilities(scores(x), ready=ready)[0]
    drops = []
    for i, j in places:
        covered = x.copy()
        covered[0, :, i : i + size[0], j : j + size[1]] = grey[:, None, None]
        drops.append(whole - probabilities(scores(covered), ready=ready)[0])
    table = np.stack(drops)[:, list(classes)].T
    maps = table.reshape(len(classes), len(starts[0]), len(starts[1]))
    return Occlusion(maps, starts[0], starts[1], size)


def _starts(side: int, patch: int) -> list[int]:
    step = max(1, patch // 2)
    return [*range(0, side - patch, step), side - patch]
