"""What the command line says to wrong input: one line, the right code, the nearest name."""

import shlex
import subprocess
import sys

import pytest

from striate.cli import app
from tests.cli_run import ENVIRONMENT, SMALL, cli, make_pictures  # noqa: F401 - cli is a fixture

pytestmark = pytest.mark.usefixtures("cli")

WRONG_USAGE = [
    (["trian"], "did you mean train?"),
    (["dance"], "commands: bench, convert, data, doctor, evaluate, explain, export, "),
    (["train", "x", "--epoch", "3"], "no such option --epoch; did you mean --epochs?"),
    (["train", "x", "--optimizer", "sdg"], "did you mean sgd?"),
    (["train", "x", "--schedule", "cosin"], "did you mean cosine?"),
    (["train", "x", "--epochs", "0"], "--epochs"),
    (["train", "x", "--epochs", "many"], "'many'"),
    (["train", "x", "--lr", "0"], "--lr"),
    (["train", "x", "--val-split", "1"], "--val-split"),
    (["train", "x", "--image-size", "12x"], "12x"),
    (["train", "x", "--channels", "4"], "--channels"),
    (["train"], "give DATA"),
    (["train", "x", "y"], "y"),
    (["train", "x", "--config", "nowhere.toml"], "nowhere.toml"),
    (["evaluate", "x"], "DATA"),
    (["predict", "x"], "FILE"),
    (["explain", "lenet", "x.png"], "--out"),
    (["explain", "lenet", "x.png", "--out", "x.html", "--tpo", "3"], "did you mean --top?"),
    (["inspect", "lenet", "--input", "28,28"], "3,224,224"),
    (["predict", "m", "f", "--top", "0"], "--top"),
    (["bench", "lenet", "--batch", "0"], "--batch"),
    (["bench", "lenet", "--peer"], "no such option --peer"),
]


@pytest.mark.parametrize(("arguments", "says"), WRONG_USAGE, ids=lambda x: " ".join(x)[:40])
def test_wrong_usage_is_one_line_and_code_2(cli, arguments, says):
    outcome = cli(*arguments)
    assert outcome.code == 2
    assert says in outcome.error
    assert outcome.out == ""


WRONG_VALUES = [
    (["train", "nowhere"], "nowhere"),
    (["train", "fashion-mnist-sampel"], "did you mean fashion-mnist-sample?"),
    (["train", "fashion-mnist-sample", "--model", "lenet-nb"], "did you mean 'lenet-bn'?"),
    (["train", "fashion-mnist-sample", "--augment", "fliip"], "did you mean 'flip'?"),
    (["train", "fashion-mnist-sample", "--stem", "32"], "--stem"),
    (["train", "x", "--schedule", "onecycle", "--warmup", "1"], "--warmup"),
    (["evaluate", "nowhere.safetensors", "x"], "nowhere.safetensors"),
    (["predict", "nowhere.safetensors", "x"], "nowhere.safetensors"),
    (["explain", "resnet19", "x.png", "--out", "x.html"], "did you mean resnet18?"),
    (["explain", "lenet", "nowhere.png", "--out", "x.html"], "nowhere.png"),
    (["explain", "lenet", "x.png", "--out", "x.pdf"], "must end in .html"),
    (["inspect", "resnet19"], "did you mean resnet18?"),
    (["bench", "resnet19"], "did you mean resnet18?"),
    (["bench", "--input", "1,28,28"], "--input needs MODEL"),
]


@pytest.mark.parametrize(("arguments", "says"), WRONG_VALUES, ids=lambda x: " ".join(x)[:40])
def test_wrong_value_is_one_line_and_code_1(cli, tmp_path, arguments, says):
    outcome = cli(*arguments)
    assert outcome.code == 1
    assert says in outcome.error
    assert not (tmp_path / "runs").exists()


def test_folder_of_one_class_is_refused(cli, tmp_path):
    outcome = cli("train", make_pictures(tmp_path / "p", ["cat"]))
    assert outcome.code == 1
    assert "'cat'" in outcome.error


def test_folder_that_is_a_class_is_refused(cli, tmp_path):
    outcome = cli("train", make_pictures(tmp_path / "p") / "down")
    assert outcome.code == 1
    assert "no class folders" in outcome.error


def test_oblong_pictures_for_a_square_net(cli, tmp_path):
    outcome = cli("train", make_pictures(tmp_path / "p"), "--image-size", "8x12", *SMALL)
    assert outcome.code == 1
    assert "8x8 would do" in outcome.error


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("epoch = 3", "did you mean epochs?"),
        ("epochs = [3]", "epochs"),
        ("epochs = ", "no TOML"),
        ("data = 'x'\nepochs = 0", "--epochs"),
    ],
)
def test_wrong_configuration_file(cli, tmp_path, text, says):
    (tmp_path / "c.toml").write_text(text)
    outcome = cli("train", "--config", "c.toml")
    assert outcome.code in {1, 2}
    assert says in outcome.error


def test_help_of_every_command_has_an_example(cli):
    for command in sorted(app.commands):
        outcome = cli(command, "--help")
        assert outcome.code == 0
        assert f"Example: striate {command}" in outcome.out
        assert "--json" in outcome.out


def test_version_and_help(cli):
    assert cli("--version").out.startswith("striate 0.")
    assert "train" in cli("--help").out
    assert cli().code == 2


def test_debug_shows_the_traceback(cli):
    for arguments in (["--debug", "train", "nowhere"], ["train", "nowhere", "--debug"]):
        outcome = cli(*arguments)
        assert outcome.code == 1
        assert "Traceback" in outcome.err
        assert outcome.err.splitlines()[-1].startswith("striate: error: nowhere")


def test_a_terminal_without_our_letters_and_a_warning_as_one_line(tmp_path):
    """A cache folder that others may write to is not used, with a warning."""
    (tmp_path / "striate").mkdir()
    (tmp_path / "striate" / "kernels").mkdir()
    (tmp_path / "striate" / "kernels").chmod(0o777)
    environment = {**ENVIRONMENT, "PYTHONIOENCODING": "ascii", "XDG_CACHE_HOME": str(tmp_path)}
    environment.pop("STRIATE_CACHE", None)
    done = subprocess.run(
        [sys.executable, "-m", "striate.cli", "doctor"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert "instruction set" in done.stdout
    lines = done.stderr.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("striate: warning: ")


def test_a_reader_that_goes_away_is_no_traceback(tmp_path):
    command = f"{shlex.quote(sys.executable)} -m striate.cli train --help | head -n 1"
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, env=ENVIRONMENT
    )
    assert "Usage: striate train" in done.stdout
    assert done.stderr == ""
