"""Timing close ways once, remembering the better, and what may never change a result."""

import json
import os
import threading

import pytest

from striate import nn
from striate.engine import build, get_num_threads, set_num_threads, tune
from striate.engine import choice as choice_of
from striate.engine.choice import Verdict
from striate.errors import ArgumentError
from tests.small_nets import inference, picture

CHANNELS, SIDE = 64, 8


class Residual(nn.Module):
    """A convolution with bias, sum and ReLU as its epilogue."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.relu = nn.ReLU()

    def forward(self, x):
        return self.relu(self.conv(x) + x)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty cache, a process that has measured nothing, a cost model that trusts itself less."""
    monkeypatch.setattr(choice_of, "CLOSE", 10.0)
    monkeypatch.setenv("STRIATE_TUNE", "on")
    monkeypatch.setenv("STRIATE_CACHE", str(tmp_path / "kernels"))
    monkeypatch.setattr(tune, "_known", {})
    return tmp_path / "kernels"


@pytest.fixture
def measured(folder, monkeypatch):
    """Every measurement finds the second way better; the list has what was measured."""
    asked = []

    def measure(self, node, images, first, second):
        asked.append((node.inputs[0].shape, images, first.name, second.name))
        return Verdict(second.tile, {first.tile: 2e-3, second.tile: 1e-3})

    monkeypatch.setattr(tune._Tuner, "_measure", measure)
    return asked


def choice(n=1, side=SIDE, **options):
    (found,) = build(inference(Residual(), (n, CHANNELS, side, side)), **options).program.choices
    return found


def files(folder):
    return sorted(folder.glob("*.json"))


# -- measuring -------------------------------------------------------------------------------------


def test_a_real_measurement_is_remembered(folder, monkeypatch):
    found = choice(n=3)
    assert found.reason.startswith("measured ")
    (file,) = files(folder)
    content = json.loads(file.read_text())
    assert content["better"] == found.way.name
    assert set(content["seconds"]) == {"winograd-f4", "winograd-f2"}
    assert all(0 < s < 1 for s in content["seconds"].values())
    assert content["what"].startswith("Conv2d 3×3/1 64→64, 2^2 tiles, warm: ")
    monkeypatch.setattr(tune._Tuner, "_measure", None)
    assert choice() == found
    tune._known.clear()  # as in another process
    assert choice() == found
    assert files(folder) == [file]


def test_weights_of_a_large_net_are_not_in_the_caches(measured, folder):
    graph = inference(nn.Sequential(Residual(), nn.Flatten(), nn.Linear(4096, 4096)), (1, 64, 8, 8))
    build(graph)
    assert "cold" in json.loads(files(folder)[0].read_text())["what"]


def test_the_budget_is_one_programs(folder, monkeypatch):
    monkeypatch.setattr(tune, "BUDGET_SECONDS", 0.0)
    found = choice()
    assert found.way == found.ways[0]
    assert "the time budget was spent" in found.reason
    monkeypatch.setattr(tune, "BUDGET_SECONDS", 1.0)
    tune._known.clear()
    assert choice() == found  # it has been decided, for this machine


# -- what is not measured --------------------------------------------------------------------------


def test_where_nothing_is_measured(measured, folder, monkeypatch):
    assert choice(tune=False).reason.startswith("cost model")
    assert choice(training=True).reason.startswith("cost model")
    assert choice(algorithm="direct").reason == "asked for"
    monkeypatch.setenv("STRIATE_TUNE", "off")
    assert choice(tune=True).reason.startswith("cost model")
    monkeypatch.setenv("STRIATE_TUNE", "on")
    monkeypatch.setenv("STRIATE_CACHE", "off")
    assert choice(tune=True).reason.startswith("cost model")
    assert measured == []
    monkeypatch.setenv("STRIATE_TUNE", "sometimes")
    with pytest.raises(ArgumentError, match="STRIATE_TUNE='sometimes' must be 'on' or 'off'"):
        choice()


