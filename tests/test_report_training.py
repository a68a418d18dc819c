"""The training report against independent computations, and its page as a page."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

import striate as st
from striate import nn
from striate.report.answers import Answers, most_confused, worst_pictures
from striate.report.charts import Series, line_chart, roofline_chart, shade_chart
from striate.report.png import data_address, encode_png, mosaic, shrunk
from striate.train.probe import Probe
from tests.cli_run import SMALL, cli, make_pictures, trained  # noqa: F401 - fixtures

torch = pytest.importorskip("torch")

VOID = {"meta", "link", "img", "br", "input"}


class Page(HTMLParser):
    """Every element is closed in order, and nothing is fetched from anywhere."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.addresses = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in {"src", "href"}]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):  # noqa: ARG002 - the parser's interface
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def check_page(text):
    page = Page(text)
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    assert not re.search(r"https?://|url\(|@import", text)
    assert "<script" not in text
    return page


# ------------------------------------------------------------------ what the net says


def answers(rng, count=200, classes=6):
    scores = rng.normal(0, 3, (count, classes)).astype(np.float32)
    labels = rng.integers(0, classes, count)
    found = Answers()
    for start in range(0, count, 64):
        found.add(scores[start : start + 64], labels[start : start + 64])
    return found, scores, labels


def test_the_greatest_losses_are_those_of_the_definition():
    found, scores, labels = answers(np.random.default_rng(0))
    target = torch.from_numpy(labels)
    losses = torch.nn.functional.cross_entropy(
        torch.from_numpy(scores).double(), target, reduction="none"
    ).numpy()
    np.testing.assert_allclose(found.losses, losses, rtol=1e-12)
    assert worst_pictures(found.losses, 7) == sorted(range(200), key=lambda i: -losses[i])[:7]


def test_a_loss_that_is_nan_is_among_the_greatest():
    assert worst_pictures(np.array([1.0, np.nan, 3.0]), 2) == [1, 2]


def test_confused_pairs_are_counted_as_by_hand():
    found, scores, labels = answers(np.random.default_rng(1))
    names = list("abcdef")
    matrix = st.train.metrics.confusion_matrix(found.labels, found.predicted, 6)
    pairs = most_confused(matrix, names, most=30)
    predicted = scores.argmax(1)
    for pair in pairs:
        i, j = names.index(pair["true"]), names.index(pair["predicted"])
        assert i != j
        assert pair["count"] == ((labels == i) & (predicted == j)).sum()
        assert pair["share"] == pair["count"] / (labels == i).sum()
    assert sum(pair["count"] for pair in pairs) == (labels != predicted).sum()
    counts = [pair["count"] for pair in pairs]
    assert counts == sorted(counts, reverse=True)


def test_no_pair_where_nothing_is_confused():
    assert most_confused(np.diag([3, 4]), ["a", "b"]) == []


# ------------------------------------------------------------------ inside the net


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.relu = nn.ReLU()
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(4 * 36, 3)

    def forward(self, x):
        return self.fc(self.drop(self.relu(self.bn(self.conv(x)))).flatten(1))


def batch():
    rng = np.random.default_rng(2)
    return rng.normal(size=(10, 1, 8, 8)).astype(np.float32), rng.integers(0, 3, 10)


def as_torch(net):
    twin = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(),
        torch.nn.Flatten(), torch.nn.Linear(144, 3),
    ).double()  # fmt: skip
    state = {k: torch.from_numpy(v) for k, v in net.state_dict().items()}
    names = {"conv": "0", "bn": "1", "fc": "4"}
    twin.load_state_dict(
        {names[k.split(".")[0]] + "." + k.split(".")[1]: v for k, v in state.items()}
    )
    return twin


def test_gradient_norms_are_those_of_torch():
    net, (x, y) = Small(), batch()
    net.drop = nn.Identity()
    found = Probe(net, x, y, label_smoothing=0.1).measure().gradients
    twin = as_torch(net)
    loss = torch.nn.functional.cross_entropy(
        twin(torch.from_numpy(x).double()), torch.from_numpy(y), label_smoothing=0.1
    )
    loss.backward()
    for name, i in (("conv", 0), ("bn", 1), ("fc", 4)):
        square = sum(float((p.grad**2).sum()) for p in twin[i].parameters())
        assert found[name] == pytest.approx(square**0.5, rel=1e-4)


