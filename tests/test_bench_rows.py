"""The side-by-side benchmark without peers: order of rows, means, memory, files, options."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from bench.cases import CASES, SECTIONS, TARGETS, TWINS
from bench.isa import SWITCHES, limited, switches
from bench.memory import high_water, peak_resident_bytes
from bench.rows import Book, Row, means, ordered
from bench.tables import MARKS, as_markdown, as_text, check_marks, number, write_between_marks
from bench.timing import Timing, once, timing, turns

ROOT = Path(__file__).parent.parent
FACTS = {
    "cpu": "znver4",
    "isa": "avx512",
    "limited_to": "native",
    "python": "3.11",
    "versions": {"Striate": "0.1"},
    "effort": "full",
    "command": "make bench",
    "date": "2026-01-01",
    "peak": {"2": 230.0},
    "left_out": ["jax is not installed and was left out"],
}


def row(section, title, ours, wanted=1.0, peak=0.0, **peers):
    values = {"striate": ours, **peers}
    timings = {peer: Timing(v, 0.9 * v, 1.1 * v) for peer, v in values.items()}
    return Row(section, title, 2, timings, wanted, peak=peak)


def test_ratio_is_that_of_the_fastest_peer():
    r = row("infer", "net", 2.0, torch=5.0, ncnn=3.0)
    assert (r.fastest(), r.ratio()) == ("ncnn", 1.5)
    assert r.ratio(["torch"]) == 2.5
    assert math.isnan(row("infer", "net", 2.0).ratio())
    assert not row("infer", "net", 2.0).short


def test_rows_that_fall_short_come_first_then_sections():
    rows = [
        row("train", "a", 1.0, torch=2.0),
        row("train", "b", 1.0, torch=0.5),
        row("conv3x3", "c", 1.0, torch=2.0),
        row("infer", "d", 1.0, torch=0.5),
    ]
    assert [r.title for r in ordered(rows)] == ["d", "b", "c", "a"]


def test_a_mean_over_a_section_may_fall_short_though_no_row_does():
    rows = [row("conv3x3", str(i), 1.0, torch=2.6, ncnn=x) for i, x in enumerate((1.0, 1.21))]
    found = {(m.what, m.rows): m for m in means(rows)}
    assert found["geometric mean", 2].ratio == pytest.approx(1.1)
    assert found["geometric mean", 2].short
    assert found["geometric mean, PyTorch, ONNX Runtime, OpenVINO", 2].ratio == pytest.approx(2.6)
    assert means(rows)[0].short
    assert not any(r.short for r in rows)


def test_tables_list_what_falls_short_first_and_only_once():
    book = Book(
        FACTS, rows=[row("infer", "net-b", 1.0, ncnn=3), row("infer", "net-a", 1.0, ncnn=0.5)]
    )
    book.failed["that row"] = "no memory"
    for text in (as_text(book), as_markdown(book, "images/performance.png")):
        assert text.index("Short of their target") < text.index("net-a") < text.index("net-b")
        assert text.count("net-a") == 1
        assert "0.50 ✗" in text
        assert "NOT MEASURED: that row: no memory" in text
        assert "jax is not installed" in text


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.012345, "0.0123"), (1.2345, "1.23"), (12.345, "12.3"), (1234.5, "1234"), (0, "–")],
)
def test_three_digits(value, shown):
    assert number(value) == shown


def test_a_book_is_resumed_with_the_same_rows(tmp_path):
    book = Book(FACTS, tmp_path / "runs" / "bench.json")
    book.add(row("infer", "net", 1.0, ncnn=0.5, peak=230.0))
    again = Book(FACTS | {"date": "2026-01-02"}, book.path)
    again.resume()
    assert again.rows == book.rows
    assert json.loads(book.path.read_text())["rows"][0]["ratio"] == 0.5
    assert [p.name for p in book.path.parent.iterdir()] == ["bench.json"]


def test_a_book_of_other_settings_is_not_resumed(tmp_path):
    Book(FACTS, tmp_path / "bench.json").save()
    with pytest.raises(ValueError, match="effort was full, is quick"):
        Book(FACTS | {"effort": "quick"}, tmp_path / "bench.json").resume()


def test_a_row_measured_on_a_busy_machine_says_so():
    book = Book(FACTS)
    book.add(row("infer", "net", 1.0, ncnn=0.5, peak=100.0))
    assert "100 instead of 230" in book.rows[0].notes[0]


def test_page_is_written_between_its_marks(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{MARKS[0]}\nold\n{MARKS[1]}\nafter\n")
    write_between_marks(page, "new", MARKS)
    assert page.read_text() == f"before\n{MARKS[0]}\nnew\n{MARKS[1]}\nafter\n"
    page.write_text("nothing")
    with pytest.raises(ValueError, match="has no marks"):
        check_marks(page, MARKS)


def test_chart_is_drawn(tmp_path):
    from bench.chart import draw

    rows = [row(s.name, f"row {i}", 1.0, torch=1.0 + i) for i, s in enumerate(SECTIONS)]
    draw(rows, tmp_path / "images" / "chart.png")
    assert (tmp_path / "images" / "chart.png").read_bytes()[:4] == b"\x89PNG"


def test_high_water_mark_is_read_from_the_status():
    assert high_water("Name:\tpython\nVmHWM:\t  1234 kB\nVmRSS:\t 1000 kB\n") == 1234 * 1024
    with pytest.raises(ValueError, match="VmHWM"):
        high_water("VmRSS:\t 1000 kB\n")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_memory_of_a_parent_is_not_that_of_its_child():
    ballast = np.ones(2**25)  # 256 MB, which ru_maxrss of a child would include
    script = "from bench.memory import peak_resident_bytes; print(peak_resident_bytes())"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True
    )
    assert peak_resident_bytes() > ballast.nbytes
    assert 2**20 < int(done.stdout) < 2**27


def test_timing():
    assert timing([3.0, 1.0, 2.0]) == (2.0, 1.0, 3.0)
    assert turns(["a", "b"], 2) == ["a", "b", "b", "a"]
    assert once(lambda: None, 1e-4) < 1e-4


def test_only_slow_peers_of_long_calls_are_given_up():
    from bench.measure import hopeless

    seconds = {"striate": [9.0], "torch": [0.4], "jax": [1.1], "ncnn": []}
    assert not any(hopeless(peer, seconds) for peer in seconds)  # not all have had their turn
    seconds["ncnn"] = [0.5]
    assert [peer for peer in seconds if hopeless(peer, seconds)] == ["jax"]
    assert not hopeless("jax", {"striate": [0.1], "torch": [0.01], "jax": [0.2]})


def test_cases_are_named_apart_and_have_sections_and_twins():
    keys = [(case.section, case.title) for case in CASES]
    assert len(set(keys)) == len(keys)
    names = {section.name for section in SECTIONS}
    assert {case.section for case in CASES} | {target.section for target in TARGETS} <= names
    assert {case.net for case in CASES if case.work != "layer"} <= set(TWINS)


def test_only_peers_with_a_switch_are_limited():
    assert limited(["torch", "ncnn"], "native") == (["torch", "ncnn"], [])
    peers, notes = limited(["torch", "ncnn"], "avx2")
    assert peers == ["torch"]
    assert notes == ["ncnn has no switch for instruction sets and was left out"]
    assert switches("avx2")["STRIATE_TARGET"] == "avx2"
    assert switches("native") == {}
    assert set(SWITCHES) == {"native", "avx2"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--peers", "torch,caffe"], "no peer 'caffe'"),
        (["--only", "nothing"], "nothing"),
        (["--isa", "avx1024"], "avx1024"),
        (["--write", "nowhere.md"], "nowhere.md"),
        (["--threads", "0"], "0"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_measured(arguments, says):
    from bench.__main__ import main

    outcome = CliRunner().invoke(main, arguments)
    assert outcome.exit_code == 2
    assert says in outcome.output
