"""`Module`: registers, state, modes, and calls on arrays."""

import copy
import pickle
import threading

import numpy as np
import pytest

import striate as st
import striate.functional as F
from striate import nn


class Net(nn.Module):
    def __init__(self, channels=3):
        super().__init__()
        self.conv = nn.Conv2d(1, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)
        self.head = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.fc = nn.Linear(channels, 2)
        self.scale = nn.Parameter(np.ones(2))

    def forward(self, x):
        return self.fc(self.head(self.norm(self.conv(x)))) * self.scale


def images(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


class TestRegisters:
    def test_names_come_in_order_of_definition(self):
        names = [
            "scale",
            "conv.weight",
            "conv.bias",
            "norm.weight",
            "norm.bias",
            "fc.weight",
            "fc.bias",
        ]
        assert [name for name, _ in Net().named_parameters()] == names
        assert [name for name, _ in Net().named_buffers()] == [
            "norm.running_mean",
            "norm.running_var",
            "norm.num_batches_tracked",
        ]

    def test_modules_paths_and_children(self):
        paths = [path for path, _ in Net().named_modules()]
        assert paths == ["", "conv", "norm", "head", "head.0", "head.1", "head.2", "fc"]
        assert [name for name, _ in Net().named_children()] == ["conv", "norm", "head", "fc"]

    def test_a_shared_weight_counts_once_but_has_both_keys(self):
        net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        net[1].weight = net[0].weight
        assert net.num_parameters() == 9 + 3 + 3
        assert list(net.state_dict()) == ["0.weight", "0.bias", "1.weight", "1.bias"]

    def test_reassignment_and_deletion(self):
        net = Net()
        net.fc = nn.Linear(3, 5)
        assert net.fc.out_features == 5
        net.norm = None
        assert all(not name.startswith("norm") for name in net.state_dict())
        del net.scale
        assert "scale" not in net.state_dict()

    def test_an_array_does_not_silently_replace_a_weight(self):
        with pytest.raises(st.ArgumentError, match="assign"):
            Net().fc.weight = np.zeros((2, 3))

    def test_without_super_init(self):
        class Careless(nn.Module):
            def __init__(self):
                self.fc = nn.Linear(2, 2)

        assert Careless().num_parameters() == 6

    def test_apply_goes_from_the_inside_out(self):
        seen = []
        net = Net()
        assert net.apply(seen.append) is net
        assert seen[-1] is net
        assert len(seen) == 8

    def test_freezing(self):
        net = Net()
        net.conv.requires_grad_(False)
        assert net.num_parameters() - net.num_parameters(trainable=True) == 30

    def test_lists_of_modules(self):
        blocks = nn.ModuleList([nn.Linear(2, 2)]).append(nn.ReLU()).extend([nn.Linear(2, 3)])
        assert len(blocks) == 3
        assert blocks[-1].out_features == 3
        assert [type(m).__name__ for m in blocks[1:]] == ["ReLU", "Linear"]
        blocks[1] = nn.Tanh()
        assert list(blocks.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
        with pytest.raises(IndexError, match="7"):
            blocks[7]

    def test_sequential_slices_keep_names(self):
        net = nn.Sequential({"a": nn.Linear(2, 2), "b": nn.ReLU(), "c": nn.Linear(2, 1)})
        assert list(net[1:].state_dict()) == ["c.weight", "c.bias"]


class TestState:
    def test_round_trip_with_torch(self):
        torch = pytest.importorskip("torch")
        theirs = torch.nn.Sequential(
            torch.nn.Conv2d(1, 3, 3), torch.nn.BatchNorm2d(3), torch.nn.Linear(4, 2)
        )
        ours = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Linear(4, 2))
        assert list(ours.state_dict()) == list(theirs.state_dict())
        ours.load_state_dict(theirs.state_dict() | {"1.num_batches_tracked": torch.tensor(7)})
        state = ours.state_dict()
        assert state["1.num_batches_tracked"] == 7
        assert state["1.num_batches_tracked"].dtype == np.int64
        theirs.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()})
        x = images(2, 1, 6, 6)
        expected = theirs.eval()(torch.from_numpy(x)).detach().numpy()
        np.testing.assert_allclose(ours.eval()(x), expected, rtol=1e-5, atol=1e-6)

    def test_state_is_a_copy(self):
        net = Net()
        before = net.state_dict()["fc.bias"].copy()
        state = net.state_dict()
        state["fc.bias"] += 1
        np.testing.assert_array_equal(net.state_dict()["fc.bias"], before)

    def test_other_float_types_are_converted(self):
        net, source = Net(), Net().state_dict()
        net.load_state_dict({key: value.astype(np.float64) for key, value in source.items()})
        np.testing.assert_array_equal(net.state_dict()["conv.weight"], source["conv.weight"])

    def test_missing_and_unexpected_keys(self):
        net, state = Net(), Net().state_dict()
        state["extra"] = state.pop("fc.bias")
        with pytest.raises(st.ArgumentError, match=r"missing fc\.bias; unexpected extra"):
            net.load_state_dict(state)
        assert net.load_state_dict(state, strict=False) == (["fc.bias"], ["extra"])

    def test_a_wrong_shape_names_key_and_shapes_and_changes_nothing(self):
        net, state = Net(), Net().state_dict()
        before = net.state_dict()
        state["fc.weight"] = np.zeros((2, 4))
        with pytest.raises(st.ShapeError, match=r"fc\.weight.*\(2, 3\).*\(2, 4\)"):
            net.load_state_dict(state, strict=False)
        for key, value in net.state_dict().items():
            np.testing.assert_array_equal(value, before[key])

    def test_old_files_without_the_batch_count(self):
        net, state = Net(), Net().state_dict()
        net.norm.num_batches_tracked.assign(5)
        del state["norm.num_batches_tracked"]
        assert net.load_state_dict(state) == ([], [])
        assert net.state_dict()["norm.num_batches_tracked"] == 0

    @pytest.mark.parametrize("clone", [copy.deepcopy, lambda n: pickle.loads(pickle.dumps(n))])
    def test_copies_are_independent(self, clone):
        net = Net().eval()
        x = images(1, 1, 4, 4)
        expected = net(x)
        other = clone(net)
        np.testing.assert_array_equal(other(x), expected)
        net.fc.bias.assign(net.fc.bias.data + 1)
        np.testing.assert_array_equal(other(x), expected)
        assert not other.training


