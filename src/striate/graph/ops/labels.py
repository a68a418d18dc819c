"""Class labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from striate.errors import DTypeError
from striate.graph.value import Array, Node, Op, TensorType, Value


@dataclass(frozen=True)
class OneHot(Op):
    """i32 labels (N, …) as f32 (N, classes, …): 1 at the label, else 0.

    A label outside 0 … classes - 1 gives zeros everywhere.
    """

    classes: int

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        """The class axis is put second."""
        (labels,) = inputs
        if labels.dtype != "i32" or not labels.shape:
            raise DTypeError(f"labels must be i32 with a batch axis, got {labels}")
        return (TensorType((labels.shape[0], self.classes, *labels.shape[1:])),)

    def numpy(self, *arrays: Array) -> tuple[Array, ...]:
        """Compare with every class."""
        (labels,) = arrays
        classes = np.arange(self.classes).reshape(1, -1, *(1,) * (labels.ndim - 1))
        return ((labels[:, None] == classes).astype(np.float32),)

    def grad(self, node: Node, *g: Value | None) -> tuple[Value | None, ...]:
        """None."""
        return (None,)
