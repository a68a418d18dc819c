"""Large batches in pieces: the same bits, and only where no image looks at another."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import striate as st
import striate.functional as F
from striate import engine, nn
from striate.engine import pieces, stages
from striate.errors import ShapeError
from striate.nn.tracing import run_on_arrays, trace_module
from striate.report.bench import profile
from tests.small_nets import picture


@pytest.fixture
def small_cache(monkeypatch):
    """As if L3 held two images of every net."""
    hold(monkeypatch, 2.5)


@pytest.fixture
def little_at_hand(monkeypatch):
    """As if L3 held two images of every net and no weights beside them."""
    hold(monkeypatch, 2.5)
    real = pieces._Ends.__init__

    def init(self, program, machine, count):
        real(self, program, machine, count)
        self.at_hand = 0

    monkeypatch.setattr(pieces._Ends, "__init__", init)


def hold(monkeypatch, images):
    """Let L3 hold so many images of every net, until the test ends."""
    real = pieces.cut_of

    def cut_of(graph, program, machine, threads):
        image = program.arena_bytes / graph.inputs[0].shape[0]
        monkeypatch.setattr(pieces, "SHARE_OF_L3", images * image / machine.l3_bytes)
        return real(graph, program, machine, threads)

    monkeypatch.setattr(pieces, "cut_of", cut_of)


@pytest.fixture(params=[1, 2, 3, 7])
def threads(request):
    before = engine.get_num_threads()
    engine.set_num_threads(request.param)
    yield request.param
    engine.set_num_threads(before)


class Net(nn.Module):
    """Layers whose activations weigh more than their weights, then what `last` makes of them."""

    def __init__(self, last=lambda x: x):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.narrow = nn.Conv2d(8, 4, 1)
        self.last = last

    def forward(self, x):
        x = F.relu(self.bn(self.conv(x)))
        x = st.concat((F.max_pool2d(x, 2), F.avg_pool2d(x, 2)), 1)
        return self.last(self.narrow(x[:, 4:12]))


def made(net, x):
    """What runs a net on such images."""
    run_on_arrays(net, (x,))
    (program,) = net.programs._programs.values()
    return program.run


def test_pieces_are_few_and_alike():
    assert pieces.sizes_of(16, 6) == (6, 5, 5)
    assert pieces.sizes_of(4, 2) == (2, 2)
    assert pieces.sizes_of(5, 1) == (1,) * 5


def test_threads_take_as_many_pieces_each():
    assert pieces.sizes_of(16, 6, 2) == (4,) * 4
    assert pieces.sizes_of(16, 2, 2) == (2,) * 8
    assert pieces.sizes_of(17, 3, 3) == (3, 3, 3, 3, 3, 2)
    assert pieces.sizes_of(5, 2, 8) == (1,) * 5


@pytest.mark.parametrize("count", [2, 3, 5, 8])
def test_the_same_bits_in_pieces(small_cache, threads, count):
    net = Net(lambda x: x.mean((2, 3)).flatten(1)).eval()
    x = picture(count, 3, 24, 20)
    run = made(net, x)
    alone = np.concatenate([net(x[i : i + 1]) for i in range(count)])
    np.testing.assert_array_equal(run(x)[0], alone)
    if count > 2:
        assert isinstance(run, engine.Pieces)
        assert sum(run.sizes) == count
        assert max(run.sizes) <= 2


def test_several_outputs_and_odd_inputs(small_cache):
    net = Net(lambda x: (F.softmax(x.mean((2, 3)), 1), x)).eval()
    x = picture(5, 3, 24, 20)
    assert isinstance(made(net, x), engine.Pieces)
    whole = net(x)
    turned = net(np.asfortranarray(x.astype(np.float64)))
    for a, b in zip(whole, turned, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.flags.owndata
    np.testing.assert_array_equal(net.features(x, "narrow")["narrow"], whole[1])


@pytest.mark.parametrize(
    "last",
    [
        lambda x: x - x.mean(0),
        lambda x: F.softmax(x, 0),
        lambda x: x + x[0:1],
        lambda x: st.concat((x, x), 0),
        lambda x: x * (1.0 / x.shape[0]),
        lambda x: x.reshape(-1),
        lambda x: x.mean((1, 2, 3)).reshape(1, -1) * x.mean((2, 3)).sum(),
        lambda x: x + np.arange(x.shape[0], dtype=np.float32).reshape(-1, 1, 1, 1),
    ],
    ids=["mean", "softmax", "first", "concat", "size", "flat", "outer", "constant of each image"],
)
def test_nets_that_mix_images_stay_whole(small_cache, last):
    net = Net(last).eval()
    x = picture(6, 3, 24, 20)
    assert isinstance(made(net, x), engine.Executable)


def test_training_and_state_stay_whole(small_cache):
    net = Net()
    x = picture(6, 3, 24, 20)
    assert isinstance(made(net, x), engine.Executable)


def test_heavy_weights_are_not_read_again(little_at_hand):
    net = nn.Sequential(nn.Flatten(), nn.Linear(300, 400), nn.ReLU(), nn.Linear(400, 10)).eval()
    assert isinstance(made(net, picture(16, 3, 10, 10)), engine.Executable)


@pytest.mark.parametrize(("rounds", "fewer"), [(6, 0), (5, 0), (6, 1)])
def test_the_same_bits_dealt_out(monkeypatch, threads, rounds, fewer):
    count = rounds * threads - fewer
    hold(monkeypatch, 2.5 * threads)
    net = Net(lambda x: (x.mean((2, 3)), x)).eval()
    x, before = picture(count, 3, 24, 20), net.conv.weight.data.copy()
    run = made(net, x)
    assert isinstance(run, engine.Pieces)
    assert bool(run.dealt) == (threads > 1)
    for factor in (1.0, 2.0):  # new weights are packed anew
        net.conv.weight.assign(before * np.float32(factor))
        alone = [net(x[i : i + 1]) for i in range(count)]
        for got, want in zip(run(x), zip(*alone, strict=True), strict=True):
            np.testing.assert_array_equal(got, np.concatenate(want))


def test_dealt_pieces_meet_another_number_of_threads_and_other_callers(monkeypatch):
    before = engine.get_num_threads()
    engine.set_num_threads(2)
    try:
        hold(monkeypatch, 4.5)
        net = Net().eval()
        x = picture(12, 3, 24, 20)
        run = made(net, x)
        assert run.dealt
        want = run(x)[0]
        with ThreadPoolExecutor(4) as callers:
            for got in callers.map(lambda _: run(x)[0], range(12)):
                np.testing.assert_array_equal(got, want)
        for count in (1, 3):
            engine.set_num_threads(count)
            np.testing.assert_array_equal(run(x)[0], want)
        with pytest.raises(ShapeError, match="input 0 has shape"):
            run(x[:5])
    finally:
        engine.set_num_threads(before)


def test_how_well_pieces_are_dealt_out():
    assert pieces.dealt_well((2,) * 8, 2) == 1
    assert pieces.dealt_well((3, 3, 3, 3, 2, 2), 2) == 1
    assert pieces.dealt_well((2,) * 7 + (1,), 2) == 15 / 18
    assert pieces.dealt_well((1,) * 15, 2) == 15 / 16


def test_pieces_are_not_dealt_out_unevenly(monkeypatch):
    hold(monkeypatch, 2.5)
    net = Net().eval()
    x = picture(3, 3, 24, 20)
    before = engine.get_num_threads()
    engine.set_num_threads(2)
    try:
        assert not made(net, x).dealt
    finally:
        engine.set_num_threads(before)


def test_the_peak_is_that_of_a_piece(small_cache):
    net = Net().eval()
    whole = st.summary(net, (3, 24, 20), batch=8).totals
    piece = st.summary(net, (3, 24, 20), batch=2).totals
    assert whole["peak_arena"] == piece["peak_arena"]
    assert whole["peak_arrays"] == 4 * piece["peak_arrays"]


# -- the first layers in pieces, the rest for all --------------------------------------------------


class Tapering(nn.Module):
    """Large maps and few weights first, then the reverse; two values cross in between."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.third = nn.Conv2d(8, 512, 16, stride=16)
        self.last = nn.Linear(512, 512)

    def forward(self, x):
        x = F.relu(self.first(x))
        x = x + F.relu(self.second(x))
        x = F.relu(self.third(x)).flatten(1)
        return self.last(x), x


