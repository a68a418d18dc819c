"""The guide: both languages share their code, numbers come from it, the site builds."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import guide_hooks
from striate.studies import STUDIES
from tests.cli_run import ENVIRONMENT

ROOT = Path(__file__).parent.parent
GUIDE = ROOT / "docs" / "guide"
CHINESE = sorted(GUIDE.glob("*.zh.md"))
ENGLISH = [page.with_name(page.name.replace(".zh", "")) for page in CHINESE]
CHAPTERS = {page.name for page in (*CHINESE, *ENGLISH)}


def places(text):
    """What stands in double braces, without the addresses of pictures."""
    return sorted(guide_hooks.PLACE.findall(guide_hooks.FENCED.sub("", text)))


@pytest.mark.parametrize(
    ("english", "chinese"), list(zip(ENGLISH, CHINESE, strict=True)), ids=lambda p: p.name
)
def test_languages_share_code_and_numbers(english, chinese):
    english, chinese = english.read_text(), chinese.read_text()
    assert guide_hooks.BLOCK.findall(english) == guide_hooks.BLOCK.findall(chinese)
    assert places(english) == places(chinese)
    assert english.count("\n#") == chinese.count("\n#")


@pytest.mark.parametrize("page", [*ENGLISH, *CHINESE], ids=lambda p: p.name)
def test_chapter_runs_and_its_numbers_are_filled_in(page):
    text = guide_hooks.render(page.read_text())
    assert "{{" not in guide_hooks.FENCED.sub("", text)
    figures = page.read_text().count("]({{ figure }})")
    assert text.count("](data:image/png;base64,") == figures


CHANGES = [
    ("padding.md", "n, k, p, s = 28, 5, 2, 3", "n, k, p, s = 64, 5, 2, 2", "With n = "),
    ("one-by-one.md", "wide, narrow = 256, 64", "wide, narrow = 512, 64", "It changes"),
    ("pooling.md", "[[1, 3, 2, 0]", "[[9, 3, 2, 0]", "In the first window"),
]


@pytest.mark.parametrize(("page", "old", "new", "line"), CHANGES, ids=lambda x: x[:12])
def test_another_input_gives_another_number(page, old, new, line):
    text = (GUIDE / page).read_text()
    assert text.count(old) == 1

    def sentence(markdown):
        return next(found for found in guide_hooks.render(markdown).splitlines() if line in found)

    before, after = sentence(text), sentence(text.replace(old, new))
    assert re.findall(r"\d+", before) != re.findall(r"\d+", after)
    assert re.sub(r"[\d.,]+", "", before) == re.sub(r"[\d.,]+", "", after)


def test_hooks_show_prints_numbers_and_links():
    page = (
        "```python\nx = [2, 3]\nprint(sum(x))\n```\n"
        "{{ x[1] }} and {{x}}, [text](../../examples/features.py#a), [in](index.md)\n"
        "```text\n{{ x }}\n```"
    )
    text = guide_hooks.on_page_markdown(page)
    assert "```text\n5\n```" in text
    assert "3 and [2, 3], text (`examples/features.py`), [in](index.md)" in text
    assert "```text\n{{ x }}\n```" in text
    with pytest.raises(KeyError, match="unknown"):
        guide_hooks.render("{{ unknown }}")


def test_studies_in_the_guide_are_all_there_and_hold():
    found = json.loads((GUIDE / "studies" / "figures.json").read_text())["studies"]
    assert [row["name"] for row in found] == list(STUDIES)
    assert all(row["holds"] for row in found)
    text = "".join(page.read_text() for page in ENGLISH)
    for name in STUDIES:
        assert f"](studies/{name}.png)" in text
        assert (GUIDE / "studies" / f"{name}.png").stat().st_size < 60_000


@pytest.mark.slow
def test_site_builds_without_warning_and_asks_nobody(tmp_path):
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "卷积" in (tmp_path / "zh" / "convolution.html").read_text()
    for page in tmp_path.rglob("*.html"):
        fetched = re.findall(
            r'<(?:script|link|img)[^>]*(?:src|href)="(https?:[^"]*)', page.read_text()
        )
        assert fetched == [], page
