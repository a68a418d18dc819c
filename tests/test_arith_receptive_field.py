"""Receptive fields against the set of pixels that really reach an output."""

import pytest

from striate.arith.receptive_field import ReceptiveField, merge

LAYERS = [  # (kernel, stride, padding, dilation) along the height
    [(3, 1, 1, 1), (3, 2, 1, 1)],
    [(7, 2, 3, 1), (3, 2, 1, 1), (3, 1, 1, 1), (3, 1, 2, 2)],
    [(2, 2, 0, 1), (1, 1, 0, 1), (5, 3, 0, 2)],
]


def pixels(layers, output):
    seen = {output}
    for kernel, stride, padding, dilation in reversed(layers):
        seen = {o * stride - padding + t * dilation for o in seen for t in range(kernel)}
    return min(seen), max(seen)


@pytest.mark.parametrize("layers", LAYERS)
def test_composition_equals_walking_back(layers):
    field = ReceptiveField()
    for kernel, stride, padding, dilation in layers:
        field = field.then((kernel, 1), (stride, 1), (padding, 0), (dilation, 1))
    for output in range(4):
        first, last = pixels(layers, output)
        assert first == field.offset[0] + output * field.stride[0]
        assert last == first + field.size[0] - 1
    assert (field.size[1], field.stride[1], field.offset[1]) == (1, 1, 0)


def test_merging_takes_the_first_start_and_the_last_stop():
    narrow = ReceptiveField((1, 1), (2, 2), (0, 0))
    shifted = ReceptiveField((5, 3), (2, 2), (-1, -4))
    assert merge([narrow, shifted]) == ReceptiveField((5, 5), (2, 2), (-1, -4))


def test_a_branch_that_sees_everything_stands_for_all():
    whole = ReceptiveField.whole(32, 48)
    local = ReceptiveField((3, 3), (1, 1), (-1, -1))
    assert merge([local, whole]) == whole


def test_branches_of_different_strides_have_no_common_field():
    assert merge([ReceptiveField(), ReceptiveField(stride=(2, 1))]) is None
