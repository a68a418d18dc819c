"""`striate evaluate`, `predict`, `inspect`, `doctor`: results, shapes of JSON, wrong input."""

import csv
import io
import json
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from striate import models
from striate.data import Recipe, read_image
from striate.io.model import load, save
from tests.cli_run import cli, make_pictures, trained  # noqa: F401 - fixtures


@pytest.fixture
def model(trained):
    return trained / "best.safetensors"


@pytest.fixture
def pictures(trained):
    return trained.parent / "pictures"


def prepared(path):
    """The picture as the model file says: 8×8 grey, (v / 255 − mean) / std, in float64."""
    recipe = load(path / "run" / "best.safetensors").meta["recipe"]

    def prepare(file):
        grey = np.asarray(Image.open(file), np.float64) / 255
        return (grey - recipe["mean"][0]) / recipe["std"][0]

    return prepare


def expected_scores(trained, files):
    prepare = prepared(trained.parent)
    net = load(trained / "best.safetensors")
    return net(np.stack([prepare(file)[None] for file in files]))


# ------------------------------------------------------------------ evaluate


def test_evaluate_counts_what_the_net_says(cli, trained, model, pictures):
    found = cli("evaluate", model, pictures, "--json").json
    files = sorted(pictures.glob("*/*.png"))
    truth = np.array([["across", "down"].index(file.parent.name) for file in files])
    predicted = expected_scores(trained, files).argmax(1)
    matrix = [[int(((truth == i) & (predicted == j)).sum()) for j in (0, 1)] for i in (0, 1)]
    assert found["confusion"] == matrix
    assert found["accuracy"] == (truth == predicted).mean()
    assert found["top5"] == 1
    assert [row["name"] for row in found["per_class"]] == ["across", "down"]
    assert [row["count"] for row in found["per_class"]] == [5, 5]
    assert found["per_class"][0]["recall"] == matrix[0][0] / 5


def test_evaluate_prints_a_table(cli, model, pictures):
    outcome = cli("evaluate", model, pictures)
    assert outcome.out.startswith("accuracy ")
    assert "precision" in outcome.out
    assert "across" in outcome.out


def test_classes_are_matched_by_name(cli, model, pictures, tmp_path):
    """A folder that has only the class `down` scores as those pictures do among all."""
    both = cli("evaluate", model, pictures, "--json").json
    shutil.copytree(pictures / "down", tmp_path / "less" / "down")
    less = cli("evaluate", model, tmp_path / "less", "--json").json
    assert less["confusion"] == [[0, 0], both["confusion"][1]]


def test_a_class_that_the_model_does_not_know(cli, model, tmp_path):
    outcome = cli("evaluate", model, make_pictures(tmp_path / "p", ["across", "sideways"]))
    assert outcome.code == 1
    assert "'sideways'" in outcome.error
    outcome = cli("evaluate", model, "fashion-mnist-sample")
    assert outcome.code == 1
    assert "Ankle boot" in outcome.error


def test_a_part_that_is_not_there(cli, model, pictures):
    outcome = cli("evaluate", model, pictures, "--split", "test")
    assert outcome.code == 1
    assert "'test'" in outcome.error


def test_the_confusion_matrix_as_a_picture(cli, model, pictures, tmp_path):
    assert cli("evaluate", model, pictures, "--confusion", "c.png").code == 0
    with Image.open(tmp_path / "c.png") as picture:
        picture.load()


# ------------------------------------------------------------------ predict


def test_predict_gives_the_probabilities_of_the_net(cli, trained, model, pictures):
    files = sorted(pictures.glob("*/*.png"))
    found = cli("predict", model, *files, "--top", 2, "--json").json["predictions"]
    scores = expected_scores(trained, files).astype(np.float64)
    probabilities = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    for file, row, prediction in zip(files, probabilities, found, strict=True):
        assert prediction["path"] == str(file)
        given = {top["class"]: top["probability"] for top in prediction["top"]}
        np.testing.assert_allclose([given["across"], given["down"]], row, rtol=1e-5)
        assert prediction["top"][0]["probability"] >= prediction["top"][1]["probability"]


def test_predict_gives_the_same_bits_for_pictures_of_8_and_16_bits(cli, model, pictures, tmp_path):
    """A net makes numbers of bytes itself; other pictures are normalised before."""
    fine = np.random.default_rng(0).integers(0, 2**16, (8, 8), np.uint16)
    Image.fromarray(fine).save(tmp_path / "fine.png")
    files = sorted(pictures.glob("*/*.png"))
    files.insert(3, tmp_path / "fine.png")
    net = load(model)
    recipe = Recipe.from_json(json.dumps(net.meta["recipe"]))
    scores = net(np.stack([recipe.apply(read_image(file, 1)) for file in files])).astype(float)
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    found = cli("predict", model, *files, "--json").json["predictions"]
    for row, prediction in zip(weights, found, strict=True):
        assert prediction["top"][0]["probability"] == row.max() / row.sum()


def test_predict_takes_files_folders_patterns_and_standard_input(cli, model, pictures, monkeypatch):
    by_folder = cli("predict", model, pictures, "--json").json["predictions"]
    assert len(by_folder) == 10
    pattern = cli("predict", model, f"{pictures}/*/*.png", "--json").json["predictions"]
    assert pattern == by_folder
    names = "".join(f"{prediction['path']}\n" for prediction in by_folder)
    monkeypatch.setattr(sys, "stdin", io.StringIO(names))
    assert cli("predict", model, "-", "--json").json["predictions"] == by_folder


