"""The side-by-side benchmark with the peers that are installed, on one small row each."""

import json

import pytest

import striate
from tests.cli_run import cli  # noqa: F401 - cli is a fixture


def test_ours_alone_is_measured_in_a_worker(tmp_path):
    from bench.cases import OTHERS
    from bench.measure import QUICK, measure
    from bench.process import Crew

    crew = Crew()
    try:
        case = next(case for case in OTHERS if case.title.startswith("17,29"))
        (row,) = measure(case, 1, [], QUICK, crew)
    finally:
        crew.close()
    assert row.values["striate"].median > 0
    assert row.flops == 2 * 23 * 17 * 9 * 29 * 29
    assert row.peak > 0
    assert row.fastest() is None


def test_a_worker_that_cannot_do_it_says_why():
    from bench.job import Job
    from bench.process import Contender, ContenderError

    contender = Contender("striate")
    try:
        contender.prepare(Job("striate", "infer", "resnet19", {}, 1, "/nowhere"))
        with pytest.raises(ContenderError, match="resnet19"):
            contender.receive()
        assert contender.ask(do="rss") > 2**20  # and goes on
    finally:
        contender.close()


def test_peers_need_a_network_and_a_checkout(cli, tmp_path, monkeypatch):
    assert "--peers needs MODEL" in cli("bench", "--peers").error
    (tmp_path / "model.safetensors").touch()
    assert "is a file" in cli("bench", "model.safetensors", "--peers").error
    monkeypatch.setattr(striate, "__file__", str(tmp_path / "lib" / "striate" / "__init__.py"))
    assert "source checkout" in cli("bench", "lenet-bn", "--peers").error


@pytest.mark.slow
def test_one_network_beside_its_peers(cli):
    pytest.importorskip("torch")
    outcome = cli("bench", "lenet-bn", "--peers", "--train", "--seconds", "0.1", "--json")
    assert outcome.code == 0, outcome.err
    rows = outcome.json["rows"]
    assert {row["section"] for row in rows} == {"train", "memory"}
    assert {"striate", "torch", "torch-nhwc"} <= set(rows[0]["values"])
    assert json.dumps(outcome.json["facts"]["versions"]).count("PyTorch") == 1
