"""Folders of pictures: what is found, what is refused, what is left out."""

import os
import unicodedata

import numpy as np
import pytest
from PIL import Image

from striate.data import BadPicture, ImageFolder, Loader, Recipe, fit_recipe, split_stratified
from striate.errors import ArgumentError, DataError


def grey(path, value, size=(6, 5)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (size[1], size[0]), value).save(path)


def fill(root, classes=("cat", "dog"), count=3, size=(6, 5)):
    for label, name in enumerate(classes):
        for i in range(count):
            grey(root / name / f"{i}.png", 10 * label + i, size)
    return root


def refused(path, *words, **options):
    with pytest.raises(DataError) as caught:
        ImageFolder(path, **options)
    text = str(caught.value)
    assert "\n" not in text
    for word in (str(path), *words):
        assert word in text


# ------------------------------------------------------------------------ finding


def test_class_names_are_sorted_as_strings(tmp_path):
    fill(tmp_path, ("2", "10", "b", "A"), count=1)
    folder = ImageFolder(tmp_path)
    assert folder.classes == ("10", "2", "A", "b")
    assert folder.splits == ()
    np.testing.assert_array_equal(folder.labels, [0, 1, 2, 3])
    # fill() gave class number k of its list the grey level 10·k
    np.testing.assert_array_equal(folder.raw([0, 1, 2, 3])[:, 0, 0, 0], [10, 0, 30, 20])


def test_pictures_are_found_at_any_depth_and_in_any_case_of_letters(tmp_path):
    fill(tmp_path, count=1)
    grey(tmp_path / "dog" / "deep" / "er" / "x.PNG", 77)
    grey(tmp_path / "dog" / ".hidden" / "x.png", 1)
    grey(tmp_path / "dog" / "._0.png", 1)
    grey(tmp_path / ".cache" / "x.png", 1)
    (tmp_path / "dog" / "notes.txt").write_text("none")
    (tmp_path / "Thumbs.db").write_text("none")
    folder = ImageFolder(tmp_path)
    np.testing.assert_array_equal(folder.labels, [0, 1, 1])
    assert folder.paths[2] == tmp_path / "dog" / "deep" / "er" / "x.PNG"
    assert folder.raw([2])[0, 0, 0, 0] == 77
    assert folder.ignored == 2
    assert folder.bad == []


def test_links_are_followed_but_not_in_circles(tmp_path):
    fill(tmp_path / "store", count=2)
    data = tmp_path / "data"
    data.mkdir()
    for name in ("cat", "dog"):
        (data / name).symlink_to(tmp_path / "store" / name)
    (tmp_path / "store" / "cat" / "loop").symlink_to(tmp_path / "store" / "cat")
    assert len(ImageFolder(data)) == 4


