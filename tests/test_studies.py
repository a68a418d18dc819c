"""The measuring functions of the studies, on what is known; the command; the quick studies."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.signal import correlate2d

import striate as st
import striate.functional as F
from striate import nn
from striate.studies import STUDIES, batch_norm, nets, one_by_one, pooling, receptive_field
from striate.studies import learned_kernels as kernels
from striate.studies import run as run_study
from striate.studies.study import Study
from tests.cli_run import cli  # noqa: F401 - a fixture

RNG = np.random.default_rng(0)
COMMITTED = Path(__file__).parent.parent / "docs" / "guide" / "studies" / "figures.json"


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


# ---------------------------------------------------------------------- what all share


@pytest.mark.parametrize("rows", [-3, 0, 2])
@pytest.mark.parametrize("cols", [-1, 0, 4])
def test_shifted_moves_pixels_and_brings_in_zeros(rows, cols):
    x = normal(2, 1, 6, 7)
    y = nets.shifted(x, rows, cols)
    for i, j in np.ndindex(6, 7):
        inside = 0 <= i - rows < 6 and 0 <= j - cols < 7
        assert (y[:, :, i, j] == (x[:, :, i - rows, j - cols] if inside else 0)).all()


def small_net():
    st.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4)
    )


def test_weight_gradients_are_what_a_step_takes_off():
    net, x, y = small_net(), normal(5, 1, 6, 6), np.arange(5) % 4
    before = net.state_dict()
    found = nets.weight_gradients(net, x, y, ["0.weight", "4.bias"])
    assert all((net.state_dict()[key] == value).all() for key, value in before.items())
    st.compile_step(net, optimizer=st.optim.SGD(lr=0.5))(x, y)
    for name, gradient in zip(["0.weight", "4.bias"], found, strict=True):
        np.testing.assert_allclose(before[name] - net.state_dict()[name], 0.5 * gradient, atol=1e-5)


def test_layer_probe_gives_training_outputs_and_updates_nothing():
    net, x = small_net(), normal(5, 1, 6, 6)
    before = net.state_dict()
    conv, norm = nets.layer_probe(net, x.shape, ["0", "1"])(x)
    np.testing.assert_allclose(conv, F.conv2d(x, before["0.weight"], before["0.bias"]), atol=1e-5)
    np.testing.assert_allclose(norm.mean((0, 2, 3)), 0, atol=1e-5)
    assert all((net.state_dict()[key] == value).all() for key, value in before.items())


def test_input_gradient_of_a_linear_net_is_its_slope():
    st.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.AvgPool2d(2)).eval()
    x, seed = normal(2, 1, 6, 6), normal(2, 2, 3, 3)
    gradient = nets.input_gradient(net, x, seed)
    assert gradient.shape == x.shape
    direction = normal(*x.shape)
    slope = ((net(x + direction) - net(x)) * seed).sum()
    assert (gradient * direction).sum() == pytest.approx(slope, abs=1e-4)


def test_training_stops_at_a_loss_that_is_not_finite_and_counts_steps():
    data = nets.clothes(64, 1)
    seen = []
    losses = nets.train(
        small_net_for(data), data.x, data.y, st.optim.SGD(lr=0.01), steps=5, batch=16,
        watch=seen.append,
    )  # fmt: skip
    assert len(losses) == 5
    assert seen == [1, 2, 3, 4, 5]
    broken = small_net_for(data)
    broken.get_submodule("1").weight.assign(np.full((10, 784), np.inf))
    losses = nets.train(broken, data.x, data.y, st.optim.SGD(lr=0.01), steps=5)
    assert len(losses) == 1
    assert not math.isfinite(losses[0])


def small_net_for(data):
    st.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(data.x[0].size, 10))


# ---------------------------------------------------------------------- each study's measure


@pytest.mark.parametrize("kernel", [kernels.EDGE, kernels.EMBOSS])
def test_correlated_is_scipys(kernel):
    x = normal(2, 1, 7, 8)
    found = kernels.correlated(x, kernel)
    for i in range(2):
        np.testing.assert_allclose(found[i, 0], correlate2d(x[i, 0], kernel, "valid"), atol=1e-5)


def test_kernels_are_learned_and_turned():
    learned = kernels.learn(0.3 * normal(8, 1, 12, 12), kernels.EMBOSS, seed=0, steps=300)
    assert learned.error < 1e-3
    assert learned.turned < 1e-3
    assert learned.as_learned > 3.9  # from −2 to 2


def test_one_by_one_measures_see_a_difference():
    assert one_by_one.unequal((1, 5, 7, 3, 4), 0)[1] < 1e-4
    assert one_by_one.touched(0) == (1, 6)
    assert one_by_one.shuffled_equal(0)


def test_distance_of_features():
    a = np.array([[3.0, 4.0], [1.0, 0.0]])
    assert pooling.distance(a, a) == 0
    assert pooling.distance(a, np.array([[3.0, 4.0], [0.0, 0.0]])) == pytest.approx(0.5)


@pytest.mark.parametrize("way", pooling.WAYS)
def test_nets_of_the_pooling_study_have_their_features_at_the_same_place(way):
    net = pooling.make_net(way).eval()
    features = net.features(normal(1, 1, 28, 28), [pooling.FEATURES])[pooling.FEATURES]
    side = 28 if way == "none" else 7
    assert features.shape == (1, 16, side, side)


def test_field_of_a_known_map():
    energy = np.zeros((9, 9))
    energy[2:7, 2:7] = 1e-6
    energy[3:6, 3:6] = 1
    seen = receptive_field.measure(energy, 2, 5)
    assert (seen.theoretical, seen.effective, seen.outside, seen.rim) == (5, 3, 0, True)
    assert seen.spread == pytest.approx(math.sqrt(2 / 3), abs=1e-4)
    energy[0, 0] = 0.25
    assert receptive_field.measure(energy, 2, 5).outside == 0.25


@pytest.mark.parametrize(("depth", "pooled", "size"), [(2, False, 5), (4, False, 9), (4, True, 14)])
def test_field_of_a_net(depth, pooled, size):
    seen = receptive_field.look(receptive_field.make_net(depth, pooled), seed=0, pictures=4)
    assert (seen.theoretical, seen.outside, seen.rim) == (size, 0, True)
    assert seen.effective <= size


def test_course_and_rates_of_batch_norm():
    def course(*accuracies):
        return batch_norm.Course(None, [1.0], list(accuracies))

    assert course(0.2, 0.8, 0.5).best == 0.8
    assert course(0.2, 0.8).steps_to_goal == 2 * batch_norm.EVERY
    assert course(0.2).steps_to_goal == math.inf
    courses = {0.1: [course(0.7), course(0.9)], 1.0: [course(0.95), course(0.3)]}
    assert batch_norm.best_rate(courses) == 0.1
    assert batch_norm.worst(courses[1.0]) == 0.3
    assert batch_norm.Compared(courses, *3 * [np.zeros(1)]).largest_rate == 0.1
    assert batch_norm.width_ratio(np.array([[-1, 0, 1], [-3, 0, 3]])) == 3
    assert batch_norm.width_ratio(np.array([[0, 0, 0], [-3, 0, 3]])) == math.inf


def test_batch_norm_evens_out_activations_and_its_noise_falls():
    data = nets.clothes(256, 10)
    st.manual_seed(0)
    plain, normed = batch_norm.Net("plain"), batch_norm.Net("batch norm")
    ratios = [batch_norm.width_ratio(batch_norm.activations(n, data)) for n in (plain, normed)]
    assert ratios[1] < 1.5 < ratios[0]
    few, many = batch_norm.noise(normed, data.x, (4, 64), seed=0, pictures=2, draws=8)
    assert many < 0.6 * few
    assert batch_norm.noise(plain, data.x, (4,), seed=0, pictures=2, draws=4)[0] < 1e-5


# ---------------------------------------------------------------------- the command


def fake(holds):
    def run(name, seed):
        figures = {"seed": seed, "never": math.inf}
        return Study(name, "A claim.", figures, "A verdict.", holds, str)

    return run


def test_study_prints_a_verdict_and_saves_a_picture(cli, tmp_path):
    outcome = cli("study", "one-by-one", "--out", "new/pictures")
    assert outcome.code == 0
    assert "it shows: " in outcome.out
    assert (tmp_path / "new/pictures/one-by-one.png").read_bytes()[:4] == b"\x89PNG"


def test_study_whose_claim_does_not_show_is_exit_code_1(cli, monkeypatch):
    monkeypatch.setattr("striate.studies.run", fake(holds=False))
    outcome = cli("study", "pooling")
    assert outcome.code == 1
    assert "IT DOES NOT SHOW: A verdict." in outcome.out


def test_all_studies_as_json(cli, monkeypatch):
    monkeypatch.setattr("striate.studies.run", fake(holds=True))
    outcome = cli("study", "all", "--json", "--seed", "3")
    assert outcome.code == 0
    rows = outcome.json["studies"]
    assert [row["name"] for row in rows] == list(STUDIES)
    assert rows[0]["figures"] == {"seed": 3, "never": None}
    assert all(Path(row["picture"]).is_file() for row in rows)


def test_misspelt_study_and_the_list(cli):
    assert "did you mean pooling?" in cli("study", "poling").error
    text = cli("study", "--help").out
    assert all(name in text for name in STUDIES)
    with pytest.raises(st.ArgumentError, match="did you mean 'batch-norm'"):
        run_study("batchnorm")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["learned-kernels", "receptive-field"])
def test_figures_in_the_guide_are_those_of_the_study(name):
    rows = json.loads(COMMITTED.read_text())["studies"]
    committed = next(row["figures"] for row in rows if row["name"] == name)
    found = run_study(name, 0)
    assert found.holds
    assert dict(found.figures) == pytest.approx(committed, rel=0.02, abs=1e-3)
