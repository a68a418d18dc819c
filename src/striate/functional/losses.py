"""Losses, by PyTorch's rules.

Arrays of other dtypes than float32 are converted to it; `reduction` is "mean", "sum" or "none".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from striate.errors import ArgumentError, DTypeError, ShapeError
from striate.functional._dispatch import Tensor, functional
from striate.functional._images import choice
from striate.functional.activation import log_softmax
from striate.graph import Value
from striate.graph.ops.eltwise import m, select
from striate.graph.ops.labels import OneHot
from striate.graph.value import Array


def check_labels(labels: Array, classes: int, ignore_index: int = -100) -> None:
    """Raise ArgumentError for a label outside 0 … classes - 1 that is not `ignore_index`."""
    wrong = ((labels < 0) | (labels >= classes)) & (labels != ignore_index)
    if np.any(wrong):
        raise ArgumentError(
            f"target holds the label {labels[wrong].flat[0]}, but there are {classes} classes "
            f"(0 … {classes - 1}; ignore_index is {ignore_index})"
        )


def _check_target(arrays: Mapping[str, Array], options: Mapping[str, Any]) -> None:
    x, target = arrays["x"], arrays["target"]
    if target.dtype.kind == "i" and x.ndim >= 2:
        check_labels(target, x.shape[1], options.get("ignore_index", -100))


@functional("x", "target", "weight", integers=("target",), check=_check_target)
def cross_entropy(
    x: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Cross-entropy between scores x (N, C, …) and classes.

    Args:
        x: scores before softmax, classes on axis 1.
        target: integer labels (N, …), or class probabilities of x's shape (any float dtype).
        weight: (C,), a factor for each class.
        ignore_index: label of elements that count for nothing (with labels only).
        reduction: "mean" is weighted: divided by the sum of the weights of the labels that
            count, or with probabilities by N · ….
        label_smoothing: ε in 0 … 1: the target becomes (1 - ε) · target + ε / C.

    Raises ShapeError, DTypeError, and ArgumentError (on arrays also for a label out of range;
    inside `forward` such a label counts as ignored).
    """
    if not 0 <= label_smoothing <= 1:
        raise ArgumentError(f"label_smoothing must lie between 0 and 1, got {label_smoothing}")
    _check_scores("cross_entropy", x)
    logp = log_softmax(x, 1)
    if target.dtype == "f32":
        return _soft_cross_entropy(logp, target, weight, reduction, label_smoothing)
    labels = _labels(target, x.shape, weight, ignore_index)
    loss = _nll(logp, labels, reduction)
    if label_smoothing == 0:
        return loss
    # The uniform part, -Σ_c w_c · logp_c, over the elements that count, averaged as the other.
    logw = logp if weight is None else logp * _per_class(weight, x)
    smooth = select(labels.counts, -logw.sum(1, keepdims=True), 0.0)
    uniform = _reduce_labels(smooth, labels, reduction)
    return loss * (1 - label_smoothing) + uniform * (label_smoothing / x.shape[1])


def _soft_cross_entropy(
    logp: Value, target: Value, weight: Value | None, reduction: str, smoothing: float
) -> Value:
    if target.shape != logp.shape:
        raise ShapeError(
            f"cross_entropy: probabilities must have the shape of the scores, {logp.shape}, got "
            f"{target.shape} (labels must be integers)"
        )
    if smoothing:
        target = target * (1 - smoothing) + smoothing / logp.shape[1]
    terms = logp * target
    if weight is not None:
        terms = terms * _per_class(weight, logp)
    loss = -terms.sum(1)
    return _reduce("cross_entropy", loss, reduction)


