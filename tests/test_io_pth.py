"""PyTorch's files: both formats, every dtype, views, and files that mean harm."""

import builtins
import os
import pickle
import struct
import zipfile
from collections import OrderedDict

import numpy as np
import pytest

import striate as st
from striate.io.pth import read_pth
from tests.torch_files import Call, Global, Storage, Writer, complete, opcodes

DTYPES = ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u1", "b1")
BOTH = pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])


def numbers(dtype, *shape):
    rng = np.random.default_rng(0)
    return (rng.standard_normal(shape) * 10).astype(dtype)


@BOTH
def test_every_dtype_and_shape(tmp_path, legacy):
    arrays = {d: numbers(d, 2, 3) for d in DTYPES} | {
        "scalar": np.array(7, np.int64),
        "empty": np.zeros((0, 4), np.float32),
    }
    writer = Writer(legacy)
    found = read_pth(writer.write(tmp_path / "a.pth", writer.state(arrays)))
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape


@BOTH
def test_bfloat16_becomes_float32(tmp_path, legacy):
    values = np.array([1.0, -2.5, 3e38, np.inf], np.float32)
    writer = Writer(legacy)
    tensor = writer.tensor((values.view(np.uint32) >> 16).astype(np.uint16), "BFloat16Storage")
    found = read_pth(writer.write(tmp_path / "a.pth", {"x": tensor}))["x"]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, values, rtol=2**-8)


@BOTH
def test_offsets_strides_and_shared_storages(tmp_path, legacy):
    whole = numbers("f4", 24)
    writer = Writer(legacy)
    storage = writer.storage(whole)
    value = {
        "turned": writer.view(storage, 3, (3, 2), (1, 4)),
        "again": writer.view(storage, 0, (24,), (1,)),
        "repeated": writer.view(storage, 5, (1000, 1000), (0, 0)),
    }
    found = read_pth(writer.write(tmp_path / "a.pth", value))
    np.testing.assert_array_equal(found["turned"], whole[3:11].reshape(2, 4)[:, :3].T)
    assert np.shares_memory(found["turned"], found["again"])
    assert (found["repeated"] == whole[5]).all()
    assert not found["repeated"].flags.writeable


def test_tensors_of_storages_without_dtype(tmp_path):
    writer = Writer()
    data = numbers("u2", 6)
    storage = writer.storage(data.view(np.uint8), "UntypedStorage")
    hooks = Call(Global("collections", "OrderedDict"), ())
    arguments = (storage, 2, (2, 2), (2, 1), False, hooks, Global("torch", "uint16"))
    tensor = Call(Global("torch._utils", "_rebuild_tensor_v3"), arguments)
    found = read_pth(writer.zip(tmp_path / "a.pth", {"x": tensor}))["x"]
    np.testing.assert_array_equal(found, data[2:].reshape(2, 2))


def test_big_endian_files(tmp_path):
    writer = Writer()
    array = numbers("f4", 5)
    state = writer.state({"x": array})
    writer.data["0"] = array.astype(">f4").tobytes()
    found = read_pth(writer.zip(tmp_path / "a.pth", state, byteorder=b"big"))
    np.testing.assert_array_equal(found["x"], array)


def test_parameters_sizes_devices_and_plain_values(tmp_path):
    writer = Writer()
    array = numbers("f4", 2)
    hooks = Call(Global("collections", "OrderedDict"), ())
    value = {
        "p": Call(
            Global("torch._utils", "_rebuild_parameter"), (writer.tensor(array), True, hooks)
        ),
        "size": Call(Global("torch", "Size"), ((3, 4),)),
        "device": Call(Global("torch", "device"), ("cpu",)),
        "epoch": 3,
        "rate": 0.1,
        "names": ["a", None, True, 2**40, -5],
    }
    found = read_pth(writer.zip(tmp_path / "a.pth", value))
    np.testing.assert_array_equal(found.pop("p"), array)
    assert found["size"] == (3, 4)
    assert found["names"] == value["names"]
    assert (found["epoch"], found["rate"], found["device"]) == (3, 0.1, "cpu")


