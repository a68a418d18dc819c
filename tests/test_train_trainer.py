"""The trainer: its loop, callbacks, checkpoints and interruptions."""

import csv
import io
import json
import os
import signal
import threading

import numpy as np
import pytest

import striate as st
from striate import callbacks, nn, schedule
from striate.train import diagnose
from striate.train.batches import ArrayBatches
from striate.train.metrics import confusion_matrix, per_class, top_k_correct
from striate.train.signals import StopSignals

COLUMNS = "epoch,train_loss,train_accuracy,val_loss,val_accuracy,lr,seconds,images_per_second"


def net(seed=0):
    st.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, bias=False),
        nn.BatchNorm2d(3, momentum=None),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(12, 2),
    )


def data(n=14, seed=0):
    """Two kinds of 4×4 images: dark and bright."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    x = rng.standard_normal((n, 1, 4, 4)) + 2 * y[:, None, None, None]
    return x.astype(np.float32), y


def half_cosine(share):
    return 0.2 * (1 + np.cos(np.pi * share))


def trainer(**options):
    options = {"batch_size": 4, "seed": 3} | options
    optimizer = options.pop("optimizer", None) or st.optim.SGD(0.05, momentum=0.9)
    return st.Trainer(options.pop("net", None) or net(), optimizer, **options)


class At(callbacks.Callback):
    """Do something after one batch of one epoch."""

    def __init__(self, epoch, batch, action):
        self.where, self.action = (epoch, batch), action

    def on_batch_end(self, batch, logs):  # noqa: ARG002
        if (self.trainer.epoch, batch) == self.where:
            self.action()


def interrupt(number=signal.SIGINT):
    return lambda: os.kill(os.getpid(), number)


class TestLoop:
    def test_it_learns_and_keeps_a_history(self):
        history = trainer().fit(data(60), data(40, seed=1), epochs=6).history
        assert list(history) == COLUMNS.split(",")
        assert history["epoch"] == [1, 2, 3, 4, 5, 6]
        assert history["val_accuracy"][-1] > 0.9
        assert history["train_loss"][-1] < history["train_loss"][0]

    def test_the_figures_are_means_over_samples(self):
        class Losses(callbacks.Callback):
            def on_batch_end(self, batch, logs):
                assert batch == len(seen)
                seen.append((logs["loss"], logs["accuracy"], logs["size"]))

        seen = []
        history = trainer(callbacks=[Losses()]).fit(data(13), epochs=1).history
        loss, accuracy, size = np.array(seen).T
        assert list(size) == [4, 4, 5]  # a single last sample joins the batch before
        assert history["train_loss"][0] == pytest.approx(np.average(loss, weights=size))
        assert history["train_accuracy"][0] == pytest.approx(np.average(accuracy, weights=size))
        assert "val_loss" not in history

    def test_validation_is_that_of_the_net_in_evaluation_mode(self):
        t, (x, y) = trainer(), data(10, seed=5)
        history = t.fit(data(), (x, y), epochs=1).history
        scores = t.net.eval()(x)
        logp = scores - np.log(np.exp(scores).sum(1, keepdims=True))
        assert history["val_loss"][0] == pytest.approx(-logp[np.arange(10), y].mean(), rel=1e-4)
        assert history["val_accuracy"][0] == np.mean(scores.argmax(1) == y)

    def test_hooks_come_in_kerass_order(self):
        calls = []

        class Record(callbacks.Callback):
            def __getattribute__(self, name):
                if name.startswith("on_"):
                    return lambda *args: calls.append((name, *args[:-1]))
                return super().__getattribute__(name)

        trainer(callbacks=[Record()], batch_size=7).fit(data(), epochs=1)
        assert calls == [
            ("on_train_begin",),
            ("on_epoch_begin", 0),
            ("on_batch_begin", 0),
            ("on_batch_end", 0),
            ("on_batch_begin", 1),
            ("on_batch_end", 1),
            ("on_epoch_end", 0),
            ("on_train_end",),
        ]

    def test_a_second_fit_starts_a_new_history(self):
        t = trainer()
        t.fit(data(), epochs=2)
        assert t.fit(data(), epochs=1).history["epoch"] == [1]

    @pytest.mark.parametrize(
        ("make", "expected"),
        [
            (lambda: schedule.Step(2, 0.1), [0.4, 0.4, 0.04, 0.04]),
            (lambda: schedule.Cosine(by="epoch"), [half_cosine(t / 4) for t in range(4)]),
            (schedule.Cosine, [half_cosine(t / 64) for t in (15, 31, 47, 63)]),
        ],
    )
    def test_schedules_set_the_rate(self, make, expected):
        t = trainer(schedule=make(), optimizer=st.optim.SGD(0.4))
        assert t.fit(data(64), epochs=4).history["lr"] == pytest.approx(expected)

    def test_plateau_hears_the_validation(self):
        t = trainer(schedule=schedule.ReduceOnPlateau(patience=0, threshold=100.0))
        rates = t.fit(data(), data(), epochs=3).history["lr"]
        assert rates == pytest.approx([0.05, 0.05, 0.005])

    def test_momentum_moves_with_one_cycle(self):
        t = trainer(schedule=schedule.OneCycle(0.1))
        t.fit(data(), epochs=2)
        assert t.step.momentum == pytest.approx(0.95)
        plain = trainer(schedule=schedule.OneCycle(0.1), optimizer=st.optim.SGD(0.1))
        with pytest.raises(st.ArgumentError, match="momentum"):
            plain.fit(data(), epochs=1)

    def test_regression_has_no_accuracy(self):
        x, y = data()
        t = trainer(net=nn.Sequential(nn.Flatten(), nn.Linear(16, 1)), loss="mse")
        history = t.fit((x, y[:, None].astype(float)), epochs=1).history
        assert "train_accuracy" not in history

    def test_averaged_weights_are_in_the_net_at_the_end(self):
        t = trainer(ema=0.5)
        t.fit(data(), data(), epochs=1)
        with t.step.averaged():
            average = t.net.state_dict()
        for key, value in t.net.state_dict().items():
            np.testing.assert_array_equal(value, average[key])

    def test_history_plots(self):
        pytest.importorskip("matplotlib")
        figure = trainer().fit(data(), epochs=2).plot()
        assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "accuracy", "learning rate"]


class TestNonFinite:
    def test_the_first_bad_layer_is_named(self):
        class Exploding(nn.Module):
            def __init__(self):
                super().__init__()
                self.first = nn.Linear(16, 4)
                self.bad = nn.ELU()
                self.last = nn.Linear(4, 2)

            def forward(self, x):
                return self.last(self.bad(self.first(x.flatten(1))) * 1e38 * 1e38)

        with pytest.raises(st.NonFiniteError, match=r"epoch 1, batch 1.*'last'"):
            trainer(net=Exploding()).fit(data(), epochs=1)

    def test_bad_inputs_and_weights_are_named(self):
        x, y = data()
        module = net()
        assert "every layer" in diagnose.explain_non_finite(module, x, y)
        x[3, 0, 0, 0] = np.nan
        with pytest.raises(st.NonFiniteError, match="the batch itself"):
            trainer(net=module, batch_size=14).fit((x, y), epochs=1)
        module[5].bias.assign([0.0, np.inf])
        assert "5.bias" in diagnose.explain_non_finite(module, *data())


class TestCallbacks:
    def fit(self, values, **options):
        """An EarlyStopping run whose monitored value is given."""

        class Fake(callbacks.Callback):
            def on_epoch_end(self, epoch, logs):
                logs["val_loss"] = values[epoch]
                weights.append(self.trainer.net.state_dict())

        weights = []
        stop = callbacks.EarlyStopping(**options)
        t = trainer(callbacks=[Fake(), stop])
        t.fit(data(), data(), epochs=len(values))
        return t, weights

    def test_early_stopping(self):
        t, _ = self.fit([3, 2, 2.5, 1.99, 2.5, 2.5, 2.5], patience=2, min_delta=0.1)
        assert t.epoch == 4
        t, _ = self.fit([3, 2, 2.5, 1.99, 2.5, 2.5, 2.5], patience=2)
        assert t.epoch == 6

    def test_early_stopping_restores_the_best(self):
        t, weights = self.fit([3, 1, 2, 2, 2], patience=2, restore_best=True)
        for key, value in t.net.state_dict().items():
            np.testing.assert_array_equal(value, weights[1][key])

    def test_a_wrong_monitor_is_named(self):
        with pytest.raises(st.ArgumentError, match="no 'val_f1'"):
            trainer(callbacks=[callbacks.EarlyStopping("val_f1")]).fit(data(), epochs=1)

    def test_log_files(self, tmp_path):
        logs = [
            callbacks.CSVLogger(tmp_path / "log.csv"),
            callbacks.JSONLines(tmp_path / "log.jsonl"),
        ]
        history = trainer(callbacks=logs).fit(data(), epochs=2).history
        text = (tmp_path / "log.csv").read_text()
        assert text.splitlines()[0] == COLUMNS
        rows = list(csv.DictReader(io.StringIO(text)))
        lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
        for i, (row, line) in enumerate(zip(rows, lines, strict=True)):
            assert row["val_loss"] == ""
            assert "val_loss" not in line
            for name, values in history.items():
                assert float(row[name]) == line[name] == values[i]

    def test_progress_without_a_terminal_is_a_line_an_epoch(self):
        out = io.StringIO()
        trainer(callbacks=[callbacks.ProgressBar(out)]).fit(data(), data(), epochs=2)
        lines = out.getvalue().splitlines()
        assert len(lines) == 2
        assert lines[1].startswith("epoch 2/2  loss 0.")
        assert "val_accuracy" in lines[1]
        assert "\x1b" not in out.getvalue()

    def test_progress_on_a_terminal_is_live(self, monkeypatch):
        class Terminal(io.StringIO):
            def isatty(self):
                return True

        monkeypatch.setenv("NO_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm")
        out = Terminal()
        trainer(callbacks=[callbacks.ProgressBar(out)]).fit(data(), epochs=1)
        assert "epoch 1/1" in out.getvalue()
        assert "\x1b[3" not in out.getvalue()  # no colours


def everything(t):
    """All that the next step depends on."""
    values, arrays = t.step.state_dict()
    params = {name: np.array(param.data) for name, param in t._net_state().items()}
    return {**arrays, **params}, values


def assert_equal_bits(a, b):
    (arrays, values), (others, other_values) = everything(a), everything(b)
    assert arrays.keys() == others.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, others[name], err_msg=name)
    assert values == other_values
    for name in ("train_loss", "train_accuracy", "val_loss", "lr"):
        assert a.history.history[name] == b.history.history[name]


class TestCheckpoints:
    def make(self, folder, *more, **options):
        logs = [callbacks.CSVLogger(folder / "log.csv"), callbacks.EarlyStopping(patience=9)]
        saver = callbacks.Checkpoint(folder, **options)
        return trainer(
            callbacks=[saver, *logs, *more],
            schedule=schedule.Warmup(schedule.Cosine(), 3),
            optimizer=st.optim.AdamW(0.02),
            ema=0.9,
            clip_norm=1.0,
            label_smoothing=0.1,
        )

    @pytest.mark.parametrize("batch", [0, 2, 3])
    def test_an_interrupted_run_goes_on_bit_for_bit(self, tmp_path, batch):
        whole = self.make(tmp_path / "a")
        whole.fit(data(), data(seed=1), epochs=3)

        broken = self.make(tmp_path / "b", At(1, batch, interrupt()))
        with pytest.raises(st.InterruptedTraining, match=f"epoch 2 after batch {batch + 1} of 4"):
            broken.fit(data(), data(seed=1), epochs=3)
        resumed = self.make(tmp_path / "b")
        resumed.net.load_state_dict(net(seed=9).state_dict())  # it all comes from the file
        resumed.fit(data(), data(seed=1), epochs=3, resume=tmp_path / "b" / "last.ckpt")
        assert_equal_bits(whole, resumed)
        logs = [(tmp_path / run / "log.csv").read_text().splitlines() for run in "ab"]
        for a, b in zip(*logs, strict=True):
            assert a.split(",")[:6] == b.split(",")[:6]

    def test_resuming_after_whole_epochs(self, tmp_path):
        whole = self.make(tmp_path / "a")
        whole.fit(data(), data(seed=1), epochs=4)
        stopped = self.make(tmp_path / "b", At(1, 2, lambda: setattr(stopped, "stop", True)))
        stopped.fit(data(), data(seed=1), epochs=4)
        assert stopped.epoch == 2
        resumed = self.make(tmp_path / "b")
        resumed.fit(data(), data(seed=1), epochs=4, resume=tmp_path / "b" / "last.ckpt")
        assert_equal_bits(whole, resumed)

    def test_sigterm_counts_too_and_handlers_come_back(self, tmp_path):
        before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
        t = self.make(tmp_path, At(0, 1, interrupt(signal.SIGTERM)))
        with pytest.raises(st.InterruptedTraining, match="SIGTERM"):
            t.fit(data(), epochs=1)
        assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
        assert (tmp_path / "last.ckpt").exists()

    def test_a_signal_during_validation(self, tmp_path):
        t = self.make(tmp_path)
        evaluate = t.evaluate

        def interrupted(batches):
            interrupt()()
            return evaluate(batches)

        t.evaluate = interrupted
        with pytest.raises(st.InterruptedTraining, match="epoch 1 after batch 4 of 4"):
            t.fit(data(), data(seed=1), epochs=1)
        resumed, whole = self.make(tmp_path), self.make(tmp_path / "whole")
        resumed.fit(data(), data(seed=1), epochs=2, resume=tmp_path / "last.ckpt")
        whole.fit(data(), data(seed=1), epochs=2)
        assert resumed.history.history["val_loss"] == whole.history.history["val_loss"]

    def test_a_second_signal_is_not_held_back(self):
        # A shell starts background jobs with SIGINT ignored, and children inherit that.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            with StopSignals() as stop:
                interrupt()()
                assert stop.received == "SIGINT"
                with pytest.raises(KeyboardInterrupt):
                    interrupt()()
        finally:
            signal.signal(signal.SIGINT, before)

    def test_training_in_another_thread_leaves_signals_alone(self):
        handlers = []
        watch = At(0, 0, lambda: handlers.append(signal.getsignal(signal.SIGINT)))
        thread = threading.Thread(target=lambda: trainer(callbacks=[watch]).fit(data(), epochs=1))
        thread.start()
        thread.join()
        assert handlers == [signal.getsignal(signal.SIGINT)]

    def test_best_and_last(self, tmp_path):
        t = self.make(tmp_path, monitor="val_loss", meta={"classes": ["dark", "bright"]})
        history = t.fit(data(), data(seed=1), epochs=4).history
        best = st.load(tmp_path / "best.safetensors", net=net(seed=4))
        assert best.classes == ["dark", "bright"]
        logs = trainer(net=best, label_smoothing=0.1).evaluate(data(seed=1))
        assert logs["val_loss"] == pytest.approx(min(history["val_loss"]), rel=1e-5)
        assert sorted(p.name for p in tmp_path.iterdir()) == [
            "best.safetensors",
            "last.ckpt",
            "log.csv",
        ]

    def test_also_in_the_middle_of_an_epoch(self, tmp_path):
        sizes = []
        look = At(0, 1, lambda: sizes.append((tmp_path / "last.ckpt").exists()))
        for every in ({"every_steps": 1}, {"every_seconds": 0.0}, {}):
            trainer(callbacks=[look, callbacks.Checkpoint(tmp_path, **every)]).fit(data(), epochs=1)
            (tmp_path / "last.ckpt").unlink()
        assert sizes == [True, True, False]

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"batch_size": 5}, "batch_size is 5 here and 4 there"),
            ({"seed": 4}, "seed"),
            ({"optimizer": st.optim.SGD(0.06, momentum=0.9)}, "optimizer"),
            ({"schedule": schedule.Step(2)}, "schedule"),
            ({"net": nn.Sequential(nn.Flatten(), nn.Linear(16, 2))}, "nets differ"),
        ],
    )
    def test_a_checkpoint_of_another_run_is_refused(self, tmp_path, options, words):
        trainer(callbacks=[callbacks.Checkpoint(tmp_path)]).fit(data(), epochs=1)
        with pytest.raises(st.CheckpointError, match=words):
            trainer(**options).fit(data(), epochs=2, resume=tmp_path / "last.ckpt")

    def test_no_checkpoint_and_no_checkpoint_file(self, tmp_path):
        with pytest.raises(st.CheckpointError, match="no checkpoint"):
            trainer().fit(data(), epochs=1, resume=tmp_path / "last.ckpt")
        st.save(net(), tmp_path / "model.safetensors")
        with pytest.raises(st.FormatError, match="not a Striate checkpoint"):
            trainer().fit(data(), epochs=1, resume=tmp_path / "model.safetensors")


class TestBatches:
    def test_an_epoch_is_a_function_of_seed_and_number(self):
        x, y = data(20)
        batches = ArrayBatches(x, y, 6, shuffle=True, seed=1)
        first = [b for _, b in batches.epoch(0)]
        assert [len(b) for b in first] == [6, 6, 6, 2]
        again = [b for _, b in ArrayBatches(x, y, 6, shuffle=True, seed=1).epoch(0, 2)]
        np.testing.assert_array_equal(np.concatenate(first[2:]), np.concatenate(again))
        seen = np.concatenate([a[:, 0, 0, 0] for a, _ in batches.epoch(3)])
        np.testing.assert_array_equal(np.sort(seen), np.sort(x[:, 0, 0, 0]))
        assert np.any(seen != np.concatenate([a[:, 0, 0, 0] for a, _ in batches.epoch(4)]))

    def test_several_inputs(self):
        x, y = data(6)
        ((a, b), labels) = next(ArrayBatches((x, 2 * x), y, 4).epoch(0))
        np.testing.assert_array_equal(2 * a, b)
        np.testing.assert_array_equal(labels, y[:4])

    def test_a_data_set_is_loaded_in_batches(self):
        pictures = np.zeros((9, 4, 4), np.uint8)
        labels = np.arange(9) % 2
        pictures[labels == 1] = 255
        dataset = st.data.ArrayDataset(pictures, labels, ["dark", "bright"])
        history = trainer(augment=st.data.Augment(flip=True)).fit(dataset, dataset, epochs=2)
        assert len(history.history["val_loss"]) == 2

    @pytest.mark.parametrize(
        ("make", "error"),
        [
            (lambda x, y: ArrayBatches(x, y, 0), st.ArgumentError),
            (lambda x, y: ArrayBatches(x, y[:3], 2), st.ShapeError),
            (lambda x, y: ArrayBatches(x[:0], y[:0], 2), st.ShapeError),
            (lambda x, y: trainer(augment="flip").fit((x, y)), st.ArgumentError),
        ],
    )
    def test_wrong_arguments(self, make, error):
        with pytest.raises(error):
            make(*data())


class TestMetrics:
    def test_top_k(self):
        scores = np.array([[3, 2, 1], [1, 3, 2], [1, 1, 1], [np.nan, 1, 0]])
        y = np.array([0, 2, 1, 0])
        assert top_k_correct(scores, y) == 1
        assert top_k_correct(scores, y, 2) == 3
        assert top_k_correct(scores[:3], y[:3], 3) == 3
        with pytest.raises(st.ShapeError):
            top_k_correct(scores, y[:2])

    def test_confusion_and_the_rates_of_each_class(self):
        matrix = confusion_matrix(np.array([0, 0, 1, 2, 0]), np.array([0, 1, 1, 1, 0]), 4)
        assert matrix.tolist() == [[2, 1, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
        first, second, third, fourth = per_class(matrix)
        assert first == {"count": 3, "precision": 1.0, "recall": 2 / 3, "f1": 0.8}
        assert second["precision"] == pytest.approx(1 / 3)
        assert np.isnan(third["precision"])
        assert third["recall"] == 0
        assert np.isnan(fourth["f1"])
