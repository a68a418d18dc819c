"""Batches: order, resuming, the last batch, the thread."""

import gc
import threading
import time

import numpy as np
import pytest

from striate.data import ArrayDataset, Augment, Dataset, Loader, Recipe
from striate.errors import ArgumentError, DataError


def numbered(count):
    """A data set whose picture i holds the number i."""
    pictures = np.zeros((count, 6, 6), np.uint8)
    pictures[:] = np.arange(count)[:, None, None]
    return ArrayDataset(pictures, np.arange(count) % 5, "abcde")


def seen(batches):
    return [np.rint(x[:, 0, 3, 3] * 255).astype(int).tolist() for x, _ in batches]


def flat(batches):
    return [number for batch in seen(batches) for number in batch]


def same(one, other):
    one, other = list(one), list(other)
    return len(one) == len(other) and all(
        a.tobytes() == b.tobytes() and p.tolist() == q.tolist()
        for (a, p), (b, q) in zip(one, other, strict=True)
    )


def loader_threads():
    return [thread for thread in threading.enumerate() if thread.name == "striate-loader"]


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    gc.collect()
    assert loader_threads() == []


def test_without_shuffling_the_order_is_that_of_the_data_set():
    loader = Loader(numbered(10), 4)
    assert seen(loader.epoch(0)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert len(loader) == 3
    x, y = next(loader.epoch(3))
    assert (x.dtype, x.shape, y.dtype) == (np.float32, (4, 1, 6, 6), np.int64)
    np.testing.assert_array_equal(y, [0, 1, 2, 3])


def test_shuffling_shows_every_picture_once_and_differs_by_epoch_and_seed():
    loader = Loader(numbered(50), 8, shuffle=True, seed=1)
    first = flat(loader.epoch(0))
    assert sorted(first) == list(range(50))
    assert first != list(range(50))
    assert first == flat(loader.epoch(0))
    assert first != flat(loader.epoch(1))
    assert first != flat(Loader(numbered(50), 8, shuffle=True, seed=2).epoch(0))


def test_a_known_order_stays_the_same_with_every_release():
    order = Loader(numbered(12), 4, shuffle=True, seed=7).order(3)
    assert order.tolist() == [11, 10, 3, 7, 1, 2, 9, 8, 6, 5, 4, 0]


@pytest.mark.parametrize("start", [0, 1, 3, 5, 6])
@pytest.mark.parametrize("prefetch", [0, 2])
def test_resuming_within_an_epoch_gives_the_batches_that_were_left(start, prefetch):
    dataset = numbered(43)
    augment = Augment.parse("crop=2,flip,rotate=10,brightness=0.2")
    options = {"shuffle": True, "seed": 3, "augment": augment}
    whole = list(Loader(dataset, 8, **options).epoch(4))
    assert len(whole) == 6
    resumed = Loader(dataset, 8, **options, prefetch=prefetch).epoch(4, start_batch=start)
    assert same(resumed, whole[start:])


def test_augmentation_does_not_depend_on_the_batch_size():
    dataset = numbered(30)
    options = {"shuffle": True, "seed": 3, "augment": Augment.parse("strong")}

    def by_batch_size(size):
        return np.concatenate([x for x, _ in Loader(dataset, size, **options).epoch(1)])

    assert by_batch_size(4).tobytes() == by_batch_size(30).tobytes()


def test_augmentation_changes_by_epoch_and_seed():
    dataset = numbered(20)

    def bits(seed, epoch):
        loader = Loader(dataset, 20, seed=seed, augment=Augment.parse("brightness=0.5"))
        return next(loader.epoch(epoch))[0].tobytes()

    assert len({bits(0, 0), bits(0, 1), bits(1, 0), bits(1, 1)}) == 4


def test_evaluation_changes_nothing():
    dataset = numbered(20).with_recipe(Recipe(1, (6, 6), mean=(0.2,), std=(0.5,)))
    expected, labels = dataset.load(np.arange(20))
    for augment in (None, Augment()):
        batches = list(Loader(dataset, 7, augment=augment).epoch(5))
        assert np.concatenate([x for x, _ in batches]).tobytes() == expected.tobytes()
        np.testing.assert_array_equal(np.concatenate([y for _, y in batches]), labels)


def test_a_last_batch_of_one_is_joined_to_the_one_before():
    dataset = numbered(9)
    assert [len(b) for b in seen(Loader(dataset, 4).epoch(0))] == [4, 5]
    assert [len(b) for b in seen(Loader(dataset, 4, avoid_single=False).epoch(0))] == [4, 4, 1]
    assert [len(b) for b in seen(Loader(dataset, 4, drop_last=True).epoch(0))] == [4, 4]
    assert [len(b) for b in seen(Loader(dataset, 1).epoch(0))] == [1] * 9
    assert [len(b) for b in seen(Loader(numbered(1), 4).epoch(0))] == [1]
    assert Loader(dataset, 4, drop_last=True).pictures == 8
    assert Loader(dataset, 4).pictures == 9


def test_batches_are_the_callers_own():
    loader = Loader(numbered(8), 4)
    for x, y in loader.epoch(0):
        x[:] = -1
        y[:] = -1
    assert seen(loader.epoch(0)) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert loader.dataset.labels.min() == 0


def test_prefetching_gives_the_same_batches():
    options = {"shuffle": True, "seed": 9, "augment": Augment.parse("light")}
    loaders = [Loader(numbered(33), 4, **options, prefetch=depth) for depth in (0, 1, 2, 8)]
    whole = list(loaders[0].epoch(2))
    for loader in loaders[1:]:
        assert same(loader.epoch(2), whole)


class Recording(Dataset):
    """Notes which pictures were asked for; the seventh may fail."""

    classes = ("a", "b")
    labels = np.zeros(100, np.int64)
    recipe = Recipe(1, (2, 2))

    def __init__(self, fails=False):
        self.asked = []
        self.fails = fails

    def raw(self, indices):
        self.asked += indices.tolist()
        if self.fails and 6 in indices:
            raise DataError("picture 6 cannot be read")
        return np.zeros((len(indices), 2, 2, 1), np.uint8)


def test_the_thread_works_ahead_but_not_further_than_asked():
    dataset = Recording()
    batches = Loader(dataset, 2, prefetch=3).epoch(0)
    assert dataset.asked == []
    next(batches)
    deadline = time.monotonic() + 5
    # one is taken, three wait in the queue, one waits for room
    while len(dataset.asked) < 10 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.05)
    assert dataset.asked == list(range(10))
    batches.close()


