"""Reading pictures: every mode and format, orientation, and hostile files."""

import os
import struct
import threading
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from striate.data import read_image
from striate.data.picture import MAX_PIXELS, from_array, read_header
from striate.errors import ArgumentError, DataError


def noise(*shape, dtype=np.uint8, seed=0):
    top = np.iinfo(dtype).max
    return np.random.default_rng(seed).integers(0, top, shape, dtype=dtype, endpoint=True)


def luma(rgb):
    # ITU-R BT.601 in float64, rounded
    return np.rint(rgb.astype(np.float64) @ [0.299, 0.587, 0.114])


def on_white(colour, alpha):
    a = alpha.astype(np.float64)[..., None] / 255
    return np.rint(colour * a + 255 * (1 - a))


def saved(tmp_path, image, name, **options):
    path = tmp_path / name
    image.save(path, **options)
    return path


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_declaring(width, height):
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 100)
    chunks = [(b"IHDR", head), (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


# ------------------------------------------------------------------------ lossless formats


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tiff", "a.webp", "a.ppm"])
def test_colour_is_read_exactly(tmp_path, name):
    rgb = noise(7, 5, 3)
    options = {"lossless": True} if name == "a.webp" else {}
    path = saved(tmp_path, Image.fromarray(rgb), name, **options)
    got = read_image(path, 3)
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, rgb)


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.pgm"])
def test_grey_is_read_exactly_and_repeated_to_colour(tmp_path, name):
    grey = noise(7, 5)
    path = saved(tmp_path, Image.fromarray(grey), name)
    np.testing.assert_array_equal(read_image(path, 1), grey[..., None])
    np.testing.assert_array_equal(read_image(path, 3), np.stack([grey] * 3, axis=-1))


def test_colour_becomes_grey_by_bt601(tmp_path):
    rgb = noise(40, 50, 3)
    got = read_image(saved(tmp_path, Image.fromarray(rgb), "a.png"), 1)
    assert got.shape == (40, 50, 1)
    assert np.abs(got[..., 0] - luma(rgb)).max() <= 1  # integer weights may round a tie apart
    np.testing.assert_array_equal(got[..., 0], np.asarray(Image.fromarray(rgb).convert("L")))


def test_a_jpeg_is_close_to_what_was_saved(tmp_path):
    ramp = np.repeat(np.arange(0, 256, 8, dtype=np.uint8)[None], 32, axis=0)
    path = saved(tmp_path, Image.fromarray(ramp), "a.jpg", quality=95)
    assert np.abs(read_image(path, 1)[..., 0].astype(int) - ramp).max() <= 4


def test_one_bit_pictures_are_black_and_white(tmp_path):
    bits = noise(9, 11) > 128
    for name in ("a.png", "a.bmp", "a.tif"):
        got = read_image(saved(tmp_path, Image.fromarray(bits), name), 1)
        assert got.dtype == np.uint8
        np.testing.assert_array_equal(got[..., 0], np.where(bits, 255, 0))


# ------------------------------------------------------------------------ alpha and palettes


def test_alpha_lies_on_white(tmp_path):
    rgba = noise(12, 13, 4)
    got = read_image(saved(tmp_path, Image.fromarray(rgba), "a.png"), 3)
    np.testing.assert_array_equal(got, on_white(rgba[..., :3], rgba[..., 3]))


def test_black_ink_on_transparent_ground_stays_visible(tmp_path):
    image = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    image.putpixel((1, 2), (0, 0, 0, 255))
    expected = np.full((4, 4, 1), 255)
    expected[2, 1] = 0
    np.testing.assert_array_equal(read_image(saved(tmp_path, image, "a.png"), 1), expected)


def test_grey_with_alpha(tmp_path):
    la = noise(6, 8, 2)
    got = read_image(saved(tmp_path, Image.fromarray(la, "LA"), "a.png"), 1)
    np.testing.assert_array_equal(got, on_white(la[..., :1], la[..., 1]))


def test_a_palette_is_looked_up(tmp_path):
    index = noise(6, 8) % 4
    colours = noise(4, 3, seed=1)
    image = Image.fromarray(index, "P")
    image.putpalette(colours.tobytes())
    for name in ("a.png", "a.bmp", "a.tif"):
        got = read_image(saved(tmp_path, image, name), 3)
        np.testing.assert_array_equal(got, colours[index])


@pytest.mark.parametrize("transparency", [2, bytes((255, 128, 0, 10))])
def test_a_palette_may_be_transparent(tmp_path, transparency):
    index = noise(6, 8) % 4
    colours = noise(4, 3, seed=1)
    alpha = np.full(4, 255, np.uint8)
    if transparency == 2:
        alpha[2] = 0
    else:
        alpha[:] = list(transparency)
    image = Image.fromarray(index, "P")
    image.putpalette(colours.tobytes())
    path = saved(tmp_path, image, "a.png", transparency=transparency)
    np.testing.assert_array_equal(read_image(path, 3), on_white(colours[index], alpha[index]))


def test_one_colour_of_an_rgb_png_may_be_transparent(tmp_path):
    rgb = noise(4, 4, 3)
    path = saved(tmp_path, Image.fromarray(rgb), "a.png", transparency=tuple(map(int, rgb[1, 2])))
    rgb[1, 2] = 255
    np.testing.assert_array_equal(read_image(path, 3), rgb)


def test_cmyk_becomes_rgb(tmp_path):
    image = Image.new("CMYK", (8, 8), (255, 0, 0, 0))  # cyan
    np.testing.assert_array_equal(
        read_image(saved(tmp_path, image, "a.tif"), 3), np.full((8, 8, 3), (0, 255, 255))
    )
    jpeg = read_image(saved(tmp_path, image, "a.jpg", quality=100), 3).astype(int)
    assert np.abs(jpeg - (0, 255, 255)).max() <= 3


# ------------------------------------------------------------------------ 16 bits and floats


def test_16_bit_grey_is_scaled_and_not_clipped(tmp_path):
    deep = noise(9, 7, dtype=np.uint16)
    deep[0, 0], deep[0, 1] = 65535, 256
    expected = (deep / 65535.0)[..., None]
    for name in ("a.png", "a.tif"):
        got = read_image(saved(tmp_path, Image.fromarray(deep), name), 1)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, expected, rtol=1e-7, atol=0)
    big_endian = tmp_path / "a.pgm"
    big_endian.write_bytes(b"P5\n7 9\n65535\n" + deep.astype(">u2").tobytes())
    np.testing.assert_allclose(read_image(big_endian, 1), expected, rtol=1e-7, atol=0)
    assert read_image(big_endian, 3).shape == (9, 7, 3)


