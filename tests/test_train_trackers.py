"""TensorBoard and MLflow: their own readers find what was written."""

import sys

import numpy as np
import pytest

import striate as st
from striate import nn


def fit(callback, epochs=2, resume=None, more=()):
    st.manual_seed(0)
    x = np.random.default_rng(0).standard_normal((8, 1, 4, 4))
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    callbacks = [callback, *more]
    trainer = st.Trainer(net, st.optim.SGD(0.1), callbacks=callbacks, batch_size=4, seed=3)
    data = (x, np.arange(8) % 3)
    return trainer.fit(data, data, epochs=epochs, resume=resume).history


class Stumble(st.callbacks.Callback):
    def __init__(self, error):
        self.error = error

    def on_epoch_end(self, epoch, logs):  # noqa: ARG002 - a hook
        raise self.error


def test_tensorboard_finds_curves_and_settings(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    callback = st.callbacks.TensorBoard(tmp_path / "tb", {"note": "mine"})
    history = fit(callback)
    found = EventAccumulator(str(tmp_path / "tb")).Reload()
    assert set(found.Tags()["scalars"]) == set(history) - {"epoch"}
    for name in ("train_loss", "val_accuracy", "lr"):
        points = found.Scalars(name)
        assert [p.step for p in points] == [1, 2]
        np.testing.assert_allclose([p.value for p in points], history[name], rtol=1e-6)
    text = found.Tensors("settings")[0].tensor_proto.string_val[0].decode()
    assert "|note|mine|" in text
    assert "|batch_size|4|" in text
    with pytest.raises(RuntimeError):
        fit(st.callbacks.TensorBoard(tmp_path / "b"), more=[Stumble(RuntimeError())])
    assert EventAccumulator(str(tmp_path / "b")).Reload().Scalars("lr")


@pytest.fixture
def client(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=(tmp_path / "runs").as_uri())


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_mlflow_finds_metrics_and_parameters(tmp_path, client):
    where = {"tracking_uri": (tmp_path / "runs").as_uri()}
    callback = st.callbacks.MLflow("mine", run_name="first", settings={"note": 5}, **where)
    history = fit(callback)
    run = client.get_run(callback.run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "first"
    assert client.get_experiment(run.info.experiment_id).name == "mine"
    assert run.data.params["note"] == "5"
    assert run.data.params["seed"] == "3"
    for name in ("train_loss", "val_accuracy", "lr"):
        points = client.get_metric_history(callback.run_id, name)
        assert [(p.step, p.value) for p in points] == list(enumerate(history[name], 1))
    fit(st.callbacks.MLflow("mine", run_id=callback.run_id, **where), epochs=1)
    assert client.get_run(callback.run_id).info.status == "FINISHED"
    failing = st.callbacks.MLflow("mine", **where)
    with pytest.raises(RuntimeError):
        fit(failing, more=[Stumble(RuntimeError())])
    assert client.get_run(failing.run_id).info.status == "FAILED"


@pytest.mark.parametrize(
    ("module", "make", "extra"),
    [
        ("tensorboard.summary.writer.event_file_writer", st.callbacks.TensorBoard,
         "tensorboard"),
        ("mlflow.tracking", lambda _: st.callbacks.MLflow(), "mlflow"),
    ],
)  # fmt: skip
def test_what_is_missing_is_named_with_its_extra(tmp_path, monkeypatch, module, make, extra):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"striate\[{extra}\]"):
        make(tmp_path)
