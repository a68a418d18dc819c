import numpy as np
import pytest

from striate.arith.expr import Expr, Part, compose
from striate.kernels.maxpool import MaxPool, MaxPoolGrad, MaxPoolIndices
from striate.kernels.prologue import Prologue
from tests.guard import outcome
from tests.kernel_call import assembly, calls, isa  # noqa: F401


def regular(size, kernel, stride, padding=0, dilation=1):
    """(start, stop, step) of the elements of each window that lie in the image."""
    table = []
    for i in range((size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1):
        places = [i * stride - padding + t * dilation for t in range(kernel)]
        inside = [p for p in places if 0 <= p < size]
        table.append((inside[0], inside[-1] + 1, dilation) if inside else (0, 0, dilation))
    return table


def adaptive(size, outputs):
    return [(i * size // outputs, -(-(i + 1) * size // outputs), 1) for i in range(outputs)]


def reference(x, rows, cols, dy):
    """Maximum, its place and the gradient, window by window and pixel by pixel."""
    n, _, w, c = x.shape
    y = np.empty((n, len(rows), len(cols), c), np.float32)
    place = np.empty(y.shape, np.int32)
    dx = np.zeros(x.shape, np.float64)
    image, channel = np.meshgrid(range(n), range(c), indexing="ij")
    for i, row in enumerate(rows):
        for j, col in enumerate(cols):
            best, winner = np.full((n, c), -np.inf, np.float32), np.full((n, c), -1)
            for a in range(*row):
                for b in range(*col):
                    v = x[:, a, b]
                    takes = (v > best) | np.isnan(v) | (winner < 0)
                    best, winner = np.where(takes, v, best), np.where(takes, a * w + b, winner)
            y[:, i, j], place[:, i, j] = best, winner
            if winner.min() >= 0:
                dx[image, winner // w, winner % w, channel] += dy[:, i, j]
    return y, place, dx.astype(np.float32)


def picture(shape, seed=0):
    """Small integers, so that equals are common and sums exact; some NaN and -inf."""
    rng = np.random.default_rng(seed)
    x = rng.integers(-3, 4, shape).astype(np.float32)
    x[rng.random(shape) < 0.03] = np.nan
    x[rng.random(shape) < 0.15] = -np.inf
    return x


def check(shape, rows, cols, kernel, disjoint=False, parts=(1, 2, 3, 7)):
    n, h, w, c = shape
    x = picture(shape)
    dy = np.random.default_rng(1).integers(-9, 10, (n, len(rows), len(cols), c)).astype(np.float32)
    y, place, dx = reference(x, rows, cols, dy)
    tables = [np.array(table, np.int32) for table in (rows, cols)]
    sizes = (n, h, w, c, len(rows), len(cols))
    got = outcome(MaxPool(kernel), [x, y, *tables], sizes, 1, parts)
    np.testing.assert_array_equal(got, y)
    got = outcome(MaxPoolIndices(kernel), [x, place, *tables], sizes, 1, parts)
    np.testing.assert_array_equal(got, place)
    got = outcome(MaxPoolGrad(kernel, disjoint), [x, dy, dx, *tables], sizes, 2, parts)
    np.testing.assert_array_equal(got, dx)


@pytest.mark.parametrize("kernel", [(2, 2), None])
@pytest.mark.parametrize("channels", [1, 3, 4, 8, 15, 16, 17, 33, 70])
def test_every_channel_count(isa, kernel, channels):
    check((2, 5, 6, channels), regular(5, 2, 2), regular(6, 2, 2), kernel, disjoint=True)
    check((2, 5, 6, channels), regular(5, 2, 1), regular(6, 2, 1), kernel)


@pytest.mark.parametrize("kernel", [1, 2, 3])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("dilation", [1, 2])
def test_every_small_window(isa, kernel, stride, padding, dilation):
    for h, w in ((5, 6), (7, 5)):
        tables = [regular(size, kernel, stride, padding, dilation) for size in (h, w)]
        for unrolled in ((kernel, kernel), None):
            check((1, h, w, 5), *tables, unrolled, parts=(1, 3))
            if stride >= kernel and dilation == 1 and padding <= kernel // 2:
                check((1, h, w, 5), *tables, unrolled, disjoint=True, parts=(1, 3))


@pytest.mark.parametrize("kernel", [(2, 2), None])
@pytest.mark.parametrize("channels", [1, 8, 16, 37])
def test_what_is_computed_before(isa, kernel, channels):
    """Pooling of relu(2·x·s + t) is that of its values: the numbers are exact."""
    rows, cols, shape = regular(5, 2, 2), regular(7, 3, 2), (2, 5, 7, channels)
    parts = [
        Part(Expr.single("mul"), ("x", "two"), ("y",)),
        Part(Expr.single("mul"), ("y", "s"), ("z",)),
        Part(Expr.single("add"), ("z", "t"), ("u",)),
        Part(Expr.single("relu"), ("u",), ("v",)),
    ]
    expr, keys = compose(parts, ["v"])
    x = np.nan_to_num(picture(shape), nan=0.0, neginf=-4.0)
    scale, shift = (
        np.random.default_rng(seed).integers(-3, 4, channels).astype(np.float32) for seed in (5, 6)
    )
    values = {"two": np.float32([2]), "s": scale, "t": shift}
    operands = [key for key in keys if key != "x"]
    kinds = tuple("scalar" if key == "two" else "channel" for key in operands)
    before = Prologue(expr.with_inputs([["x", *operands].index(key) for key in keys]), kinds)
    dy = np.random.default_rng(1).integers(-9, 10, (2, 2, 3, channels)).astype(np.float32)
    y, _, dx = reference(np.maximum(2 * x * scale + shift, 0), rows, cols, dy)
    tables = [np.array(table, np.int32) for table in (rows, cols)]
    sizes, factors = (2, 5, 7, channels, 2, 3), [values[key] for key in operands]
    got = outcome(MaxPool(kernel, 0, before), [x, y, *tables, *factors], sizes, 1)
    np.testing.assert_array_equal(got, y)
    spec = MaxPoolGrad(kernel, False, before)
    got = outcome(spec, [x, dy, dx, *tables, *factors], sizes, 2)
    np.testing.assert_array_equal(got, dx)


@pytest.mark.parametrize("outputs", [(1, 1), (2, 3), (4, 7), (9, 8)])
def test_adaptive_windows(isa, outputs):
    check((2, 7, 8, 6), adaptive(7, outputs[0]), adaptive(8, outputs[1]), None)


def test_gaps_between_disjoint_windows_get_no_gradient(isa):
    rows, cols = [(1, 2, 1), (4, 6, 1)], [(2, 4, 1), (4, 5, 1), (7, 9, 1)]
    for kernel in ((2, 2), (1, 2), None):
        check((2, 8, 11, 7), rows, cols, kernel, disjoint=True)


def test_empty_windows(isa):
    rows = [(0, 0, 3), (0, 2, 1), (1, 1, 1)]
    for kernel in ((2, 2), (1, 1), None):
        check((2, 3, 3, 5), rows, [(0, 2, 1), (3, 3, 1)], kernel)
    rows, cols = [(0, 0, 1), (0, 2, 1), (5, 5, 1), (8, 8, 1)], [(5, 5, 1)]
    for kernel in ((2, 2), None):
        check((2, 4, 3, 5), rows, [(0, 2, 1), (6, 6, 1)], kernel, disjoint=True)
        check((2, 4, 3, 5), rows, cols, kernel, disjoint=True)


def test_first_pixel_wins_among_equals_and_last_among_nan(isa):
    for values, winner in [
        ([2, 2, 2, 2], 0),
        ([-np.inf] * 4, 0),
        ([1, 3, 3, 2], 1),
        ([1, np.nan, 3, np.nan], 3),
        ([np.nan, 9, np.inf, 1], 0),
        ([-0.0, 0.0, -0.0, 0.0], 0),
    ]:
        x = np.array(values, np.float32).reshape(1, 2, 2, 1)
        table = np.array([(0, 2, 1)], np.int32)
        for kernel in ((2, 2), None):
            place = outcome(
                MaxPoolIndices(kernel),
                [x, np.zeros(1, np.int32), table, table],
                (1, 2, 2, 1, 1, 1),
                1,
            )
            assert place[0] == winner
            top = outcome(
                MaxPool(kernel), [x, np.zeros(1, np.float32), table, table], (1, 2, 2, 1, 1, 1), 1
            )
            assert top.tobytes() == x.reshape(-1)[winner].tobytes()


@pytest.mark.parametrize(
    ("shape", "size", "kernel", "stride", "padding"),
    [
        ((2, 28, 28, 6), 28, 2, 2, 0),
        ((1, 32, 32, 64), 32, 2, 2, 0),
        ((1, 27, 27, 96), 27, 3, 2, 0),
        ((1, 56, 56, 64), 56, 3, 2, 1),
        ((1, 14, 14, 128), 14, 3, 1, 1),
    ],
    ids=["lenet", "vgg", "alexnet", "resnet stem", "googlenet"],
)
def test_networks(isa, shape, size, kernel, stride, padding):
    table = regular(size, kernel, stride, padding)
    check(shape, table, table, (kernel, kernel), disjoint=stride >= kernel)


def test_pytorch_agrees(isa):
    torch = pytest.importorskip("torch")
    x = picture((2, 9, 11, 5), seed=4)
    nchw = torch.tensor(x.transpose(0, 3, 1, 2)).contiguous()
    want, place = torch.nn.functional.max_pool2d(nchw, 3, 2, 1, return_indices=True)
    tables = [np.array(regular(size, 3, 2, 1), np.int32) for size in (9, 11)]
    sizes = (2, 9, 11, 5, 5, 6)
    got = outcome(MaxPool((3, 3)), [x, np.empty((2, 5, 6, 5), np.float32), *tables], sizes, 1)
    np.testing.assert_array_equal(got.transpose(0, 3, 1, 2), want.numpy())
    got = outcome(MaxPoolIndices((3, 3)), [x, np.empty((2, 5, 6, 5), np.int32), *tables], sizes, 1)
    np.testing.assert_array_equal(got.transpose(0, 3, 1, 2), place.numpy())


@pytest.mark.parametrize("name", ["avx512", "avx2", "sse2", "neon"])
def test_code_for_every_machine_calls_nothing(name):
    for spec in (MaxPool((3, 3)), MaxPoolIndices(), MaxPoolGrad((2, 2), True), MaxPoolGrad((3, 3))):
        assert calls(assembly(spec, name)) == []
