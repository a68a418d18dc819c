"""`summary`: its figures, its text, and receptive fields against what really changes."""

import json

import numpy as np
import pytest

import striate as st
import striate.functional as F
from striate import engine, nn
from striate.nn.tracing import trace_module


def row(table, name):
    return [r for r in table.rows if r["name"] == name][-1]


class TestFigures:
    def test_resnet18(self):
        table = st.summary(st.models.create("resnet18"), (3, 224, 224))
        assert table.totals["params"] == 11_689_512
        assert table.totals["macs"] == 1_814_073_344
        assert sum(r["params"] for r in table.rows) == 11_689_512
        assert sum(r["macs"] for r in table.rows) == 1_814_073_344
        field = row(table, "layer4.1.conv2")["receptive_field"]
        assert field["size"] == (435, 435)
        assert field["stride"] == (32, 32)
        assert row(table, "maxpool")["receptive_field"]["size"] == (11, 11)
        assert row(table, "conv1") == {
            "name": "conv1",
            "kind": "Conv2d",
            "output": (64, 112, 112),
            "params": 9408,
            "macs": 112 * 112 * 9408,
            "receptive_field": {"size": (7, 7), "stride": (2, 2), "offset": (-3, -3)},
            "memory": 4 * 64 * 112 * 112,
        }
        assert row(table, "fc")["receptive_field"]["size"] == (224, 224)

    def test_nothing_changes_and_nothing_is_built(self, monkeypatch):
        net = st.models.create("lenet-bn")
        before = net.state_dict()
        monkeypatch.setattr("striate.engine.build", None)
        st.summary(net, (1, 28, 28))
        assert net.training
        for key, value in net.state_dict().items():
            np.testing.assert_array_equal(value, before[key])

    def test_the_dict_is_json(self):
        table = st.summary(st.models.create("lenet"), (1, 28, 28))
        read = json.loads(json.dumps(table.to_dict()))
        assert [r["name"] for r in read["layers"]] == [r["name"] for r in table.rows]
        assert read["totals"]["params"] == 61_706

    def test_layers_used_twice_and_functions_in_forward(self):
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv = nn.Conv2d(2, 2, 3, padding=1, bias=False)
                self.conv.weight.trainable = False
                self.mix = nn.Parameter(np.ones((3, 2, 1, 1)))

            def forward(self, x):
                return F.conv2d(F.relu(self.conv(self.conv(x))), self.mix)

        table = st.summary(Net(), (2, 5, 5))
        assert [r["params"] for r in table.rows] == [36, 0]
        assert [r["macs"] for r in table.rows] == [36 * 25, 36 * 25]
        assert table.totals["macs"] == 2 * 36 * 25 + 6 * 25
        assert table.totals["params"] == 42
        assert table.totals["trainable_params"] == 6

    def test_a_single_layer(self):
        (only,) = st.summary(nn.Linear(8, 4), (8,)).rows
        assert (only["output"], only["macs"], only["params"]) == ((4,), 32, 36)

    def test_the_peak_is_that_of_the_program(self):
        net = st.models.create("lenet-bn", num_classes=10)
        totals = st.summary(net, (1, 28, 28), batch=4).totals
        program = engine.build(trace_module(net, [(4, 1, 28, 28)], training=False).graph).program
        assert totals["peak_arena"] == program.arena_bytes > 0
        assert totals["peak_arrays"] == 4 * (4 * 28 * 28 + 4 * 10)
        assert totals["peak_constants"] > 0
        parts = [v for k, v in totals.items() if k.startswith("peak_") and k != "peak_memory"]
        assert totals["peak_memory"] == sum(parts)

    def test_the_peak_of_a_training_step(self):
        net = st.models.create("lenet-bn", num_classes=10)
        x, y = np.zeros((8, 1, 28, 28), np.float32), np.zeros(8, np.int64)
        found = st.summary(net, (1, 28, 28), batch=8, training=True)
        program = st.compile_step(net).executable(x, y)[0].program
        assert found.totals["peak_arena"] == program.arena_bytes
        buffers = sum(p.buffer.nbytes for p in net.buffers() if p.dtype == "f32")  # no counters
        weights = sum(p.buffer.nbytes for p in net.parameters())
        assert found.totals["peak_params"] == 2 * weights + buffers
        assert "to train on a batch of 8" in str(found)
        options = {"batch": 8, "training": True}
        adam = st.summary(net, (1, 28, 28), optimizer=st.optim.Adam(), **options)
        assert adam.totals["peak_params"] == 3 * weights + buffers
        less = st.summary(net, (1, 28, 28), checkpoint=True, **options)
        assert less.totals["peak_arena"] <= found.totals["peak_arena"]

    def test_the_peak_of_training_a_net_without_classes(self):
        net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 1, 3))
        found = st.summary(net, (1, 9, 9), batch=2, training=True)
        assert found.totals["peak_memory"] > found.totals["peak_arena"] > 0

    def test_a_batch_of_nothing(self):
        with pytest.raises(st.ArgumentError, match="batch must be at least 1, got 0"):
            st.summary(nn.Linear(8, 4), (8,), batch=0)

    def test_an_image_that_does_not_fit(self):
        with pytest.raises(st.ShapeError, match=r"^conv1: "):
            st.summary(st.models.create("resnet18"), (1, 64, 64))


