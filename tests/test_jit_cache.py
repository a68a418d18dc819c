import json
import os
import stat
import subprocess
import sys
import tempfile
import warnings

import numpy as np
import pytest

from striate.engine import cache_info
from striate.errors import CacheError, StriateError
from striate.jit import cache, load, target
from tests.kernel_call import call
from tests.native_steps import Count, Scale


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty cache folder, and a process that knows no kernel yet."""
    path = tmp_path / "kernels"
    monkeypatch.setenv("STRIATE_CACHE", str(path))
    forget(monkeypatch)
    return path


def forget(monkeypatch):
    """As at the start of a process."""
    monkeypatch.setattr(load, "_addresses", {})
    monkeypatch.setattr(load, "_runners", {})
    monkeypatch.setattr(load, "_counts", {"compiled": 0, "loaded": 0})


def scaled(factor=2.0):
    """Run a small kernel by hand; it works if this is 3 · factor."""
    x, y = np.full(16, 3, np.float32), np.zeros(16, np.float32)
    call(Scale(factor), [x, y], [0])
    return y[0]


def counts():
    info = cache_info()
    return info.compiled, info.loaded, info.kept


# -- what is kept ----------------------------------------------------------------------------------


def test_compiled_once_then_known_then_loaded(folder, monkeypatch):
    assert counts() == (0, 0, 0)
    assert scaled() == 6
    assert counts() == (1, 0, 1)
    assert scaled() == 6
    assert counts() == (1, 0, 1)
    (file,) = folder.iterdir()
    assert file.suffix == ".o"
    forget(monkeypatch)
    assert scaled() == 6
    assert counts() == (0, 1, 1)
    assert [file] == list(folder.iterdir())


def test_the_folder_is_closed_to_others(folder):
    scaled()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for file in folder.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0


def test_home_is_expanded(tmp_path, monkeypatch):
    forget(monkeypatch)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("STRIATE_CACHE", "~/of mine")
    assert scaled() == 6
    assert len(list((tmp_path / "of mine").iterdir())) == 1


PROGRAM = """
import json
import numpy as np
import striate
from striate import engine
from striate.graph import Trace
from striate.graph.ops.conv import Conv2d
from striate.graph.value import Param

rng = np.random.default_rng(0)
with Trace() as trace:
    x = trace.input("x", (2, 3, 9, 8))
    w = Param("w", rng.standard_normal((10, 3, 3, 3), np.float32))
    graph = trace.graph(Conv2d((1, 1), ((1, 1), (1, 1)))(x, w).mean((2, 3)))