def test_composed_and_decomposed_names_are_one_class(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    fill(tmp_path / "train", (decomposed, "x"), count=1)
    fill(tmp_path / "val", (composed, "x"), count=1)
    folder = ImageFolder(tmp_path)
    assert folder.classes == ("x", composed)
    assert folder.split("val").classes == ("x", composed)
    fill(tmp_path / "train", (composed,), count=1)
    refused(tmp_path, "same name")


def test_a_class_name_that_is_no_utf8_is_refused(tmp_path):
    fill(tmp_path)
    (tmp_path / os.fsdecode(b"bad\xff")).mkdir()
    refused(tmp_path, "not UTF-8")


def test_pictures_beside_the_class_folders_are_told(tmp_path):
    fill(tmp_path)
    grey(tmp_path / "stray.png", 0)
    (warning,) = ImageFolder(tmp_path).warnings
    assert "1 pictures outside the class folders" in warning


# ------------------------------------------------------------------------ refusing


def test_missing_folders_files_and_empty_folders(tmp_path):
    refused(tmp_path / "none", "No such file")
    refused(tmp_path, "no class folders (nothing)", "expected FOLDER/<class>/picture")
    grey(tmp_path / "a.png", 0)
    refused(tmp_path, "no class folders (1 pictures, 0 other files)")
    refused(tmp_path / "a.png", "this is a file; give a folder")


def test_one_class_is_not_enough(tmp_path):
    fill(tmp_path, ("cat",))
    refused(tmp_path, "one class only, 'cat'", "two")


def test_a_class_without_pictures_is_refused(tmp_path):
    fill(tmp_path)
    (tmp_path / "emu").mkdir()
    refused(tmp_path, "class 'emu' has no pictures (nothing)", ".png")
    (tmp_path / "emu" / "a.gif").write_bytes(b"GIF89a")
    refused(tmp_path, "class 'emu' has no pictures (1 other files)")


# ------------------------------------------------------------------------ parts


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_parts_are_found_by_their_usual_names(tmp_path, name):
    fill(tmp_path / "train", count=4)
    fill(tmp_path / name, count=2)
    fill(tmp_path / "test", count=1)
    folder = ImageFolder(tmp_path)
    assert folder.splits == ("train", "val", "test")
    assert [len(folder.split(part)) for part in ("train", name, "val", "test")] == [8, 4, 4, 2]
    assert folder.split("val").classes == folder.classes == ("cat", "dog")
    assert folder.warnings == ()


def test_a_divided_folder_is_used_a_part_at_a_time(tmp_path):
    fill(tmp_path / "train")
    fill(tmp_path / "val")
    folder = ImageFolder(tmp_path)
    for use in (lambda: folder.labels, lambda: len(folder), lambda: folder.load([0])):
        with pytest.raises(DataError, match=r"divided into train, val; take one"):
            use()
    with pytest.raises(DataError, match=r"no part 'test'; parts: train, val"):
        folder.split("test")
    with pytest.raises(DataError, match="split_stratified"):
        ImageFolder(tmp_path / "train").split("train")


def test_classes_of_train_and_val_are_matched_by_name(tmp_path):
    fill(tmp_path / "train", ("a", "b", "c"))
    fill(tmp_path / "val", ("a", "c"), count=1)
    folder = ImageFolder(tmp_path)
    val = folder.split("val")
    np.testing.assert_array_equal(val.labels, [0, 2])
    assert val.classes == ("a", "b", "c")
    (warning,) = folder.warnings
    assert "class 'b' has no folder here" in warning


def test_a_class_of_val_that_train_lacks_is_refused(tmp_path):
    fill(tmp_path / "train")
    fill(tmp_path / "val", ("cat", "dgo", "emu"))
    with pytest.raises(
        DataError, match=r"classes 'dgo', 'emu' are unknown; known are 'cat', 'dog'"
    ):
        ImageFolder(tmp_path)


def test_two_folders_for_one_part_and_parts_without_train_are_refused(tmp_path):
    fill(tmp_path / "val")
    fill(tmp_path / "test")
    refused(tmp_path, "no train/")
    fill(tmp_path / "train")
    fill(tmp_path / "valid")
    refused(tmp_path, "both val/ and valid/")


def test_a_class_may_be_called_train(tmp_path):
    fill(tmp_path, ("bus", "train"))
    folder = ImageFolder(tmp_path)
    assert folder.splits == ()
    assert folder.classes == ("bus", "train")


def test_other_folders_beside_the_parts_are_told(tmp_path):
    fill(tmp_path / "train")
    fill(tmp_path / "val")
    (tmp_path / "labels").mkdir()
    (warning,) = ImageFolder(tmp_path).warnings
    assert "'labels'" in warning


def test_classes_of_a_model_give_the_labels(tmp_path):
    fill(tmp_path, ("dog",), count=2)
    folder = ImageFolder(tmp_path, classes=("emu", "dog", "cat"))
    np.testing.assert_array_equal(folder.labels, [1, 1])
    assert folder.classes == ("emu", "dog", "cat")
    assert len(folder.warnings) == 2
    refused(tmp_path, "'dog' are unknown", "'emu', 'cat'", classes=("emu", "cat"))


# ------------------------------------------------------------------------ default recipe


def test_the_default_recipe_keeps_what_all_pictures_share(tmp_path):
    fill(tmp_path, size=(6, 5))
    folder = ImageFolder(tmp_path)
    assert folder.recipe == Recipe(1, (6, 5), "none")
    assert folder.warnings == ()
    Image.new("RGB", (5, 6)).save(tmp_path / "dog" / "colour.png")
    assert ImageFolder(tmp_path).recipe == Recipe(3, (6, 5), "none")


def test_the_default_recipe_of_mixed_sizes_is_a_square_and_says_so(tmp_path):
    fill(tmp_path, size=(20, 30))
    grey(tmp_path / "dog" / "large.png", 0, (500, 400))
    folder = ImageFolder(tmp_path)
    assert folder.recipe == Recipe(1, (20, 20), "crop")
    assert any("2 different sizes" in text and "20×20" in text for text in folder.warnings)
    fill(tmp_path, size=(100, 200))
    assert ImageFolder(tmp_path).recipe.size == (64, 64)


def test_val_takes_the_recipe_of_train(tmp_path):
    fill(tmp_path / "train", size=(6, 5))
    fill(tmp_path / "val", size=(12, 10))
    folder = ImageFolder(tmp_path)
    assert folder.split("val").recipe == Recipe(1, (6, 5), "none")
    with pytest.raises(DataError, match=r"val/cat/0\.png: the picture is 12×10.*takes 6×5"):
        folder.split("val").prepare()


def test_no_size_at_all_needs_pictures_of_one_size(tmp_path):
    fill(tmp_path)
    assert ImageFolder(tmp_path, Recipe(1)).load([0])[0].shape == (1, 1, 6, 5)
    grey(tmp_path / "dog" / "x.png", 0, (9, 9))
    for budget in (1 << 20, 0):
        with pytest.raises(
            DataError, match=r"x\.png is 9×9.*0\.png is 6×5; give the recipe a size"
        ):
            ImageFolder(tmp_path, Recipe(1), budget=budget).prepare()


# ------------------------------------------------------------------------ bad pictures


def test_unreadable_pictures_are_left_out_and_listed(tmp_path):
    fill(tmp_path, count=3)
    (tmp_path / "cat" / "1.png").write_bytes(b"no picture")
    whole = (tmp_path / "dog" / "0.png").read_bytes()
    (tmp_path / "dog" / "0.png").write_bytes(whole[: len(whole) - 30])
    (tmp_path / "dog" / "link.png").symlink_to(tmp_path / "nowhere")
    folder = ImageFolder(tmp_path)
    np.testing.assert_array_equal(folder.labels, [0, 0, 1, 1])
    np.testing.assert_array_equal(folder.raw(np.arange(4))[:, 0, 0, 0], [0, 2, 11, 12])
    bad = folder.bad
    assert all(isinstance(item, BadPicture) for item in bad)
    assert [path for path, _ in bad] == [
        str(tmp_path / name) for name in ("cat/1.png", "dog/0.png", "dog/link.png")
    ]
    assert "no picture" in bad[0].reason
    assert all(str(tmp_path) not in reason for _, reason in bad)


def test_a_class_that_lost_all_its_pictures_is_told(tmp_path):
    fill(tmp_path, count=2)
    for path in (tmp_path / "dog").iterdir():
        path.write_bytes(b"")
    folder = ImageFolder(tmp_path)
    folder.prepare()
    assert "class 'dog' has no picture that can be read" in folder.warnings


@pytest.mark.parametrize("recipe", [None, Recipe(1, (4, 4))])
def test_nothing_readable_at_all_is_an_error(tmp_path, recipe):
    fill(tmp_path, count=2)
    for path in tmp_path.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"none of 4 pictures can be read; the first is .*0\.png"):
        ImageFolder(tmp_path, recipe).prepare()


