"""Rules of the project that no tool checks: who imports what of LLVM, sizes, what is packed."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import striate
from tests.cli_run import ENVIRONMENT

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "striate"
FILES = sorted(SOURCE.rglob("*.py"))


def name(path):
    return str(path.relative_to(ROOT))


def imported(file):
    """Dotted names of all imports, also those inside functions."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize(
    ("module", "rooms"), [("llvmlite.binding", {"jit"}), ("llvmlite.ir", {"ir"})]
)
def test_each_half_of_llvmlite_has_one_room(module, rooms):
    users = {
        file.relative_to(SOURCE).parts[0]
        for file in FILES
        if any(f"{found}.".startswith(f"{module}.") for found in imported(file))
    }
    assert users == rooms


def lines_of_code(function):
    """Lines of a function without its docstring."""
    lines = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function) is not None:
        text = function.body[0]
        lines -= text.end_lineno - text.lineno + 1
    return lines


@pytest.mark.parametrize("file", FILES, ids=name)
def test_files_and_functions_are_short(file):
    text = file.read_text()
    assert len(text.splitlines()) <= 400
    functions = [
        node
        for node in ast.walk(ast.parse(text))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]
    assert [f.name for f in functions if lines_of_code(f) > 60] == []


def test_importing_striate_loads_nothing_heavy():
    script = (
        "import sys, striate; "
        "print([m for m in ('PIL', 'matplotlib', 'rich', 'llvmlite', 'safetensors', 'click')"
        " if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=ENVIRONMENT
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_importing_the_command_line_loads_no_pictures_and_no_compiler():
    script = (
        "import sys, striate.cli; "
        "print([m for m in ('PIL', 'matplotlib', 'rich', 'llvmlite') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=ENVIRONMENT
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_data_and_type_marker_are_in_the_package():
    package = Path(striate.__file__).parent
    assert (package / "py.typed").exists()
    assert list((package / "data" / "sets").rglob("*ubyte.xz"))


def test_ignored_files_are_no_sources():
    """A rule of .gitignore for what tools leave behind must not hide a file of the package."""
    done = subprocess.run(
        ["git", "check-ignore", "--no-index", *map(str, sorted(SOURCE.rglob("*")))],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    hidden = [line for line in done.stdout.splitlines() if "__pycache__" not in line]
    assert hidden == []


def test_every_lint_exception_has_its_reason():
    text = (ROOT / "pyproject.toml").read_text()
    block = re.search(r"^ignore = \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL)[1]
    assert [line for line in block.splitlines() if line.strip() and "# " not in line] == []