@pytest.mark.parametrize("protocol", range(6))
def test_data_of_every_protocol(tmp_path, protocol):
    value = {"a": [1, -2, 2**70, 0.5, "é\n", True, None, (), (1,), (1, 2), (1, 2, 3, 4)], "b": b"x"}
    if protocol < 3:
        del value["b"]  # bytes are a call of _codecs.encode there
    value["text"] = "x" * 300
    writer = Writer()
    found = read_pth(writer.zip(tmp_path / "a.pth", pickle.dumps(value, protocol)))
    assert found == value


# ------------------------------------------------------------------ what is refused


@pytest.fixture
def armed(monkeypatch, tmp_path):
    """Fails the test if anything is executed."""

    def fired(*_, **__):
        raise AssertionError("the file was executed")

    for owner, name in ((os, "system"), (builtins, "eval"), (os, "popen")):
        monkeypatch.setattr(owner, name, fired)


EVIL = {
    "os.system": complete(Call(Global("os", "system"), ("touch owned",))),
    "posix.system": complete(Call(Global("posix", "system"), ("touch owned",))),
    "builtins.eval": complete(Call(Global("builtins", "eval"), ("1",))),
    "builtins.getattr": complete(Call(Global("builtins", "getattr"), ({}, "x"))),
    "torch.load": complete(Call(Global("torch", "load"), ("x",))),
    "torch.nn.modules.linear.Linear": complete(Global("torch.nn.modules.linear", "Linear")),
    "os.popen": b"\x80\x04\x8c\x02os\x8c\x05popen\x93\x8c\x02ls\x85R.",  # STACK_GLOBAL
    "nt.remove": complete({"state_dict": {"x": [Call(Global("nt", "remove"), ("x",))]}}),
}


@BOTH
@pytest.mark.parametrize("name", EVIL)
def test_calls_are_refused_by_name(tmp_path, armed, name, legacy):
    path = Writer(legacy).write(tmp_path / "a.pth", EVIL[name])
    with pytest.raises(st.FormatError, match=rf"a\.pth: refused: .*{name}"):
        read_pth(path)
    assert [file.name for file in tmp_path.iterdir()] == ["a.pth"]


@pytest.mark.parametrize(
    ("pickle_bytes", "words"),
    [
        (b"(S'touch owned'\nios\nsystem\n.", "opcode"),  # INST
        (b"(cos\nsystem\nS'x'\no.", "refused"),  # OBJ
        (b"cos\nsystem\n(S'x'\nt\x81.", "os.system"),  # NEWOBJ
        (b"\x80\x02\x82\x01.", "opcode"),  # EXT1
        (b"P0\n.", "opcode"),  # PERSID
        (opcodes([1]) + b"}b.", "state"),  # BUILD on a list
        (complete(Global("torch", "Size"))[:-1] + b"}b.", "state"),  # BUILD on a name
        (complete(Call(5, ())), "a call of"),
        (complete(Call(Global("torch", "float32"), ())), "a call of torch.float32"),
        (complete(Call(Global("collections", "OrderedDict"), (5,))), "damaged"),
        (b"\x80\x04" + b")\x85" * 5 + b"}\x8c\x01x\x8c\x01ys.", "no value|damaged"),
        (b"}" + b")" + b"\x85" * 200_000 + b"Ns.", "as a key"),  # would exhaust C's stack
        (b"\x8f(" + b")" + b"\x85" * 200_000 + b"\x90.", "as a key"),
        (b"\x8e" + struct.pack("<Q", 2**62) + b"x.", "truncated"),
        (b"\x8d" + struct.pack("<Q", 2**40) + b"x.", "truncated"),
        (b"T" + struct.pack("<i", -1) + b".", "truncated"),
        (b"\x8b" + struct.pack("<i", 2**30) + b".", "integer of"),
        (b"j" + struct.pack("<I", 2**31) + b".", "damaged"),  # memo that is not there
        (b"\x80\x02", "truncated"),
        (b"", "truncated"),
        (b"(.", "damaged"),
        (b"NN.", "damaged"),
        (b"a.", "damaged"),
        (b"t.", "damaged"),
        (b"N(K\x01u.", "damaged"),
        (b"K\x01\x94K\x02q\xff.", "damaged"),
        (b"NQ.", "refused"),
        (b"c" + b"x" * 5000 + b"\ny\n.", "4096"),
    ],
)
@BOTH
def test_damaged_and_hostile_pickles(tmp_path, armed, pickle_bytes, words, legacy):
    path = Writer(legacy).write(tmp_path / "a.pth", pickle_bytes)
    with pytest.raises(st.FormatError, match=words) as error:
        read_pth(path)
    assert str(path) in str(error.value)


