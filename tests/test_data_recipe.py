"""The preprocessing recipe: its arithmetic, its JSON, and equal bits everywhere."""

import json
import math

import numpy as np
import pytest
from PIL import Image

from striate.data import ArrayDataset, ImageFolder, Recipe, fit_recipe, read_image
from striate.errors import ArgumentError, DataError, FormatError


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_apply_is_scale_then_normalise():
    recipe = Recipe(3, mean=(0.5, 0.4, 0.3), std=(0.1, 0.2, 0.3))
    picture = noise(4, 6, 3)
    got = recipe.apply(picture)
    assert got.dtype == np.float32
    assert got.shape == (3, 4, 6)
    expected = (picture / 255.0 - [0.5, 0.4, 0.3]) / [0.1, 0.2, 0.3]
    np.testing.assert_allclose(got, expected.transpose(2, 0, 1), rtol=1e-5, atol=1e-6)


def test_defaults_leave_numbers_from_0_to_1():
    recipe = Recipe(1)
    assert (recipe.mean, recipe.std) == ((0.0,), (1.0,))
    np.testing.assert_array_equal(recipe.apply(np.array([[0, 255]], np.uint8)), [[[0.0, 1.0]]])


def test_normalise_never_changes_its_argument():
    recipe = Recipe(1, mean=(0.5,))
    raw = np.ones((2, 3, 3, 1), np.float32)
    recipe.normalise(raw)
    np.testing.assert_array_equal(raw, 1)


