"""A box decoded alone is the box of the image decoded whole, and bytes that are no image do no harm."""

import numpy as np
import pytest
from pictures import encoded, photo
from PIL import Image

from pipeline.data import augment, jpeg_crop, seen
from pipeline.data.decode import Corrupt, decode
from pipeline.data.jpeg_crop import decode_box
from pipeline.data.view import EvalView, TrainView, apply

built = pytest.mark.skipif(
    not jpeg_crop.is_built(),
    reason="LOUD SKIP: pipeline/data/jpeg_crop.c was not built; install libjpeg62-turbo-dev and run `make setup` anew",
)


def draw_jpeg(draw: np.random.Generator, *, most_px: int = 300) -> bytes:
    """Any size, quality, subsampling; grey and progressive ones too."""
    height, width = (int(side) for side in draw.integers(1, most_px, 2))
    coarse = draw.integers(0, 256, (max(1, height // 6), max(1, width // 6), 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    image = image.convert("L") if draw.random() < 0.15 else image
    about = {"quality": int(draw.integers(30, 100)), "subsampling": int(draw.integers(0, 3))}
    return encoded(image, "JPEG", progressive=bool(draw.integers(0, 2)), **about)


def draw_box(draw: np.random.Generator, image: np.ndarray) -> dict[str, int]:
    height, width = (int(draw.integers(1, side + 1)) for side in image.shape[:2])
    top, left = (
        int(draw.integers(0, side - of + 1)) for side, of in zip(image.shape[:2], (height, width), strict=True)
    )
    return {"top": top, "left": left, "height": height, "width": width}


def cut(image: np.ndarray, *, top: int, left: int, height: int, width: int) -> np.ndarray:
    return image[top : top + height, left : left + width]


@built
@pytest.mark.parametrize("seed", range(4))
def test_a_box_is_that_of_the_whole_image_bit_for_bit(seed):
    draw = np.random.default_rng(seed)
    for _ in range(100):
        data = draw_jpeg(draw)
        image = decode(data)
        for _ in range(4):
            box = draw_box(draw, image)
            found = decode_box(data, **box)
            assert found is not None, box
            np.testing.assert_array_equal(found, cut(image, **box), err_msg=str(box))


@built
def test_damaged_bytes_give_a_box_or_nothing_but_never_a_crash():
    draw = np.random.default_rng(9)
    declined = 0
    for _ in range(600):
        data = bytearray(draw_jpeg(draw, most_px=120))
        for place in draw.integers(0, len(data), int(draw.integers(1, 8))).tolist():
            data[place] = int(draw.integers(0, 256))
        if draw.random() < 0.3:
            del data[int(draw.integers(2, len(data))) :]
        for ending in (b"", b"\xff\xd9"):
            found = decode_box(bytes(data) + ending, top=1, left=1, height=20, width=30)
            declined += found is None
            assert found is None or found.shape == (20, 30, 3)
    assert declined > 100


@built
@pytest.mark.parametrize(
    "box",
    [
        {"top": 0, "left": 0, "height": 41, "width": 48},
        {"top": 30, "left": 0, "height": 20, "width": 4},
        {"top": 0, "left": 40, "height": 4, "width": 9},
        {"top": 0, "left": 0, "height": 0, "width": 4},
        {"top": -1, "left": 0, "height": 4, "width": 4},
    ],
)
def test_a_box_that_is_not_in_the_image_is_declined(box):
    assert decode_box(encoded(photo(0)), **box) is None


@built
def test_what_is_no_photograph_or_ends_early_is_declined():
    box = {"top": 0, "left": 0, "height": 4, "width": 4}
    assert decode_box(encoded(Image.fromarray(photo(0)).convert("CMYK")), **box) is None
    assert decode_box(encoded(photo(0), "PNG"), **box) is None
    assert decode_box(encoded(photo(0))[:-2], **box) is None
    assert decode_box(b"", **box) is None


def without_the_c_part(monkeypatch) -> None:
    monkeypatch.setattr(jpeg_crop, "_function", lambda: None)


def test_without_the_c_part_every_box_is_declined(monkeypatch):
    without_the_c_part(monkeypatch)
    assert not jpeg_crop.is_built()
    assert decode_box(encoded(photo(0)), top=0, left=0, height=4, width=4) is None


@pytest.mark.parametrize(
    "view",
    [
        TrainView(32),
        TrainView(32, rand_augment=(2, 10), flip=False),
        TrainView(24, crop="none"),
        TrainView(24, crop="affine", rotate_degrees=20),
        EvalView(32, resize_px=36),
    ],
)
def test_what_is_seen_is_the_view_of_the_decoded_image_with_the_c_part_and_without(view, monkeypatch):
    draw = np.random.default_rng(5)
    images = [draw_jpeg(draw) for _ in range(20)]
    images += [encoded(photo(1), "PNG"), encoded(Image.fromarray(photo(2)).convert("CMYK"))]
    for attempt in ("as built", "without"):
        for number, data in enumerate(images):
            expected = apply(view, decode(data), rng := augment.rng(1, 2, number))
            found = seen.seen(view, data, other := augment.rng(1, 2, number))
            np.testing.assert_array_equal(found, expected, err_msg=f"{attempt} {number}")
            assert rng.random() == other.random(), "the draws that follow are the same"
        without_the_c_part(monkeypatch)


def test_a_promise_of_too_many_pixels_is_corrupt_before_anything_is_decoded():
    with pytest.raises(Corrupt, match="over the limit of 100 pixels"):
        seen.seen(TrainView(8), encoded(photo(0)), augment.rng(0, 0, 0), max_pixels=100)


def test_bytes_that_are_no_whole_image_are_corrupt():
    for data in (b"", b"\xff\xd8\xffnothing\xff\xd9", encoded(photo(0))[:60], encoded(photo(0))[:-40]):
        with pytest.raises(Corrupt):
            seen.seen(TrainView(8), data, augment.rng(0, 0, 0))