def test_a_huge_memo_number_takes_no_memory(tmp_path):
    path = Writer().zip(tmp_path / "a.pth", b"K\x07r" + struct.pack("<I", 2**32 - 1) + b".")
    assert read_pth(path) == 7


def tensor(storage, offset=0, size=(2,), stride=(1,)):
    return lambda w: {
        "x": w.view(storage(w) if callable(storage) else storage, offset, size, stride)
    }


def four(writer):
    return writer.storage(np.arange(4, dtype=np.float32))


@BOTH
@pytest.mark.parametrize(
    "value",
    [
        tensor(four, offset=3),
        tensor(four, offset=-1),
        tensor(four, size=(5,)),
        tensor(four, size=(-1,)),
        tensor(four, stride=(-1,), offset=3),
        tensor(four, stride=(4,)),
        tensor(four, size=(2, 2)),
        tensor(four, size=(2.0,)),
        tensor(four, size=(2**61, 2**61), stride=(0, 0)),
        tensor(four, size=(1,) * 65, stride=(1,) * 65),
        tensor(four, offset=True),
        tensor(5),
        tensor(lambda w: Storage("FloatStorage", "7", 4, w.legacy)),
        tensor(lambda w: four(w)._replace(count=3)),
        tensor(lambda w: four(w)._replace(count=2**61)),
        tensor(lambda w: four(w)._replace(count=-4)),
        tensor(lambda w: four(w)._replace(key="../data/0")),
        tensor(lambda w: four(w)._replace(kind="DoubleStorage")),
        tensor(lambda w: four(w)._replace(kind="Size")),
        lambda w: [
            w.view(four(w), 0, (1,), (1,)),
            w.view(w.storages["0"]._replace(count=2), 0, (1,), (1,)),
        ],
    ],
)
def test_tensors_that_leave_their_storage(tmp_path, value, legacy):
    writer = Writer(legacy)
    path = writer.write(tmp_path / "a.pth", value(writer))
    with pytest.raises(st.FormatError, match=r"a\.pth: "):
        read_pth(path)


@pytest.fixture
def good(tmp_path):
    writer = Writer()
    return writer.zip(tmp_path / "good.pth", writer.state({"x": numbers("f4", 50)}))