def test_dead_units_are_counted():
    net, (x, y) = Small(), batch()
    bias = np.zeros(4, np.float32)
    bias[[1, 3]] = -100
    net.bn.bias.assign(bias)
    assert Probe(net, x, y).measure().dead == {"bn": (2, 4)}


def test_a_probe_changes_nothing():
    net, (x, y) = Small(), batch()
    before = {n: np.array(p.data) for n, p in [*net.named_parameters(), *net.named_buffers(True)]}
    probe = Probe(net, x, y)
    first = probe.measure()
    after = dict([*net.named_parameters(), *net.named_buffers(True)])
    assert all(before[name].tobytes() == after[name].data.tobytes() for name in before)
    assert probe.measure() == first


def test_flops_are_three_times_the_forward_pass_but_for_the_first_input_gradient():
    net, (x, y) = Small(), batch()
    conv, dense = 36 * 4 * 9, 144 * 3
    assert Probe(net, x, y).flops == 2 * (2 * conv + 3 * dense)


def test_training_has_the_same_bits_beside_a_probe():
    (x, y), weights = batch(), []
    for probed in (False, True):
        st.manual_seed(3)
        net = Small()
        step = st.compile_step(net, optimizer=st.optim.SGD(0.1, momentum=0.9))
        probe = Probe(net, x, y) if probed else None
        for _ in range(4):
            step(x, y)
            if probe is not None:
                probe.measure()
        weights.append(b"".join(v.tobytes() for v in net.state_dict().values()))
    assert weights[0] == weights[1]


# ------------------------------------------------------------------ pictures and charts


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 3), (1, 1)])
def test_png_is_what_was_given(shape):
    import io

    from PIL import Image

    picture = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    with Image.open(io.BytesIO(encode_png(picture))) as image:
        np.testing.assert_array_equal(np.asarray(image), picture.reshape(np.asarray(image).shape))
    assert data_address(picture).startswith("data:image/png;base64,")


def test_mosaic_lays_pictures_row_by_row():
    pictures = np.random.default_rng(0).random((5, 3, 4, 1)).astype(np.float32)
    sheet = mosaic(pictures, columns=3)
    assert sheet.shape == (7, 14, 1)
    np.testing.assert_array_equal(sheet[4:7, 5:9], np.rint(pictures[4] * 255).astype(np.uint8))
    assert (sheet[4:, 10:] == 128).all()


def test_large_pictures_shrink_by_means():
    pictures = np.random.default_rng(0).integers(0, 256, (2, 9, 13, 3)).astype(np.uint8)
    small = shrunk(pictures, 5)
    assert small.shape == (2, 3, 4, 3)
    for i, j in ((0, 0), (2, 3)):
        block = pictures[1, 3 * i : 3 * i + 3, 3 * j : 3 * j + 3].astype(float)
        np.testing.assert_array_equal(small[1, i, j], np.rint(block.mean((0, 1))))
    assert shrunk(pictures, 13) is pictures


def test_charts_are_well_formed_whatever_is_drawn():
    nan = float("nan")
    for text in (
        line_chart("a < b", [Series("<x>", [1], [0.5]), Series("y", [1, 2], [nan, nan])]),
        line_chart("none", [Series("x", [], [])]),
        line_chart("log", [Series("x", [1e-5, 1], [0.0, 3.0])], log_x=True, log_y=True),
        line_chart("m", [Series("x", [1, 2, 3], [1, 1, 1])], marks=[("here & there", 2)]),
        shade_chart("s", ["<a>"], ["b"], lambda _i, _j: 0.7, lambda _i, _j: "<1>"),
        roofline_chart("r", [("conv & co", "direct", 3.0, 20.0)], 100.0, 10.0),
    ):
        Page(text)
        assert not re.search(r"nan|inf", text.replace("none", ""))


# ------------------------------------------------------------------ the page


def test_page_of_a_run(trained):
    text = (trained / "report.html").read_text()
    page = check_page(text)
    assert page.tags.count("svg") == 8
    assert "2 of 2 epochs" in text
    assert "http-equiv" not in text
    command = re.search(r'<pre class="wrap">(.*?)</pre>', text, re.DOTALL)[1]
    assert "--epochs 2" in command
    for name in ("momentum", "val_split", "max_relative_error"):
        assert (f"<th>{name}</th>" in text) == (name != "max_relative_error")


