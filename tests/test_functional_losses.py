"""Losses against PyTorch: values and gradients for every combination of options."""

from itertools import product

import numpy as np
import pytest

import striate.functional as F
from striate.errors import ArgumentError, DTypeError, ShapeError
from tests.symbols import loss_weights, run

torch = pytest.importorskip("torch")
T = torch.nn.functional

RNG = np.random.default_rng(0)
REDUCTIONS = ("mean", "sum", "none")


def compare(ours, theirs, x, *others):
    """Value and gradient for x of ours(x, *others) and theirs."""
    tx = torch.tensor(x, requires_grad=True)
    expected = theirs(tx, *(torch.tensor(o) for o in others))
    value = ours(x, *others)
    assert value.dtype == np.float32
    assert value.shape == tuple(expected.shape)
    np.testing.assert_allclose(value, expected.detach(), rtol=1e-4, atol=1e-5)
    _, (dx,) = run(ours, x, *others, wrt=(0,))
    (weights,) = loss_weights([value.shape])
    (reference,) = torch.autograd.grad(expected, tx, torch.tensor(weights).to(expected.dtype))
    np.testing.assert_allclose(dx, reference, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ignore_index", [-100, 2])
def test_cross_entropy_of_labels(reduction, smoothing, weighted, ignore_index):
    weight = RNG.uniform(0.5, 2, 5).astype(np.float32) if weighted else None
    options = {
        "reduction": reduction,
        "label_smoothing": smoothing,
        "ignore_index": ignore_index,
    }
    for shape in ((8, 5), (4, 5, 3), (2, 5, 3, 4)):
        x = RNG.normal(0, 3, shape).astype(np.float32)
        target = RNG.integers(0, 5, (shape[0], *shape[2:]))
        target.flat[1] = ignore_index
        compare(
            lambda v, t: F.cross_entropy(v, t, weight, **options),
            lambda v, t: T.cross_entropy(
                v, t, None if weight is None else torch.tensor(weight), **options
            ),
            x,
            target,
        )


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy_of_probabilities(reduction, smoothing, weighted):
    weight = RNG.uniform(0.5, 2, 5).astype(np.float32) if weighted else None
    options = {"reduction": reduction, "label_smoothing": smoothing}
    for shape in ((8, 5), (2, 5, 3)):
        x = RNG.normal(0, 3, shape).astype(np.float32)
        target = RNG.dirichlet(np.ones(5), (shape[0], *shape[2:])).astype(np.float32)
        compare(
            lambda v, t: F.cross_entropy(v, t, weight, **options),
            lambda v, t: T.cross_entropy(
                v, t, None if weight is None else torch.tensor(weight), **options
            ),
            x,
            np.ascontiguousarray(np.moveaxis(target, -1, 1)),
        )


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_nll_loss(reduction):
    weight = RNG.uniform(0.5, 2, 4).astype(np.float32)
    logp = np.log(RNG.dirichlet(np.ones(4), 6)).astype(np.float32)
    target = np.array([0, 1, 2, 3, -100, 1])
    for w in (None, weight):
        compare(
            lambda v, t, w=w: F.nll_loss(v, t, w, reduction=reduction),
            lambda v, t, w=w: T.nll_loss(
                v, t, None if w is None else torch.tensor(w), reduction=reduction
            ),
            logp,
            target,
        )


def test_cross_entropy_of_extreme_scores():
    x = np.array([[1000.0, -1000.0, 0.0], [-np.inf, 1.0, 2.0]], np.float32)
    loss = F.cross_entropy(x, [0, 2], reduction="none")
    np.testing.assert_allclose(loss, [0, np.log1p(np.exp(-1))], rtol=1e-5)


def test_all_labels_ignored_gives_nan_as_in_torch():
    assert np.isnan(F.cross_entropy(np.ones((2, 3)), [-100, -100]))
    assert F.cross_entropy(np.ones((2, 3)), [-100, -100], reduction="sum") == 0


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.uint64])
def test_labels_of_any_integer_dtype(dtype):
    x = RNG.normal(0, 1, (3, 4)).astype(np.float32)
    expected = F.cross_entropy(x, np.array([1, 2, 3], np.int32))
    assert F.cross_entropy(x, np.array([1, 2, 3], dtype)) == expected


