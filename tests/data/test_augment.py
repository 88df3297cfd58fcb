"""What augmentation does to pixels, and that it does the same for ever."""

import numpy as np
import pytest
from pictures import photo
from PIL import Image

from pipeline.data import augment
from pipeline.data.resize import mirrored

PHOTO = photo(1, height=120, width=160)

GOLDEN_ZERO = [0.8133540609793564, 0.7513314251083365, 0.6716490436969984]
GOLDEN_OTHER = [0.4176873972782088, 0.8362956699080035, 0.06460966694852532]
GOLDEN_STEP = [0.671268906804796, 0.8453249658914186, 0.06689387803321889]
GOLDEN_LAM = [0.99999481, 0.94739449, 0.99989396, 0.89007562]


def test_the_first_draws_of_a_sample_never_change():
    # Golden: they decide every augmentation of every run; a run resumed after an upgrade must go on with them.
    assert augment.rng(0, 0, 0).random(3).tolist() == GOLDEN_ZERO
    assert augment.rng(17, 3, 123_456_789).random(3).tolist() == GOLDEN_OTHER
    assert augment.step_rng(17, 123).random(3).tolist() == GOLDEN_STEP


def test_samples_epochs_seeds_and_steps_draw_independently():
    firsts = [augment.rng(*words).random() for words in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (-1, 0, 0)]]
    firsts.append(augment.step_rng(0, 0).random())
    assert len(set(firsts)) == 6
    many = [augment.rng(5, 0, position).random() for position in range(4000)]
    assert abs(np.mean(many) - 0.5) < 0.02
    assert abs(np.corrcoef(many[:-1], many[1:])[0, 1]) < 0.05


@pytest.mark.parametrize("size", [(24, 32), (224, 224), (1, 1), (87, 300), (9, 120)])
def test_resizing_is_pillows_to_within_one_step(size):
    box = PHOTO[10:97, 20:140]
    expected = Image.fromarray(box).resize(size[::-1], Image.Resampling.BILINEAR)
    found = augment.resize(box, height_px=size[0], width_px=size[1])
    assert found.dtype == np.uint8
    assert np.abs(found.astype(int) - np.asarray(expected)).max() <= 1


def test_pixels_that_may_not_be_written_are_resized_and_stay_as_they_are():
    given, mirrored = np.asarray(Image.fromarray(PHOTO)), PHOTO[:, ::-1]
    before = given.copy()
    assert not given.flags.writeable
    augment.resize(given, height_px=16, width_px=16)
    np.testing.assert_array_equal(given, before)
    there_and_back = augment.resize(mirrored, height_px=16, width_px=16)
    expected = augment.resize(mirrored.copy(), height_px=16, width_px=16)
    np.testing.assert_array_equal(there_and_back, expected)


@pytest.mark.parametrize("size", [(224, 224), (1, 1), (3, 20_000), (100, 109)])
def test_a_mirror_image_has_left_and_right_exchanged(size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    np.testing.assert_array_equal(mirrored(image), image[:, ::-1])
    assert mirrored(image).flags.c_contiguous


def test_crop_boxes_stay_inside_and_cover_the_range_of_areas_and_aspects():
    generator = augment.rng(0, 0, 0)
    boxes = [
        augment.crop_box(generator, height=300, width=400, areas=(0.05, 1.0), aspects=(3 / 4, 4 / 3))
        for _ in range(3000)
    ]
    top, left, height, width = np.array(boxes).T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= 300).all()
    assert (left + width <= 400).all()
    share, aspect = height * width / 120_000, width / height
    assert 0.045 < share.min() < 0.07
    assert 0.9 < share.max() <= 1
    assert (aspect > 0.73).all()
    assert (aspect < 1.37).all()
    assert abs(np.median(aspect) - 1) < 0.05  # as many lie as stand
    assert left.max() > 200  # every place is reached


def test_a_strip_too_narrow_for_any_crop_gives_its_central_box():
    box = augment.crop_box(augment.rng(0, 0, 0), height=10, width=1000, areas=(0.5, 1.0), aspects=(3 / 4, 4 / 3))
    assert box == (0, 493, 10, 13)


def test_a_random_resized_crop_is_the_resized_box():
    top, left, height, width = augment.crop_box(
        augment.rng(0, 0, 9), height=120, width=160, areas=(0.2, 0.9), aspects=(3 / 4, 4 / 3)
    )
    expected = augment.resize(PHOTO[top : top + height, left : left + width], height_px=32, width_px=32)
    crop = augment.random_resized_crop(augment.rng(0, 0, 9), PHOTO, size_px=32, min_area=0.2, max_area=0.9)
    np.testing.assert_array_equal(crop, expected)


def test_half_of_all_images_are_mirrored():
    flipped = [np.array_equal(augment.random_flip(augment.rng(0, 0, p), PHOTO), PHOTO[:, ::-1]) for p in range(400)]
    assert 160 < sum(flipped) < 240


def test_an_affine_without_motion_is_the_resized_image():
    moved = augment.affine(augment.rng(0, 0, 0), PHOTO, size_px=32)
    np.testing.assert_array_equal(moved, augment.resize(PHOTO, height_px=32, width_px=32))


class Fixed:
    """A generator whose draws are given."""

    def __init__(self, *draws: float) -> None:
        self.draws = iter(draws)

    def random(self) -> float:
        return next(self.draws)


def affine(draws, **motion):
    square = augment.resize(PHOTO, height_px=32, width_px=32)
    return square, augment.affine(Fixed(*draws), square, size_px=32, **motion)


