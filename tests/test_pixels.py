"""Pictures of bytes given to nets: the same bits as for the numbers that NumPy makes of them."""

import numpy as np
import pytest

import striate as st
import striate.functional as F
from striate import nn
from striate.data import ArrayDataset, Augment, Loader, Recipe
from striate.engine import Pieces, cache_info, get_num_threads, pieces, set_num_threads
from striate.errors import ArgumentError, DTypeError, ShapeError
from striate.graph import Graph, Trace, evaluate
from striate.graph.ops.pixels import NormalisePixels
from striate.nn.tracing import as_inputs, trace_module
from striate.train.step import Evaluation
from tests.small_nets import small_net

MEAN, STD = (0.485, 0.456, 0.406, 0.5), (0.229, 0.224, 0.225, 0.1)


def pictures(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def pixels(*shape, seed=0):
    """Pictures of the shape (n, h, w, c) with a normalisation."""
    return st.Pixels(pictures(*shape, seed=seed), MEAN[: shape[3]], STD[: shape[3]])


def numbers(x):
    """The definition in float32, written once more."""
    mean, std = np.float32(x.mean), np.float32(x.std)
    out = (x.samples.astype(np.float32) / np.float32(255) - mean) / std
    return np.ascontiguousarray(out.transpose(0, 3, 1, 2))


def same(a, b):
    return a.shape == b.shape and a.tobytes() == b.tobytes()


# -- the value -------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_it_stands_for_an_array_of_numbers(channels):
    x = pixels(4, 5, 6, channels)
    assert (x.shape, x.ndim, len(x)) == ((4, channels, 5, 6), 4, 4)
    assert same(np.asarray(x), numbers(x))
    assert np.asarray(x, np.float64).dtype == np.float64
    for index in (slice(1, 3), np.array([3, 0]), np.array([True, False, True, True])):
        assert same(np.asarray(x[index]), numbers(x)[index])
    assert repr(x).startswith(f"Pixels([4, {channels}, 5, 6], mean=(0.485,")


def test_it_is_what_a_recipe_makes_of_bytes_and_only_of_bytes():
    recipe = Recipe(3, mean=MEAN[:3], std=STD[:3])
    raw = pictures(2, 4, 5, 3)
    made = recipe.input(raw)
    assert isinstance(made, st.Pixels)
    assert same(np.asarray(made), recipe.normalise(raw))
    fine = raw.astype(np.float32) / 300
    assert same(recipe.input(fine), recipe.normalise(fine))
    with pytest.raises(st.DataError, match=r"normalise takes \(n, h, w, 3\)"):
        recipe.input(raw[..., :1])


def test_defaults_leave_numbers_from_0_to_1():
    x = st.Pixels(np.array([0, 255], np.uint8).reshape(1, 1, 2, 1))
    np.testing.assert_array_equal(np.asarray(x).ravel(), [0, 1])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((np.zeros((1, 2, 2, 3)),), DTypeError, "Pixels: samples must be .* uint8, got float64"),
        (([[[[1]]]],), DTypeError, "array of uint8, got list"),
        ((pictures(2, 2, 3),), ShapeError, r"\(N, H, W, 1 to 4\), got \(2, 2, 3\)"),
        ((pictures(1, 3, 8, 8),), ShapeError, r"got \(1, 3, 8, 8\)"),
        ((pictures(1, 2, 2, 3), (0.5,)), ArgumentError, "Pixels: mean is .* 3 finite"),
        ((pictures(1, 2, 2, 1), (), (0.0,)), ArgumentError, r"std is \(0.0,\); it must lie in"),
    ],
)
def test_what_does_not_fit_is_named(arguments, error, message):
    with pytest.raises(error, match=message):
        st.Pixels(*arguments)


# -- the operation ---------------------------------------------------------------------------------


def test_the_operation_refuses_other_types():
    op = NormalisePixels(MEAN[:3], STD[:3])
    with Trace() as trace:
        with pytest.raises(DTypeError, match="pictures must be u8, got f32"):
            op(trace.input("x", (1, 2, 2, 3)))
        with pytest.raises(ShapeError, match=r"\(N, H, W, 3\), got \(1, 3, 2, 2\)"):
            op(trace.input("x", (1, 3, 2, 2), "u8"))


def test_the_operation_is_the_definition_in_the_slow_twin_too():
    x = pixels(2, 3, 5, 3)
    with Trace() as trace:
        images = NormalisePixels(x.mean, x.std)(trace.input("x", x.samples.shape, "u8"))
        graph: Graph = trace.graph(images)
    assert same(evaluate(graph, [x.samples])[0], numbers(x))


# -- nets ------------------------------------------------------------------------------------------

FIRST = {
    "convolution": lambda x: x,
    "flexible map": F.relu,
    "centred": lambda x: x - x.mean((2, 3)).reshape(-1, x.shape[1], 1, 1),
    "sum of all": lambda x: x * x.mean((0, 2, 3)).reshape(1, -1, 1, 1),
    "slice": lambda x: x[:, :, 1:, ::2],
    "concat": lambda x: st.concat((x, x), 1)[:, 1:4],
    "average": lambda x: F.avg_pool2d(x, 3, 1),
    "maximum": lambda x: F.max_pool2d(x, 2),
}


class Net(nn.Module):
    def __init__(self, first):
        super().__init__()
        self.first, self.rest = first, small_net()

    def forward(self, x):
        return self.rest(self.first(x))


