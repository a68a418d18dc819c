"""`striate train`: the run folder, repeating a run, numbering, pictures that cannot be read."""

import csv
import json
import sys

import numpy as np
import pytest
from PIL import Image

from striate.io.safetensors import read_safetensors
from tests.cli_run import SMALL, cli, make_pictures, trained  # noqa: F401 - fixtures

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILES = {
    "best.safetensors", "config.toml", "confusion.png", "curves.png", "last.ckpt", "log.csv",
    "log.jsonl", "report.html",
}  # fmt: skip
COLUMNS = [
    "epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "lr", "seconds",
    "images_per_second",
]  # fmt: skip


def weights(run):
    return read_safetensors(run / "best.safetensors")[0]


def same_weights(a, b):
    return a.keys() == b.keys() and all(a[name].tobytes() == b[name].tobytes() for name in a)


def test_run_folder_holds_what_is_promised(trained):
    assert {file.name for file in trained.iterdir()} == FILES


def test_logs_have_a_line_an_epoch(trained):
    with (trained / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == COLUMNS
    assert [int(row["epoch"]) for row in rows] == [1, 2]
    lines = [json.loads(line) for line in (trained / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert float(rows[1]["val_loss"]) == lines[1]["val_loss"]


def test_pictures_are_whole(trained):
    for name in ("curves.png", "confusion.png"):
        with Image.open(trained / name) as picture:
            picture.load()
            assert min(picture.size) > 300


def test_every_setting_is_in_the_configuration(trained):
    found = tomllib.loads((trained / "config.toml").read_text())
    assert found["data"] == str(trained.parent / "pictures")
    assert found["lr"] == 0.01
    assert (found["momentum"], found["weight_decay"]) == (0.9, 0.0005)  # resolved defaults of sgd
    assert (found["image_size"], found["channels"]) == (8, 1)  # as the pictures are
    assert found["augment"] == "none"


def test_configuration_repeats_the_run_bit_for_bit(cli, trained, tmp_path):
    outcome = cli("train", "--config", trained / "config.toml", "--json")
    assert outcome.code == 0
    run = tmp_path / outcome.json["run"]
    assert same_weights(weights(run), weights(trained))


def test_threads_do_not_change_a_bit(cli, trained, tmp_path):
    for threads in (1, 2):
        out = tmp_path / str(threads)
        arguments = ("--config", trained / "config.toml", "--threads", threads, "--out", out)
        assert cli("train", *arguments).code == 0
        assert same_weights(weights(out), weights(trained))


def test_recomputing_does_not_change_a_bit(cli, trained, tmp_path):
    out = tmp_path / "less"
    arguments = ("--config", trained / "config.toml", "--recompute", "--out", out)
    assert cli("train", *arguments).code == 0
    assert tomllib.loads((out / "config.toml").read_text())["recompute"] is True
    assert same_weights(weights(out), weights(trained))


def test_json_is_one_object_and_progress_goes_elsewhere(cli, trained):
    outcome = cli("train", "--config", trained / "config.toml", "--json")
    assert set(outcome.json) >= {"accuracy", "run", "seconds"}
    assert 0 <= outcome.json["accuracy"] <= 1
    assert "epoch 2/2" in outcome.err


def test_command_line_goes_before_the_configuration(cli, trained, tmp_path):
    outcome = cli("train", "--config", trained / "config.toml", "--epochs", 1, "--out", "o")
    assert outcome.code == 0
    found = tomllib.loads((tmp_path / "o" / "config.toml").read_text())
    assert (found["epochs"], found["lr"]) == (1, 0.01)


def test_run_folders_are_numbered(cli, tmp_path):
    pictures = make_pictures(tmp_path / "p")
    for number in (1, 2):
        outcome = cli("train", pictures, "--epochs", 1, "--json")
        assert outcome.json["run"] == f"runs/train-{number}"


def test_a_folder_that_is_not_empty_is_refused(cli, trained):
    before = sorted((file.name, file.stat().st_mtime_ns) for file in trained.iterdir())
    outcome = cli("train", trained.parent / "pictures", "--out", trained)
    assert outcome.code == 1
    assert "--resume" in outcome.error
    assert "another name" in outcome.error
    assert sorted((file.name, file.stat().st_mtime_ns) for file in trained.iterdir()) == before


def test_an_empty_folder_is_taken(cli, tmp_path):
    (tmp_path / "empty").mkdir()
    pictures = make_pictures(tmp_path / "p")
    assert cli("train", pictures, "--epochs", 1, "--out", "empty").code == 0


def test_unreadable_pictures_are_listed_and_left_out(cli, tmp_path):
    pictures = make_pictures(tmp_path / "p")
    (pictures / "down" / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n but no more")
    outcome = cli("train", pictures, *SMALL, "--out", "run")
    assert outcome.code == 0
    assert "unreadable.txt" in outcome.err
    listed = (tmp_path / "run" / "unreadable.txt").read_text().splitlines()
    assert len(listed) == 1
    assert listed[0].startswith(f"{pictures / 'down' / 'torn.png'}\t")


def test_folder_with_its_own_parts(cli, tmp_path):
    make_pictures(tmp_path / "p" / "train", count=4)
    make_pictures(tmp_path / "p" / "valid", count=3)
    outcome = cli("train", tmp_path / "p", *SMALL)
    assert outcome.code == 0
    assert "8 pictures to learn from, 6 to measure with" in outcome.err


def test_colour_pictures_make_a_net_of_three_channels(cli, tmp_path):
    pictures = make_pictures(tmp_path / "p")
    colour = np.zeros((8, 8, 3), np.uint8)
    colour[..., 0] = 200
    Image.fromarray(colour).save(pictures / "down" / "red.png")
    assert cli("train", pictures, *SMALL, "--out", "run").code == 0
    assert weights(tmp_path / "run")["conv1.weight"].shape[1] == 3
    assert tomllib.loads((tmp_path / "run" / "config.toml").read_text())["channels"] == 3


@pytest.mark.parametrize(
    "options",
    [
        ["--optimizer", "adam", "--schedule", "onecycle", "--lr", "0.01"],
        ["--optimizer", "adamw", "--schedule", "plateau", "--warmup", "1"],
        ["--optimizer", "rmsprop", "--schedule", "step", "--clip-norm", "1"],
        ["--schedule", "constant", "--warmup", "0.5", "--ema", "0.9", "--patience", "1"],
        ["--class-weights", "balanced", "--label-smoothing", "0.1", "--augment", "crop=1,flip"],
    ],
    ids=" ".join,
)
def test_options_reach_the_training(cli, trained, tmp_path, options):
    arguments = (trained.parent / "pictures", *SMALL, *options, "--out", "run")
    outcome = cli("train", *arguments)
    assert outcome.code == 0, outcome.err
    assert not same_weights(weights(tmp_path / "run"), weights(trained))


@pytest.mark.slow
def test_the_defaults_learn_the_built_in_set(cli):
    outcome = cli("train", "fashion-mnist-sample", "--json")
    assert outcome.json["accuracy"] >= 0.87