def test_an_affine_turns_about_the_centre():
    square, turned = affine((1.0, 0.5, 0.5, 0.5), rotate_degrees=90)
    assert np.abs(turned.astype(int) - np.rot90(square, k=-1)).max() <= 1


def test_an_affine_shifts_in_shares_of_the_side_and_fills_the_rest():
    square, shifted = affine((0.5, 0.5, 1.0, 0.5), shift=0.25, fill=7)
    np.testing.assert_array_equal(shifted[:, 8:], square[:, :-8])
    assert (shifted[:, :8] == 7).all()


def test_an_affine_scale_of_two_shows_the_centre_twice_as_large():
    square, scaled = affine((0.5, 1.0, 0.5, 0.5), scale=(1.0, 2.0))
    expected = Image.fromarray(square).resize((32, 32), Image.Resampling.BILINEAR, box=(8, 8, 24, 24))
    assert np.abs(scaled.astype(int) - np.asarray(expected)).max() <= 2


def test_resize_small_keeps_the_aspect_and_central_crop_the_centre():
    small = augment.resize_small(PHOTO, size_px=60)
    assert small.shape == (60, 80, 3)
    np.testing.assert_array_equal(augment.central_crop(small, size_px=40), small[10:50, 20:60])
    with pytest.raises(ValueError, match="size_px: 61 is more than the image has"):
        augment.central_crop(small, size_px=61)


def test_mixup_pairs_neighbours_so_that_any_even_part_of_a_batch_has_its_partners():
    permutation, lam = augment.mixup_plan(augment.step_rng(0, 0), 6, 0.2)
    assert permutation.tolist() == [1, 0, 3, 2, 5, 4]
    assert permutation.dtype == np.int64
    assert lam.dtype == np.float32
    assert augment.mixup_plan(augment.step_rng(0, 0), 5, 0.2)[0].tolist() == [1, 0, 3, 2, 4]


def test_mixup_weights_never_change_and_follow_the_folded_beta():
    np.testing.assert_allclose(augment.mixup_plan(augment.step_rng(1, 2), 4, 0.2)[1], GOLDEN_LAM, rtol=1e-6)
    lam = augment.mixup_plan(augment.step_rng(1, 2), 20_000, 0.2)[1]
    assert lam.min() >= 0.5
    assert lam.max() <= 1
    # Var Beta(a, a) = 1 / (4 (2 a + 1)), and folding about 1/2 keeps the distance from it
    assert np.mean((lam - 0.5) ** 2) == pytest.approx(1 / (4 * 1.4), rel=0.02)


def test_a_box_of_cutmix_is_that_of_both_partners_and_labels_keep_what_is_outside():
    keep, boxes = augment.mixing_plan(augment.step_rng(1, 2), 4001, mixup=0.0, cutmix=1.0, size_px=32)
    assert keep.dtype == np.float32
    assert boxes.dtype == np.int16
    assert (boxes[0:4000:2] == boxes[1:4000:2]).all()
    assert boxes[-1].tolist() == [0, 0, 0, 0], "the last of an odd batch has no partner"
    assert keep[-1] == 1
    top, left, bottom, right = boxes.T.astype(int)
    assert ((top >= 0) & (top <= bottom) & (bottom <= 32) & (left >= 0) & (left <= right) & (right <= 32)).all()
    np.testing.assert_allclose(keep, 1 - (bottom - top) * (right - left) / 32**2, rtol=1e-6)
    assert 0.6 < keep.mean() < 0.75, "lambda is uniform, and boxes lose what leaves the image"


def test_with_mixup_too_each_pair_draws_one_of_both():
    keep, boxes = augment.mixing_plan(augment.step_rng(1, 2), 4000, mixup=0.2, cutmix=1.0, size_px=32)
    is_mixup = (boxes == 0).all(1)
    assert 0.4 < is_mixup.mean() < 0.6
    expected = augment.mixup_plan(augment.step_rng(1, 2), 4000, 0.2)[1]
    assert (keep[is_mixup] == expected[is_mixup]).all()


def test_without_cutmix_the_draws_of_mixup_are_what_they_were():
    keep, boxes = augment.mixing_plan(augment.step_rng(1, 2), 4, mixup=0.2, cutmix=0.0, size_px=32)
    np.testing.assert_allclose(keep, GOLDEN_LAM, rtol=1e-6)
    assert not boxes.any()


def test_no_mixup_keeps_every_sample():
    assert (augment.mixup_plan(augment.step_rng(0, 0), 8, 0.0)[1] == 1).all()


def test_half_of_the_patches_are_corrupted_eight_one_one():
    actions, sources = zip(*(augment.corrupt_patches(augment.rng(0, 0, p), 196) for p in range(300)), strict=True)
    actions, sources = np.array(actions), np.array(sources)
    assert actions.dtype == np.int8
    assert sources.dtype == np.int64
    assert ((actions > 0).sum(axis=1) == 98).all()
    count = np.bincount(actions.ravel(), minlength=4) / (300 * 98)
    assert count[1:] == pytest.approx([0.8, 0.1, 0.1], abs=0.01)
    assert abs((actions > 0).mean(axis=0) - 0.5).max() < 0.12  # every place alike
    replaced, own = actions == augment.REPLACED, np.arange(196)[None]
    assert (sources[replaced] != np.broadcast_to(own, sources.shape)[replaced]).all()
    assert (sources == own)[~replaced].all()
    assert len(np.unique(sources[replaced])) == 196


def test_the_share_of_corrupted_patches_can_be_chosen():
    actions, _ = augment.corrupt_patches(augment.rng(0, 0, 0), 16, share=0.25)
    assert (actions > 0).sum() == 4