def test_32_bit_integers_of_16_bit_range_are_16_bit(tmp_path):
    deep = noise(5, 6, dtype=np.uint16).astype(np.int32)
    got = read_image(saved(tmp_path, Image.fromarray(deep), "a.tif"), 1)
    np.testing.assert_allclose(got[..., 0], deep / 65535.0, rtol=1e-7, atol=0)


@pytest.mark.parametrize("value", [-1, 65536])
def test_integers_of_unknown_range_are_refused(tmp_path, value):
    path = saved(tmp_path, Image.fromarray(np.full((2, 2), value, np.int32)), "a.tif")
    with pytest.raises(DataError, match=rf"a\.tif: integer samples run from {value} to {value}"):
        read_image(path, 1)


def test_a_float_tiff_is_taken_as_it_is(tmp_path):
    values = np.array([[0.0, 0.25], [1.0, -3.5]], np.float32)
    path = saved(tmp_path, Image.fromarray(values), "a.tif")
    np.testing.assert_array_equal(read_image(path, 1)[..., 0], values)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_float_tiff_with_nan_or_infinity_is_refused(tmp_path, value):
    values = np.zeros((3, 3), np.float32)
    values[1, 1] = value
    path = saved(tmp_path, Image.fromarray(values), "a.tif")
    with pytest.raises(DataError, match=r"a\.tif: the picture holds NaN or infinity"):
        read_image(path, 1)


# ------------------------------------------------------------------------ orientation


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_of_a_camera_is_applied(tmp_path, name, orientation):
    image = Image.fromarray(noise(6, 9, 3))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, image, name, exif=exif)
    with Image.open(path) as stored:
        expected = np.asarray(ImageOps.exif_transpose(stored).convert("RGB"))
    assert expected.shape == ((9, 6, 3) if orientation >= 5 else (6, 9, 3))
    np.testing.assert_array_equal(read_image(path, 3), expected)
    header = read_header(path)
    assert (header.height, header.width) == expected.shape[:2]