def test_the_rest_takes_the_whole_batch(little_at_hand, threads):
    net = Tapering().eval()
    x = picture(6, 3, 16, 16)
    run = made(net, x)
    assert isinstance(run, engine.Pieces)
    assert run.rest is not None
    halves = first_of(run), run.rest.program
    layers = [{t.node.scope for t in program.tasks} for program in halves]
    assert "first" in str(layers[0])
    assert "last" in layers[1]
    for _ in range(2):
        alone = [net(x[i : i + 1]) for i in range(6)]
        for got, want in zip(run(x), zip(*alone, strict=True), strict=True):
            np.testing.assert_array_equal(got, np.concatenate(want))
        net.last.weight.assign(2 * net.last.weight.data)  # packed anew for the rest
        net.first.weight.assign(2 * net.first.weight.data)  # and for the pieces


def test_several_callers_share_both_halves(little_at_hand, threads):
    net = Tapering().eval()
    x = picture(6, 3, 16, 16)
    run = made(net, x)
    assert run.rest is not None
    batches = [x * np.float32(factor) for factor in range(1, 9)]
    want = [run(batch)[0] for batch in batches]
    with ThreadPoolExecutor(4) as callers:
        for got, right in zip(callers.map(lambda batch: run(batch)[0], batches), want, strict=True):
            np.testing.assert_array_equal(got, right)


