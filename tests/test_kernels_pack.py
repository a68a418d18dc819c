import numpy as np
import pytest

from striate.arith.layout import NHWC, PLAIN, Hwio, PackedWeights
from striate.engine.layouts_numpy import from_memory, pack_numpy, to_memory, unpack_numpy
from striate.jit import target
from striate.kernels.pack import PackWeights, UnpackHwio
from tests.guard import outcome
from tests.kernel_call import assembly, calls, isa  # noqa: F401

# (co, ci, kernel, stride, groups); the stride cuts the taps into phases when roles are swapped
SMALL = [
    (1, 1, (1, 1), 1, 1),
    (5, 3, (3, 3), 1, 1),
    (33, 17, (1, 1), 1, 1),
    (17, 33, (2, 3), 2, 1),
    (12, 8, (3, 3), 2, 2),
    (6, 1, (3, 3), 1, 6),
    (10, 4, (1, 1), 2, 2),
    (40, 19, (4, 4), 2, 1),
    (7, 40, (1, 5), 1, 1),
]
NETWORKS = {
    "lenet conv2": (16, 6, (5, 5), 1, 1),
    "lenet dense1": (120, 400, (1, 1), 1, 1),
    "resnet stem": (64, 3, (7, 7), 2, 1),
    "resnet layer2": (128, 64, (3, 3), 2, 1),
    "resnet downsample": (128, 64, (1, 1), 2, 1),
    "imagenet head": (1000, 512, (1, 1), 1, 1),
    "resnext layer1": (128, 4, (3, 3), 1, 32),
}


def phases_of(kernel, stride):
    """All taps, last first, sorted by what remains of their place divided by the stride."""
    kh, kw = kernel
    return tuple(
        tuple(
            (a, b)
            for a in range(kh - 1, -1, -1)
            for b in range(kw)
            if (a % stride, b % stride) == p
        )
        for p in np.ndindex(stride, stride)
    )