def test_orientation_6_turns_a_quarter_to_the_right(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    grey = noise(3, 5)
    path = saved(tmp_path, Image.fromarray(grey), "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(path, 1)[..., 0], np.rot90(grey, -1))


def test_damaged_exif_data_do_not_spoil_the_picture(tmp_path):
    grey = noise(16, 8)
    path = saved(tmp_path, Image.fromarray(grey), "a.jpg", exif=b"Exif\0\0MM\0*\0\0\xff\xff\xff")
    assert read_image(path, 1).shape == (16, 8, 1)


# ------------------------------------------------------------------------ hostile files


def refuses(path, *words):
    with pytest.raises(DataError) as caught:
        read_image(path, 3)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    for word in words:
        assert word in text


def test_missing_empty_and_special_files(tmp_path):
    refuses(tmp_path / "none.png", "No such file")
    (tmp_path / "empty.png").touch()
    refuses(tmp_path / "empty.png", "empty")
    refuses(tmp_path, "no regular file")
    os.mkfifo(tmp_path / "pipe.png")  # opening it would wait for ever
    refuses(tmp_path / "pipe.png", "no regular file")


@pytest.mark.parametrize(
    "content",
    [
        b"just some text, renamed",
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff",
        b"BM" + b"\xff" * 60,
        b"II*\0" + b"\xff" * 60,
        b"RIFF\x10\0\0\0WEBPVP8 ",
        b"P5\n-3 4\n255\n",
        b"P5\n0 0\n255\n",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"\0" * 100,
    ],
)
def test_what_is_no_picture_is_refused(tmp_path, content):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    refuses(path)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.bmp", "a.tif", "a.webp", "a.ppm"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_truncated_picture_is_refused(tmp_path, name, share):
    path = saved(tmp_path, Image.fromarray(noise(64, 64, 3)), name)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    refuses(path)


def test_flipped_bytes_give_an_error_or_a_picture_but_nothing_else(tmp_path):
    rng = np.random.default_rng(3)
    for name in ("a.jpg", "a.png", "a.tif", "a.webp", "a.bmp"):
        path = saved(tmp_path, Image.fromarray(noise(24, 20, 3)), name)
        whole = np.frombuffer(path.read_bytes(), np.uint8)
        for _ in range(40):
            damaged = whole.copy()
            damaged[rng.integers(0, min(len(whole), 200), 4)] = noise(4, seed=rng.integers(1e9))
            path.write_bytes(damaged.tobytes())
            try:
                got = read_image(path, 3)
            except DataError as error:
                assert str(error).startswith(f"{path}: ")  # noqa: PT017  either is right
            else:
                assert got.dtype in {np.dtype(np.uint8), np.dtype(np.float32)}


def test_a_huge_declared_size_is_refused_before_decoding(tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_declaring(100_000, 100_000))
    refuses(path, f"{MAX_PIXELS:,} pixels")
    with pytest.raises(DataError, match="pixels"):
        read_header(path)


def test_our_limit_holds_when_pillows_is_switched_off(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    path = tmp_path / "bomb.png"
    path.write_bytes(png_declaring(20_000, 10_000))
    refuses(path, "20000 × 10000")


def test_pillows_warnings_do_not_reach_the_user(tmp_path):
    path = tmp_path / "large.png"
    path.write_bytes(png_declaring(10_000, 10_000))
    with pytest.warns(Image.DecompressionBombWarning), Image.open(path):
        pass  # Pillow alone does warn
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        before = list(warnings.filters)
        assert read_header(path).width == 10_000
        threads = [threading.Thread(target=read_header, args=(path,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert warnings.filters == before
    assert seen == []


def test_channels_other_than_1_or_3_are_refused(tmp_path):
    path = saved(tmp_path, Image.fromarray(noise(2, 2)), "a.png")
    with pytest.raises(ArgumentError, match="channels is 2"):
        read_image(path, 2)


# ------------------------------------------------------------------------ heads and arrays


@pytest.mark.parametrize(
    ("mode", "colour"), [("1", False), ("L", False), ("LA", False), ("RGB", True), ("RGBA", True)]
)
def test_the_head_tells_size_and_colour(tmp_path, mode, colour):
    header = read_header(saved(tmp_path, Image.new(mode, (5, 7)), "a.png"))
    assert (header.height, header.width, header.colour) == (7, 5, colour)


def test_the_head_of_a_palette_picture_tells_whether_it_is_grey(tmp_path):
    image = Image.new("P", (4, 4))
    image.putpalette([10, 10, 10, 200, 200, 200])
    assert not read_header(saved(tmp_path, image, "grey.png")).colour
    image.putpalette([10, 10, 10, 200, 100, 200])
    assert read_header(saved(tmp_path, image, "colour.png")).colour


def test_arrays_follow_the_rules_of_files(tmp_path):
    rgba = noise(6, 4, 4)
    path = saved(tmp_path, Image.fromarray(rgba), "a.png")
    for channels in (1, 3):
        np.testing.assert_array_equal(from_array(rgba, channels), read_image(path, channels))
    deep = noise(6, 4, dtype=np.uint16)
    path = saved(tmp_path, Image.fromarray(deep), "b.png")
    np.testing.assert_array_equal(from_array(deep, 1), read_image(path, 1))
    np.testing.assert_array_equal(from_array(deep.astype(">u2"), 1), read_image(path, 1))


def test_float_arrays_with_alpha_and_colour():
    rgba = np.random.default_rng(0).random((5, 4, 4))
    colour = rgba[..., :3] * rgba[..., 3:] + 1 - rgba[..., 3:]
    np.testing.assert_allclose(from_array(rgba, 3), colour, rtol=1e-6)
    np.testing.assert_allclose(
        from_array(rgba, 1)[..., 0], colour @ [0.299, 0.587, 0.114], rtol=1e-6
    )


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((3, 8, 8), np.uint8),
        np.zeros(5, np.uint8),
        np.zeros((0, 4), np.uint8),
        np.zeros((4, 4), np.int32),
        np.zeros((4, 4), complex),
        np.full((2, 2), 1e300),
    ],
    ids=["CHW", "1-d", "empty", "int32", "complex", "beyond float32"],
)
def test_arrays_that_are_no_pictures_are_refused(array):
    with pytest.raises(DataError):
        from_array(array, 1)
