from striate.arith.machine import Machine
from striate.arith.winograd import DIRECT, candidates

AVX512 = Machine("avx512", "x86_64", "znver4", "", 16, 32, fma=True, l2_bytes=2**20)


def best(images, out, ci=512, co=512):
    return candidates(images, out, ci, co, AVX512)[0].tile


def test_many_tiles_take_the_fewest_products():
    assert best(1, (56, 56), 64, 64) == 4
    assert best(16, (7, 7)) == 4


def test_few_tiles_take_the_smaller_weights():
    assert best(1, (7, 7)) == 2


def test_one_output_is_computed_directly():
    assert best(1, (1, 1)) == DIRECT


def test_few_channels_are_computed_directly():
    assert [way.tile for way in candidates(1, (56, 56), 3, 64, AVX512)] == [DIRECT]


def test_a_tile_that_the_image_does_not_fill_counts_whole():
    whole, cut = (candidates(1, (side, side), 64, 64, AVX512) for side in (8, 5))
    assert next(w for w in whole if w.tile == 4).cost == next(w for w in cut if w.tile == 4).cost
