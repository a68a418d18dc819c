"""Which way computes a convolution, and the reason that is given."""

from dataclasses import replace

import pytest

import striate as st
from striate import nn
from striate.engine import Options, build, describe
from striate.engine.choice import AS_GOOD, CLOSE, Chooser, Verdict, leaves_caches
from striate.engine.layout import conv_of
from striate.errors import ArgumentError
from striate.jit import target
from tests.small_nets import inference, picture, training

MACHINE = replace(target.reference_machine("avx2"), l3_bytes=32 * 2**20)


def net(channels=64):
    """A stem of three channels, a 3×3 layer, the same with stride 2, a dense layer."""
    return nn.Sequential(
        nn.Conv2d(3, channels, 3, padding=1),
        nn.Conv2d(channels, channels, 3, padding=1),
        nn.Conv2d(channels, channels, 3, stride=2, padding=2, dilation=2),  # one way only
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(channels, 5),
    )


def choices(graph, timer=None, *, train=False, **options):
    cold = leaves_caches(graph, MACHINE)
    chooser = Chooser(MACHINE, Options(**options), train, timer, cold)
    return [chooser(node) for node in graph.nodes() if conv_of(node) is not None]


def layer(side=32, n=1, channels=64, timer=None, **options):
    """The choice for the 3×3 layer in inference."""
    graph = inference(net(channels), (n, 3, side, side))
    (found,) = [c for c in choices(graph, timer, **options) if c.layer == "1"]
    return found


# -- what decides ----------------------------------------------------------------------------------


def test_each_convolution_is_named_with_its_reason():
    stem, wide, strided, dense = choices(inference(net(), (1, 3, 32, 32)))
    assert [c.layer for c in (stem, wide, strided, dense)] == ["0", "1", "2", "5"]
    assert wide.way.name == "winograd-f4"
    assert wide.reason.startswith("cost model: ")
    assert wide.reason.endswith(" × cheaper than winograd-f2")
    assert {c.way.name for c in (stem, strided, dense)} == {"direct"}
    assert strided.reason == dense.reason == "the only way"
    assert strided.work == "forward 3×3/2 64→64 of 16×16"


def test_the_direct_way_counts_the_taps_that_it_computes():
    """Rows outside the image are left out, and columns of a dilated kernel."""
    for dilation, size, taps in ((1, 2, (2 * 2) * (3 * 2)), (2, 3, (2 + 1 + 2) ** 2)):
        layers = [nn.Conv2d(16, 16, 3, padding=dilation, dilation=dilation) for _ in range(2)]
        module = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        for images, train in ((1, False), (2, True)):
            graph = (training if train else inference)(module, (2, 16, size, size))
            works = {c.work.split(" 3×3")[0]: c.ways for c in choices(graph, train=train)}
            for kind in ("forward", *["input gradient"] * train):
                (way,) = [w for w in works[kind] if w.name == "direct"]
                assert way.work == images * taps * 16 * 16 * 5 // 6


@pytest.mark.parametrize("algorithm", ["direct", "winograd-f2", "winograd-f4"])
def test_what_is_asked_for_is_taken_where_it_can_be(algorithm):
    found = choices(inference(net(), (1, 3, 32, 32)), algorithm=algorithm)
    assert found[1].way.name == algorithm
    assert found[1].reason == "asked for"
    assert found[2].way.name == "direct"


def test_a_bound_leaves_out_what_errs_more():
    free, bounded = layer(), layer(max_relative_error=5e-6)
    assert free.way.error > 5e-6 > bounded.way.error
    assert bounded.way.name == "winograd-f2"
    expected = f"error budget excludes winograd-f4: {free.way.error:.1e} > 5e-06; cost model: "
    assert bounded.reason.startswith(expected)


def test_a_bound_that_nothing_meets_names_the_layer():
    pattern = (
        r"max_relative_error=1e-06 cannot be met by 1 \(forward 3×3 64→64 of 32×32\): winograd"
    )
    with pytest.raises(ArgumentError, match=pattern):
        layer(max_relative_error=1e-6)
    with pytest.raises(ArgumentError, match=r"cannot be met by 1 .*: winograd-f4 is expected"):
        layer(algorithm="winograd-f4", max_relative_error=5e-6)


@pytest.mark.parametrize("bound", [0, -1e-5, float("nan")])
def test_a_bound_must_be_above_zero(bound):
    with pytest.raises(ArgumentError, match="max_relative_error must be above 0"):
        build(inference(net(), (1, 3, 32, 32)), max_relative_error=bound)


def test_weight_gradients_take_the_least_error_where_nothing_is_within():
    graph = training(net(), (4, 3, 64, 64))
    found = choices(graph, train=True, max_relative_error=1e-5)
    (gradient,) = [c for c in found if "weight gradient 3×3 64→64 of 64×64" in c.work]
    assert gradient.reason == "the least error"
    assert gradient.way.error == min(way.error for way in gradient.ways) > 1e-5


def test_inference_decides_for_one_image_and_training_for_its_batch():
    graphs = [inference(net(512), (n, 3, 4, 4)) for n in (1, 16)]
    one, batch = ([(c.way, c.reason) for c in choices(graph)] for graph in graphs)
    assert one == batch
    assert choices(graphs[0])[1].way.name == "winograd-f2"
    assert choices(graphs[1], train=True)[1].way.name == "winograd-f4"


