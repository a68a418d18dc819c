"""The traps between frameworks, one test each, with numbers worked out by hand or by NumPy.

Those of ONNX's operators are in test_onnx_traps.py, those of Keras's files in test_io_keras.py.
"""

import numpy as np
import pytest

import striate as st
import striate.functional as F
from striate import nn
from striate.errors import ArgumentError, ShapeError

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def row(*numbers):
    """An image of one row."""
    return np.array(numbers, np.float32).reshape(1, 1, 1, -1)


# -- convolution ---------------------------------------------------------------------------------


def test_convolution_is_cross_correlation_unless_asked_otherwise():
    x, w = row(1, 2, 3, 4), row(1, 10, 100)
    np.testing.assert_array_equal(F.conv2d(x, w), row(321, 432))
    np.testing.assert_array_equal(F.conv2d(x, w, flip_kernel=True), row(123, 234))


def test_a_true_convolution_turns_the_kernel_on_both_axes():
    x, w = normal(1, 2, 6, 7), normal(3, 2, 3, 2)
    expected = F.conv2d(x, np.ascontiguousarray(w[:, :, ::-1, ::-1]))
    np.testing.assert_array_equal(F.conv2d(x, w, flip_kernel=True), expected)


def test_same_padding_puts_the_odd_element_at_the_end():
    np.testing.assert_array_equal(F.conv2d(row(1, 2, 3), row(1, 1), padding="same"), row(3, 5, 3))


