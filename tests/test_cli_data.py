"""`striate data`: counts, sizes, copies and statistics against what was put there."""

import shutil

import numpy as np
import pytest
from PIL import Image

from tests.cli_run import cli, make_pictures  # noqa: F401 - fixture


@pytest.fixture
def divided(tmp_path):
    root = tmp_path / "set"
    make_pictures(root / "train", count=4)
    make_pictures(root / "val", count=3)
    rng = np.random.default_rng(7)
    for path in (root / "val").rglob("*.png"):  # make_pictures repeats itself
        Image.fromarray(rng.integers(0, 256, (8, 8)).astype(np.uint8)).save(path)
    return root


def test_counts_sizes_and_statistics(divided, cli):
    found = cli("data", divided, "--json").json
    assert found["pictures"] == 14
    assert found["parts"] == {"train": {"across": 4, "down": 4}, "val": {"across": 3, "down": 3}}
    assert found["sizes"] == [{"height": 8, "width": 8, "count": 14}]
    pixels = np.stack([np.asarray(Image.open(p)) for p in (divided / "train").rglob("*.png")]) / 255
    assert found["channels"] == 1
    assert found["mean"] == [pytest.approx(pixels.mean())]
    assert found["std"] == [pytest.approx(pixels.std())]
    assert found["duplicates"] == found["unreadable"] == []


def test_copies_are_found_by_their_pixels(divided, cli):
    one = divided / "train" / "across" / "0.png"
    shutil.copy(one, divided / "train" / "across" / "again.png")
    Image.open(one).save(divided / "val" / "down" / "other.bmp")  # the same pixels in another file
    (group,) = cli("data", divided, "--json").json["duplicates"]
    assert [name.rsplit("/", 1)[1] for name in group["names"]] == [
        "0.png",
        "again.png",
        "other.bmp",
    ]
    assert group["parts"] == ["train", "val"]
    assert group["classes"] == ["across", "down"]
    text = cli("data", divided).out
    assert "2 pictures are copies; groups across parts: 1, across classes: 1" in text


def test_pictures_of_other_size_or_unreadable(divided, cli):
    (divided / "train" / "down" / "cut.png").write_bytes(b"no picture")
    Image.new("L", (5, 9), 3).save(divided / "train" / "down" / "tall.png")
    found = cli("data", divided, "--json").json
    assert [bad["path"].rsplit("/", 1)[1] for bad in found["unreadable"]] == ["cut.png"]
    assert {"height": 9, "width": 5, "count": 1} in found["sizes"]
    assert "cut.png" in cli("data", divided).out


def test_mosaic_has_a_row_for_each_class(divided, cli, tmp_path):
    assert cli("data", divided, "--mosaic", "m.png").code == 0
    sheet = np.asarray(Image.open(tmp_path / "m.png"))
    assert sheet.shape == (2 * 9 - 1, 10 * 9 - 1)
    first = np.asarray(Image.open(divided / "train" / "across" / "0.png"))
    np.testing.assert_array_equal(sheet[:8, :8], first)
    last = np.asarray(Image.open(divided / "train" / "down" / "3.png"))
    np.testing.assert_array_equal(sheet[9:, -8:], last)


def test_built_in_set(cli):
    found = cli("data", "fashion-mnist-sample", "--json").json
    assert sum(found["parts"]["train"].values()) == 5000
    assert sum(found["parts"]["test"].values()) == 1000


def test_what_is_no_set_is_refused(cli, tmp_path):
    assert "did you mean fashion-mnist-sample?" in cli("data", "fashion-mnist-sampl").error
    (tmp_path / "empty").mkdir()
    assert "no class folders" in cli("data", "empty").error
