"""README, guide and examples: their Python runs, their commands exist, no link is broken."""

import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import click
import pytest

import striate as st
from striate.cli import app
from tests.cli_run import make_pictures
from tests.test_guide import CHAPTERS

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
OTHERS = [ROOT / "README.md", ROOT / "docs" / "coming-from-pytorch.md", ROOT / "docs" / "onnx.md"]
WITH_PYTHON = [*OTHERS, *sorted((ROOT / "docs" / "guide").glob("*.md"))]
WITH_PYTHON = [page for page in WITH_PYTHON if "```python" in page.read_text()]
# Chapters in two languages are run by test_guide.py, with their results in the text.
WITH_PYTHON = [page for page in WITH_PYTHON if page.name not in CHAPTERS]


def name(path):
    return str(path.relative_to(ROOT))


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", WITH_PYTHON, ids=name)
def test_python_of_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    for block in blocks(page, "python"):
        exec(compile(block, name(page), "exec"), names)


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.py")), ids=name)
def test_example_runs(example, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    net = st.models.create("lenet-bn", num_classes=10, in_channels=1)
    recipe = {"channels": 1, "size": [28, 28], "resize": "crop", "mean": [0.3], "std": [0.3]}
    st.save(net, "model.safetensors", recipe=recipe)
    arguments = {
        "train_on_a_folder": [str(make_pictures(tmp_path / "pictures")), "1"],
        "features": ["model.safetensors"],
        "own_module": ["2"],
    }
    monkeypatch.setattr(sys, "argv", [example.name, *arguments[example.stem]])
    runpy.run_path(str(example), run_name="__main__")
    assert re.search(r"\d%|\d %", capsys.readouterr().out)


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.py")), ids=name)
def test_example_is_short(example):
    assert len(example.read_text().splitlines()) < 40


def commands():
    for page in PAGES:
        for block in blocks(page, "bash"):
            for line in block.splitlines():
                for part in line.partition("#")[0].split("|"):
                    if part.strip().startswith("striate "):
                        yield pytest.param(part.strip(), id=f"{name(page)}: {part.strip()}")


@pytest.mark.parametrize("command", list(commands()))
def test_command_in_the_text_is_right_usage(command, tmp_path, monkeypatch):
    """Parsed, not run: all options and names must exist."""
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / "train-1"
    run.mkdir(parents=True)
    (run / "last.ckpt").touch()
    (run / "config.toml").write_text("data = 'x'\n")
    shutil.copytree(run, tmp_path / "runs" / "train-2")
    (tmp_path / "settings.toml").write_text("epochs = 20\n")
    words = shlex.split(command)[1:]
    with app.make_context("striate", words, obj={"debug": False}) as ctx:
        found, chosen, rest = app.resolve_command(ctx, [*ctx._protected_args, *ctx.args])
        assert chosen is not None
        with chosen.make_context(found, rest, parent=ctx) as inner:
            assert isinstance(inner, click.Context)


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=name)
def test_links_lead_to_files(page):
    targets = re.findall(r"\]\((?!https?:|#|\{\{)([^)#]+)", page.read_text())
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert missing == []


@pytest.mark.parametrize(
    "target", ["help", "demo", "check", "test", "bench", "docs", "studies", "clean"]
)
def test_makefile_has_the_target(target):
    assert re.search(rf"^{target}:.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_make_targets_in_the_text_exist():
    known = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        word
        for page in PAGES
        for word in re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(), re.MULTILINE)
    }
    assert named - known == set()
