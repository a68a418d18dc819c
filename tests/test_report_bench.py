"""`striate bench`: the work that is counted for a step, and the command."""

import time

import numpy as np
import pytest

import striate as st
from striate import engine, models, nn
from striate.engine.plan import plan
from striate.graph import Trace
from striate.jit.target import machine
from striate.nn.tracing import trace_module
from striate.report.bench import describe
from tests.cli_run import cli  # noqa: F401 - a fixture

SMALL = ("--input", "1,8,8", "--seconds", 0)


def works(graph, **options):
    return describe(plan(graph, machine(), 2, **options))


# One of each kind of network; what they share is in the others too.
NETWORKS = [
    *("convnext_tiny", "densenet121", "googlenet", "lenet", "lenet-bn", "mobilenet_v2"),
    *("mobilenet_v3_small", "regnet_y_400mf", "resnet18", "resnet50", "shufflenet_v2_x0_5"),
    *("squeezenet1_1", "vgg11-bn"),
]


@pytest.mark.parametrize("name", NETWORKS)
def test_no_multiplication_of_a_network_is_lost(name):
    """Each convolution step has its FLOPs: together twice what the summary counts as MACs."""
    options = models.options(name)
    side = options.get("image_size", 64)
    with nn.init.skipped():
        net = st.models.create(name)
    shape = (options["in_channels"], side, side)
    found = works(trace_module(net, [(3, *shape)], training=False).graph)
    macs = st.summary(net, shape).to_dict()["totals"]["macs"]
    assert sum(work.flops for work in found) == 3 * 2 * macs
    layers = {path for path, layer in net.named_modules() if isinstance(layer, nn.Conv2d)}
    assert layers <= {work.layer for work in found if work.flops}


def test_a_training_step_has_three_convolutions_a_layer_but_two_for_the_first():
    with nn.init.skipped():
        net = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2), nn.Conv2d(8, 6, 3, stride=2), nn.Flatten()
        )
    x, y = np.zeros((2, 3, 15, 15), np.float32), np.zeros(2, int)
    executable, arrays = st.compile_step(net).executable(x, y)
    assert arrays[0].shape == x.shape
    first, second = 7 * 7 * 8 * 3 * 9, 3 * 3 * 6 * 8 * 9
    found = describe(executable.program)
    flops = {}
    for work in found:
        direction = work.kind.split(",")[0]
        flops[direction] = flops.get(direction, 0) + work.flops
    assert flops["forward"] == flops["weight gradient"] == 2 * 2 * (first + second)
    # the stride makes it four steps, among which the products are dealt out
    assert len([work for work in found if work.kind.startswith("input gradient")]) == 4
    assert 0 <= 2 * 2 * second - flops["input gradient"] < 4


def test_bytes_are_those_of_the_buffers():
    with Trace() as trace:
        x, y = trace.input("x", (6, 10)), trace.input("y", (1, 10))
        graph = trace.graph(x + y)
    (work,) = works(graph)
    assert (work.kind, work.flops, work.bytes) == ("elementwise", 0, 4 * (60 + 10 + 60))


def test_a_concatenation_writes_only_its_part():
    with Trace() as trace:
        x, y = trace.input("x", (2, 3, 4, 4)), trace.input("y", (2, 1, 4, 4))
        graph = trace.graph(st.concat((x, y), 1))
    copies = [work for work in works(graph) if work.kind == "copying"]
    assert [work.bytes for work in copies] == [2 * 4 * 2 * 3 * 16, 2 * 4 * 2 * 1 * 16]


# ------------------------------------------------------------------ the command

STEP = {
    "label", "layer", "kind", "seconds", "flops", "bytes", "gflops", "gbs", "share", "limit",
}  # fmt: skip


@pytest.fixture(autouse=True)
def threads_as_before():
    before = engine.get_num_threads()
    yield
    engine.set_num_threads(before)


@pytest.mark.parametrize("training", [False, True])
def test_json_of_a_network(cli, training):
    start = time.perf_counter()
    options = ["--batch", 3, "--threads", 1, "--json", *(["--train"] if training else [])]
    outcome = cli("bench", "lenet-bn", *SMALL, *options)
    elapsed = time.perf_counter() - start
    assert outcome.code == 0, outcome.err
    found = outcome.json
    assert (found["model"], found["input"], found["training"]) == ("lenet-bn", [1, 8, 8], training)
    assert (found["batch"], found["threads"]) == (3, 1)
    assert {frozenset(step) for step in found["steps"]} == {frozenset(STEP)}
    assert 0 < found["sum_seconds"] < elapsed
    assert 0 < found["program_seconds"] < elapsed
    assert sum(step["seconds"] for step in found["steps"]) == pytest.approx(found["sum_seconds"])
    groups = found["groups"]
    assert sum(group["seconds"] for group in groups) == pytest.approx(found["sum_seconds"])
    assert sum(group["steps"] for group in groups) == len(found["steps"])
    assert found["gflops"] == pytest.approx(found["flops"] / found["program_seconds"] / 1e9)
    assert found["share_of_peak"] == pytest.approx(found["gflops"] / found["peak_gflops"])
    assert found["images_per_second"] == pytest.approx(3 / found["call_seconds"])
    backward = [step for step in found["steps"] if step["kind"].startswith("weight gradient")]
    assert bool(backward) == training


def test_tables(cli, monkeypatch):
    text = cli("bench", "lenet-bn", *SMALL).out
    assert text.startswith("lenet-bn, inference, batch 1 of 1×8×8\n")
    for words in ("conv1", "forward, gemm", "sum of the steps", "whole program", "this machine"):
        assert words in text
    monkeypatch.setattr(models, "list", lambda: ["lenet", "lenet-bn"])
    outcome = cli("bench", "--seconds", 0)
    assert "pictures/s" in outcome.out
    assert "measuring lenet-bn" in outcome.err
    found = cli("bench", "--seconds", 0, "--json").json
    assert [row["model"] for row in found["networks"]] == ["lenet", "lenet-bn"]
    assert all(row["images_per_second"] > 0 for row in found["networks"])


def test_training_for_measuring_leaves_the_weights_as_they_are():
    from striate.report.bench import profile

    net = st.models.create("lenet-bn", image_size=8)
    before = {key: p.data.copy() for key, p in net.named_parameters()}
    found = profile(net, (1, 8, 8), 4, training=True, seconds=0)
    assert found.batch == 4
    for key, param in net.named_parameters():
        np.testing.assert_array_equal(param.data, before[key], err_msg=key)
