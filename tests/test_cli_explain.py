"""`striate explain`: the file that it writes, its JSON, wrong input."""

import base64
import json
import re

import numpy as np
import pytest
from PIL import Image

from striate import models, onnx
from striate.io.model import load
from tests.cli_run import cli, trained  # noqa: F401 - fixtures


@pytest.fixture
def model(trained):
    return trained / "best.safetensors"


@pytest.fixture
def image(trained):
    return min((trained.parent / "pictures").glob("*/*.png"))


def record(path):
    page = path.read_text()
    return json.loads(re.search(r'id="record">(.*?)</script>', page, re.DOTALL)[1])


def test_a_trained_model(cli, tmp_path, model, image):
    found = cli("explain", model, image, "--out", "page.html", "--json").json
    assert found["bytes"] == (tmp_path / "page.html").stat().st_size
    predicted = cli("predict", model, image, "--top", 2, "--json").json["predictions"][0]["top"]
    assert [c["class"] for c in found["top"]] == [c["class"] for c in predicted]
    for ours, theirs in zip(found["top"], predicted, strict=True):
        assert ours["probability"] == pytest.approx(theirs["probability"], rel=1e-5)
    data = record(tmp_path / "page.html")
    assert data["title"] == f"best.safetensors on {image.name}"
    assert len(data["layers"]) == found["layers"]
    pixels = np.asarray(Image.open(image)).ravel()
    assert base64.b64decode(data["picture"]["pixels"]) == pixels.tobytes()


def test_plain_output_and_an_existing_file(cli, tmp_path, model, image):
    outcome = cli("explain", model, image, "--out", "page.html", "--top", 1, "--class", "down",
                  "--class", "across")  # fmt: skip
    assert outcome.code == 0
    assert re.match(r"page\.html: \d+ layers, \d\.\d MB; .* looks like (across|down) ", outcome.out)
    assert {c["name"] for c in record(tmp_path / "page.html")["classes"]} == {"across", "down"}
    outcome = cli("explain", model, image, "--out", "page.html")
    assert outcome.code == 1
    assert "--force" in outcome.error
    assert cli("explain", model, image, "--out", "page.html", "--force").code == 0


def test_wrong_class_and_wrong_picture(cli, tmp_path, model, image):
    outcome = cli("explain", model, image, "--out", "page.html", "--class", "dwon")
    assert outcome.code == 1
    assert "did you mean down?" in outcome.error
    (tmp_path / "text.png").write_text("no picture")
    outcome = cli("explain", model, "text.png", "--out", "page.html")
    assert outcome.code == 1
    assert "text.png" in outcome.error
    assert not (tmp_path / "page.html").exists()


def test_an_onnx_file_with_and_without_its_preprocessing(cli, tmp_path, model, image):
    pytest.importorskip("onnx")
    assert cli("export", model, "own.onnx").code == 0
    mine = cli("explain", model, image, "--out", "a.html", "--json").json["top"]
    theirs = cli("explain", "own.onnx", image, "--out", "b.html", "--json").json["top"]
    assert [c["class"] for c in theirs] == [c["class"] for c in mine]
    assert theirs[0]["probability"] == pytest.approx(mine[0]["probability"], rel=1e-4)
    onnx.export(models.create("lenet-bn", num_classes=3), "bare.onnx", (1, 28, 28))
    outcome = cli("explain", "bare.onnx", image, "--out", "c.html", "--input", "1,28,28")
    assert outcome.code == 0
    assert "names no preprocessing" in outcome.err
    assert load(model).training is False


def test_a_network_by_name_has_random_weights_and_says_so(cli, image):
    outcome = cli("explain", "lenet", image, "--out", "page.html", "--class", "3")
    assert outcome.code == 0
    assert "weights are random" in outcome.err
