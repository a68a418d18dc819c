"""Augmentation: what each change does, by independent means, and its text form."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from striate.data import Augment
from striate.errors import ArgumentError


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_nothing_is_on_by_default():
    raw = noise(3, 6, 5, 1)
    assert Augment() == Augment.parse("none")
    assert Augment().apply(raw, Augment().draw(3, 0, 0)) is raw
    assert not any(Augment.parse(name).flip for name in ("none", "crop=4", "rotate=5"))


def test_flip_mirrors_about_half_of_the_pictures():
    raw = noise(400, 3, 4, 3)
    got = Augment(flip=True).apply(raw, Augment().draw(400, 0, 0))
    same = (got == raw).all(axis=(1, 2, 3))
    mirrored = (got == raw[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (same ^ mirrored).all()
    assert 150 < mirrored.sum() < 250


def test_crop_moves_within_a_black_border_in_every_direction():
    raw = noise(300, 6, 5, 1) | 1  # never black itself
    got = Augment(crop=2).apply(raw, Augment().draw(300, 0, 0))
    assert got.dtype == np.uint8
    seen = set()
    for before, after in zip(raw[..., 0], got[..., 0], strict=True):
        padded = np.zeros((10, 9), np.uint8)
        padded[2:8, 2:7] = before
        places = [
            (y, x)
            for y in range(5)
            for x in range(5)
            if np.array_equal(padded[y : y + 6, x : x + 5], after)
        ]
        assert len(places) == 1
        seen.add(places[0])
    assert len(seen) == 25


def test_crop_as_large_as_the_picture_is_refused():
    with pytest.raises(ArgumentError, match="crop=4 is too large for pictures of 4×9"):
        Augment(crop=4).apply(noise(1, 4, 9, 1), Augment().draw(1, 0, 0))


def rotated_once(picture, degrees):
    """Anticlockwise about the centre, bilinear, black outside: written pixel by pixel."""
    h, w = picture.shape
    turn = np.deg2rad(degrees)
    out = np.zeros((h, w))
    for row in range(h):
        for column in range(w):
            dy, dx = row - (h - 1) / 2, column - (w - 1) / 2
            y = (h - 1) / 2 + np.cos(turn) * dy + np.sin(turn) * dx
            x = (w - 1) / 2 - np.sin(turn) * dy + np.cos(turn) * dx
            for r in (int(np.floor(y)), int(np.floor(y)) + 1):
                for c in (int(np.floor(x)), int(np.floor(x)) + 1):
                    if 0 <= r < h and 0 <= c < w:
                        out[row, column] += picture[r, c] * (1 - abs(y - r)) * (1 - abs(x - c))
    return out


def test_rotation_is_bilinear_and_black_outside():
    raw = noise(6, 9, 8, 3)
    draws = Augment().draw(6, 1, 2)
    got = Augment(rotate=40).apply(raw, draws)
    assert got.dtype == np.float32
    angles = (2 * draws[:, 3] - 1) * 40
    for i, angle in enumerate(angles):
        for c in range(3):
            expected = rotated_once(raw[i, :, :, c] / 255.0, angle)
            np.testing.assert_allclose(got[i, :, :, c], expected, atol=1e-6)


def test_a_quarter_turn_is_exact_and_anticlockwise():
    raw = noise(1, 7, 7, 1)
    draws = np.full((1, 5), 1.0)  # the largest angle, +90 degrees
    got = Augment(rotate=90).apply(raw, draws)
    np.testing.assert_allclose(got[0, ..., 0], np.rot90(raw[0, ..., 0]) / 255.0, atol=1e-6)


def test_brightness_multiplies_and_clips():
    raw = noise(50, 4, 4, 1)
    draws = Augment().draw(50, 0, 0)
    got = Augment(brightness=0.5).apply(raw, draws)
    factor = 0.5 + draws[:, 4]
    expected = np.minimum(raw / 255.0 * factor[:, None, None, None], 1)
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    assert factor.min() < 0.6
    assert factor.max() > 1.4


@pytest.mark.parametrize("text", ["light", "standard", "strong", "rotate=180,brightness=1"])
def test_a_picture_does_not_depend_on_the_rest_of_its_batch(text):
    augment = Augment.parse(text)
    raw = noise(700, 28, 28, 1)  # rotated in several parts
    draws = augment.draw(700, 3, 4)
    whole = augment.apply(raw, draws)
    for i in (0, 1, 333, 334, 335, 699):
        alone = augment.apply(raw[[i]], draws[[i]])
        assert alone.tobytes() == whole[i : i + 1].tobytes()


@pytest.mark.parametrize("text", ["light", "strong"])
def test_the_argument_is_not_changed(text):
    raw = noise(4, 12, 12, 3)
    before = raw.copy()
    augment = Augment.parse(text)
    augment.apply(raw, augment.draw(4, 0, 0))
    np.testing.assert_array_equal(raw, before)
    raw = (raw / 255).astype(np.float32)
    before = raw.copy()
    augment.apply(raw, augment.draw(4, 0, 0))
    np.testing.assert_array_equal(raw, before)


def test_draws_depend_on_seed_epoch_and_position_only():
    draws = Augment().draw(10, 1, 2)
    np.testing.assert_array_equal(Augment.parse("strong").draw(25, 1, 2)[:10], draws)
    assert not np.array_equal(Augment().draw(10, 2, 1), draws)
    assert not np.array_equal(Augment().draw(10, 1, 3), draws)
    assert len(np.unique(draws)) == draws.size


def test_names_and_lists_are_read():
    assert Augment.parse("light") == Augment(crop=2, flip=True)
    assert Augment.parse("standard") == Augment(crop=4, flip=True)
    assert Augment.parse("strong") == Augment(crop=4, flip=True, rotate=15, brightness=0.2)
    assert Augment.parse(" crop=4, flip ,rotate=10,brightness=0.2") == Augment(4, True, 10, 0.2)


@given(some.integers(0, 99), some.booleans(), some.floats(0, 180), some.floats(0, 1))
def test_the_text_form_reads_back(crop, flip, rotate, brightness):
    augment = Augment(crop, flip, rotate, brightness)
    assert Augment.parse(str(augment)) == augment


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("standart", "did you mean 'standard'"),
        ("flop", "did you mean 'flip'"),
        ("xyz", "give one of none, light"),
        ("", "'' in '' is unknown"),
        ("crop=4,light", "'light' in 'crop=4,light' is unknown"),
        ("crop", "cannot be read"),
        ("flip=1", "cannot be read"),
        ("crop=four", "is no number"),
        ("crop=2.5", "is no number"),
        ("crop=-1", "crop is -1"),
        ("rotate=200", "rotate is 200"),
        ("rotate=nan", "rotate is nan"),
        ("brightness=2", "brightness is 2"),
        ("crop=1,crop=2", "comes twice"),
    ],
)
def test_misspelt_recipes_are_refused(text, message):
    with pytest.raises(ArgumentError, match=message) as caught:
        Augment.parse(text)
    assert "\n" not in str(caught.value)