@functional("x", "target", "weight", integers=("target",), check=_check_target)
def nll_loss(
    x: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """-x at the label, for log-probabilities x (N, C, …) and integer labels (N, …).

    `weight`, `ignore_index`, `reduction` and errors as in `cross_entropy`.
    """
    _check_scores("nll_loss", x)
    return _nll(x, _labels(target, x.shape, weight, ignore_index), reduction)


def _nll(logp: Value, labels: _Labels, reduction: str) -> Value:
    # Chosen, not multiplied: a log-probability of -∞ of another class does not matter.
    chosen = select(labels.one_hot, logp, 0.0).sum(1, keepdims=True)
    return _reduce_labels(-(chosen * labels.weights), labels, reduction)


class _Labels(NamedTuple):
    """Labels as rows: one_hot (N, C, …); counts and weights (N, 1, …), 0 where ignored."""

    one_hot: Value
    counts: Value
    weights: Value


def _labels(
    target: Value, scores: tuple[int, ...], weight: Value | None, ignore_index: int
) -> _Labels:
    if target.dtype != "i32":
        raise DTypeError(f"target must hold integer labels, got {target.type}")
    if target.shape != (scores[0], *scores[2:]):
        raise ShapeError(
            f"target must have the shape {(scores[0], *scores[2:])} for scores of shape {scores}, "
            f"got {target.shape}"
        )
    one_hot = OneHot(scores[1])(target)
    if 0 <= ignore_index < scores[1]:
        classes = np.arange(scores[1]).reshape(1, -1, *(1,) * (len(scores) - 2))
        one_hot = one_hot * (classes != ignore_index).astype(np.float32)
    counts = one_hot.sum(1, keepdims=True)
    if weight is None:
        return _Labels(one_hot, counts, counts)
    weights = (one_hot * _per_class(weight, one_hot)).sum(1, keepdims=True)
    return _Labels(one_hot, counts, weights)


def _reduce_labels(loss: Value, labels: _Labels, reduction: str) -> Value:
    """Reduce (N, 1, …); the mean is weighted."""
    choice("cross_entropy", "reduction", reduction, ("mean", "sum", "none"))
    if reduction == "none":
        return loss.reshape(loss.shape[0], *loss.shape[2:])
    return loss.sum() / labels.weights.sum() if reduction == "mean" else loss.sum()


def _per_class(weight: Value, x: Value) -> Value:
    if weight.shape != (x.shape[1],):
        raise ShapeError(f"weight must have shape ({x.shape[1]},), got {weight.shape}")
    return weight.reshape(1, -1, *(1,) * (x.ndim - 2))


def _check_scores(function: str, x: Value) -> None:
    if x.ndim < 2:
        raise ShapeError(
            f"{function}: scores must be (N, C, …), got {x.shape}; add a batch axis with x[None]"
        )


def _reduce(function: str, loss: Value, reduction: str) -> Value:
    choice(function, "reduction", reduction, ("mean", "sum", "none"))
    if reduction == "none":
        return loss
    return loss.mean() if reduction == "mean" else loss.sum()


def _check_same(function: str, x: Value, target: Value) -> None:
    if x.shape != target.shape:
        raise ShapeError(
            f"{function}: target must have the shape of x, {x.shape}, got {target.shape}"
        )


@functional("x", "target")
def mse_loss(x: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """(x - target)². Raises ShapeError unless both have one shape."""
    _check_same("mse_loss", x, target)
    difference = x - target
    return _reduce("mse_loss", difference * difference, reduction)


@functional("x", "target")
def l1_loss(x: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """|x - target|. Raises ShapeError unless both have one shape."""
    _check_same("l1_loss", x, target)
    return _reduce("l1_loss", abs(x - target), reduction)


def _check_probabilities(arrays: Mapping[str, Array], options: Mapping[str, Any]) -> None:
    del options
    x = arrays["x"]
    if np.any((x < 0) | (x > 1)):
        raise ArgumentError(
            "binary_cross_entropy: x must hold probabilities in 0 … 1; for scores use "
            "binary_cross_entropy_with_logits"
        )


@functional("x", "target", "weight", check=_check_probabilities)
def binary_cross_entropy(
    x: Tensor, target: Tensor, weight: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """-(target · log x + (1 - target) · log(1 - x)), each logarithm at least -100.

    `weight` broadcasts. Raises ShapeError, and on arrays ArgumentError for x outside 0 … 1
    (inside `forward` that gives NaN).
    """
    _check_same("binary_cross_entropy", x, target)
    # log 0 is replaced before it is taken, so that its gradient 1 / 0 never arises.
    zero, one = m("eq", x, 0.0), m("eq", x, 1.0)
    log_x = m("max", select(zero, -100.0, m("log", select(zero, 1.0, x))), -100.0)
    log_rest = m("max", select(one, -100.0, m("log1p", -select(one, 0.0, x))), -100.0)
    loss = -(target * log_x + (1.0 - target) * log_rest)
    return _reduce("binary_cross_entropy", loss if weight is None else loss * weight, reduction)


@functional("x", "target", "weight", "pos_weight")
def binary_cross_entropy_with_logits(
    x: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """Binary cross-entropy of sigmoid(x), computed without overflow.

    (1 - t) · x + (1 + (pos_weight - 1) · t) · log(1 + exp(-x)), where log(1 + exp(-x)) =
    log1p(exp(-|x|)) + max(-x, 0). `weight` and `pos_weight` broadcast. Raises ShapeError.
    """
    _check_same("binary_cross_entropy_with_logits", x, target)
    # max shares its gradient at 0 and |x| has none there: together exactly -sigmoid(0).
    softplus = m("log1p", m("exp", -abs(x))) + m("max", -x, 0.0)
    if pos_weight is not None:
        softplus = softplus * ((pos_weight - 1.0) * target + 1.0)
    loss = (1.0 - target) * x + softplus
    if weight is not None:
        loss = loss * weight
    return _reduce("binary_cross_entropy_with_logits", loss, reduction)