@pytest.mark.parametrize("first", FIRST.values(), ids=FIRST)
def test_the_same_bits_whatever_reads_the_pictures_first(first):
    net, x = Net(first).eval(), pixels(3, 19, 22, 3)
    assert same(net(x), net(numbers(x)))
    assert same(net.features(x, "rest.0")["rest.0"], net.features(numbers(x), "rest.0")["rest.0"])


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_pictures_alone_come_out_as_images(channels):
    x = pixels(2, 7, 9, channels)
    assert same(nn.Identity()(x), numbers(x))
    assert same(nn.Flatten()(x), numbers(x).reshape(2, -1))
    turned = st.Pixels(pictures(2, channels, 7, 9).transpose(0, 2, 3, 1))
    assert same(nn.Identity()(turned), np.asarray(turned))


def test_plain_integers_are_still_the_numbers_0_to_255():
    raw = pictures(2, 3, 6, 5)
    assert same(nn.Identity()(raw), raw.astype(np.float32))


def test_threads_and_pieces_change_no_bit(monkeypatch):
    net, x = small_net().eval(), pixels(7, 24, 20, 3)
    want, before = net(numbers(x)), get_num_threads()
    try:
        for threads in (1, 2, 3, 7):
            set_num_threads(threads)
            net.programs = type(net.programs)()
            assert same(net(x), want)
    finally:
        set_num_threads(before)
    for dealt in (False, True):
        cut = pieces.Cut((2, 2, 2, 1), dealt)
        monkeypatch.setattr(pieces, "cut_of", lambda *_, cut=cut: cut)
        net.programs = type(net.programs)()
        assert same(net(x), want)
        (program,) = net.programs._programs.values()
        assert isinstance(program.run, Pieces)


def test_a_net_on_pictures_may_be_cut_where_one_on_images_may():
    net, (_, kinds) = small_net().eval(), as_inputs([pixels(6, 24, 20, 3)])
    assert pieces._separate(trace_module(net, kinds).graph, 6)


def test_new_sizes_and_other_normalisations_compile_nothing():
    net = small_net().eval()
    net(pixels(2, 17, 14, 3))
    before = cache_info().compiled + cache_info().loaded
    for n, h, w in ((1, 6, 6), (3, 31, 18), (8, 40, 7)):
        x = st.Pixels(pictures(n, h, w, 3), (0.1 * n, 0.2, 0.3), (0.5, 0.1 * n, 1.0))
        assert same(net(x), net(numbers(x)))
    # the reorder of plain images is the one kernel that pictures of bytes do without
    assert cache_info().compiled + cache_info().loaded <= before + 1


# -- training --------------------------------------------------------------------------------------


def trained(given, *, checkpoint=False):
    """Losses of some steps, and what the net is then."""
    st.manual_seed(5)
    net = small_net()
    step = st.compile_step(net, checkpoint=checkpoint)
    losses = [step(given, np.arange(6) % 5) for _ in range(3)]
    found = Evaluation(net).run(given, np.arange(6) % 5)
    return [*losses, found.loss, found.outputs.tobytes()], net.state_dict()


@pytest.mark.parametrize("checkpoint", [False, True])
def test_a_step_gives_the_same_bits(checkpoint):
    x = pixels(6, 15, 17, 3)
    (losses, net), (other_losses, other) = (
        trained(given, checkpoint=checkpoint) for given in (x, numbers(x))
    )
    assert losses == other_losses
    assert all(same(net[name], other[name]) for name in net)


def test_the_footprint_counts_a_byte_for_a_byte():
    x = pixels(6, 15, 17, 3)
    step = st.compile_step(small_net())
    labels = np.arange(6) % 5
    apart = step.footprint(numbers(x), labels).inputs - step.footprint(x, labels).inputs
    assert apart == 3 * x.samples.size


def fitted(data, valid=None, **options):
    st.manual_seed(5)
    net = small_net()
    trainer = st.Trainer(net, batch_size=8, seed=3, **options)
    history = trainer.fit(data, valid, epochs=2).history
    return history["train_loss"], history.get("val_loss"), net.state_dict()


def test_a_trainer_takes_pictures_as_it_takes_arrays():
    x, y = pixels(29, 12, 13, 3), np.arange(29) % 5
    one, other = (fitted((given, y), (given, y)) for given in (x, numbers(x)))
    assert one[:2] == other[:2]
    assert all(same(one[2][name], other[2][name]) for name in one[2])


class Plain:
    """The batches of a loader as arrays."""

    def __init__(self, loader):
        self.loader = loader

    def __len__(self):
        return len(self.loader)

    def epoch(self, epoch, start_batch=0):
        for x, y in self.loader.epoch(epoch, start_batch):
            assert isinstance(x, np.ndarray)
            yield x, y


@pytest.mark.parametrize("change", ["none", "crop=2,flip", "crop=2,flip,rotate=10,brightness=0.2"])
def test_a_data_set_is_trained_on_as_before(change):
    recipe = Recipe(3, (12, 13), mean=MEAN[:3], std=STD[:3])
    data = ArrayDataset(pictures(29, 12, 13, 3), np.arange(29) % 5, "abcde", recipe)
    augment = Augment.parse(change)
    plain = Plain(Loader(data, 8, shuffle=True, seed=3, augment=augment))
    one = fitted(data, data, augment=augment)
    other = fitted(plain, Plain(Loader(data, 8)))
    assert one[:2] == other[:2]
    assert all(same(one[2][name], other[2][name]) for name in one[2])
    raw = Loader(data, 8, shuffle=True, seed=3, augment=augment, raw=True)
    kinds = {type(x) for x, _ in raw.epoch(1)}
    assert kinds == {np.ndarray if "rotate" in change else st.Pixels}
    for (x, _), (want, _) in zip(raw.epoch(1), plain.epoch(1), strict=True):
        assert same(np.asarray(x), want)