@pytest.mark.parametrize("name", ["mse_loss", "l1_loss"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_regression_losses(name, reduction):
    x, target = (
        RNG.normal(0, 1, (2, 3, 4, 5)).astype(np.float32),
        np.zeros((2, 3, 4, 5), np.float32),
    )
    target[:] = RNG.normal(0, 1, target.shape)
    target.flat[0] = x.flat[0]
    compare(
        lambda v, t: getattr(F, name)(v, t, reduction),
        lambda v, t: getattr(T, name)(v, t, reduction=reduction),
        x,
        target,
    )


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_binary_cross_entropy(reduction):
    x = RNG.uniform(0.01, 0.99, (4, 3)).astype(np.float32)
    target = RNG.uniform(0, 1, (4, 3)).astype(np.float32)
    for weight in (None, RNG.uniform(0.5, 2, (4, 3)).astype(np.float32)):
        tw = None if weight is None else torch.tensor(weight)
        compare(
            lambda v, t, w=weight: F.binary_cross_entropy(v, t, w, reduction),
            lambda v, t, w=tw: T.binary_cross_entropy(v, t, w, reduction=reduction),
            x,
            target,
        )


def test_binary_cross_entropy_at_the_ends_is_at_most_100():
    x = np.array([0, 1, 0, 1], np.float32)
    target = np.array([0, 1, 1, 0], np.float32)
    np.testing.assert_array_equal(
        F.binary_cross_entropy(x, target, reduction="none"), [0, 0, 100, 100]
    )
    _, (dx,) = run(F.binary_cross_entropy, x, target, wrt=(0,))
    assert np.isfinite(dx).all()
    assert np.isnan(F.binary_cross_entropy(np.array([np.nan]), np.array([1.0])))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_binary_cross_entropy_with_logits(reduction):
    x = np.array([[-100, -1, 0.0], [-0.0, 0.5, 100], [3, -3, 0]], np.float32)
    target = RNG.uniform(0, 1, (3, 3)).astype(np.float32)
    weight = RNG.uniform(0.5, 2, (3, 3)).astype(np.float32)
    positive = RNG.uniform(0.5, 2, 3).astype(np.float32)
    for w, p in product((None, weight), (None, positive)):
        compare(
            lambda v, t, w=w, p=p: F.binary_cross_entropy_with_logits(
                v, t, w, reduction=reduction, pos_weight=p
            ),
            lambda v, t, w=w, p=p: T.binary_cross_entropy_with_logits(
                v,
                t,
                None if w is None else torch.tensor(w),
                pos_weight=None if p is None else torch.tensor(p),
                reduction=reduction,
            ),
            x,
            target,
        )


SCORES = np.ones((2, 3))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: F.cross_entropy(SCORES, [0, 3]), ArgumentError, "label 3, but there are 3"),
        (lambda: F.cross_entropy(SCORES, [0, -1]), ArgumentError, "label -1"),
        (lambda: F.nll_loss(SCORES, [0, 3]), ArgumentError, "label 3"),
        (lambda: F.nll_loss(SCORES, [0.0, 1.0]), DTypeError, "integer labels"),
        (lambda: F.cross_entropy(SCORES, [0.0, 1.0]), ShapeError, "probabilities"),
        (lambda: F.cross_entropy(SCORES, [0, 1, 2]), ShapeError, "target"),
        (lambda: F.cross_entropy(np.ones(3), 1), ShapeError, r"x\[None\]"),
        (lambda: F.cross_entropy(SCORES, [0, 1], np.ones(2)), ShapeError, "weight"),
        (lambda: F.cross_entropy(SCORES, [0, 1], reduction="avg"), ArgumentError, "reduction"),
        (lambda: F.cross_entropy(SCORES, [0, 1], label_smoothing=2), ArgumentError, "smoothing"),
        (lambda: F.cross_entropy(SCORES, [0, 2**40]), DTypeError, "int32"),
        (lambda: F.mse_loss(SCORES, SCORES[0]), ShapeError, "shape of x"),
        (lambda: F.l1_loss(SCORES, SCORES, "avg"), ArgumentError, "reduction"),
        (lambda: F.binary_cross_entropy(SCORES * 2, SCORES), ArgumentError, "with_logits"),
    ],
)
def test_wrong_arguments_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
