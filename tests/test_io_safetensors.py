"""The safetensors reader and writer, against the official library and hostile files."""

import errno
import json
import os
import struct
import threading

import numpy as np
import pytest

import striate as st
from striate.io import atomic, safetensors
from striate.io.atomic import write_atomic
from striate.io.safetensors import read_safetensors, write_safetensors

ARRAYS = {
    "weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "count": np.array(7, np.int64),
    "empty": np.zeros((0, 4), np.float16),
    "flags": np.array([True, False, True]),
    "bytes": np.arange(3, dtype=np.uint8),
    "wide": np.array([1e300]),
}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape


def raw(header, body=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def entry(shape=(1,), offsets=(0, 4), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_round_trip(tmp_path):
    path = tmp_path / "a.safetensors"
    write_safetensors(path, ARRAYS, {"name": "β"})
    arrays, metadata = read_safetensors(path)
    assert_same(arrays, ARRAYS)
    assert metadata["name"] == "β"
    assert all(a.flags.writeable for a in arrays.values())


def test_any_memory_order_is_written_in_c_order(tmp_path):
    path = tmp_path / "a.safetensors"
    array = np.arange(12, dtype=">f4").reshape(3, 4)
    write_safetensors(path, {"x": array.T, "y": array[::2, ::-1]})
    arrays, _ = read_safetensors(path)
    np.testing.assert_array_equal(arrays["x"], array.T)
    np.testing.assert_array_equal(arrays["y"], array[::2, ::-1])


def test_the_official_library_reads_ours_and_we_read_its(tmp_path):
    official = pytest.importorskip("safetensors.numpy")
    ours, theirs = tmp_path / "ours.safetensors", tmp_path / "theirs.safetensors"
    write_safetensors(ours, ARRAYS, {"k": "v"})
    assert_same(official.load_file(ours), ARRAYS)
    official.save_file(ARRAYS, theirs, {"k": "v"})
    arrays, metadata = read_safetensors(theirs)
    assert_same({name: arrays[name] for name in ARRAYS}, ARRAYS)
    assert metadata == {"k": "v"}


def test_bfloat16_becomes_float32(tmp_path):
    path = tmp_path / "a.safetensors"
    values = np.array([1.0, -2.5, 3e38, np.inf], np.float32)
    upper = (values.view(np.uint32) >> 16).astype("<u2")
    path.write_bytes(raw({"x": entry((4,), (0, 8), "BF16")}, upper.tobytes()))
    (found,) = read_safetensors(path)[0].values()
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, values, rtol=2**-8)


def test_a_dtype_the_format_lacks(tmp_path):
    with pytest.raises(st.DTypeError, match="complex128"):
        write_safetensors(tmp_path / "a", {"x": np.zeros(2, complex)})


HOSTILE = {
    "empty file": b"",
    "too short": b"\x01\x02",
    "no header": raw(b"", length=0),
    "huge header": raw({}, length=2**60),
    "header longer than the file": raw({}, length=50),
    "no JSON": raw(b"{'a': 1}"),
    "no UTF-8": raw(b'{"\xff": 1}'),
    "a list": raw([]),
    "deep nesting": raw(b'{"a":' + b"[" * 100_000),
    "a name twice": raw(b'{"a":{},"a":{}}'),
    "no dtype": raw({"a": {"shape": [1], "data_offsets": [0, 4]}}, b"1234"),
    "more than it should have": raw({"a": {**entry(), "code": "x"}}, b"1234"),
    "unknown dtype": raw({"a": entry(dtype="Q4")}, b"1234"),
    "negative size": raw({"a": entry((-1,))}, b"1234"),
    "float size": raw({"a": entry((1.0,))}, b"1234"),
    "boolean size": raw({"a": entry((True,))}, b"1234"),
    "three offsets": raw({"a": entry(offsets=(0, 4, 4))}, b"1234"),
    "offsets backwards": raw({"a": entry((0,), (4, 0))}, b"1234"),
    "shape and offsets differ": raw({"a": entry((2,))}, b"1234"),
    "beyond the end": raw({"a": entry((2,), (0, 8))}, b"1234"),
    "a hole": raw({"a": entry(), "b": entry(offsets=(8, 12))}, b"123456789012"),
    "an overlap": raw({"a": entry((2,), (0, 8)), "b": entry(offsets=(4, 8))}, b"12345678"),
    "bytes of nobody": raw({"a": entry()}, b"12345678"),
    "too many axes": raw({"a": entry((1,) * 100)}, b"1234"),
    "huge and empty": raw({"a": entry((0, 2**62, 2**62), (0, 0))}),
    "metadata is no map": raw({"__metadata__": [], "a": entry()}, b"1234"),
    "metadata is no text": raw({"__metadata__": {"a": 1}}),
    "a checksum that is wrong": raw({"__metadata__": {"striate.checksum": "x"}}),
    "a zip": b"PK\x03\x04" + b"\0" * 100,
    "a pickle": b"\x80\x04\x95" + b"\xff" * 100,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files(tmp_path, name):
    path = tmp_path / "hostile.safetensors"
    path.write_bytes(HOSTILE[name])
    with pytest.raises(st.FormatError, match=r"hostile\.safetensors: "):
        read_safetensors(path)


def test_every_altered_byte_and_every_cut_is_seen(tmp_path):
    path = tmp_path / "a.safetensors"
    write_safetensors(path, {"w": np.arange(4, dtype=np.float32)}, {"striate.format": "x"})
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    for i in range(len(whole)):
        # Spaces that pad the header mean nothing, and a reader may take another kind of space.
        if whole[i : i + 1] == b" " and i < header:
            continue
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :])
        with pytest.raises(st.FormatError):
            read_safetensors(path)
        path.write_bytes(whole[:i])
        with pytest.raises(st.FormatError):
            read_safetensors(path)


