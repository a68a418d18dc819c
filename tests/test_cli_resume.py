"""`striate train --resume`: what is refused, and that a broken run ends as an unbroken one."""

import csv
import signal
import subprocess
import sys
import time

import pytest

from striate.io.checkpoint import read_checkpoint
from tests.cli_run import ENVIRONMENT, cli, make_pictures, trained  # noqa: F401 - fixtures

RUN = [
    "--epochs", "30", "--batch-size", "2", "--save-every", "1", "--augment", "crop=1,flip",
    "--optimizer", "adam", "--lr", "0.002", "--schedule", "onecycle", "--ema", "0.9",
    "--patience", "30",
]  # fmt: skip


def test_without_a_checkpoint_it_is_an_error(cli, tmp_path):
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "nowhere"):
        outcome = cli("train", "--resume", folder)
        assert outcome.code == 1
        assert f"{folder}: there is no last.ckpt to resume from" in outcome.error


def test_a_finished_run_stays_as_it_is(cli, trained):
    before = (trained / "log.csv").read_bytes(), (trained / "best.safetensors").read_bytes()
    assert cli("train", "--resume", trained).code == 0
    assert (
        (trained / "log.csv").read_bytes(),
        (trained / "best.safetensors").read_bytes(),
    ) == before


def test_repeated_settings_are_accepted(cli, trained):
    pictures = trained.parent / "pictures"
    repeated = ("--epochs", 2, "--lr", "1e-2", "--image-size", "8x8", "--out", trained)
    assert cli("train", pictures, "--resume", trained, *repeated).code == 0
    assert cli("train", "--config", trained / "config.toml", "--resume", trained).code == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--epochs", "3"], "--epochs 2, but 3"),
        (["--lr", "0.02"], "--lr 0.01, but 0.02"),
        (["--augment", "flip"], "--augment none, but flip"),
        (["elsewhere"], "elsewhere"),
        (["--out", "elsewhere"], "--out elsewhere contradicts"),
    ],
)
def test_a_contradiction_is_refused(cli, trained, arguments, says):
    outcome = cli("train", "--resume", trained, *arguments)
    assert outcome.code == 1
    assert says in outcome.error


def test_a_configuration_file_that_contradicts_is_refused(cli, trained, tmp_path):
    (tmp_path / "c.toml").write_text("epochs = 9\n")
    for order in (
        ("--config", "c.toml", "--resume", trained),
        ("--resume", trained, "--config", "c.toml"),
    ):
        outcome = cli("train", *order)
        assert outcome.code == 1
        assert "--epochs 2, but 9" in outcome.error


def test_a_damaged_checkpoint_is_named(cli, trained, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    for file in trained.iterdir():
        (run / file.name).write_bytes(file.read_bytes())
    whole = (run / "last.ckpt").read_bytes()
    (run / "last.ckpt").write_bytes(whole[: len(whole) // 2])
    outcome = cli("train", "--resume", run)
    assert outcome.code == 1
    assert "last.ckpt" in outcome.error


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    make_pictures(folder / "p")
    process = start(folder)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return folder


def start(folder, *arguments):
    command = [sys.executable, "-m", "striate.cli", "train", *(arguments or ("p", *RUN)), "--json"]
    if not arguments:
        command += ["--out", "run"]
    return subprocess.Popen(
        command,
        cwd=folder,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_epochs(folder, process, count):
    log = folder / "run" / "log.csv"
    deadline = time.monotonic() + 120
    while not log.exists() or len(log.read_text().splitlines()) <= count:
        assert process.poll() is None, "the run has ended before it could be broken off"
        assert time.monotonic() < deadline
        time.sleep(0.002)


def untimed(run):
    with (run / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [
        {k: v for k, v in row.items() if k not in {"seconds", "images_per_second"}} for row in rows
    ]


def assert_same_end(broken, unbroken):
    ours, theirs = (
        read_checkpoint(folder / "run" / "last.ckpt")[0] for folder in (broken, unbroken)
    )
    assert ours.keys() == theirs.keys()
    assert [k for k in ours if ours[k].tobytes() != theirs[k].tobytes()] == []
    for name in ("best.safetensors",):
        assert (broken / "run" / name).read_bytes() == (unbroken / "run" / name).read_bytes()
    assert untimed(broken / "run") == untimed(unbroken / "run")


@pytest.mark.slow
@pytest.mark.parametrize(
    "how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM], ids=lambda s: s.name
)
def test_a_broken_run_ends_as_an_unbroken_one(tmp_path, unbroken, how):
    make_pictures(tmp_path / "p")
    process = start(tmp_path)
    wait_for_epochs(tmp_path, process, 3)
    process.send_signal(how)
    out, err = process.communicate(timeout=60)
    assert process.returncode != 0
    if how != signal.SIGKILL:
        assert process.returncode == 128 + signal.SIGINT
        assert err.splitlines()[-1].endswith("go on with: striate train --resume run")
        assert out == ""
    assert len(untimed(tmp_path / "run")) < 30

    resumed = start(tmp_path, "--resume", "run")
    _, err = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, err
    assert_same_end(tmp_path, unbroken)