def test_the_table_is_aligned_and_plain():
    text = str(st.summary(st.models.create("lenet-bn"), (1, 28, 28)))
    lines = text.splitlines()
    assert "\x1b" not in text
    assert lines[0] == "LeNetBN, input 1×28×28"
    body = [line for line in lines if line.startswith(("layer", "conv", "bn", "fc", "pool"))]
    ends = {line.rstrip().rfind("B") for line in body[1:]}
    assert len(ends) == 1
    assert len({line.index(kind) for line in body for kind in line.split()[1:2]}) == 1
    assert "421,738" in text
    assert "4,241,152" in text


# ------------------------------------------------------------------ receptive fields


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(1, 2, 3, stride=2, padding=1)
        self.b = nn.Conv2d(2, 2, 3, padding=2, dilation=2)
        self.short = nn.Conv2d(1, 2, 1, stride=2)

    def forward(self, x):
        return self.b(self.a(x)) + self.short(x)


class Inception(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.Conv2d(1, 1, 1)
        self.five = nn.Conv2d(1, 2, (5, 3), padding=(2, 1))
        self.pool = nn.AvgPool2d(3, 1, 1)
        self.head = nn.Conv2d(4, 2, 2, stride=2)

    def forward(self, x):
        return self.head(st.concat((self.one(x), self.five(x), self.pool(x)), 1))


class Cropped(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)

    def forward(self, x):
        y = self.conv(F.pad(x, (2, 1, 0, 1)))
        return y[:, :, 1:, 2:-1] + F.pad(x, (-2, 0, -1, 1))[:, :, :-2, :]


class Gated(nn.Module):
    """A sum with something that sees everything."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)

    def forward(self, x):
        y = self.conv(x)
        return y * F.sigmoid(y.mean((2, 3), keepdims=True))


NETS = {
    "plain": nn.Sequential(nn.Conv2d(1, 2, 3, stride=2, padding=1), nn.Conv2d(2, 1, (2, 3))),
    "max pool": nn.Sequential(nn.MaxPool2d(3, 2, 1), nn.Conv2d(1, 1, 2), nn.MaxPool2d(2)),
    "ceil": nn.Sequential(nn.MaxPool2d(3, 2, ceil_mode=True), nn.AvgPool2d((2, 1), ceil_mode=True)),
    "adaptive": nn.Sequential(nn.AdaptiveMaxPool2d(4), nn.Conv2d(1, 1, 2)),
    "dilated": nn.Sequential(nn.Conv2d(1, 1, 3, dilation=3), nn.AvgPool2d(2, padding=1)),
    "residual": Residual(),
    "inception": Inception(),
    "cropped": Cropped(),
    "gated": Gated(),
    "global": nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1)),
    "dense": nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(200, 3)),
}


def seen(net, size, position):
    """Rows and columns of the image that one output depends on, by changing each pixel."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 1, *size)).astype(np.float32)
    changed = np.repeat(x, size[0] * size[1], 0)
    for i, image in enumerate(changed):
        # up and down: a maximum moves only when it is passed
        image[0, i // size[1], i % size[1]] += 100
    lower = np.repeat(x, size[0] * size[1], 0)
    for i, image in enumerate(lower):
        image[0, i // size[1], i % size[1]] -= 100
    base = net(x)
    index = (slice(None), slice(None), *position)[: base.ndim]
    moved = [np.any(net(c)[index] != base[index], axis=1) for c in (changed, lower)]
    where = np.argwhere((moved[0] | moved[1]).reshape(size))
    return (where.min(0).tolist(), (where.max(0) + 1).tolist())


@pytest.mark.parametrize("name", NETS)
def test_a_receptive_field_is_what_changes_the_output(name):
    net, size = NETS[name].eval(), (12, 12)

    class Whole(nn.Module):
        """The net as one layer, so that it has one row."""

        def forward(self, x):
            return net.forward(x)

    (only,) = st.summary(Whole(), (1, *size)).rows[-1:]
    field = only["receptive_field"]
    spatial = only["output"][1:] or (1, 1)
    for position in {(0, 0), (spatial[0] - 1, spatial[1] - 1), (spatial[0] // 2, spatial[1] // 2)}:
        start, stop = seen(net, size, position)
        for axis in (0, 1):
            begin = field["offset"][axis] + position[axis] * field["stride"][axis]
            end = begin + field["size"][axis]
            assert start[axis] == max(begin, 0), (position, axis)
            assert stop[axis] == min(end, size[axis]), (position, axis)


@pytest.mark.parametrize(
    "net",
    [
        nn.ConvTranspose2d(1, 1, 2, stride=2),
        nn.Upsample(scale_factor=2),
        nn.AdaptiveAvgPool2d(5),
        nn.AdaptiveMaxPool2d(5),
    ],
)
def test_where_no_one_rule_holds_there_is_none(net):
    (only,) = st.summary(net, (1, 12, 12)).rows
    assert only["receptive_field"] is None