def test_of_ways_as_good_for_one_image_the_one_that_spares_a_batch_is_taken():
    watch = Watch()
    found = layer(7, channels=512, timer=watch)
    first, second = found.ways[:2]
    assert (first.name, second.name) == ("winograd-f2", "winograd-f4")
    assert first.cost < second.cost < AS_GOOD * first.cost
    assert found.way == second
    assert found.reason.endswith("for one image, 1.78 × fewer multiply-adds a batch")
    batch = layer(7, channels=512, n=16)
    assert (batch.way, batch.reason) == (found.way, found.reason)
    assert watch.asked == []
    assert layer(7, channels=512, max_relative_error=1.2e-5).way == first


# -- where weights are transformed -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("side", "n", "channels", "inside"),
    [
        (7, 1, 512, True),  # U of 38 MB would come from memory, once
        (14, 16, 512, True),  # and here once for each block of tiles
        (28, 1, 128, False),  # U of 2 MB stays in L3, and two blocks need it
        (14, 1, 64, False),
    ],
)
def test_weights_are_transformed_inside_where_u_would_come_from_memory(side, n, channels, inside):
    found = layer(side, n=n, channels=channels, algorithm="winograd-f4")
    assert found.inside == inside
    assert (", weights transformed inside" in str(found)) == inside


@pytest.mark.parametrize(("n", "size", "inside"), [(1, 12, True), (64, 32, False)])
def test_a_training_step_of_one_block_of_tiles_transforms_inside(n, size, inside):
    found = choices(training(net(), (n, 3, size, size)), train=True, algorithm="winograd-f4")
    ways = {c.work.split(" 3×3")[0]: c.inside for c in found if f"64→64 of {size}" in c.work}
    assert ways == {"forward": inside, "input gradient": inside, "weight gradient": False}


# -- measuring -------------------------------------------------------------------------------------


class Watch:
    """A timer that finds the second of two ways better, and notes what it was asked."""

    def __init__(self, seconds=(3e-3, 2e-3)):
        self.asked, self.seconds = [], seconds

    def __call__(self, _node, _shape, first, second):
        self.asked.append((first, second))
        tiles = (first.tile, second.tile)
        return Verdict(tiles[1], dict(zip(tiles, self.seconds, strict=False)))


def test_only_ways_of_nearly_equal_cost_are_timed():
    watch = Watch()
    assert layer(32, timer=watch).reason.startswith("cost model")
    assert watch.asked == []
    found = layer(8, timer=watch)
    ((first, second),) = watch.asked
    assert first.cost < second.cost < CLOSE * first.cost
    assert found.way == second
    assert found.reason == f"measured 2 ms against 3 ms of {first.name}"


def test_nothing_is_timed_for_what_was_asked_for():
    watch = Watch()
    layer(8, timer=watch, algorithm="direct")
    assert watch.asked == []


def test_without_time_the_cost_model_decides():
    watch = Watch(seconds=())
    found = layer(8, timer=watch)
    assert found.way == watch.asked[0][0]
    assert "not timed" in found.reason


# -- who may say so --------------------------------------------------------------------------------


def test_the_plan_says_what_was_chosen():
    text = describe(inference(net(), (1, 3, 32, 32)), max_relative_error=5e-6)
    (line,) = [line for line in text.splitlines() if line.startswith("1: forward 3×3 64→64")]
    assert "winograd-f2 (error budget excludes winograd-f4" in line
    assert line.count("error") == 4  # the reason, and the three ways
    assert "Winograd" not in line
    assert "winograd F(2×2, 3×3) 64→64" in text


def labels(program):
    return [step.label for step in program.steps]


def test_a_module_is_planned_by_itself():
    x = picture(2, 64, 32, 32)
    whole = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU()).eval()
    fast = whole(x)
    assert whole.plan(algorithm="direct") is whole
    exact = whole(x)
    want = build(inference(whole, x.shape), algorithm="direct")(x)[0]
    assert exact.tobytes() == want.tobytes() != fast.tobytes()
    assert whole.plan()(x).tobytes() == fast.tobytes()
    assert whole.plan(max_relative_error=5e-6)(x).tobytes() not in {want.tobytes(), fast.tobytes()}
    whole.plan(algorithm="direct")
    inner = whole[0](x)
    assert (inner > 0).any()
    assert (inner[inner > 0] != exact[inner > 0]).any()  # the layer inside still chooses by itself
    with pytest.raises(ArgumentError, match="algorithm='fft' is not known"):
        whole.plan(algorithm="fft")
    assert whole(x).tobytes() == want.tobytes()
    with pytest.raises(ArgumentError, match=r"max_relative_error=1e-09 cannot be met by 0 \("):
        whole.plan(max_relative_error=1e-9)(x)


def test_a_training_step_has_options_of_its_own():
    x, y = picture(4, 3, 16, 16), [0, 1, 2, 3]
    programs = [
        st.compile_step(net().plan(algorithm="winograd-f2"), **options).executable(x, y)[0].program
        for options in ({}, {"algorithm": "direct"}, {"max_relative_error": 5e-6})
    ]
    usual, direct, bounded = (" ".join(labels(program)) for program in programs)
    assert "winograd F(4×4, 3×3)" in usual
    assert "winograd" not in direct
    assert "winograd F(2×2, 3×3)" in bounded
    assert "winograd F(4×4, 3×3)" not in bounded
    with pytest.raises(ArgumentError, match="algorithm='x' is not known"):
        st.compile_step(net(), algorithm="x")
