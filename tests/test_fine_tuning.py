"""Fine-tuning: freezing, other people's weights, a new head; and statistics computed anew."""

import numpy as np
import pytest

import striate as st
from striate import nn
from striate.engine.plan import plan
from striate.engine.program import Program
from striate.io.safetensors import write_safetensors
from striate.jit.target import machine


def small():
    st.manual_seed(0)
    return nn.Sequential(
        {
            "stem": nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()),
            "body": nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU()),
            "pool": nn.AdaptiveAvgPool2d(1),
            "flat": nn.Flatten(),
            "head": nn.Linear(6, 3),
        }
    )


def batch(n=4, side=8, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, 3, side, side), np.float32), rng.integers(0, 3, n)


def changed(before, after):
    return {key for key in before if not np.array_equal(before[key], after[key])}


class TestFreeze:
    def test_training_changes_only_the_head(self):
        net = small().freeze("stem", "bod*")
        before = net.state_dict()
        step = st.compile_step(net, optimizer=st.optim.SGD(0.1, momentum=0.9, weight_decay=0.1))
        step(*batch())
        assert changed(before, net.state_dict()) == {"head.weight", "head.bias"}
        net.unfreeze("*")
        step(*batch())
        assert changed(before, net.state_dict()) == set(before)

    def test_frozen_statistics_are_used_in_training(self):
        net = small().freeze("stem", "body")
        x, y = batch()
        logits = net.eval()(x).astype(np.float64)
        expected = (np.log(np.exp(logits).sum(1)) - logits[np.arange(len(y)), y]).mean()
        assert st.compile_step(net)(x, y) == pytest.approx(expected, rel=1e-5)
        frozen = net.train().features(x, ["stem"])["stem"]
        np.testing.assert_allclose(frozen, net.eval().features(x, ["stem"])["stem"], atol=1e-6)

    def test_the_plan_has_no_gradient_for_frozen_layers(self):
        x, y = batch()

        def backward(net):
            step = st.compile_step(net)
            program = plan(step._trace(step_batch(x, y))[0], machine(), 2, training=True)
            assert isinstance(program, Program)
            scopes = {task.node.scope for task in program.tasks}
            return {s.removeprefix("grad:").split(".")[0] for s in scopes if s.startswith("grad:")}

        assert backward(small()) >= {"stem", "body", "head"}
        assert "stem" not in backward(small().freeze("stem"))
        assert backward(small().freeze("stem", "body")) <= {"head", "flat", "pool"}

    def test_patterns(self):
        net = st.models.create("resnet18", num_classes=3, stem="32").freeze("layer[1-3]*", "bn1.b*")
        still = {key.split(".")[0] for key, p in net.named_parameters() if p.trainable}
        assert still == {"conv1", "bn1", "layer4", "fc"}
        assert not net.bn1.bias.trainable
        assert not net.bn1.frozen  # its weight is trained
        assert net.layer3[1].bn2.frozen
        assert not net.layer4[0].bn1.frozen
        net.unfreeze("layer3")
        assert not net.layer3[1].bn2.frozen
        assert net.layer2[1].bn2.frozen
        with pytest.raises(st.ArgumentError, match=r"matches 'layer5\*'; its parts are conv1, bn1"):
            net.freeze("layer5*")

    def test_norms_without_weights_follow_their_path(self):
        net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, affine=False))
        assert net.freeze("1")[1].frozen


def step_batch(x, y):
    from striate.train.step import _Batch

    return _Batch(x, y)


class TestWeights:
    def test_all_but_the_head_of_another_number_of_classes(self, tmp_path):
        for name, head in (("squeezenet1_1", "classifier.1"), ("shufflenet_v2_x0_5", "fc")):
            net = st.models.create(name, num_classes=4)
            st.save(net, tmp_path / "w.safetensors")
            st.manual_seed(1)
            other = st.models.create(name, num_classes=2)
            own = other.state_dict()
            found = st.load_weights(other, tmp_path / "w.safetensors", skip_head=True)
            assert found.missing == [f"{head}.weight", f"{head}.bias"]
            state = net.state_dict()
            for key, array in other.state_dict().items():
                expected = own[key] if key in found.missing else state[key]
                np.testing.assert_array_equal(array, expected, err_msg=key)

    def test_everything_where_the_classes_are_the_same(self, tmp_path):
        net = small()
        state = {f"module.{k}": v + 1 for k, v in net.state_dict().items()}
        write_safetensors(tmp_path / "w.safetensors", state)
        assert st.load_weights(net, tmp_path / "w.safetensors") == ([], [])
        for key, array in net.state_dict().items():
            np.testing.assert_array_equal(array, state[f"module.{key}"])

    def test_auxiliary_heads_of_googlenet_are_passed_over(self, tmp_path):
        net = st.models.create("googlenet", num_classes=2)
        state = net.state_dict() | {"aux1.conv.conv.weight": np.zeros((1, 1, 1, 1), np.float32)}
        write_safetensors(tmp_path / "w.safetensors", state)
        found = st.load_weights(net, tmp_path / "w.safetensors")
        assert found == ([], ["aux1.conv.conv.weight"])

    def test_what_does_not_fit_is_named_and_changes_nothing(self, tmp_path):
        net = small()
        before = net.state_dict()
        for key, shape in (("body.0.weight", (6, 4, 5, 5)), ("head.weight", (3, 7)), ("tail", ())):
            write_safetensors(tmp_path / "w.safetensors", before | {key: np.ones(shape)})
            with pytest.raises(st.StriateError, match=rf"w\.safetensors: .*{key}"):
                st.load_weights(net, tmp_path / "w.safetensors")
        assert changed(before, net.state_dict()) == set()

    def test_a_new_head(self, tmp_path):
        net = st.models.create("squeezenet1_1", num_classes=4)
        assert st.models.head(net) == "classifier.1"
        assert st.models.replace_head(net.eval(), 2) is net
        assert net.get_submodule("classifier.1").weight.shape == (2, 512, 1, 1)
        assert not net.get_submodule("classifier.1").training
        st.save(net, tmp_path / "n.safetensors")
        assert st.load(tmp_path / "n.safetensors").arch["arguments"]["num_classes"] == 2
        assert st.models.replace_head(small(), 5).head.weight.shape == (5, 6)
        with pytest.raises(st.ArgumentError, match="ReLU has no dense layer"):
            st.models.replace_head(nn.ReLU(), 2)