def packed(w, block, groups, phases, swap):
    """The definition, element by element."""
    outer, inner = w.shape[0] // groups, w.shape[1]
    co, ci = (inner, outer) if swap else (outer, inner)
    out = []
    for phase in phases:
        for g in range(groups):
            for ob in range(-(-co // block)):
                for a, b in phase:
                    for i in range(ci):
                        for o in range(ob * block, ob * block + block):
                            row, col = (i, o) if swap else (o, i)
                            out.append(w[g * outer + row, col, a, b] if o < co else 0.0)
    return np.array(out, np.float32)


def weights(co, ci, kernel):
    return np.arange(1, co * ci * kernel[0] * kernel[1] + 1, dtype=np.float32).reshape(
        co, ci, *kernel
    )


def check_pack(case, swap):
    co, ci, kernel, stride, groups = case
    w = weights(co, ci, kernel)
    block = target.machine().block(ci if swap else co // groups)
    phases = phases_of(kernel, stride if swap else 1)
    want = pack_numpy(PackedWeights(block, groups, phases, swap), w)
    spec = PackWeights.for_channels(block, kernel, phases, swap, co // groups, ci)
    got = outcome(spec, [w, np.empty_like(want)], (groups, co // groups, ci), out=1)
    np.testing.assert_array_equal(got, want)


def check_unpack(case):
    co, ci, kernel, _, groups = case
    w = weights(co, ci, kernel)
    by_group = w.reshape(groups, co // groups, ci, *kernel)
    hwio = np.ascontiguousarray(by_group.transpose(0, 3, 4, 2, 1))
    got = outcome(UnpackHwio(kernel, groups, co // groups, ci), [hwio, np.empty_like(w)], (), out=1)
    np.testing.assert_array_equal(got, w)


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("case", SMALL)
def test_numpy_order_is_the_definition(case, swap):
    co, ci, kernel, stride, groups = case
    w = weights(co, ci, kernel)
    for block in (4, 16):
        layout = PackedWeights(block, groups, phases_of(kernel, stride), swap)
        flat = pack_numpy(layout, w)
        np.testing.assert_array_equal(flat, packed(w, block, groups, layout.phases, swap))
        assert flat.size == layout.elements(w.shape)
        np.testing.assert_array_equal(unpack_numpy(layout, flat, w.shape), w)


@pytest.mark.parametrize(
    "layout",
    [
        PLAIN,
        NHWC,
        Hwio(1),
        Hwio(3),
        PackedWeights(8, 3, ((),), False),
        PackedWeights(8, 1, (((0, 1),), ((0, 0),)), True),
    ],
    ids=str,
)
def test_memory_and_back(layout):
    x = np.arange(6 * 5 * 1 * 2, dtype=np.int32).reshape(6, 5, 1, 2)
    flat = to_memory(layout, x)
    assert flat.shape == (layout.elements(x.shape),)
    assert flat.dtype == np.int32
    again = from_memory(layout, flat, x.shape)
    np.testing.assert_array_equal(again, x if flat.size else np.zeros_like(x))


def test_image_and_gradient_orders():
    x = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    nhwc = to_memory(NHWC, x).reshape(2, 4, 5, 3)
    dw = np.arange(6 * 2 * 3 * 5).reshape(6, 2, 3, 5)
    hwio = to_memory(Hwio(2), dw).reshape(2, 3, 5, 2, 3)
    for n, c, h, w in np.ndindex(x.shape):
        assert nhwc[n, h, w, c] == x[n, c, h, w]
    for o, i, a, b in np.ndindex(dw.shape):
        assert hwio[o // 3, a, b, i, o % 3] == dw[o, i, a, b]


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("case", SMALL)
def test_pack_small_shapes(isa, case, swap):
    check_pack(case, swap)


@pytest.mark.parametrize("case", SMALL)
def test_unpack_small_shapes(isa, case):
    check_unpack(case)


@pytest.mark.parametrize("case", NETWORKS.values(), ids=NETWORKS)
def test_networks(isa, case):
    check_pack(case, False)
    check_pack(case, True)
    check_unpack(case)


@pytest.mark.parametrize("swap", [False, True])
def test_layers_of_many_widths_share_a_kernel(swap):
    shapes = [(64, 256), (2048, 512), (96, 32)]
    taps = phases_of((3, 3), 1)
    assert len({PackWeights.for_channels(32, (3, 3), taps, swap, *s) for s in shapes}) == 1


def test_swapped_weights_may_lack_taps(isa):
    w = weights(5, 9, (3, 3))
    phases = (((2, 1), (0, 1)), ())
    want = packed(w, 16, 1, phases, True)
    got = outcome(
        PackWeights.for_channels(16, (3, 3), phases, True, 5, 9),
        [w, np.empty_like(want)],
        (1, 5, 9),
        out=1,
    )
    np.testing.assert_array_equal(got, want)


def test_phases_that_do_not_fit_the_kernel():
    for phases, swap in [
        ((((0, 0),),), False),  # a tap is missing
        ((((0, 0), (0, 1), (0, 1)),), True),  # a tap occurs twice
        ((((0, 0), (0, 1), (1, 0)),), True),  # a tap lies outside
    ]:
        with pytest.raises(ValueError, match="do not share the taps"):
            PackWeights(16, (1, 2), phases, swap, 4, 4)


def test_block_must_hold_whole_vectors():
    spec = PackWeights(8, (1, 1), (((0, 0),),), False, 4, 4)
    with pytest.raises(ValueError, match="not a multiple of 16 lanes"):
        spec.emit(target.reference_machine("avx512"))


@pytest.mark.parametrize("name", ["avx512", "avx2", "sse2", "neon"])
def test_code_for_every_machine_calls_nothing(name):
    for swap in (False, True):
        spec = PackWeights.for_channels(32, (3, 3), phases_of((3, 3), 1), swap, 72, 80)
        assert calls(assembly(spec, name)) == []
    assert calls(assembly(UnpackHwio((3, 3), 1, 72, 80), name)) == []
