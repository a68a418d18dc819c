"""`striate report`: runs beside one another."""

import csv
import re
import shutil

import pytest

from tests.cli_run import SMALL, cli, trained  # noqa: F401 - fixtures
from tests.test_report_training import check_page


@pytest.fixture
def two(trained, cli, tmp_path):
    """The shared run, and one beside it with another rate and three epochs."""
    arguments = ["train", trained.parent / "pictures", *SMALL, "--lr", 0.002, "--epochs", 3]
    assert cli(*arguments, "--out", "second").code == 0
    shutil.copytree(trained, tmp_path / "first")
    return ["first", "second"]


def log(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_numbers_are_those_of_the_logs(two, cli, tmp_path):
    done = cli("report", *two, "--json")
    assert done.code == 0
    for name, found in zip(two, done.json["runs"], strict=True):
        rows = log(tmp_path / name / "log.csv")
        accuracy = [float(row["val_accuracy"]) for row in rows]
        assert found["epochs"] == len(rows)
        assert found["best_val_accuracy"] == max(accuracy)
        assert accuracy[found["best_epoch"] - 1] == max(accuracy)
        assert found["val_loss"] == float(rows[-1]["val_loss"])
        assert found["seconds"] == pytest.approx(sum(float(row["seconds"]) for row in rows))
    assert done.json["differing"] == {"epochs": [2, 3], "lr": [0.01, 0.002]}


def test_page_lays_the_curves_over_one_another(two, cli, tmp_path):
    assert cli("report", *two, "--out", "page.html").code == 0
    text = (tmp_path / "page.html").read_text()
    check_page(text)
    lines = re.findall(r'<polyline points="([^"]*)"', text)
    assert [len(points.split()) for points in lines] == [2, 3] * 6
    assert "Settings that differ" in text
    assert "<th>lr</th>" in text


def test_one_run_is_a_page_too(two, cli, tmp_path):
    assert cli("report", "first", "--out", "page.html").code == 0
    text = (tmp_path / "page.html").read_text()
    check_page(text)
    assert "that differ" not in text


def test_table_names_runs_and_differences(two, cli):
    out = cli("report", *two).out
    assert out.split()[:2] == two
    assert re.search(r"^lr +0.01 +0.002$", out, re.MULTILINE)


def test_folders_that_are_no_runs_are_refused(cli, trained, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "log.csv" in cli("report", "empty").error
    assert cli("report", "nowhere").code == 2
    assert cli("report").code == 2
    shutil.copytree(trained, tmp_path / "unfinished")
    head = (tmp_path / "unfinished" / "log.csv").read_text().splitlines()[0]
    (tmp_path / "unfinished" / "log.csv").write_text(head + "\n")
    assert "no epoch" in cli("report", "unfinished").error
    (tmp_path / "unfinished" / "log.csv").write_text("epoch,lr\n1,x\n")
    assert "no log" in cli("report", "unfinished").error
