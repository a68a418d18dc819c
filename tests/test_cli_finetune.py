"""`striate train --weights --freeze`: a run that starts from another net's weights."""

import numpy as np

import striate as st
from striate.io.safetensors import read_safetensors
from tests.cli_run import cli, make_pictures  # noqa: F401 - fixture


def test_a_run_from_other_weights_trains_the_head_alone(cli, tmp_path):
    data = make_pictures(tmp_path / "pictures")
    other = st.models.create("lenet-bn", num_classes=7, image_size=8)
    other.conv1.weight.assign(np.full(other.conv1.weight.shape, 0.25))
    st.save(other, tmp_path / "other.safetensors")
    run = tmp_path / "run"
    start = ("--weights", tmp_path / "other.safetensors", "--freeze", "conv?,bn?, fc1")
    outcome = cli("train", data, "--epochs", 1, *start, "--out", run)
    assert outcome.code == 0, outcome.err
    assert "other.safetensors, but for fc2.weight, fc2.bias" in outcome.err
    arrays, _ = read_safetensors(run / "best.safetensors")
    for key, array in other.state_dict().items():
        if not key.startswith("fc2"):
            np.testing.assert_array_equal(arrays[key], array, err_msg=key)
    (tmp_path / "other.safetensors").unlink()  # the checkpoint has everything
    assert 'freeze = "conv?,bn?, fc1"' in (run / "config.toml").read_text()
    assert cli("train", "--resume", run).code == 0


def test_wrong_uses(cli, tmp_path):
    data = make_pictures(tmp_path / "pictures")
    outcome = cli("train", data, "--weights", tmp_path / "none.safetensors")
    assert outcome.code == 1
    assert "--weights: there is no file" in outcome.error
    outcome = cli("train", data, "--freeze", "layer1", "--out", tmp_path / "r")
    assert outcome.code == 1
    assert "'layer1'; its parts are conv1" in outcome.error
