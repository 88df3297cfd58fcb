"""Bytes become pixels, or a Corrupt with a reason; never anything else."""

import io
import struct
import zlib

import numpy as np
import pytest
from pictures import encoded, photo
from PIL import Image

from pipeline.data.decode import Corrupt, decode

PHOTO = photo(1, height=67, width=90)


def by_pillow(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_decodes_as_pillow_decodes_it(subsampling, progressive):
    data = encoded(PHOTO, quality=85, subsampling=subsampling, progressive=progressive)
    difference = decode(data).astype(int) - by_pillow(data)
    assert np.abs(difference).max() <= 2


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_png_and_lossless_webp_keep_every_pixel(kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    image = decode(encoded(PHOTO, kind, **options))
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, PHOTO)


def test_a_grey_jpeg_has_three_equal_channels():
    image = decode(encoded(Image.fromarray(PHOTO).convert("L"), quality=90))
    assert image.shape == PHOTO.shape
    assert (image == image[..., :1]).all()


def test_a_jpeg_of_four_colours_decodes_as_pillow_converts_it():
    data = encoded(Image.fromarray(PHOTO).convert("CMYK"), quality=90)
    np.testing.assert_array_equal(decode(data), by_pillow(data))


def test_of_a_stereo_jpeg_the_first_picture_counts():
    second = Image.fromarray(photo(2))
    data = encoded(PHOTO, "MPO", save_all=True, append_images=[second], quality=90)
    np.testing.assert_array_equal(decode(data), by_pillow(data))


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "1"])
def test_other_png_modes_become_rgb(mode):
    picture = Image.fromarray(PHOTO).convert(mode)
    np.testing.assert_array_equal(decode(encoded(picture, "PNG")), np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize("transparency", [None, 0, bytes(range(16))])
def test_a_palette_is_looked_up_with_or_without_transparency(transparency):
    picture = Image.fromarray(PHOTO).quantize(16)
    options = {} if transparency is None else {"transparency": transparency}
    np.testing.assert_array_equal(decode(encoded(picture, "PNG", **options)), np.asarray(picture.convert("RGB")))


def test_sixteen_bits_are_scaled_not_clipped():
    values = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
    np.testing.assert_array_equal(decode(encoded(values, "PNG"))[..., 1], values >> 8)


def test_an_exif_orientation_is_not_applied():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode(encoded(PHOTO, quality=90, exif=exif)).shape == PHOTO.shape


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.98])
def test_a_truncated_file_is_corrupt(kind, share):
    data = encoded(photo(2, height=200, width=200), kind)
    with pytest.raises(Corrupt):
        decode(data[: int(len(data) * share)])


@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff", b"GIF89a", b"not an image at all"])
def test_what_is_no_image_is_corrupt_and_says_why(data):
    with pytest.raises(Corrupt, match=r"is neither JPEG, PNG nor WebP|cannot be decoded"):
        decode(data)


def test_a_format_outside_the_list_is_corrupt():
    with pytest.raises(Corrupt, match="is neither JPEG, PNG nor WebP"):
        decode(encoded(PHOTO, "BMP"))


def bomb(side_px: int) -> bytes:
    """A PNG whose header promises a large square, and which holds next to nothing."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", side_px, side_px, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side_px", [9_000, 12_000, 60_000])  # over our limit; where Pillow warns; where it refuses
def test_a_bomb_is_refused_by_its_header(side_px):
    with pytest.raises(Corrupt, match=r"over the limit|exceeds limit"):
        decode(bomb(side_px))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_the_limit_is_the_callers(kind):
    data = encoded(PHOTO, kind)
    assert decode(data, max_pixels=67 * 90).shape == PHOTO.shape
    with pytest.raises(Corrupt, match="90 × 67 is over the limit of 6029 pixels"):
        decode(data, max_pixels=67 * 90 - 1)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_damage_anywhere_gives_an_image_or_corrupt(kind):
    data, generator = encoded(PHOTO, kind), np.random.default_rng(3)
    for _ in range(300):
        damaged = bytearray(data)
        for _ in range(generator.integers(1, 4)):
            damaged[generator.integers(0, min(len(data), 700))] = generator.integers(0, 256)
        try:
            image = decode(bytes(damaged), max_pixels=1 << 20)
        except Corrupt:
            continue
        assert image.ndim == 3
        assert image.shape[2] == 3
