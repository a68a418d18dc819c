"""Built-in sets, the idx format, and making the embedded set again."""

import gzip
import importlib.util
import lzma
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from striate import data
from striate.data import builtin
from striate.data.idx import read_idx, write_idx
from striate.errors import DataError, FormatError

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
SCRIPT = Path(__file__).parents[1] / "scripts" / "make_fashion_sample.py"
needs_debian = pytest.mark.skipif(
    not DEBIAN.is_dir(), reason="needs the Debian package dataset-fashion-mnist"
)


def idx(array, kind=8):
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, kind, array.ndim, *array.shape)
    return head + array.tobytes()


def test_the_sample_is_there_and_balanced():
    sample = data.load("fashion-mnist-sample")
    assert (len(sample.train), len(sample.test)) == (5000, 1000)
    np.testing.assert_array_equal(np.bincount(sample.train.labels), [500] * 10)
    np.testing.assert_array_equal(np.bincount(sample.test.labels), [100] * 10)
    np.testing.assert_array_equal(sample.train.labels[:20], [*range(10), *range(10)])
    assert sample.classes == sample.test.classes
    assert sample.classes[0] == "T-shirt/top"
    assert sample.classes[9] == "Ankle boot"
    assert sample.train.raw([0]).shape == (1, 28, 28, 1)
    assert sample.train.recipe == data.Recipe(1, (28, 28))
    assert "2017 Zalando SE" in sample.licence
    assert "Permission is hereby granted" in sample.licence


def test_the_names_can_be_listed():
    assert data.list() == ("fashion-mnist-sample", "fashion-mnist")


def test_a_misspelt_name_finds_the_nearest():
    with pytest.raises(DataError, match="did you mean 'fashion-mnist'"):
        data.load("fashon-mnist")
    with pytest.raises(DataError, match="known are fashion-mnist-sample, fashion-mnist"):
        data.load("zzz")


