"""Linear maps along any axis of a value with any number of axes."""

from __future__ import annotations

import math

from striate.graph import Value
from striate.graph.ops.axismap import AxisMap, Rule


def along(x: Value, axis: int, rule: Rule) -> Value:
    """The rule along one axis; rows and columns of images stay images."""
    if x.ndim == 4 and axis >= 2:
        return AxisMap(axis, rule)(x)
    outer, inner = math.prod(x.shape[:axis]), math.prod(x.shape[axis + 1 :])
    y = AxisMap(2, rule)(x.reshape(outer, 1, rule.in_size, inner))
    return y.reshape(*x.shape[:axis], rule.out_size, *x.shape[axis + 1 :])
