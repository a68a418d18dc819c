from striate.arith.machine import Machine
from striate.arith.winograd import DIRECT, MOST_TAPS, candidates, tiles

AVX512 = Machine("avx512", "x86_64", "znver4", "", 16, 32, fma=True, l2_bytes=2**20)


def best(images, out, ci=512, co=512, kernel=3, stride=1):
    return candidates(images, out, ci, co, AVX512, kernel, stride)[0].tile


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


def test_a_strided_stem_counts_the_channels_of_its_phases():
    assert best(1, (112, 112), 3, 64, 7, 2) == 4
    assert best(1, (112, 112), 1, 64, 7, 2) == DIRECT


def test_a_stride_of_3x3_pays_while_tiles_fill_the_image():
    assert best(1, (28, 28), 64, 128, 3, 2) == 4
    assert best(1, (7, 7), 256, 512, 3, 2) == DIRECT
    assert best(1, (112, 112), 3, 32, 3, 2) == DIRECT


def test_more_taps_take_smaller_tiles():
    assert best(1, (28, 28), 64, 64, 5) == 3
    assert tiles(3, 1) == tiles(7, 2) == (4, 2)
    assert min(tiles(MOST_TAPS, 1)) == 2


def test_a_cost_is_its_sum():
    """F(4×4, 7×7/2): 49 points, 28² tiles, 12 channels of phases in a vector of 16."""
    ways = {w.tile: w.cost for w in candidates(1, (112, 112), 3, 64, AVX512, 7, 2)}
    assert ways[4] == 49 * 28**2 * (12 * 64 + 8 * (16 + 64))
    assert ways[DIRECT] == 49 * 112**2 * 3 * 64 * 5 // 6


def test_taps_that_are_left_out_cost_nothing():
    """4 pixels with 4 of 9 taps each, for 2 images of 16 channels."""
    ways = {w.tile: w.work for w in candidates(2, (2, 2), 16, 16, AVX512, met=16)}
    assert ways[DIRECT] == 2 * 16 * 16 * 16 * 5 // 6
    rest = {w.tile: w.work for w in candidates(2, (2, 2), 16, 16, AVX512)}
    assert rest[DIRECT] == 2 * 4 * 9 * 16 * 16 * 5 // 6
    assert ways[2] == rest[2]
