"""The page of `striate explain` in a real browser: what a reader clicks, sees and adds up."""

import json

import numpy as np
import pytest
from PIL import Image

import striate as st
from striate.data import Recipe
from striate.report.explain import explain, picture_of, render
from tests.browser import Browser
from tests.test_explain_record import picture, with_statistics

SHOWN = 2e-5  # of the largest term: numbers are shown with six figures


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    opened = Browser(tmp_path_factory.mktemp("browser"))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def lenet(tmp_path_factory):
    """The page of a LeNet for a test picture of Fashion-MNIST, and what it was made of."""
    st.manual_seed(0)
    net = with_statistics(st.models.create("lenet-bn"))
    samples = st.data.load("fashion-mnist-sample").test.raw(np.array([3]))[0]
    shot = picture_of(samples, Recipe(1, (28, 28)))
    path = tmp_path_factory.mktemp("lenet") / "page.html"
    path.write_text(render(explain(net, shot, title="lenet-bn on a dress", top=3)))
    return path, net, shot


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    st.manual_seed(0)
    net = with_statistics(st.models.create("resnet18"))
    shot = picture((3, 224, 224))
    path = tmp_path_factory.mktemp("resnet") / "page.html"
    path.write_text(render(explain(net, shot, title="ResNet-18 on noise", top=3)))
    return path, net, shot


def choose(browser, title):
    """Click a layer in the tree, opening its stages first; the name that the page then shows."""
    stages = browser.run(
        f"""(() => {{ const out = []; let e = document.querySelector(
        'button.layer[title={json.dumps(title)}]').closest('details');
        while (e) {{ out.unshift(e.open); e = e.parentElement.closest('details'); }}
        return out; }})()"""
    )
    for level, is_open in enumerate(stages):
        if not is_open:
            browser.run(
                f"""(() => {{ const up = []; let e = document.querySelector(
                'button.layer[title={json.dumps(title)}]').closest('details');
                while (e) {{ up.unshift(e); e = e.parentElement.closest('details'); }}
                for (const d of document.querySelectorAll('[data-test]')) delete d.dataset.test;
                up[{level}].querySelector('summary').dataset.test = 'stage'; }})()"""
            )
            browser.click("[data-test=stage]")
    browser.click(f"button.layer[title={json.dumps(title)}]")
    return browser.run("document.getElementById('layername').textContent")


def read(text):
    return float(text.replace("−", "-"))


def shown(browser):
    """The numbers behind the point as a reader sees them: role → list."""
    found = browser.run(
        "[...document.querySelectorAll('#terms output')].map(o => [o.dataset.role, o.textContent])"
    )
    numbers = {}
    for role, text in found:
        numbers.setdefault(role, []).append(read(text))
    return numbers


def adds_up(numbers, largest=None):
    size = max(map(abs, (*numbers["term"], *numbers["sum"])))
    assert sum(numbers["term"]) == pytest.approx(numbers["sum"][0], abs=20 * SHOWN * size)
    end = numbers["total"][0]
    assert end == pytest.approx(numbers["value"][0], abs=SHOWN * max(1.0, largest or size))


def box(browser):
    return tuple(map(int, browser.run("document.getElementById('box').dataset.box").split(",")))


def place(browser):
    """Map, row and column that the page says it shows."""
    words = browser.run("document.querySelector('#terms p').textContent")
    return tuple(int("".join(filter(str.isdigit, w.split(":")[0]))) for w in words.split(", ")[1:])


def test_a_layer_a_map_and_a_point_of_lenet(browser, lenet):
    path, net, shot = lenet
    browser.open(path)
    assert choose(browser, "conv2") == "conv2"
    assert browser.run("document.querySelectorAll('#thumbs button').length") == 16
    browser.click("#thumbs button:nth-child(3)")
    browser.click("#map", 0.37, 0.61)
    channel, i, j = place(browser)
    assert (i, j) == (int(0.61 * 14), int(0.37 * 14))
    numbers = shown(browser)
    assert len(numbers["term"]) == 5  # four channels, and the others together
    adds_up(numbers)
    maps = net.features(shot.x, "conv2")["conv2"][0]
    assert numbers["value"][0] == pytest.approx(maps[channel, i, j], rel=1e-5, abs=1e-6)
    # rows 2i − 3 to 2i + 4 of the picture, as the receptive field's size 8, stride 2, offset −3 say
    top, left = 2 * i - 3, 2 * j - 3
    assert box(browser) == (max(top, 0), min(top + 8, 28), max(left, 0), min(left + 8, 28))


def test_steps_winners_and_units_of_lenet(browser, lenet):
    path, net, shot = lenet
    browser.open(path)
    choose(browser, "relu (run 2)")
    browser.click("#map", 0.5, 0.5)
    numbers = shown(browser)
    assert len(numbers["step"]) == 2  # batch norm and ReLU
    adds_up(numbers)
    choose(browser, "pool (run 2)")
    browser.click("#map", 0.99, 0.01)
    channel, i, j = place(browser)
    assert (i, j) == (0, 6)
    window = browser.run(
        "[...document.querySelectorAll('#terms td')].map(t => [t.textContent, t.className])"
    )
    values = [read(text) for text, _ in window]
    (winner,) = [n for n, (_, kind) in enumerate(window) if kind == "win"]
    assert values[winner] == max(values)
    assert shown(browser)["sum"][0] == shown(browser)["total"][0]
    pooled = net.features(shot.x, "pool")["pool"][0, channel, i, j]
    assert shown(browser)["value"][0] == pytest.approx(pooled, rel=1e-5, abs=1e-6)
    choose(browser, "fc2")
    adds_up(shown(browser))
    assert box(browser) == (0, 28, 0, 28)