class TestCalls:
    def test_sizes_and_batches_share_weights(self):
        net = Net().eval()
        count = net.num_parameters()
        for shape in ((1, 1, 4, 4), (3, 1, 9, 5), (2, 1, 16, 16)):
            assert net(images(*shape)).shape == (shape[0], 2)
        assert net.num_parameters() == count

    def test_inputs_are_converted_and_never_changed(self):
        net = Net().eval()
        x = np.arange(32, dtype=np.uint8).reshape(2, 1, 4, 4)
        expected = net(x.astype(np.float32))
        big_endian = x.astype(">f8")
        strided = np.asfortranarray(x.astype(np.float16))
        frozen = x.astype(np.int64)
        frozen.setflags(write=False)
        for given in (x, big_endian, strided, frozen, x.tolist()):
            y = net(given)
            np.testing.assert_array_equal(y, expected)
            assert y.dtype == np.float32
        assert big_endian.dtype == ">f8"
        assert np.isinf(nn.Identity()(np.array([1e300]))).all()

    @pytest.mark.parametrize("x", [np.zeros((1, 1, 4, 4), complex), np.array([["a"]])])
    def test_what_is_no_number_is_refused(self, x):
        with pytest.raises(st.DTypeError, match="dtype"):
            Net()(x)

    def test_results_are_the_callers_own(self):
        net = Net().eval()
        first = net(images(1, 1, 4, 4))
        kept = first.copy()
        net(images(1, 1, 4, 4, seed=1))
        np.testing.assert_array_equal(first, kept)
        assert first.flags.writeable

    def test_several_inputs_and_outputs(self):
        class Two(nn.Module):
            def forward(self, a, b):
                return a + b, a * b

        total, product = Two()(np.full((1, 2), 3.0), np.full((1, 2), 4.0))
        np.testing.assert_array_equal(total, [[7, 7]])
        np.testing.assert_array_equal(product, [[12, 12]])
        with pytest.raises(st.ArgumentError, match="3 inputs"):
            Two()(1, 2, 3)

    def test_errors_name_the_layer(self):
        net = nn.Sequential({"first": nn.Conv2d(1, 2, 3), "second": nn.Conv2d(4, 2, 3)})
        with pytest.raises(st.ShapeError, match=r"^second: .*2 channels"):
            net(np.zeros((1, 1, 8, 8)))
        with pytest.raises(st.ShapeError, match=r"x\[None\]"):
            net(np.zeros((1, 8, 8)))

    def test_python_decisions_on_values_are_refused(self):
        class Branching(nn.Module):
            def forward(self, x):
                return x if x.sum() > 0 else -x

        with pytest.raises(st.TraceError, match="traced"):
            Branching()(np.ones((1, 2)))

    def test_changes_of_structure_and_mode_are_seen(self):
        net = Net().eval()
        x = images(2, 1, 4, 4)
        before = net(x)
        net.fc = nn.Linear(3, 5)
        net.scale = nn.Parameter(np.ones(5))
        assert net(x).shape == (2, 5)
        net = Net().eval()
        net.load_state_dict(Net().state_dict())
        evaluated = net(x)
        assert not np.allclose(net.train()(x), evaluated)
        assert before.shape == (2, 2)

    def test_one_layer_in_evaluation_while_the_rest_trains(self):
        net = Net()
        net.norm.eval()
        net(images(2, 1, 4, 4))
        assert net.state_dict()["norm.num_batches_tracked"] == 0
        net.norm.train()
        net(images(2, 1, 4, 4))
        assert net.state_dict()["norm.num_batches_tracked"] == 1

    def test_new_weights_are_seen(self):
        net = Net().eval()
        x = images(1, 1, 4, 4)
        net(x)
        net.fc.weight.assign(np.zeros((2, 3)))
        net.fc.bias.assign([1.0, 2.0])
        np.testing.assert_array_equal(net(x), [[1, 2]])

    def test_features(self):
        net = Net().eval()
        x = images(2, 1, 4, 4)
        found = net.features(x, ["conv", "head.0"])
        conv = F.conv2d(x, net.conv.weight.data, net.conv.bias.data, padding=1)
        np.testing.assert_allclose(found["conv"], conv, rtol=1e-5, atol=1e-6)
        assert found["head.0"].min() == 0
        with pytest.raises(st.ArgumentError, match="no layer named 'fx'"):
            net.features(x, ["fx"])

    def test_a_layer_called_features_goes_with_the_method(self):
        net = st.models.create("vgg11-bn", num_classes=3, stem="32").eval()
        found = net.features(np.zeros((1, 3, 32, 32)), ["features.3", "features"])
        assert found["features.3"].shape == (1, 64, 16, 16)
        assert found["features"].shape == (1, 512, 1, 1)
        assert "features.0.weight" in net.state_dict()

    def test_threads(self):
        net = Net().eval()
        inputs = [images(1 + i % 3, 1, 4, 4, seed=i) for i in range(6)]
        expected = [net(x) for x in inputs]
        wrong = []

        def work():
            for x, y in zip(inputs, expected, strict=True):
                if not np.array_equal(net(x), y):
                    wrong.append(x.shape)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong

    def test_programs_are_kept_up_to_a_limit(self):
        net = nn.ReLU()
        for size in range(1, 80):
            net(np.zeros((1, size)))
        assert len(net.programs._programs) == 64


def test_import_is_light():
    import subprocess
    import sys

    code = (
        "import sys, striate; "
        "heavy = {'PIL', 'matplotlib', 'rich', 'llvmlite', 'scipy', 'safetensors'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_every_public_name_is_there():
    for name in st.__all__:
        assert getattr(st, name) is not None
    assert set(st.__all__) <= set(dir(st))
    with pytest.raises(AttributeError, match="nothing"):
        _ = st.nothing
