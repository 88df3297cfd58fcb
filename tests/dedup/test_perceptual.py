"""What an image looks like does not change with how it is stored, and does with what it shows."""

import io
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance
from sklearn.datasets import load_sample_images

from pipeline.data.decode import decode
from pipeline.dedup.perceptual import FLAT, code, codes, pixel_digest
from tests.data.pictures import encoded, photo

HEIGHT, WIDTH = 128, 160


@pytest.fixture(scope="module")
def photographs():
    """Two photographs, and pieces of them that share no pixel."""
    whole = list(load_sample_images().images)
    rows, columns = range(0, 427 - HEIGHT, HEIGHT), range(0, 640 - WIDTH + 1, WIDTH)
    pieces = [image[y : y + HEIGHT, x : x + WIDTH] for image in whole for y in rows for x in columns]
    assert len(pieces) == 24
    seen = [image for image in (*whole, *pieces) if code(image) != FLAT]
    assert len(seen) == 24  # two are of nothing but sky
    return seen


def as_jpeg(image, *, quality):
    return decode(encoded(image, "JPEG", quality=quality))


def scaled(image, factor):
    size = round(image.shape[1] * factor), round(image.shape[0] * factor)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def brightened(image, factor):
    return np.asarray(ImageEnhance.Brightness(Image.fromarray(image)).enhance(factor))


def grey(image):
    return np.asarray(Image.fromarray(image).convert("L").convert("RGB"))


def distance(one, other):
    return (code(one) ^ code(other)).bit_count()


@pytest.mark.parametrize(
    ("change", "most"),
    [
        (lambda image: as_jpeg(image, quality=75), 4),
        (lambda image: as_jpeg(image, quality=30), 12),
        (lambda image: scaled(image, 0.7), 2),
        (lambda image: scaled(image, 1.5), 2),
        (lambda image: scaled(image, 0.25), 2),  # 40 × 32 pixels of a piece
        (lambda image: brightened(image, 1.05), 4),  # some of the sky is white then
        (lambda image: brightened(image, 0.8), 2),
        (grey, 2),
        (lambda image: as_jpeg(scaled(brightened(image, 1.05), 0.7), quality=75), 6),
    ],
    ids=["jpeg 75", "jpeg 30", "x 0.7", "x 1.5", "x 0.25", "+ 5 %", "- 20 %", "grey", "all of them"],
)
def test_a_code_forgives_what_changes_no_picture(photographs, change, most):
    found = [distance(image, change(image)) for image in photographs]
    assert max(found) <= most, found
    assert np.mean(found) <= 2


def test_different_photographs_are_far_apart(photographs):
    found = [(a ^ b).bit_count() for a, b in itertools.combinations(codes(photographs).tolist(), 2)]
    assert min(found) >= 22
    assert np.median(found) == 32


def test_a_mirrored_or_turned_photograph_is_another(photographs):
    for image in photographs:
        assert distance(image, image[:, ::-1]) >= 20
        assert distance(image, np.rot90(image)) >= 16


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), height=st.integers(1, 90), width=st.integers(1, 90))
def test_a_code_is_flat_or_has_as_many_ones_as_noughts_whatever_the_size(seed, height, width):
    found = code(photo(seed, height=height, width=width))
    assert found == FLAT or found.bit_count() == 32


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (33, 31), (500, 7)])
def test_images_of_one_colour_are_flat(size):
    assert code(np.full((*size, 3), 200, np.uint8)) == FLAT


def test_an_image_with_hardly_any_contrast_is_flat_and_noise_is_not_taken_for_a_picture():
    noise = np.random.default_rng(0).integers(127, 130, (64, 64, 3), np.uint8)
    assert code(noise) == FLAT
    assert code(photo(0)) != FLAT


def test_pixels_repeated_are_the_same_picture():
    image = photo(3, height=32, width=32)
    assert code(image.repeat(3, axis=0).repeat(5, axis=1)) == code(image)


def test_a_code_stays_what_it_is():
    """Codes that are kept on storage are compared with those of later versions."""
    y, x = np.mgrid[:48, :64]
    image = (127 + 60 * np.sin(x / 9 + 0.3) * np.cos(y / 7) + x / 2).astype(np.uint8)
    assert code(np.stack([image, image // 2, 255 - image], axis=2)) == 0x3FC0C03FC03FC13E


def test_a_digest_is_of_the_pixels_not_of_the_file():
    image = photo(0)
    files = [encoded(image, "PNG"), encoded(image, "PNG", compress_level=1), encoded(image, "WEBP", lossless=True)]
    assert len({pixel_digest(decode(file)) for file in files}) == 1
    other = image.copy()
    other[5, 7, 1] ^= 1
    assert pixel_digest(other) != pixel_digest(image)
    assert pixel_digest(image.reshape(48, 40, 3)) != pixel_digest(image)
    assert pixel_digest(image[:, ::-1]) == pixel_digest(image[:, ::-1].copy())


def test_a_comment_in_a_jpeg_makes_it_no_other_image():
    plain, told = io.BytesIO(), io.BytesIO()
    Image.fromarray(photo(0)).save(plain, "JPEG")
    Image.fromarray(photo(0)).save(told, "JPEG", comment=b"from another mirror")
    assert plain.getvalue() != told.getvalue()
    assert pixel_digest(decode(plain.getvalue())) == pixel_digest(decode(told.getvalue()))
