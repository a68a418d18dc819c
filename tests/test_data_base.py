"""Data sets in memory, subsets, and the stratified split."""

import numpy as np
import pytest

from striate.data import ArrayDataset, Dataset, Recipe, split_stratified
from striate.errors import ArgumentError, DataError


@pytest.fixture
def dataset():
    pictures = np.arange(10 * 4 * 3, dtype=np.uint8).reshape(10, 4, 3)
    return ArrayDataset(pictures, np.arange(10) % 3, ["a", "b", "c"])


def test_load_gives_inputs_and_labels(dataset):
    x, y = dataset.load([7, 2])
    assert (x.dtype, x.shape, y.dtype) == (np.float32, (2, 1, 4, 3), np.int64)
    np.testing.assert_array_equal(y, [1, 2])
    np.testing.assert_allclose(x[1, 0], np.arange(24, 36).reshape(4, 3) / 255.0, rtol=1e-6)
    assert len(dataset) == 10


def test_raw_is_a_copy_of_the_bytes(dataset):
    raw = dataset.raw([0])
    assert raw.dtype == np.uint8
    raw[:] = 99
    assert dataset.raw([0])[0, 0, 0, 0] == 0
    assert not dataset.labels.flags.writeable


def test_a_subset_keeps_classes_and_follows_the_recipe(dataset):
    part = dataset.subset([9, 3, 3]).subset([2, 0])
    np.testing.assert_array_equal(part.labels, [0, 0])
    np.testing.assert_array_equal(part.raw([0, 1]), dataset.raw([3, 9]))
    assert part.classes == ("a", "b", "c")
    moved = part.with_recipe(Recipe(1, (4, 3), mean=(1.0,)))
    np.testing.assert_array_equal(moved.load([0])[0], dataset.load([3])[0] - np.float32(1))


def test_another_recipe_may_change_size_and_channels(dataset):
    larger = dataset.with_recipe(Recipe(3, (8, 6), "stretch"))
    assert larger.load([0, 1])[0].shape == (2, 3, 8, 6)
    np.testing.assert_array_equal(larger.labels, dataset.labels)


def test_one_pictures_bits_do_not_depend_on_the_batch(dataset):
    sized = dataset.with_recipe(Recipe(1, (7, 7), "stretch", (0.3,), (0.7,)))
    whole, _ = sized.load(np.arange(10))
    for i in range(10):
        assert sized.load([i])[0].tobytes() == whole[i : i + 1].tobytes()


@pytest.mark.parametrize("indices", [[10], [-1], [[0]], [0.5], 3])
def test_bad_indices_are_refused(dataset, indices):
    with pytest.raises(ArgumentError, match="indices"):
        dataset.load(indices)


@pytest.mark.parametrize(
    ("pictures", "labels"),
    [
        (np.zeros((2, 4), np.uint8), [0, 1]),
        (np.zeros((2, 4, 4, 2), np.uint8), [0, 1]),
        (np.zeros((2, 4, 4), np.float64), [0, 1]),
        (np.zeros((2, 4, 4), np.uint8), [0]),
        (np.zeros((2, 4, 4), np.uint8), [0.0, 1.0]),
        (np.zeros((2, 4, 4), np.uint8), [0, 2]),
        (np.zeros((2, 4, 4), np.uint8), [0, -1]),
    ],
)
def test_what_does_not_fit_together_is_refused(pictures, labels):
    with pytest.raises(DataError):
        ArrayDataset(pictures, labels, ["a", "b"])


def test_the_interface_can_be_implemented_elsewhere():
    class Constant(Dataset):
        classes = ("a",)
        labels = np.zeros(3, np.int64)
        recipe = Recipe(1, (2, 2))

        def raw(self, indices):
            return np.zeros((len(indices), 2, 2, 1), np.uint8)

    assert Constant().subset([1, 2]).load([0])[0].shape == (1, 1, 2, 2)


# ------------------------------------------------------------------------ split


def test_every_class_has_its_share_on_both_sides():
    labels = np.repeat([0, 1, 2, 3], [100, 10, 2, 1])
    np.random.default_rng(0).shuffle(labels)
    train, val = split_stratified(labels, 0.2, seed=5)
    np.testing.assert_array_equal(np.bincount(labels[val], minlength=4), [20, 2, 1, 0])
    np.testing.assert_array_equal(np.bincount(labels[train], minlength=4), [80, 8, 1, 1])
    np.testing.assert_array_equal(np.sort(np.concatenate([train, val])), np.arange(113))
    assert (np.diff(train) > 0).all()
    assert (np.diff(val) > 0).all()


@pytest.mark.parametrize("fraction", [1e-9, 0.5, 1 - 1e-9])
def test_two_pictures_are_always_divided(fraction):
    train, val = split_stratified([0, 0, 1, 1, 1], fraction, seed=0)
    assert set(np.array([0, 0, 1, 1, 1])[train]) == {0, 1}
    assert set(np.array([0, 0, 1, 1, 1])[val]) == {0, 1}


def test_the_split_follows_the_seed_and_nothing_else():
    labels = np.arange(200) % 4
    _, one = split_stratified(labels, 0.25, seed=1)
    _, again = split_stratified(labels, 0.25, seed=1)
    _, other = split_stratified(labels, 0.25, seed=2)
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)
    # a class more, at the end, moves no picture of the others
    _, wider = split_stratified(np.concatenate([labels, [9] * 40]), 0.25, seed=1)
    np.testing.assert_array_equal(wider[wider < 200], one)


def test_a_known_split_stays_the_same_with_every_release():
    _, val = split_stratified([0] * 20 + [1] * 10, 0.2, seed=0)
    assert val.tolist() == [0, 1, 2, 16, 25, 28]


@pytest.mark.parametrize("fraction", [0, 1, -0.1, float("nan")])
def test_fractions_out_of_range_are_refused(fraction):
    with pytest.raises(ArgumentError, match="fraction"):
        split_stratified([0, 1], fraction, seed=0)


@pytest.mark.parametrize("seed", [-1, 1.5, True, None])
def test_seeds_out_of_range_are_refused(seed):
    with pytest.raises(ArgumentError, match="seed"):
        split_stratified([0, 1], 0.5, seed=seed)


@pytest.mark.parametrize("labels", [[-1, 0], [[0]], [0.5]])
def test_labels_that_are_none_are_refused(labels):
    with pytest.raises(ArgumentError, match="labels"):
        split_stratified(labels, 0.5, seed=0)