@pytest.mark.parametrize("prefetch", [0, 1, 4])
def test_an_error_is_raised_where_its_batch_would_have_come(prefetch):
    batches = Loader(Recording(fails=True), 2, prefetch=prefetch).epoch(0)
    for _ in range(3):
        next(batches)
    with pytest.raises(DataError, match="picture 6 cannot be read"):
        next(batches)
    with pytest.raises(StopIteration):
        next(batches)


def test_closing_early_stops_the_thread():
    batches = Loader(Recording(), 1, prefetch=1).epoch(0)
    next(batches)
    assert len(loader_threads()) == 1
    batches.close()
    assert loader_threads() == []


def test_dropping_the_iterator_stops_the_thread():
    for _ in Loader(Recording(), 1, prefetch=2).epoch(0):
        break
    gc.collect()
    assert loader_threads() == []


def test_an_epoch_that_is_never_started_has_no_thread():
    batches = Loader(Recording(), 1).epoch(0)
    assert loader_threads() == []
    batches.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": 4, "prefetch": -1}, "prefetch is -1"),
        ({"batch_size": 4, "seed": -1}, "seed is -1"),
        ({"batch_size": 11, "drop_last": True}, "leaves nothing"),
    ],
)
def test_arguments_out_of_range_are_refused(options, message):
    with pytest.raises(ArgumentError, match=message):
        Loader(numbered(10), **options)


def test_epochs_out_of_range_are_refused_at_once():
    loader = Loader(numbered(10), 4)
    with pytest.raises(ArgumentError, match="epoch is -1"):
        loader.epoch(-1)
    with pytest.raises(ArgumentError, match="start_batch is 4; the epoch has 3"):
        loader.epoch(0, 4)
    with pytest.raises(DataError, match="no pictures"):
        Loader(numbered(10).subset([]), 4)