def test_stretch_is_pillows_antialiased_bilinear():
    picture = noise(30, 20, 3)
    expected = Image.fromarray(picture).resize((8, 12), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(Recipe(3, (12, 8), "stretch").fit(picture), np.asarray(expected))


@pytest.mark.parametrize(("h", "w"), [(40, 64), (64, 40), (50, 50)])
def test_crop_is_shorter_side_then_centre(h, w):
    # the shorter side 40 or 50 becomes 10 by a whole factor, so both ways of cropping agree
    factor = min(h, w) // 10
    picture = noise(h, w)
    whole = Image.fromarray(picture).resize((w // factor, h // factor), Image.Resampling.BILINEAR)
    top, left = (h / factor - 10) / 2, (w / factor - 10) / 2
    assert top == int(top)
    assert left == int(left)
    expected = np.asarray(whole)[int(top) : int(top) + 10, int(left) : int(left) + 10]
    got = Recipe(1, (10, 10), "crop").fit(picture)
    assert np.abs(got[..., 0].astype(int) - expected).max() <= 1


def test_crop_keeps_the_middle():
    picture = np.zeros((10, 30), np.uint8)
    picture[:, 10:20] = 255
    np.testing.assert_array_equal(Recipe(1, (10, 10), "crop").fit(picture)[..., 0], 255)


def test_a_very_long_picture_does_not_grow():
    # scaling its shorter side first would need 64 × 12,800,000 pixels
    thin = np.zeros((1, 200_000), np.uint8)
    assert Recipe(1, (64, 64), "crop").fit(thin).shape == (64, 64, 1)


def test_none_refuses_another_size():
    recipe = Recipe(1, (28, 28), "none")
    assert recipe.fit(noise(28, 28)).shape == (28, 28, 1)
    with pytest.raises(DataError, match=r"30×20.*28×28"):
        recipe.fit(noise(30, 20))


def test_16_bit_pictures_are_resized_as_floats():
    deep = np.random.default_rng(0).integers(0, 65536, (16, 16), dtype=np.uint16)
    got = Recipe(1, (4, 4), "stretch").fit(deep)
    assert got.dtype == np.float32
    scaled = Image.fromarray((deep / 65535).astype(np.float32)).resize(
        (4, 4), Image.Resampling.BILINEAR
    )
    np.testing.assert_allclose(got[..., 0], np.asarray(scaled), rtol=1e-6)


@pytest.mark.parametrize("resize", ["crop", "stretch"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_training_and_prediction_give_equal_bits(tmp_path, resize, channels, name):
    for i, label in enumerate(["x", "x", "y", "y"]):
        (tmp_path / label).mkdir(exist_ok=True)
        Image.fromarray(noise(21 + i, 33, 3, seed=i)).save(tmp_path / label / f"{i}{name}")
    recipe = Recipe(channels, (16, 12), resize, (0.4,) * channels, (0.3,) * channels)
    folder = ImageFolder(tmp_path, recipe)
    batch, _ = folder.load([2, 0, 3, 1])
    for x, i in zip(batch, [2, 0, 3, 1], strict=True):
        path = folder.paths[i]
        from_file = recipe.apply(read_image(path, channels))
        with Image.open(path) as image:
            from_image = recipe.apply(image)
        stored = Recipe.from_json(recipe.to_json()).apply(read_image(path, channels))
        for other in (from_file, from_image, stored):
            assert x.tobytes() == other.tobytes()


def test_json_round_trip_is_exact():
    recipe = Recipe(3, (224, 200), "stretch", (0.1, 1 / 3, math.pi), (0.2, 1e-6, 0.1 + 0.2))
    again = Recipe.from_json(recipe.to_json())
    assert again == recipe
    assert hash(again) == hash(recipe)
    assert Recipe.from_json(Recipe(1).to_json()) == Recipe(1)


GOOD = json.loads(Recipe(1, (8, 8), "crop", (0.5,), (0.5,)).to_json())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "[]",
        "3",
        "null",
        "[" * 100_000,
        json.dumps({**GOOD, "extra": 1}),
        json.dumps({k: v for k, v in GOOD.items() if k != "std"}),
        *(
            json.dumps({**GOOD, key: value})
            for key, value in [
                ("channels", 2),
                ("channels", True),
                ("channels", "1"),
                ("channels", 1.0),
                ("size", [8]),
                ("size", [0, 8]),
                ("size", [8.5, 8]),
                ("size", "8x8"),
                ("size", [1_000_000, 1_000_000]),
                ("resize", "squash"),
                ("resize", None),
                ("mean", [0.1, 0.2]),
                ("mean", "0.5"),
                ("mean", [math.nan]),
                ("mean", [math.inf]),
                ("mean", [1e9]),
                ("mean", [[0.5]]),
                ("std", [0]),
                ("std", [-1]),
                ("std", [1e-40]),
                ("std", [True]),
                ("std", None),
            ]
        ),
    ],
)
def test_nonsense_in_a_model_file_is_refused(text):
    with pytest.raises(FormatError, match="recipe") as caught:
        Recipe.from_json(text)
    assert "\n" not in str(caught.value)


def test_nonsense_from_a_caller_is_refused():
    with pytest.raises(ArgumentError, match="channels is 2"):
        Recipe(2)
    with pytest.raises(ArgumentError, match="resize is 'squash'"):
        Recipe(1, resize="squash")


def test_fit_recipe_is_the_mean_and_deviation_of_all_pixels():
    pictures = noise(150, 5, 7, 3)
    pictures[..., 1] //= 4
    recipe = fit_recipe(ArrayDataset(pictures, np.zeros(150, int), ["a", "b"]))
    unit = pictures.reshape(-1, 3) / 255.0
    np.testing.assert_allclose(recipe.mean, unit.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(recipe.std, unit.std(axis=0), rtol=1e-12)
    assert recipe.geometry == (3, (5, 7), "crop")


def test_fit_recipe_is_exact_for_floats_far_from_zero():
    values = np.random.default_rng(0).random((150, 4, 4, 1)).astype(np.float32) + 1000
    recipe = fit_recipe(ArrayDataset(values, np.zeros(150, int), ["a"]))
    wide = values.astype(np.float64)
    np.testing.assert_allclose(recipe.mean, [wide.mean()], rtol=1e-12)
    np.testing.assert_allclose(recipe.std, [wide.std()], rtol=1e-9)


def test_normalised_training_pictures_have_mean_0_and_deviation_1():
    dataset = ArrayDataset(noise(80, 6, 6), np.zeros(80, int), ["a"])
    x, _ = dataset.with_recipe(fit_recipe(dataset)).load(np.arange(80))
    assert abs(x.mean(dtype=np.float64)) < 1e-6
    assert abs(x.std(dtype=np.float64) - 1) < 1e-6


def test_a_constant_channel_gets_deviation_1():
    black = ArrayDataset(np.zeros((3, 4, 4), np.uint8), [0, 0, 0], ["a"])
    assert fit_recipe(black).std == (1.0,)
    with pytest.raises(DataError, match="no pictures"):
        fit_recipe(black.subset([]))