class TestPreciseBatchNorm:
    def test_statistics_are_the_means_over_the_batches(self):
        net = nn.Sequential(nn.BatchNorm2d(3, momentum=0.3), nn.BatchNorm2d(3, momentum=None))
        net[0].num_batches_tracked.assign(7)
        batches = [batch(n, seed=n)[0] * n + n for n in (2, 3, 4)]
        assert st.precise_batch_norm(net.eval(), iter(batches)) is net
        sizes = np.array([len(b) for b in batches])
        means = np.array([b.mean((0, 2, 3), dtype=np.float64) for b in batches])
        variances = np.array([b.var((0, 2, 3), dtype=np.float64, ddof=1) for b in batches])
        mean = (sizes[:, None] * means).sum(0) / sizes.sum()
        var = (sizes[:, None] * (variances + (means - mean) ** 2)).sum(0) / sizes.sum()
        state = net.state_dict()
        np.testing.assert_allclose(state["0.running_mean"], mean, rtol=1e-5)
        np.testing.assert_allclose(state["0.running_var"], var, rtol=1e-5)
        # the second sees what the first has normalised by the batch
        np.testing.assert_allclose(state["1.running_mean"], 0, atol=1e-5)
        np.testing.assert_allclose(state["1.running_var"], 1, rtol=0.01)
        assert state["0.num_batches_tracked"] == 7
        assert not any(module.training for module in net.modules())

    def test_modes_weights_and_frozen_layers_stay(self):
        net = small().freeze("stem")
        net.body.eval()
        before = net.state_dict()
        st.precise_batch_norm(net, [batch()[0]])
        assert changed(before, net.state_dict()) == {"body.1.running_mean", "body.1.running_var"}
        modes = [net.training, net.stem[1].training, net.body.training, net.body[1].training]
        assert modes == [True, True, False, False]

    def test_nothing_changes_when_it_fails(self):
        net = small()
        before = net.state_dict()
        with pytest.raises(st.ArgumentError, match="at least one batch"):
            st.precise_batch_norm(net, [])
        with pytest.raises(st.ShapeError):
            st.precise_batch_norm(net, [batch()[0], batch()[0][:, :2]])
        assert changed(before, net.state_dict()) == set()
        assert net.training
        assert net.body[1].training
        with pytest.raises(st.ArgumentError, match="momentum 0"):
            st.precise_batch_norm(nn.Sequential(nn.BatchNorm2d(3, momentum=0.0)), [batch()[0]])


def test_ways_of_global_pooling_give_the_same_plan():
    import striate.functional as F

    class Pooled(nn.Module):
        def __init__(self, pool):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 8, 1), nn.Linear(8, 2)
            self.pool = pool

        def forward(self, x):
            return self.fc(self.pool(self.conv(x)))

    layer = nn.AdaptiveAvgPool2d(1)
    ways = [
        lambda x: x.mean((2, 3)),
        lambda x: F.adaptive_avg_pool2d(x, 1).flatten(1),
        lambda x: layer(x).flatten(1),
        lambda x: x.mean((2, 3), keepdims=True).reshape(x.shape[0], -1),
    ]
    from striate.nn.tracing import trace_module

    plans = set()
    for way in ways:
        graph = trace_module(Pooled(way), [(2, 3, 5, 6)], training=False).graph
        steps = [s for task in plan(graph, machine(), 2).tasks for s in task.steps]
        plans.add(tuple((repr(step.spec), step.sizes) for step in steps))
    assert len(plans) == 1