def test_training_measures_its_batch_when_asked(measured):
    assert choice(n=2, side=4, training=True, tune=True).reason.startswith("measured")
    assert measured == [((2, CHANNELS, 4, 4), 2, *measured[0][2:])]


def test_many_sizes_need_few_measurements(measured):
    net = Residual().eval()
    for i in range(200):
        net(picture(1 + i % 3, CHANNELS, 3 + i % 25, 3 + i % 23))
    assert 0 < len(measured) <= 12
    assert {images for _, images, *_ in measured} == {1}


# -- the same bits ---------------------------------------------------------------------------------


def test_an_image_has_the_same_bits_in_any_batch_and_on_any_threads(measured, monkeypatch):
    net, x = Residual().eval(), picture(5, CHANNELS, SIDE, SIDE)
    before = get_num_threads()
    try:
        set_num_threads(2)
        together = net(x)
        assert len(measured) == 1
        for threads in (1, 2, 3):
            set_num_threads(threads)
            for i in range(5):
                assert net(x[i : i + 1]).tobytes() == together[i : i + 1].tobytes()
    finally:
        set_num_threads(before)
    assert len(measured) == 1
    direct = net.plan(tune=False)(x)
    assert direct.tobytes() != together.tobytes()


def test_callers_of_several_threads_get_one_verdict(measured):
    found = []
    callers = [threading.Thread(target=lambda: found.append(choice())) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(measured) == 1
    assert len({c.way for c in found}) == 1


def test_the_first_process_is_right_for_all(folder, monkeypatch):
    """Another process writes its verdict while this one measures."""
    written = []

    def measure(self, node, images, first, second):
        path = next(p for p in written)
        tune.keep(path, "by another process", Verdict(first.tile, {first.tile: 1, second.tile: 2}))
        return Verdict(second.tile, {first.tile: 2, second.tile: 1})

    reading = tune.read
    monkeypatch.setattr(tune, "read", lambda path: written.append(path) or reading(path))
    monkeypatch.setattr(tune._Tuner, "_measure", measure)
    found = choice()
    assert found.way == found.ways[0]
    assert json.loads(files(folder)[0].read_text())["what"] == "by another process"


# -- files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"null",
        b'{"better": "winograd-f2"}',
        b'{"better": "auto", "seconds": {}}',
        b'{"better": "fft", "seconds": {}}',
        b'{"better": "direct", "seconds": {"winograd-f2": 1, "winograd-f4": 2}}',
        b'{"better": "winograd-f2", "seconds": {"winograd-f2": 1}}',
        b'{"better": "winograd-f2", "seconds": {"winograd-f2": "x", "winograd-f4": 2}}',
        b'{"better": ["winograd-f2"], "seconds": {}}',
    ],
)
def test_a_damaged_file_is_written_anew(measured, folder, content):
    choice()
    (file,) = files(folder)
    whole = file.read_bytes()
    file.write_bytes(content)
    tune._known.clear()
    choice()
    assert len(measured) == 2
    assert file.read_bytes() == whole
    assert list(folder.glob(".*")) == []


def test_a_folder_that_cannot_be_written_to(folder, monkeypatch):
    def refuse(**_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(tune.tempfile, "mkstemp", refuse)
    tune.cache._warn.cache_clear()
    with pytest.warns(RuntimeWarning, match="cannot be written"):
        tune.keep(folder / "x.json", "", Verdict(2, {}))


def test_a_verdict_is_the_same_for_any_epilogue(measured):
    x = picture(1, CHANNELS, SIDE, SIDE)
    Residual().eval()(x)
    nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1).eval()(x)
    assert len(measured) == 1


def test_a_verdict_reads_as_it_was_kept(tmp_path):
    path, verdict = tmp_path / "verdict.json", Verdict(2, {2: 4.81499999e-5, 4: 1 / 3})
    kept = tune.keep(path, "a layer", verdict)
    assert kept == tune.read(path)
    assert str(kept.seconds[2]) == "4.815e-05"