def test_the_command_on_the_page_repeats_the_run(trained, cli, tmp_path):
    import html
    import shlex

    text = (trained / "report.html").read_text()
    command = html.unescape(re.search(r'<pre class="wrap">(.*?)</pre>', text, re.DOTALL)[1])
    words = shlex.split(command)
    assert words[:2] == ["striate", "train"]
    assert cli(*words[1:], "--out", tmp_path / "again").code == 0
    one, two = ((run / "best.safetensors").read_bytes() for run in (trained, tmp_path / "again"))
    assert one == two


def test_names_of_classes_are_text(cli, tmp_path):
    pictures = make_pictures(tmp_path / "p", classes=("<b>bold", "it's & so"), count=4)
    assert cli("train", pictures, *SMALL, "--out", "run").code == 0
    text = (tmp_path / "run" / "report.html").read_text()
    check_page(text)
    assert "<b>bold" not in text.replace("&lt;b&gt;bold", "")


def test_a_resumed_run_keeps_what_was_measured(cli, tmp_path):
    from striate.io.checkpoint import read_checkpoint

    pictures = make_pictures(tmp_path / "p")
    assert cli("train", pictures, *SMALL, "--epochs", 3, "--out", "run").code == 0
    whole = (tmp_path / "run" / "report.html").read_text()
    records = dict(read_checkpoint(tmp_path / "run" / "last.ckpt")[1]["callbacks"])
    records = records["TrainingReport"]["records"]
    assert [record["epoch"] for record in records] == [1, 2, 3]
    assert all(record["gradients"].keys() == records[0]["gradients"].keys() for record in records)
    assert cli("train", "--resume", "run").code == 0
    check_page(whole)


def test_a_checkpoint_from_before_the_report_is_taken_whole(tmp_path):
    x, y = batch()

    def fit(epochs, callbacks, **options):
        st.manual_seed(0)
        trainer = st.Trainer(Small(), callbacks=callbacks, batch_size=4)
        trainer.fit((x, y), (x, y), epochs=epochs, **options)
        return callbacks

    fit(1, [st.callbacks.EarlyStopping(patience=5), st.callbacks.Checkpoint(tmp_path)])
    more = [st.callbacks.ProgressBar(), st.callbacks.EarlyStopping(patience=5)]
    found = fit(1, [*more, st.callbacks.Checkpoint(tmp_path)], resume=tmp_path / "last.ckpt")
    assert found[1].monitor.best is not None
    assert found[2].monitor.best is not None


def test_page_of_a_run_that_stops_says_so(cli, tmp_path, monkeypatch):
    from striate.train.trainer import Trainer

    run_epoch, seen = Trainer._run_epoch, []

    def stop_in_the_third(self, *arguments):
        if self.epoch == 2:
            seen.append((tmp_path / "run" / "report.html").read_text())
            raise KeyboardInterrupt
        run_epoch(self, *arguments)

    monkeypatch.setattr(Trainer, "_run_epoch", stop_in_the_third)
    pictures = make_pictures(tmp_path / "p")
    assert cli("train", pictures, *SMALL, "--epochs", 3, "--out", "run").code == 130
    assert "2 of 3 epochs: training" in seen[0]
    assert "http-equiv" in seen[0]
    text = (tmp_path / "run" / "report.html").read_text()
    assert "2 of 3 epochs: stopped" in text
    assert "http-equiv" not in text
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert cli("train", "--resume", "run").code == 0
    text = (tmp_path / "run" / "report.html").read_text()
    assert "3 of 3 epochs<" in text
    epochs = re.search(r"Dead units.*?</figure>", text, re.DOTALL)[0]
    assert re.findall(r"rotate[^>]*>(\d+)</text>", epochs) == ["1", "2", "3"]


@pytest.mark.slow
def test_page_in_a_browser(trained, tmp_path):
    """No message of the console, no request, and nothing wider than a phone."""
    import shutil
    import subprocess

    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("chromium is not installed")
    frame = tmp_path / "frame.html"
    # a page as narrow as a phone, which says how wide its content is
    frame.write_text(
        f'<iframe id="f" src="file://{trained}/report.html" style="width:390px;height:900px">'
        "</iframe><script>onload = () => { const d = document.getElementById('f')"
        ".contentDocument.documentElement; document.title = d.scrollWidth + ' of ' + "
        "d.clientWidth; }</script>"
    )
    done = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files",
         "--enable-logging=stderr", f"--user-data-dir={tmp_path}/profile", "--dump-dom",
         f"file://{frame}"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "CONSOLE" not in done.stderr
    content, screen = map(int, re.search(r"<title>(\d+) of (\d+)</title>", done.stdout).groups())
    assert content <= screen
