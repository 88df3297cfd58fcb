"""RandAugment's sixteen operations at the reference's magnitudes."""

import numpy as np
import pytest
from pictures import photo
from PIL import Image

from pipeline.data import augment, rand_augment

PHOTO = photo(1, height=224, width=224)


class Fixed:
    """A generator whose draws are given, then 0.99 for ever: the sign of 0.99 is minus."""

    def __init__(self, *draws: float) -> None:
        self.draws = list(draws)

    def random(self) -> float:
        return self.draws.pop(0) if self.draws else 0.99


def applied(operation, magnitude, *draws):
    return np.asarray(operation(Fixed(*draws), Image.fromarray(PHOTO), magnitude))


def test_there_are_the_sixteen_operations_of_the_reference_and_each_is_drawn():
    names = {operation.__name__ for operation in rand_augment.OPERATIONS}
    assert len(names) == len(rand_augment.OPERATIONS) == 16
    assert "identity" not in names
    small = photo(1, height=16, width=16)
    drawn = {
        rand_augment.rand_augment(augment.rng(0, 0, p), small, num_ops=1, magnitude=9).tobytes() for p in range(400)
    }
    assert len(drawn) > 20  # signs and cutout's places make more than sixteen


def test_operations_follow_each_other():
    shown = []
    for num_ops in (1, 2):
        draws = Fixed(*([2 / 16] * num_ops))  # invert
        shown.append(rand_augment.rand_augment(draws, PHOTO, num_ops=num_ops, magnitude=10))
    np.testing.assert_array_equal(shown[0], 255 - PHOTO)
    np.testing.assert_array_equal(shown[1], PHOTO)


@pytest.mark.parametrize(("magnitude", "bits"), [(0, 1), (5, 2), (10, 4), (15, 6), (20, 8), (30, 8)])
def test_posterize_keeps_more_bits_at_larger_magnitudes(magnitude, bits):
    mask = 256 - (1 << (8 - bits))
    np.testing.assert_array_equal(applied(rand_augment.posterize, magnitude), PHOTO & mask)


@pytest.mark.parametrize(("magnitude", "threshold"), [(0, 0), (2, 51), (5, 128), (10, 256), (15, 384)])
def test_solarize_inverts_from_its_threshold_up(magnitude, threshold):
    expected = np.where(threshold > PHOTO, PHOTO, 255 - PHOTO)
    np.testing.assert_array_equal(applied(rand_augment.solarize, magnitude), expected)


def test_solarize_add_lifts_the_dark_half():
    expected = np.where(PHOTO < 128, np.minimum(PHOTO.astype(int) + 110, 255), PHOTO)
    np.testing.assert_array_equal(applied(rand_augment.solarize_add, 10), expected)


@pytest.mark.parametrize("name", ["color", "contrast", "brightness", "sharpness"])
def test_an_enhancement_changes_nothing_at_magnitude_five_and_overshoots_at_ten(name):
    operation = getattr(rand_augment, name)
    np.testing.assert_array_equal(applied(operation, 5), PHOTO)
    assert not np.array_equal(applied(operation, 10), PHOTO)
    if name == "brightness":
        assert np.abs(applied(operation, 10) - np.minimum(PHOTO * 1.9, 255)).max() <= 1


def test_distances_are_those_of_224_pixels_and_what_comes_from_outside_is_grey():
    moved = applied(rand_augment.translate_x, 10)
    np.testing.assert_array_equal(moved[:, 100:], PHOTO[:, :-100])
    assert (moved[:, :100] == 128).all()
    moved = applied(rand_augment.translate_y, 10, 0.1)
    np.testing.assert_array_equal(moved[:-100], PHOTO[100:])
    assert (moved[-100:] == 128).all()
    half = Image.fromarray(PHOTO).resize((112, 112))
    moved = np.asarray(rand_augment.translate_x(Fixed(), half, 10))
    np.testing.assert_array_equal(moved[:, 50:], np.asarray(half)[:, :-50])


def test_rotate_turns_three_degrees_per_magnitude():
    np.testing.assert_array_equal(applied(rand_augment.rotate, 30, 0.1), np.rot90(PHOTO))


def test_shear_moves_a_row_by_its_share():
    sheared = applied(rand_augment.shear_x, 10, 0.1)
    row = 100
    shift = round(0.3 * (row + 0.5))
    np.testing.assert_array_equal(sheared[row, : 224 - shift], PHOTO[row, shift:])
    assert (sheared[row, 224 - shift + 1 :] == 128).all()


def test_cutout_greys_a_square_clipped_to_the_image():
    cut = applied(rand_augment.cutout, 5, 0.5, 0.0)
    changed = np.argwhere((cut != PHOTO).any(axis=-1))
    assert changed.min(axis=0).tolist() == [0, 92]
    assert changed.max(axis=0).tolist() == [19, 131]
    assert (cut[:20, 92:132] == 128).all()


@pytest.mark.parametrize("magnitude", [0, 10, 15, 20, 30])
@pytest.mark.parametrize("operation", rand_augment.OPERATIONS, ids=lambda operation: operation.__name__)
def test_every_operation_gives_an_image_of_the_same_size_at_every_magnitude(operation, magnitude):
    for side in (1, 32):
        image = Image.fromarray(photo(3, height=side, width=side))
        result = operation(augment.rng(0, 0, 0), image, magnitude)
        assert (result.size, result.mode) == (image.size, "RGB")