def test_the_box_is_the_region_that_changes_the_value(browser, lenet):
    path, net, shot = lenet
    browser.open(path)
    choose(browser, "bn2")
    browser.click("#map", 0.02, 0.5)
    channel, i, j = place(browser)
    top, bottom, left, right = box(browser)
    assert (left, right) == (0, 5)  # cut at the border
    direct = net.plan(algorithm="direct")
    value = direct.features(shot.x, "bn2")["bn2"][0, channel, i, j]
    inside = np.zeros((28, 28), bool)
    inside[top:bottom, left:right] = True
    x = np.where(inside, shot.x, 7.0).astype(np.float32)
    assert direct.features(x, "bn2")["bn2"][0, channel, i, j] == value
    for row, col in ((top, left), (top, right - 1), (bottom - 1, left), (bottom - 1, right - 1)):
        x = np.array(shot.x)
        x[0, 0, row, col] += 50.0
        assert direct.features(x, "bn2")["bn2"][0, channel, i, j] != value
    net.plan()


def test_keys_move_the_point_and_the_choice(browser, lenet):
    path, _, _ = lenet
    browser.open(path)
    choose(browser, "conv1")
    browser.run("document.getElementById('map').focus()")
    before = place(browser)
    browser.press("ArrowRight")
    browser.press("ArrowDown")
    browser.press("ArrowDown")
    after = place(browser)
    assert (after[1] - before[1], after[2] - before[2]) == (2, 1)
    browser.run("document.querySelector('#tree button').focus()")
    browser.press("ArrowDown")
    assert browser.run("document.activeElement.title") == "bn1"
    browser.run("document.querySelector('#thumbs button').focus()")
    browser.press("ArrowRight")
    assert browser.run("document.activeElement.dataset.map") == "1"


def test_heat_over_the_picture_for_any_class(browser, lenet):
    path, _, _ = lenet
    browser.open(path)
    seen = set()
    for view in ("cam", "occlusion"):
        browser.click(f"input[value={view}]")
        for k in range(3):
            browser.click(f"#classes button:nth-child({k + 1})")
            name = browser.run(
                f"document.querySelector('#classes button:nth-child({k + 1}) span').textContent"
            )
            assert name in browser.run("document.getElementById('heatlegend').textContent")
            seen.add(browser.run("document.getElementById('heat').toDataURL()"))
    assert len(seen) == 6
    browser.click("input[value=none]")
    assert browser.run("document.getElementById('heat').hidden")


def test_resnet_folds_and_adds_up(browser, resnet):
    path, net, shot = resnet
    assert path.stat().st_size < 5_000_000
    browser.open(path)
    browser.click("#fold")
    assert not browser.run("document.querySelectorAll('details[open]').length")
    for title in ("conv1", "layer2.0.conv1", "layer1.1.relu (run 2)", "layer4.0.downsample.0",
                  "layer3.0.add", "maxpool", "avgpool", "fc"):  # fmt: skip
        assert choose(browser, title) == title
        if title not in {"avgpool", "fc"}:
            browser.click("#map", 0.8, 0.2)
        numbers = shown(browser)
        size = max(map(abs, (*numbers.get("term", []), *numbers["sum"], *numbers["value"])))
        if "term" in numbers:
            assert sum(numbers["term"]) == pytest.approx(numbers["sum"][0], abs=20 * SHOWN * size)
        assert numbers["total"][0] == pytest.approx(numbers["value"][0], abs=SHOWN * size)
    choose(browser, "layer2.0.conv1")
    browser.click("#map", 0.99, 0.99)
    channel, i, j = place(browser)
    assert (i, j) == (27, 27)
    value = net.features(shot.x, "layer2.0.conv1")["layer2.0.conv1"][0, channel, i, j]
    assert shown(browser)["value"][0] == pytest.approx(value, rel=1e-4, abs=1e-5)
    top, bottom, left, right = box(browser)
    assert (bottom, right) == (224, 224)
    assert top == left > 0
    assert browser.run("document.querySelectorAll('#kernelpictures canvas').length") == 64
    assert browser.run("document.querySelectorAll('#levels button').length") == 5


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_no_error_no_request_nothing_too_wide(browser, lenet, resnet, width, dark, tmp_path):
    for path, _, _ in (lenet, resnet):
        browser.open(path, width, 844, dark=dark)
        choose(browser, "bn1")
        browser.click("#map", 0.3, 0.3)
        browser.click("input[value=occlusion]")
        assert browser.run("document.documentElement.scrollWidth") <= width
        browser.screenshot(tmp_path / "page.png")
        pixels = np.asarray(Image.open(tmp_path / "page.png").convert("L"))
        assert (np.median(pixels) < 90) == dark
        assert browser.complaints() == []
        assert browser.requests() == [path.as_uri()]