def test_same_padding_with_a_stride_gives_the_size_over_the_stride_rounded_up():
    for size, stride in ((5, 2), (6, 2), (7, 3), (1, 2)):
        y = F.conv2d(normal(1, 1, size, size), normal(1, 1, 3, 3), stride=stride, padding="same")
        assert y.shape[2:] == (-(-size // stride),) * 2


def test_same_padding_of_a_stride_depends_on_the_size_of_the_image():
    w = row(1, 2, 3)
    # 5 elements: one zero on each side; 6 elements: one at the end only.
    np.testing.assert_array_equal(
        F.conv2d(row(1, 1, 1, 1, 1), w, stride=2, padding="same"), row(5, 6, 3)
    )
    np.testing.assert_array_equal(
        F.conv2d(row(1, 1, 1, 1, 1, 1), w, stride=2, padding="same"), row(6, 6, 3)
    )


def test_stride_and_dilation_go_together():
    x, w = row(1, 2, 3, 4, 5, 6, 7), row(1, 10)
    y = F.conv2d(x, w, stride=(1, 2), dilation=(1, 3))
    np.testing.assert_array_equal(y, row(41, 63))


def test_padding_modes_other_than_zeros():
    x, w = row(1, 2, 3), row(1, 0, 0)
    for mode, first in (("zeros", 0), ("reflect", 2), ("replicate", 1), ("circular", 3)):
        y = F.conv2d(x, w, padding=((0, 0), (1, 1)), padding_mode=mode)
        np.testing.assert_array_equal(y, row(first, 1, 2))


def test_padding_may_differ_on_every_side():
    y = F.conv2d(np.ones((1, 1, 2, 2)), np.ones((1, 1, 1, 1)), padding=((1, 0), (0, 2)))
    assert y.shape == (1, 1, 3, 4)
    assert y[0, 0].tolist() == [[0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0]]


# -- transposed convolution ----------------------------------------------------------------------


def test_size_of_a_transposed_convolution():
    # (n − 1)·s − 2p + d(k − 1) + output_padding + 1
    y = F.conv_transpose2d(
        normal(1, 2, 4, 4), normal(2, 3, 3, 3), stride=3, padding=1, output_padding=2, dilation=2
    )
    assert y.shape == (1, 3, 14, 14)


def test_output_padding_must_be_smaller_than_stride_or_dilation():
    x, w = normal(1, 1, 4, 4), normal(1, 1, 3, 3)
    with pytest.raises(ArgumentError, match="output_padding"):
        F.conv_transpose2d(x, w, stride=2, output_padding=2)
    assert F.conv_transpose2d(x, w, stride=1, output_padding=1, dilation=2).shape == (1, 1, 9, 9)


def test_weights_of_a_transposed_convolution_have_the_inputs_first():
    y = F.conv_transpose2d(normal(1, 4, 3, 3), normal(4, 5, 2, 2), groups=2)
    assert y.shape[1] == 10


# -- pooling -------------------------------------------------------------------------------------


def test_max_pooling_pads_with_minus_infinity_not_zero():
    y = F.max_pool2d(-np.ones((1, 1, 2, 2)), 3, 1, 1)
    np.testing.assert_array_equal(y, -np.ones((1, 1, 2, 2)))


def test_padding_of_more_than_half_a_window_is_refused():
    with pytest.raises(ArgumentError, match="at most 1"):
        F.max_pool2d(normal(1, 1, 6, 6), 3, 1, 2)


def test_indices_of_max_pooling_count_in_their_plane():
    x = np.arange(32, dtype=np.float32).reshape(2, 1, 4, 4)
    _, indices = F.max_pool2d(x, 2, return_indices=True)
    np.testing.assert_array_equal(indices, [[[[5, 7], [13, 15]]]] * 2)


def test_a_nan_in_a_window_wins():
    y = F.max_pool2d(row(1, np.nan, 3, 4), (1, 2))
    assert np.isnan(y[0, 0, 0, 0])
    assert y[0, 0, 0, 1] == 4


def test_ceil_mode_drops_a_window_that_would_start_in_the_end_padding():
    # 3 elements, window 2, stride 2, padding 1: ⌈(3 + 2 − 2) / 2⌉ + 1 = 3, but the third would
    # start at 4, behind the last element and its padding.
    assert F.max_pool2d(row(1, 2, 3), (1, 2), (1, 2), (0, 1), ceil_mode=True).shape[3] == 2


def test_average_pooling_counts_padding_by_default():
    x = np.ones((1, 1, 2, 2))
    assert F.avg_pool2d(x, 2, 2, 1)[0, 0, 0, 0] == 0.25
    assert F.avg_pool2d(x, 2, 2, 1, count_include_pad=False)[0, 0, 0, 0] == 1


def test_ceil_mode_divides_by_the_part_of_the_window_that_is_padded_at_most():
    # The last window of 3 has one element and no padding behind it: divided by 1, not by 3.
    y = F.avg_pool2d(row(1, 2, 3, 9), (1, 3), (1, 3), ceil_mode=True)
    np.testing.assert_array_equal(y, row(2, 9))


def test_the_divisor_can_be_prescribed():
    np.testing.assert_array_equal(
        F.avg_pool2d(row(1, 2, 3, 4), (1, 2), divisor_override=4), row(0.75, 1.75)
    )


def test_bins_of_adaptive_pooling_overlap():
    # bin i = [⌊i·5/3⌋, ⌈(i + 1)·5/3⌉) = [0, 2), [1, 4), [3, 5)
    y = F.adaptive_avg_pool2d(row(1, 2, 3, 4, 5), (1, 3))
    np.testing.assert_allclose(y, row(1.5, 3, 4.5))


def test_adaptive_pooling_keeps_a_size_of_none():
    assert F.adaptive_max_pool2d(normal(1, 1, 5, 7), (None, 3)).shape == (1, 1, 5, 3)


def test_power_average_pooling_takes_powers_not_absolute_values():
    # (−1)³ + 2³ = 7; ONNX's |x|³ would give 9.
    np.testing.assert_allclose(F.lp_pool2d(row(-1, 2), 3, (1, 2)), row(7 ** (1 / 3)), rtol=1e-6)


# -- batch normalisation -------------------------------------------------------------------------


def test_eps_of_batch_norm_is_pytorchs():
    assert nn.BatchNorm2d(1).eps == 1e-5


def trained_once(layer, x):
    """The running statistics after one pass in training."""
    step = st.compile_step(layer, loss=lambda y, _: y.mean(), optimizer=st.optim.SGD(lr=0.0))
    step(x, np.zeros(len(x), np.int64))
    return layer.state_dict()


def test_momentum_weighs_the_new_statistics():
    x = normal(8, 3, 4, 4) + 5
    state = trained_once(nn.BatchNorm2d(3, momentum=0.3), x)
    np.testing.assert_allclose(state["running_mean"], 0.3 * x.mean((0, 2, 3)), rtol=1e-5)


def test_momentum_none_is_the_mean_of_all_batches():
    layer = nn.BatchNorm2d(2, momentum=None)
    step = st.compile_step(layer, loss=lambda y, _: y.mean(), optimizer=st.optim.SGD(lr=0.0))
    batches = [normal(4, 2, 3, 3) + i for i in range(3)]
    for x in batches:
        step(x, np.zeros(4, np.int64))
    expected = np.mean([x.mean((0, 2, 3)) for x in batches], 0)
    np.testing.assert_allclose(layer.state_dict()["running_mean"], expected, rtol=1e-5)


def test_the_running_variance_is_unbiased_and_normalisation_is_not():
    x = normal(2, 1, 1, 3)
    state = trained_once(nn.BatchNorm2d(1, momentum=1.0), x)
    np.testing.assert_allclose(state["running_var"], [x.var(ddof=1)], rtol=1e-5)
    y = F.batch_norm(x, None, None, training=True)
    np.testing.assert_allclose(y, (x - x.mean()) / np.sqrt(x.var() + 1e-5), rtol=1e-4, atol=1e-6)


def test_without_running_statistics_the_batch_counts_in_evaluation_too():
    layer = nn.BatchNorm2d(2, track_running_stats=False).eval()
    x = normal(4, 2, 3, 3) + 7
    np.testing.assert_allclose(layer(x).mean((0, 2, 3)), 0, atol=1e-5)


def test_files_without_the_count_of_batches_load():
    layer = nn.BatchNorm2d(2)
    state = {k: v for k, v in layer.state_dict().items() if k != "num_batches_tracked"}
    layer.load_state_dict(state)
    assert layer.state_dict()["num_batches_tracked"] == 0


def test_one_value_for_each_channel_is_an_error_that_names_the_layer():
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(4), nn.Flatten())
    step = st.compile_step(net, optimizer=st.optim.SGD(lr=0.1))
    with pytest.raises(ShapeError, match=r"1: .*value"):
        step(normal(1, 4, 1, 1), np.zeros(1, np.int64))


def test_eps_of_zero_is_refused_in_training():
    with pytest.raises(ArgumentError, match="eps"):
        F.batch_norm(normal(2, 1, 2, 2), None, None, training=True, eps=0.0)


@pytest.mark.parametrize(
    "arguments",
    [{"eps": 0.5}, {"momentum": 0.9}, {"affine": False}, {"track_running_stats": False}],
)
def test_every_argument_of_batch_norm_has_an_effect(arguments):
    def outcome(layer):
        if hasattr(layer, "weight") and layer.weight is not None:
            layer.weight.assign(np.array([2.0, 3.0]))
        x = np.random.default_rng(1).standard_normal((4, 2, 3, 3)).astype(np.float32)
        if list(layer.parameters()):
            trained_once(layer, x)
        return np.concatenate(
            [layer.eval()(x).ravel(), *map(np.ravel, layer.state_dict().values())]
        )

    plain, other = outcome(nn.BatchNorm2d(2)), outcome(nn.BatchNorm2d(2, **arguments))
    assert plain.shape != other.shape or not np.allclose(plain, other)


# -- the rest ------------------------------------------------------------------------------------


def test_nearest_rounds_down_and_nearest_exact_to_the_nearest():
    x = row(0, 1, 2, 3, 4)
    np.testing.assert_array_equal(F.interpolate(x, (1, 3)), row(0, 1, 3))
    np.testing.assert_array_equal(F.interpolate(x, (1, 3), mode="nearest-exact"), row(0, 2, 4))


def test_softmax_without_an_axis_takes_the_channels_of_images():
    np.testing.assert_allclose(F.softmax(normal(2, 3, 4, 4)).sum(1), 1, rtol=1e-5)


def test_weights_of_a_dense_layer_have_the_outputs_first():
    assert nn.Linear(4, 3).weight.shape == (3, 4)


def test_an_image_without_its_batch_axis_is_refused_with_the_way_on():
    with pytest.raises(ShapeError, match=r"x\[None\]"):
        F.conv2d(normal(3, 4, 4), normal(1, 3, 1, 1))