engine.set_num_threads(2)
(y,) = engine.build(graph)(rng.standard_normal((2, 3, 9, 8), np.float32))
info = striate.cache_info()
print(json.dumps({"compiled": info.compiled, "loaded": info.loaded, "y": y.tobytes().hex()}))
"""


def run_program(cache_folder):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM],
        env={**os.environ, "STRIATE_CACHE": str(cache_folder)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_second_process_compiles_nothing(tmp_path):
    first, second = run_program(tmp_path), run_program(tmp_path)
    assert first["compiled"] > 2
    assert first["loaded"] == 0
    assert second["compiled"] == 0
    assert second["loaded"] == first["compiled"]
    assert second["y"] == first["y"]
    assert not [f for f in tmp_path.iterdir() if f.suffix != ".o"]


# -- files that are not what they should be --------------------------------------------------------

DAMAGES = {
    "a bit is wrong": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    "a bit of the checksum is wrong": lambda data: data[:20] + bytes([data[20] ^ 1]) + data[21:],
    "cut short": lambda data: data[: len(data) // 2],
    "cut in the checksum": lambda data: data[:30],
    "of another program": lambda data: b"\x7fELF" + data,
    "of another version": lambda data: data.replace(b"striate-kernel-1", b"striate-kernel-0", 1),
    "empty": lambda data: data[:0],
    "longer": lambda data: data + b"\0",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_rebuilt(folder, monkeypatch, damage):
    scaled()
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    forget(monkeypatch)
    assert scaled() == 6
    assert counts() == (1, 0, 1)
    assert file.read_bytes() == whole


def test_a_folder_in_the_place_of_a_file(folder, monkeypatch):
    scaled()
    (file,) = folder.iterdir()
    file.unlink()
    file.mkdir()
    forget(monkeypatch)
    with pytest.warns(RuntimeWarning, match="cannot be written"):
        assert scaled() == 6
    assert list(folder.iterdir()) == [file]


# -- keys ------------------------------------------------------------------------------------------


def test_a_key_tells_apart_what_is_different(monkeypatch):
    machines = [target.reference_machine(isa) for isa in ("avx512", "avx2", "sse2")]
    keys = [
        cache.key(repr(spec), m) for spec in (Scale(2.0), Scale(3.0), Count()) for m in machines
    ]
    assert len(set(keys)) == 9
    assert keys[0] == cache.key(repr(Scale(2.0)), machines[0])
    assert all(key.isalnum() for key in keys)
    monkeypatch.setattr(cache, "_generator_digest", lambda: b"other sources")
    assert cache.key(repr(Scale(2.0)), machines[0]) not in keys


def test_a_forced_target_has_files_of_its_own(folder, monkeypatch):
    for isa in ("", "sse2"):
        monkeypatch.setenv("STRIATE_TARGET", isa)
        assert scaled() == 6
    assert counts()[0] == len(list(folder.iterdir())) == 2


# -- folders that cannot be used -------------------------------------------------------------------


def test_off(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for word in ("off", "OFF"):
        forget(monkeypatch)
        monkeypatch.setenv("STRIATE_CACHE", word)
        assert cache.folder() is None
        assert scaled() == 6
        assert counts() == (1, 0, 1)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_said_once(folder, monkeypatch):
    def refused(*args, **kwargs):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(tempfile, "mkstemp", refused)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert scaled(2.0) == 6
        assert scaled(3.0) == 9
    (warning,) = caught
    message = str(warning.message)
    assert str(folder) in message
    assert "Read-only file system" in message
    assert "\n" not in message
    assert counts() == (2, 0, 2)


def test_a_full_disk_leaves_no_temporary_file(folder, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.warns(RuntimeWarning, match="No space left on device"):
        assert scaled() == 6
    assert list(folder.iterdir()) == []


def refused_for(path):
    with pytest.raises(CacheError) as caught:
        scaled()
    message = str(caught.value)
    assert str(path) in message
    assert "set STRIATE_CACHE to another folder, or to 'off'" in message
    assert "\n" not in message
    assert isinstance(caught.value, (StriateError, OSError))
    return message


def test_a_named_folder_that_is_a_file(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_text("mine")
    monkeypatch.setenv("STRIATE_CACHE", str(file))
    forget(monkeypatch)
    assert "it is not a folder" in refused_for(file)
    assert file.read_text() == "mine"
    monkeypatch.setenv("STRIATE_CACHE", str(file / "below"))
    assert "Not a directory" in refused_for(file)


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_a_named_folder_that_others_may_write_to(tmp_path, monkeypatch, mode):
    open_folder = tmp_path / "open"
    open_folder.mkdir()
    open_folder.chmod(mode)
    monkeypatch.setenv("STRIATE_CACHE", str(open_folder))
    forget(monkeypatch)
    assert "others may write to it (chmod 700 it)" in refused_for(open_folder)
    assert list(open_folder.iterdir()) == []


def test_a_named_folder_of_another_user(folder, monkeypatch):
    folder.mkdir(mode=0o700)
    if os.getuid() == 0:
        os.chown(folder, 4711, -1)
    owner = folder.stat().st_uid
    monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    assert f"it belongs to user {owner}" in refused_for(folder)


def test_the_usual_folder_is_given_up_with_one_warning(tmp_path, monkeypatch):
    import platformdirs

    file = tmp_path / "file"
    file.write_text("")
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda *_, **__: str(file))
    monkeypatch.delenv("STRIATE_CACHE", raising=False)
    cache._checked.cache_clear()
    forget(monkeypatch)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert (scaled(2.0), scaled(3.0)) == (6, 9)
    assert [str(w.message) for w in caught] == [
        f"kernel cache {file / 'kernels'} is not used: Not a directory"
    ]
    cache._checked.cache_clear()


def test_the_usual_folder(tmp_path, monkeypatch):
    import platformdirs

    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda *_, **__: str(tmp_path))
    monkeypatch.delenv("STRIATE_CACHE", raising=False)
    cache._checked.cache_clear()
    assert cache.folder() == tmp_path / "kernels"
    cache._checked.cache_clear()