def test_pictures_that_cannot_be_read_do_not_stop_the_others(cli, model, pictures, tmp_path):
    torn = tmp_path / "torn.png"
    torn.write_bytes((pictures / "down" / "0.png").read_bytes()[:60])
    good = pictures / "down" / "1.png"
    outcome = cli("predict", model, torn, "nowhere.png", good)
    assert outcome.code == 1
    assert outcome.out.startswith(f"{good}  ")
    told = outcome.err.splitlines()
    assert len(told) == 2
    assert str(torn) in told[0]
    assert "nowhere.png" in told[1]

    found = cli("predict", model, torn, good, "--json")
    assert found.code == 1
    assert [p["path"] for p in found.json["predictions"]] == [str(good)]
    assert [p["path"] for p in found.json["unreadable"]] == [str(torn)]


def test_predictions_as_files(cli, model, pictures, tmp_path):
    found = cli("predict", model, pictures, "--top", 2, "--json").json["predictions"]
    assert cli("predict", model, pictures, "--top", 2, "--out", "p.jsonl").code == 0
    lines = (tmp_path / "p.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == found
    assert cli("predict", model, pictures, "--top", 2, "--out", "p.csv").code == 0
    with (tmp_path / "p.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["path", "class1", "probability1", "class2", "probability2"]
    assert [row["class1"] for row in rows] == [p["top"][0]["class"] for p in found]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["{pictures}", "--out", "p.txt"], ".csv or .jsonl"),
        (["nothing/*.png"], "no file matches"),
        (["."], "no picture is in it"),
    ],
)
def test_predict_refuses(cli, model, pictures, arguments, says):
    outcome = cli("predict", model, *(text.format(pictures=pictures) for text in arguments))
    assert outcome.code == 1
    assert says in outcome.error


# ------------------------------------------------------------------ model files


def test_damaged_and_foreign_model_files(cli, trained, model, pictures, tmp_path):
    whole = model.read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.safetensors").write_bytes(b"")
    changed = bytearray(whole)
    changed[-7] ^= 1
    (tmp_path / "changed.safetensors").write_bytes(bytes(changed))
    shutil.copy(trained / "last.ckpt", tmp_path / "checkpoint.safetensors")
    shutil.copy(pictures / "down" / "0.png", tmp_path / "picture.safetensors")
    for name in ("cut", "empty", "changed", "checkpoint", "picture"):
        file = f"{name}.safetensors"
        for command in (
            ["evaluate", file, pictures],
            ["predict", file, pictures],
            ["inspect", file],
        ):
            outcome = cli(*command)
            assert outcome.code == 1
            assert file in outcome.error


def test_a_model_without_class_names(cli, pictures, tmp_path):
    save(models.create("lenet-bn", num_classes=2, image_size=8), tmp_path / "m.safetensors")
    outcome = cli("predict", "m.safetensors", pictures)
    assert outcome.code == 1
    assert "no classes" in outcome.error


# ------------------------------------------------------------------ inspect, doctor


def test_inspect_a_file_and_a_name(cli, model):
    by_file = cli("inspect", model, "--json").json
    by_name = cli("inspect", "lenet-bn", "--input", "1,8,8", "--classes", 2, "--json").json
    assert by_file["layers"] == by_name["layers"]
    assert by_file["input"] == [1, 8, 8]
    # conv1 has 3·3·1·32 weights and does as many multiplications for each of 8·8 outputs
    conv1 = next(row for row in by_file["layers"] if row["name"] == "conv1")
    assert (conv1["params"], conv1["macs"]) == (288, 288 * 64)
    assert conv1["output"] == [32, 8, 8]


def test_inspect_prints_the_plan(cli):
    text = cli("inspect", "lenet-bn", "--input", "1,8,8", "--plan").out
    assert "conv1" in text
    assert "--- program for" in text
    assert "plan" in cli("inspect", "lenet-bn", "--input", "1,8,8", "--plan", "--json").json


def test_inspect_states_the_peak_memory(cli):
    net = ("inspect", "lenet-bn", "--input", "1,8,8", "--batch", 16)
    peaks = [
        cli(*net, *options, "--json").json["totals"]["peak_memory"]
        for options in ((), ("--train",), ("--recompute",))
    ]
    assert peaks[0] < peaks[2] <= peaks[1]
    assert "to train on a batch of 16" in cli(*net, "--train").out


@pytest.mark.parametrize(
    "name",
    ["convnext_tiny", "lenet", "lenet-bn", "MobileNetV3-Small", "nin", "resnet18", "vgg11-bn"],
)
def test_inspect_knows_the_usual_picture_of_a_network(cli, name):
    outcome = cli("inspect", name, "--classes", 10, "--json")
    assert outcome.code == 0
    assert outcome.json["layers"][-1]["output"] == [10]


def test_every_network_is_named_in_the_help(cli):
    text = cli("train", "--help").out
    assert [name for name in models.list() if name not in text] == []


def test_inspect_a_shape_that_does_not_fit(cli, model):
    outcome = cli("inspect", model, "--input", "3,8,8")
    assert outcome.code == 1
    assert "conv1" in outcome.error


@pytest.mark.slow
def test_doctor(cli):
    found = cli("doctor", "--json").json
    assert found["denormals"] == {"flushed_in_kernels": True, "kept_by_numpy": True}
    assert found["threads"]["used"] >= 1
    assert found["peak"]["gflops"] > 0
    assert found["versions"]["numpy"] == np.__version__
    text = cli("doctor").out
    for block in ("versions", "machine", "threads", "cache", "denormals", "peak"):
        assert f"{block}\n" in text
