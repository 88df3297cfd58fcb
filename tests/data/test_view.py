"""A view says what becomes of an image, and refuses what it cannot mean."""

import subprocess
import sys

import numpy as np
import pytest
from pictures import photo

from pipeline import config
from pipeline.data import augment, rand_augment
from pipeline.data.view import EvalView, TrainView, apply

PHOTO = photo(1, height=60, width=80)
AREA = {"min_area": 0.2, "max_area": 0.5}
MOTION = {"crop": "affine", "rotate_degrees": 20.0, "scale": (0.8, 1.2), "shift": 0.1}


def test_a_view_is_a_config_that_loads_nothing_heavy():
    script = (
        "import sys, pipeline.data.view as view\n"
        "view.TrainView(224, rand_augment=(2, 10)), view.EvalView(224, resize_px=256)\n"
        "print([name for name in ('numpy', 'torch', 'PIL', 'simplejpeg') if name in sys.modules])"
    )
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "[]"


@pytest.mark.parametrize("view", [TrainView(32, **MOTION, rand_augment=(2, 10)), EvalView(32, resize_px=40)])
def test_a_view_survives_json(view):
    assert config.decode(type(view), config.encode(view)) == view


def test_an_eval_view_without_resize_squeezes_the_image_into_the_square():
    seen = apply(EvalView(32), PHOTO)
    np.testing.assert_array_equal(seen, augment.resize(PHOTO, height_px=32, width_px=32))


def test_an_eval_view_with_resize_crops_the_centre():
    small = augment.resize(PHOTO, height_px=36, width_px=48)
    np.testing.assert_array_equal(apply(EvalView(32, resize_px=36), PHOTO), small[2:34, 8:40])
    square = augment.resize(PHOTO, height_px=36, width_px=36)
    seen = apply(EvalView(32, resize_px=36, keep_aspect=False), PHOTO)
    np.testing.assert_array_equal(seen, square[2:34, 2:34])


def test_a_plain_train_view_crops_then_flips():
    view, key = TrainView(32, **AREA), (0, 0, 4)
    generator = augment.rng(*key)
    expected = augment.random_resized_crop(generator, PHOTO, size_px=32, **AREA)
    np.testing.assert_array_equal(apply(view, PHOTO, augment.rng(*key)), augment.random_flip(generator, expected))


def test_rand_augment_comes_last():
    view, key = TrainView(32, crop="none", rand_augment=(2, 15)), (0, 0, 4)
    generator = augment.rng(*key)
    expected = augment.random_flip(generator, augment.resize(PHOTO, height_px=32, width_px=32))
    expected = rand_augment.rand_augment(generator, expected, num_ops=2, magnitude=15)
    np.testing.assert_array_equal(apply(view, PHOTO, augment.rng(*key)), expected)


@pytest.mark.parametrize("view", [TrainView(32), TrainView(32, **MOTION), TrainView(32, crop="none", flip=False)])
@pytest.mark.parametrize("shape", [(60, 80), (1, 1), (1, 300), (300, 2), (32, 32)])
def test_every_image_fits_every_view(view, shape):
    image = photo(2, height=shape[0], width=shape[1])
    for position in range(5):
        seen = apply(view, image, augment.rng(0, 0, position))
        assert seen.shape == (32, 32, 3)
        assert seen.dtype == np.uint8


def test_a_train_view_asks_for_its_generator():
    with pytest.raises(TypeError, match="rng: a TrainView draws its crop"):
        apply(TrainView(32), PHOTO)


def test_masked_patches_are_counted():
    assert TrainView(224, mask_patch_px=16).num_patches == 196
    assert TrainView(224).num_patches == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_px": 0}, "image_px: must be at least 1, got 0"),
        ({"crop": "center"}, "crop: 'center' is not one of 'inception', 'affine', 'none'"),
        ({"min_area": 0.0}, "min_area: must be above 0 and at most 1, got 0.0"),
        ({"max_area": 0.01}, "max_area: must be from min_area 0.05 to 1, got 0.01"),
        ({"max_area": float("nan")}, "max_area: must be from min_area 0.05 to 1, got nan"),
        ({"crop": "none", "min_area": 0.5}, "min_area, max_area: are for crop 'inception', but crop is 'none'"),
        ({"shift": 0.1}, "rotate_degrees, scale, shift: are for crop 'affine', but crop is 'inception'"),
        ({"crop": "affine", "scale": (0.0, 1.0)}, r"scale: must be \(low, high\) with 0 < low <= high"),
        ({"crop": "affine", "rotate_degrees": -3.0}, "rotate_degrees: must be from 0 to 180, got -3.0"),
        ({"crop": "affine", "shift": 2.0}, "shift: must be from 0 to 1 sides, got 2.0"),
        ({"rand_augment": (0, 10)}, r"rand_augment: must be \(at least 1, 0 to 30\) or None, got \(0, 10\)"),
        ({"mask_patch_px": 5}, "mask_patch_px: must divide image_px 32, got 5"),
        ({"mask_share": 0.0}, "mask_share: must be above 0 and at most 1, got 0.0"),
    ],
)
def test_a_wrong_train_view_names_its_field(changes, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        TrainView(**{"image_px": 32, **changes})


def test_a_wrong_eval_view_names_its_field():
    with pytest.raises(ValueError, match=r"^resize_px: must be at least image_px 32, got 31"):
        EvalView(32, resize_px=31)
    with pytest.raises(ValueError, match=r"^image_px: must be at least 1, got -1"):
        EvalView(-1)
