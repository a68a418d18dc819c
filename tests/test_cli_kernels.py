"""--algorithm and --max-relative-error: which commands take them, and what they do."""

import pytest

from striate.cli._settings import read_config
from tests.cli_run import SMALL, cli, make_pictures, trained  # noqa: F401

LENET = ("lenet-bn", "--input", "1,28,28")


def ways(text):
    """layer → what the plan says of it."""
    lines = text.split("--- ways of convolutions")[1].split("--- program")[0].splitlines()[1:]
    return dict(line.split(": ", 1) for line in lines if line)


def test_inspect_says_which_way_and_why(cli):
    plan = ("inspect", "squeezenet1_1", "--input", "3,64,64", "--plan")
    usual = ways(cli(*plan).out)
    assert any("cost model: " in line and "× cheaper than" in line for line in usual.values())
    assert any("the only way" in line for line in usual.values())
    asked = ways(cli(*plan, "--algorithm", "winograd-f2").out)
    layers = [name for name, line in asked.items() if "winograd-f2 (asked for)" in line]
    bounded = ways(cli(*plan, "--max-relative-error", "5e-6").out)
    assert {"features.0", "features.3.expand3x3"} <= set(layers)
    wide = [layer for layer in layers if layer != "features.0"]  # of few channels: errs less
    assert all("error budget excludes winograd-f4" in bounded[layer] for layer in wide)
    failed = cli(*plan, "--max-relative-error", "1e-9")
    assert failed.code == 1
    assert "max_relative_error=1e-09 cannot be met by" in failed.error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--algorithm", "direct"), "--algorithm and --max-relative-error need --plan"),
        (("--plan", "--algorithm", "winograd"), "did you mean winograd-f"),
        (("--plan", "--max-relative-error", "0"), "--max-relative-error"),
    ],
)
def test_wrong_uses(cli, arguments, message):
    failed = cli("inspect", *LENET, *arguments)
    assert failed.code != 0
    assert message in failed.error


def test_train_records_them(cli, tmp_path):
    pictures = make_pictures(tmp_path / "pictures")
    wishes = ("--algorithm", "direct", "--max-relative-error", "1e-4")
    assert cli("train", pictures, *SMALL, *wishes, "--out", "run").code == 0
    config = read_config(tmp_path / "run" / "config.toml")
    assert (config["algorithm"], config["max_relative_error"]) == ("direct", 1e-4)
    assert cli("train", "--resume", "run").code == 0
    failed = cli("train", "--resume", "run", "--algorithm", "auto")
    assert "the run has --algorithm direct, but auto is asked for" in failed.error


def test_trained_models_take_them(cli, trained):
    model, pictures = trained / "best.safetensors", trained.parent / "pictures"
    for command in (("evaluate", model, pictures), ("predict", model, pictures)):
        assert cli(*command, "--algorithm", "direct").code == 0
        failed = cli(*command, "--max-relative-error", "1e-12")
        assert "max_relative_error=1e-12 cannot be met by" in failed.error


@pytest.mark.parametrize("training", [(), ("--train",)])
def test_bench_takes_them(cli, training):
    steps = cli(
        *("bench", *LENET, "--seconds", 0, "--algorithm", "winograd-f2", "--json"), *training
    ).json["steps"]
    labels = " ".join(step["label"] for step in steps)
    assert "winograd F(2×2, 3×3)" in labels
    assert "winograd F(4×4, 3×3)" not in labels
