"""The classifier with scikit-learn's face."""

import pickle
import sys

import numpy as np
import pytest

import striate as st

pytest.importorskip("sklearn")

from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import check_estimator

from striate.sklearn import CNNClassifier


def stripes(n, side=8, channels=None, seed=0):
    """Noise with a bright row ("across") or column ("down")."""
    rng = np.random.default_rng(seed)
    shape = (n, side, side) if channels is None else (n, channels, side, side)
    X, y = rng.standard_normal(shape), rng.integers(0, 2, n)
    for image, label in zip(X, y, strict=True):
        at = rng.integers(side)
        image[(..., slice(None), at) if label else (..., at, slice(None))] += 3
    return X, np.array(["across", "down"])[y]


def small(**options):
    return CNNClassifier(**{"epochs": 4, "batch_size": 16, **options})


@pytest.mark.parametrize("channels", [None, 1, 3])
def test_images_are_learnt(channels):
    X, y = stripes(160, channels=channels)
    found = small().fit(X[:120], y[:120])
    assert list(found.classes_) == ["across", "down"]
    assert found.n_features_in_ == 64 * (channels or 1)
    assert found.score(X[120:], y[120:]) > 0.9
    proba = found.predict_proba(X[120:])
    np.testing.assert_allclose(proba.sum(1), 1)
    assert (found.classes_[proba.argmax(1)] == found.predict(X[120:])).all()
    assert len(found.history_["train_loss"]) == 4


def test_the_same_images_in_any_form_and_scale_give_the_same_net():
    X, y = stripes(40)
    expected = small(epochs=1).fit(X, y).predict_proba(X)
    flat = X.reshape(40, 64)
    for images, options in (
        (X[:, None], {}),
        (flat, {}),
        (flat, {"image_shape": (8, 8)}),
        (flat, {"image_shape": (1, 8, 8)}),
    ):
        found = small(epochs=1, **options).fit(images, y)
        np.testing.assert_array_equal(found.predict_proba(images), expected)
        np.testing.assert_array_equal(found.predict_proba(flat), expected)
    scaled = small(epochs=1).fit(X * 64 + 128, y)
    np.testing.assert_allclose(scaled.predict_proba(X * 64 + 128), expected, atol=1e-3)


def test_a_seed_and_threads():
    X, y = stripes(40)
    first = small(epochs=1).fit(X, y).predict_proba(X)
    before = st.get_num_threads()
    try:
        st.set_num_threads(1)
        np.testing.assert_array_equal(small(epochs=1).fit(X, y).predict_proba(X), first)
    finally:
        st.set_num_threads(before)
    assert (small(epochs=1, seed=1).fit(X, y).predict_proba(X) != first).any()


def test_partial_fit_goes_on_after_pickle():
    X, y = stripes(80)
    whole = small()
    with pytest.raises(st.ArgumentError, match="classes"):
        whole.partial_fit(X, y)
    for _ in range(3):
        whole.partial_fit(X, y, classes=["across", "down"])
    broken = small().partial_fit(X, y, classes=["across", "down"])
    for _ in range(2):
        broken = pickle.loads(pickle.dumps(broken))
        broken.partial_fit(X, y)
    np.testing.assert_array_equal(broken.predict_proba(X), whole.predict_proba(X))
    with pytest.raises(st.ArgumentError, match="'up'"):
        broken.partial_fit(X[:1], np.array(["up"]))


def test_it_works_inside_scikit_learn():
    X, y = stripes(80)
    flat = X.reshape(80, -1)
    pipeline = make_pipeline(FunctionTransformer(np.abs), small(epochs=2))
    assert cross_val_score(pipeline, flat, y, cv=3).shape == (3,)
    search = GridSearchCV(small(), {"lr": [1e-6, 3e-3], "batch_size": [16]}, cv=2).fit(X, y)
    assert search.best_params_ == {"lr": 3e-3, "batch_size": 16}
    copy = clone(search.best_estimator_)
    assert not hasattr(copy, "net_")
    assert copy.get_params() == search.best_estimator_.get_params()
    assert copy.set_params(seed=3).seed == 3


def test_other_models_and_parameters():
    X, y = stripes(16, channels=1, side=16)
    options = {"optimizer": "sgd", "schedule": "onecycle", "lr": 0.01, "label_smoothing": 0.1}
    found = small(model="resnet18", epochs=1, **options).fit(X, y)
    assert found.net_.arch["arguments"]["stem"] == "32"
    assert found.predict(X).shape == (16,)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": "lenet-bm"}, "did you mean"),
        ({"optimizer": "sdg"}, "optimizer='sdg'"),
        ({"schedule": "linear"}, "schedule='linear'"),
        ({"image_shape": (8, 9)}, "72 numbers, X has 64"),
        ({"image_shape": (4, 16)}, "square"),
        ({"image_shape": (64,)}, r"must be \(h, w\)"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_wrong_parameters(options, words):
    X, y = stripes(8)
    with pytest.raises((st.ArgumentError, st.ShapeError), match=words):
        small(**options).fit(X.reshape(8, -1), y)


def test_wrong_images():
    X, y = stripes(16)
    found = small(epochs=1).fit(X, y)
    with pytest.raises(st.ShapeError, match=r"fitted on \(1, 8, 8\)"):
        found.predict(np.zeros((2, 9, 9)))
    with pytest.raises(ValueError, match="expecting 64 features"):
        found.predict(np.zeros((2, 63)))
    with pytest.raises(st.ShapeError, match=r"\(n, h, w\)"):
        found.fit(np.zeros((2, 1, 1, 8, 8)), [0, 1])
    with pytest.raises(ValueError, match="NaN"):
        found.predict(np.full((2, 8, 8), np.nan))


@pytest.mark.slow
def test_scikit_learns_own_checks():
    """All of them; none is expected to fail."""
    classifier = CNNClassifier(epochs=8, lr=3e-3)
    results = check_estimator(classifier, on_skip=None, on_fail=None)
    failed = {r["check_name"]: r["exception"] for r in results if r["status"] == "failed"}
    assert failed == {}
    assert len(results) > 40


def test_without_scikit_learn(monkeypatch):
    monkeypatch.delitem(sys.modules, "striate.sklearn")
    monkeypatch.delattr(st, "sklearn")
    monkeypatch.setitem(sys.modules, "sklearn.base", None)
    with pytest.raises(ImportError, match=r"striate\[sklearn\]"):
        st.sklearn.CNNClassifier  # noqa: B018