# ------------------------------------------------------------------------ memory


def test_the_budget_changes_nothing_but_where_pictures_are(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(12):
        path = tmp_path / "ab"[i % 2] / f"{i:02}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (9, 8, 3), dtype=np.uint8)).save(path)
    (tmp_path / "a" / "bad.png").write_bytes(b"")
    recipe = Recipe(3, (6, 6), mean=(0.5, 0.5, 0.5))
    kept, fresh = ImageFolder(tmp_path, recipe), ImageFolder(tmp_path, recipe, budget=0, workers=3)
    index = [11, 0, 5, 5]
    assert kept.load(index)[0].tobytes() == fresh.load(index)[0].tobytes()
    np.testing.assert_array_equal(kept.labels, fresh.labels)
    assert fit_recipe(kept) == fit_recipe(fresh)
    kept.paths[0].unlink()
    assert kept.load([0])[0].shape == (1, 3, 6, 6)  # it lies in memory
    with pytest.raises(DataError, match="could be read before"):
        fresh.load([0])


@pytest.mark.parametrize("budget", [0, 4 * 30 - 1, 16 * 30 - 1, 1 << 20])
def test_16_bit_pictures_among_others(tmp_path, budget):
    fill(tmp_path, count=2, size=(6, 5))
    deep = np.full((6, 5), 1000, np.uint16)
    Image.fromarray(deep).save(tmp_path / "dog" / "0.png")
    folder = ImageFolder(tmp_path, Recipe(1), budget=budget)
    x, _ = folder.load([0, 1, 2, 3])
    np.testing.assert_allclose(x[:, 0, 0, 0], [0, 1 / 255, 1000 / 65535, 11 / 255], rtol=1e-6)


def test_mean_and_deviation_need_no_second_decoding(tmp_path):
    folder = ImageFolder(fill(tmp_path))
    fitted = folder.with_recipe(fit_recipe(folder))
    for path in folder.paths:
        path.unlink()
    x, _ = fitted.load(np.arange(6))
    assert abs(x.mean()) < 1e-6


def test_another_size_is_decoded_anew(tmp_path):
    folder = ImageFolder(fill(tmp_path), Recipe(1, (6, 5)))
    assert folder.raw([0]).shape == (1, 6, 5, 1)
    assert folder.with_recipe(Recipe(3, (4, 4))).raw([0]).shape == (1, 4, 4, 3)
    folder.paths[0].write_bytes(b"")
    with pytest.raises(DataError, match="must not change"):
        folder.with_recipe(Recipe(1, (3, 3))).prepare()


def test_progress_is_told_once_to_the_end(tmp_path):
    folder = ImageFolder(fill(tmp_path, count=20), workers=1)
    told = []
    folder.prepare(lambda done, total: told.append((done, total)))
    assert told == [(16, 40), (32, 40), (40, 40)]
    folder.prepare(lambda done, total: told.append((done, total)))
    assert len(told) == 3


def test_from_folder_to_batches(tmp_path):
    folder = ImageFolder(fill(tmp_path, count=10))
    train_index, val_index = split_stratified(folder.labels, 0.2, seed=0)
    train, val = folder.subset(train_index), folder.subset(val_index)
    recipe = fit_recipe(train)
    batches = list(Loader(train.with_recipe(recipe), 5, shuffle=True, seed=1).epoch(0))
    assert [x.shape for x, _ in batches] == [(5, 1, 6, 5), (5, 1, 6, 5), (6, 1, 6, 5)]
    np.testing.assert_array_equal(np.bincount(val.with_recipe(recipe).labels), [2, 2])


def test_bad_indices_are_refused(tmp_path):
    with pytest.raises(ArgumentError, match="there are 6 pictures"):
        ImageFolder(fill(tmp_path)).raw([6])
