"""Which part of the network's input one element of a feature map can see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from striate.arith.padding import Pair, dilated


@dataclass(frozen=True)
class ReceptiveField:
    """Output (i, j) sees the input rows offset[0] + i·stride[0] … + size[0] - 1; columns alike.

    All fields are (height, width) in input pixels. `offset` may be negative (padding). A stride
    of 0 means that every output sees the same part, as after a global pooling.
    """

    size: Pair = (1, 1)
    stride: Pair = (1, 1)
    offset: Pair = (0, 0)

    @staticmethod
    def whole(h: int, w: int) -> ReceptiveField:
        """Every output sees the whole image, as after global pooling or a dense layer."""
        return ReceptiveField((h, w), (0, 0), (0, 0))

    def then(
        self,
        kernel: Pair,
        stride: Pair = (1, 1),
        padding_begin: Pair = (0, 0),
        dilation: Pair = (1, 1),
    ) -> ReceptiveField:
        """The field after a convolution or pooling on top of this one.

        size' = size + (k_d - 1)·stride;  offset' = offset - p·stride;  stride' = stride·s
        """
        (h, w), (sh, sw), (oh, ow) = self.size, self.stride, self.offset
        return ReceptiveField(
            (
                h + (dilated(kernel[0], dilation[0]) - 1) * sh,
                w + (dilated(kernel[1], dilation[1]) - 1) * sw,
            ),
            (sh * stride[0], sw * stride[1]),
            (oh - padding_begin[0] * sh, ow - padding_begin[1] * sw),
        )


def merge(branches: Sequence[ReceptiveField]) -> ReceptiveField | None:
    """The field of a sum or concatenation of branches: from the first start to the last stop.

    Along an axis where some branch has stride 0, everything is seen from everywhere and that
    branch stands for all. None when strides differ otherwise, for then no one stride is true.
    """
    rows = _merge_axis([(b.size[0], b.stride[0], b.offset[0]) for b in branches])
    cols = _merge_axis([(b.size[1], b.stride[1], b.offset[1]) for b in branches])
    if rows is None or cols is None:
        return None
    return ReceptiveField((rows[0], cols[0]), (rows[1], cols[1]), (rows[2], cols[2]))


def _merge_axis(fields: list[tuple[int, int, int]]) -> tuple[int, int, int] | None:
    if any(stride == 0 for _, stride, _ in fields):
        fields = [field for field in fields if field[1] == 0]
    if len({stride for _, stride, _ in fields}) != 1:
        return None
    start = min(offset for _, _, offset in fields)
    stop = max(offset + size for size, _, offset in fields)
    return stop - start, fields[0][1], start
