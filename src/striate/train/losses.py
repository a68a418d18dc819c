"""Losses by name, as functions of symbols: `loss(output, target)` gives one number, shape ()."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

import striate.functional as F
from striate.errors import ArgumentError, DTypeError
from striate.graph import Value

Array = np.ndarray[Any, Any]
Loss: TypeAlias = "str | Callable[[Any, Any], Value]"

NAMES = ("cross_entropy", "mse", "bce")


def loss_function(
    loss: Loss, label_smoothing: float = 0.0, class_weights: npt.ArrayLike | None = None
) -> Callable[[Any, Any], Value]:
    """The function for `loss`.

    Args:
        loss: "cross_entropy" (scores (n, k); labels (n,) or probabilities (n, k)), "mse", "bce"
            (logits and targets 0 … 1 of one shape), or a function, which is given back.
        label_smoothing: for "cross_entropy", as in PyTorch.
        class_weights: for "cross_entropy": (k,), as PyTorch's `weight`.

    Raises: ArgumentError for another name, or for these two with another loss.
    """
    if loss == "cross_entropy":
        weight = None if class_weights is None else np.asarray(class_weights, np.float32)
        return lambda output, target: F.cross_entropy(
            output, target, weight=weight, label_smoothing=label_smoothing
        )
    if label_smoothing or class_weights is not None:
        raise ArgumentError("label_smoothing and class_weights belong to loss='cross_entropy'")
    if callable(loss):
        return loss
    if loss == "mse":
        return F.mse_loss
    if loss == "bce":
        return F.binary_cross_entropy_with_logits
    raise ArgumentError(f"no loss is named {loss!r}; there are {', '.join(NAMES)}, or a function")


def as_target(y: npt.ArrayLike) -> Array:
    """Targets as int32 (from any integers) or float32; bool counts as 0.0 and 1.0.

    Raises DTypeError for anything else, and for labels that int32 cannot hold.
    """
    array = np.asarray(y)
    if array.dtype.kind in "iu":
        if array.size and not -(2**31) <= int(array.min()) <= int(array.max()) < 2**31:
            raise DTypeError(f"a label does not fit int32: {array.min()} … {array.max()}")
        return np.asarray(array, np.int32, order="C")
    if array.dtype.kind not in "bf":
        raise DTypeError(f"targets must be numbers, got dtype {array.dtype}")
    return np.asarray(array, np.float32, order="C")