def test_a_profile_counts_the_work_of_all_images(little_at_hand, threads):
    net = Tapering().eval()
    in_pieces = profile(net, (3, 16, 16), 6, seconds=0)
    one = profile(net, (3, 16, 16), 1, seconds=0)
    assert 0 < in_pieces.pieced < len(in_pieces.steps)
    assert (in_pieces.batch < 6, in_pieces.images) == (True, 6)
    assert in_pieces.whole.flops == 6 * one.whole.flops


def test_neither_half_holds_what_only_the_other_needs(little_at_hand):
    net = Tapering().eval()
    run = made(net, picture(6, 3, 16, 16))
    first, rest = first_of(run), run.rest.program
    assert not set(first.kept) & set(rest.kept)
    assert rest.inputs == first.outputs
    assert len(first.tasks) + len(rest.tasks) == len(engine.build(net_graph(net, 6)).program.tasks)


def test_the_peak_counts_what_crosses(little_at_hand):
    net = Tapering().eval()
    run = made(net, picture(8, 3, 16, 16))
    assert run.rest is not None
    rest = run.rest.program
    crossing = sum(rest.buffers[b].nbytes for b in rest.inputs)
    pieces_at_once = engine.get_num_threads() if run.dealt else 1
    arena = max(pieces_at_once * first_of(run).arena_bytes, rest.arena_bytes)
    assert st.summary(net, (3, 16, 16), batch=8).totals["peak_arena"] == arena + crossing


def test_halves_of_a_program_give_what_the_whole_gives():
    graph = net_graph(Tapering().eval(), 3)
    whole = engine.build(graph)
    x = picture(3, 3, 16, 16)
    want = whole(x)
    cuts = stages.boundaries(whole.program, 3)
    assert len(cuts) > 2
    for k, crossing in cuts.items():
        first = engine.Executable(stages.first_half(whole.program, k, crossing))
        second = engine.Executable(stages.second_half(whole.program, k, crossing))
        for got, right in zip(second(*first(x)), want, strict=True):
            np.testing.assert_array_equal(got, right)


def first_of(run):
    return run.programs[run.sizes[0]].program


def net_graph(net, count):
    return trace_module(net, [(count, 3, 16, 16)], training=False).graph