class TestAtomic:
    def chunks(self):
        yield b"half of it"
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def test_a_full_disk_leaves_the_old_file_and_nothing_else(self, tmp_path):
        path = tmp_path / "model"
        path.write_bytes(b"old")
        with pytest.raises(st.WriteError, match=r"model was not written \(No space left") as error:
            write_atomic(path, self.chunks())
        assert error.value.errno == errno.ENOSPC
        assert "\n" not in str(error.value)
        assert path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]

    def test_a_failing_rename_leaves_nothing(self, tmp_path, monkeypatch):
        monkeypatch.setattr(atomic.os, "fsync", lambda _: (_ for _ in ()).throw(OSError(5, "bad")))
        with pytest.raises(st.WriteError, match="bad"):
            write_atomic(tmp_path / "model", [b"x"])
        assert list(tmp_path.iterdir()) == []

    def test_an_interruption_leaves_the_old_file(self, tmp_path):
        def chunks():
            yield b"half"
            raise KeyboardInterrupt

        path = tmp_path / "model"
        path.write_bytes(b"old")
        with pytest.raises(KeyboardInterrupt):
            write_atomic(path, chunks())
        assert path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]

    def test_while_it_is_written_its_name_starts_with_a_dot(self, tmp_path):
        names = []

        def chunks():
            yield b"x"
            names.extend(p.name for p in tmp_path.iterdir())

        write_atomic(tmp_path / "model", chunks())
        assert names == [f".model.tmp-{os.getpid()}"]

    def test_a_missing_folder(self, tmp_path):
        with pytest.raises(st.WriteError, match="No such file"):
            write_atomic(tmp_path / "nowhere" / "model", [b"x"])


# -- reading while the caller does something else --------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_a_pipe_is_read_to_its_end(tmp_path):
    write_safetensors(tmp_path / "file", ARRAYS, {"a": "b"})
    os.mkfifo(tmp_path / "pipe")
    content = (tmp_path / "file").read_bytes()
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(content,))
    writer.start()
    found, metadata = read_safetensors(tmp_path / "pipe")
    writer.join()
    assert_same(found, ARRAYS)
    assert metadata["a"] == "b"


def test_a_file_that_shrinks_while_it_is_read_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_safetensors(path, {"w": np.zeros(100_000, np.float32)})
    begin = safetensors._begin

    def begun(file):
        result = begin(file)
        os.truncate(path, path.stat().st_size - 1)
        return result

    monkeypatch.setattr(safetensors, "_begin", begun)
    reading = safetensors.Reading(path)
    for use in (reading.arrays, reading.check):
        with pytest.raises(st.FormatError, match="truncated while it was read"):
            use()


def test_an_error_of_the_disk_reaches_the_caller(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_safetensors(path, ARRAYS)
    begin = safetensors._begin

    class Broken:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            file.close()

        def readinto(self, _):
            raise OSError(errno.EIO, "no more")

    file = path.open("rb")
    monkeypatch.setattr(safetensors, "_begin", lambda _: begin(file))
    monkeypatch.setattr(safetensors.Path, "open", lambda *_: Broken())
    reading = safetensors.Reading(path)
    for use in (reading.arrays, reading.check):
        with pytest.raises(OSError, match="no more"):
            use()


def test_shapes_and_metadata_are_known_before_the_tensors(tmp_path):
    write_safetensors(tmp_path / "file", ARRAYS, {"a": "b"})
    reading = safetensors.Reading(tmp_path / "file")
    assert reading.shapes == {name: array.shape for name, array in ARRAYS.items()}
    assert reading.metadata["a"] == "b"
    assert_same(reading.arrays(), ARRAYS)
    reading.check()