def test_truncated_and_altered_zips(tmp_path, good):
    content = good.read_bytes()
    for length in (0, 3, 4, 40, len(content) // 2, len(content) - 1):
        (tmp_path / "cut.pth").write_bytes(content[:length])
        with pytest.raises(st.FormatError):
            read_pth(tmp_path / "cut.pth")
    where = content.index(numbers("f4", 50).tobytes())
    (tmp_path / "bad.pth").write_bytes(content[:where] + b"\0\1\2\3" + content[where + 4 :])
    with pytest.raises(st.FormatError, match="CRC"):
        read_pth(tmp_path / "bad.pth")


def test_truncated_streams(tmp_path):
    writer = Writer(legacy=True)
    content = writer.write(tmp_path / "a.pth", writer.state({"x": numbers("f4", 9)})).read_bytes()
    for length in range(len(content)):
        (tmp_path / "a.pth").write_bytes(content[:length])
        with pytest.raises(st.FormatError):
            read_pth(tmp_path / "a.pth")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_zips_that_are_no_torch_files(tmp_path, good):
    def rewrite(name, change):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            change(archive)
        return tmp_path / name

    def bomb(archive):
        archive.writestr("archive/data.pkl", b"N." + bytes(10**7), zipfile.ZIP_DEFLATED)

    def twice(archive):
        for text in (b"N.", b"K\x01."):
            archive.writestr("archive/data.pkl", text)

    for change, words in (
        (bomb, "compressed"),
        (twice, "twice"),
        (lambda a: a.writestr("readme", b"x"), "data.pkl"),
        (lambda a: [a.writestr(f"{i}/data.pkl", b"N.") for i in "ab"], "data.pkl"),
        (lambda a: a.writestr("../../evil/data.pkl", b"N."), "data.pkl"),
        (lambda a: a.writestr("x/byteorder", b"pdp") or a.writestr("x/data.pkl", b"N."), "pdp"),
    ):
        with pytest.raises(st.FormatError, match=words):
            read_pth(rewrite("a.pth", change))


@BOTH
def test_files_with_bytes_changed_lost_or_added(tmp_path, legacy):
    """Whatever the bytes: they are read, or refused as a file of the wrong form."""
    writer = Writer(legacy)
    path = writer.write(
        tmp_path / "a.pth", writer.state({"x": numbers("f4", 3), "y": numbers("i8", 2)})
    )
    content, rng = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for _ in range(800):
        found = bytearray(content)
        at = rng.integers(len(found))
        found[at : at + rng.integers(9)] = rng.bytes(rng.integers(4))
        path.write_bytes(found)
        try:
            read_pth(path)
        except st.FormatError:
            refused += 1
    assert refused > 400


def test_a_whole_module_says_what_to_do(tmp_path):
    value = Call(Global("torchvision.models.resnet", "ResNet"), ())
    with pytest.raises(st.FormatError, match=r"torch\.save\(model\.state_dict\(\), path\)"):
        read_pth(Writer().zip(tmp_path / "a.pth", value))


def test_other_files(tmp_path):
    path = tmp_path / "a.pth"
    for content in (b"hello", b"\x89PNG\r\n", complete(5), complete({}), b"x" * 257 + b"ustar"):
        path.write_bytes(content)
        with pytest.raises(st.FormatError, match=r"a\.pth"):
            read_pth(path)
    with pytest.raises(FileNotFoundError):
        read_pth(tmp_path / "nothing.pth")


# ------------------------------------------------------------------ PyTorch's own files


@BOTH
def test_files_that_pytorch_wrote(tmp_path, legacy):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    base = torch.randn(4, 6)
    value = OrderedDict(
        f64=base.double(),
        f16=base.half(),
        bf16=base.bfloat16(),
        i64=torch.arange(5),
        flags=base > 0,
        turned=base.t(),
        part=base[1:3, ::2],
        parameter=torch.nn.Parameter(base),
        empty=torch.zeros(0, 3),
        scalar=torch.tensor(3),
    )
    if not legacy:
        value["u16"] = torch.arange(6).to(torch.uint16).reshape(2, 3)
    torch.save(value, tmp_path / "a.pth", _use_new_zipfile_serialization=not legacy)
    found = read_pth(tmp_path / "a.pth")
    assert list(found) == list(value)
    for name, expected in value.items():
        wide = expected.float() if name == "bf16" else expected
        np.testing.assert_array_equal(found[name], wide.detach().numpy())
    assert np.shares_memory(found["turned"], found["part"])


@BOTH
def test_a_checkpoint_and_a_module_that_pytorch_wrote(tmp_path, legacy):
    torch = pytest.importorskip("torch")
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    net(torch.ones(1, 1, 4, 4)).sum().backward()
    optimizer.step()
    checkpoint = {"model": net.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}
    path = tmp_path / "a.pth"
    torch.save(checkpoint, path, _use_new_zipfile_serialization=not legacy)
    found = st.read_weights(path)
    assert list(found) == list(net.state_dict())
    torch.save(net, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(st.FormatError, match=r"refused.*state_dict\(\)"):
        read_pth(path)