def test_importing_does_not_import_pillow():
    code = (
        "import sys, striate.data as d; d.load('fashion-mnist-sample'); print('PIL' in sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert run.stdout == "False\n"


# ------------------------------------------------------------------------ making it again


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("make_fashion_sample", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@needs_debian
def test_the_embedded_set_can_be_made_again(script):
    sample = data.load("fashion-mnist-sample")
    for part, kept, count in (("train", sample.train, 500), ("t10k", sample.test, 100)):
        # read here by hand: the original files hold 16 and 8 bytes before the data
        pictures = gzip.decompress((DEBIAN / f"{part}-images-idx3-ubyte.gz").read_bytes())[16:]
        labels = gzip.decompress((DEBIAN / f"{part}-labels-idx1-ubyte.gz").read_bytes())[8:]
        pictures = np.frombuffer(pictures, np.uint8).reshape(-1, 28, 28)
        labels = np.frombuffer(labels, np.uint8)
        expected = [pictures[labels == label][:count] for label in range(10)]
        raw = kept.raw(np.arange(len(kept)))[..., 0]
        for label in range(10):
            np.testing.assert_array_equal(raw[kept.labels == label], expected[label])
        picked = script.pick(builtin.read_fashion_part(DEBIAN, part), count)
        np.testing.assert_array_equal(picked, np.concatenate(expected))
        file = builtin._SAMPLE / f"{'train' if part == 'train' else 'test'}-images-idx3-ubyte.xz"
        assert lzma.decompress(file.read_bytes()) == write_idx(picked)


@needs_debian
def test_making_it_twice_gives_the_same_bytes(script, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "PARTS", {"t10k": ("test", 20)})
    for name in ("one", "two"):
        script.make(DEBIAN, tmp_path / name)
    one, two = (tmp_path / name / "test-images-idx3-ubyte.xz" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    assert read_idx(one, 3).shape == (200, 28, 28)


# ------------------------------------------------------------------------ the full set


def small_fashion(folder, count=30, packed=True):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part in ("train", "t10k"):
        pictures = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        for name, array in ((f"{part}-images-idx3", pictures), (f"{part}-labels-idx1", labels)):
            if packed:
                (folder / f"{name}-ubyte.gz").write_bytes(gzip.compress(idx(array)))
            else:
                (folder / f"{name}-ubyte").write_bytes(idx(array))
    return folder


@needs_debian
def test_the_full_set_is_read_from_the_debian_package(monkeypatch):
    monkeypatch.delenv("STRIATE_DATA", raising=False)
    full = data.load("fashion-mnist")
    assert (len(full.train), len(full.test)) == (60_000, 10_000)
    np.testing.assert_array_equal(np.bincount(full.train.labels), [6000] * 10)
    assert full.classes == data.load("fashion-mnist-sample").classes


@pytest.mark.parametrize("packed", [True, False])
def test_the_full_set_is_read_from_a_folder_of_ones_own(tmp_path, monkeypatch, packed):
    small_fashion(tmp_path / "fashion-mnist", packed=packed)
    monkeypatch.setenv("STRIATE_DATA", str(tmp_path))
    full = data.load("fashion-mnist")
    assert len(full.train) == len(full.test) == 30
    expected = np.random.default_rng(0).integers(0, 256, (30, 28, 28), dtype=np.uint8)
    np.testing.assert_array_equal(full.train.raw(np.arange(30))[..., 0], expected)


def test_a_missing_set_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr(builtin, "_DEBIAN", tmp_path / "none")
    monkeypatch.delenv("STRIATE_DATA", raising=False)
    with pytest.raises(DataError, match=r"apt-get install dataset-fashion-mnist.*STRIATE_DATA"):
        data.load("fashion-mnist")
    monkeypatch.setenv("STRIATE_DATA", str(tmp_path / "own"))
    with pytest.raises(DataError, match="own/fashion-mnist"):
        data.load("fashion-mnist")
    (tmp_path / "own" / "fashion-mnist").mkdir(parents=True)
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz: the file is missing"):
        data.load("fashion-mnist")


def test_files_that_do_not_belong_together_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("STRIATE_DATA", str(tmp_path))
    folder = small_fashion(tmp_path / "fashion-mnist")
    labels = folder / "train-labels-idx1-ubyte.gz"
    labels.write_bytes(gzip.compress(idx(np.zeros(29, np.uint8))))
    with pytest.raises(FormatError, match="29 labels"):
        data.load("fashion-mnist")
    labels.write_bytes(gzip.compress(idx(np.full(30, 10, np.uint8))))
    with pytest.raises(FormatError, match="label 10"):
        data.load("fashion-mnist")
    pictures = folder / "train-images-idx3-ubyte.gz"
    pictures.write_bytes(gzip.compress(idx(np.zeros((30, 27, 28), np.uint8))))
    with pytest.raises(FormatError, match=r"\(30, 27, 28\)"):
        data.load("fashion-mnist")


# ------------------------------------------------------------------------ idx


@pytest.mark.parametrize("suffix", ["", ".gz", ".xz"])
def test_idx_files_round_trip(tmp_path, suffix):
    array = np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    pack = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress}[suffix]
    path = tmp_path / f"a-idx3-ubyte{suffix}"
    path.write_bytes(pack(idx(array)))
    np.testing.assert_array_equal(read_idx(path, 3), array)
    assert write_idx(array) == idx(array)


GOOD = idx(np.arange(60, dtype=np.uint8).reshape(5, 4, 3))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "begins with nothing"),
        (b"\x1f\x8b", "begins with 1f 8b"),
        (idx(np.zeros((5, 4, 3), np.uint8), kind=13), "begins with 00 00 0d 03"),
        (idx(np.zeros((5, 4), np.uint8)), "begins with 00 00 08 02"),
        (GOOD[:10], "ends within its head"),
        (GOOD[:-1], r"declares \(5, 4, 3\) but holds 59 bytes"),
        (GOOD + b"x", "more bytes follow"),
        (GOOD[:4] + b"\xff" * 12, "more than"),
    ],
)
def test_idx_files_of_another_kind_are_refused(tmp_path, content, message):
    path = tmp_path / "a-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=message):
        read_idx(path, 3)


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".xz", lzma.compress)])
def test_damaged_packing_is_refused(tmp_path, suffix, pack):
    path = tmp_path / f"a-idx3-ubyte{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (20, 28, 28), dtype=np.uint8)
    whole = pack(idx(noise))
    path.write_bytes(whole)
    assert read_idx(path, 3).shape == (20, 28, 28)
    altered = bytearray(whole)
    altered[len(whole) // 2] ^= 0xFF
    for damaged in (whole[: len(whole) // 2], whole[:-4], bytes(altered), b"plain text"):
        path.write_bytes(damaged)
        with pytest.raises(FormatError, match="a-idx3-ubyte"):
            read_idx(path, 3)


def test_a_missing_idx_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.gz: the file cannot be read"):
        read_idx(tmp_path / "none.gz", 3)
