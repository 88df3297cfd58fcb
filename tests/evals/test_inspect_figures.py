"""Figures of inspection: that they are pictures of what they are given. How they look, somebody has to look at."""

import io

import numpy as np
import pytest
from PIL import Image

from pipeline.evals.inspect import figure
from pipeline.evals.inspect.distance import Distance
from pipeline.evals.inspect.filters import principal
from pipeline.evals.inspect.position import similarity

WHEN = "after 700 steps"


def pixels(png):
    """RGB of a picture, int [H, W, 3]; on white, and no wider than a page."""
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        found_HWC = np.asarray(image.convert("RGB"), int)
    assert (found_HWC[[0, 0, -1, -1], [0, -1, 0, -1]] == 255).all()
    assert 800 <= found_HWC.shape[1] <= 1200
    return found_HWC


def count(found_HWC, *, red, green, blue):
    """How many pixels have channels within these ranges."""
    is_within = [
        (low <= found_HWC[..., c]) & (found_HWC[..., c] <= high) for c, (low, high) in enumerate((red, green, blue))
    ]
    return int(np.logical_and.reduce(is_within).sum())


def of_filters(channels=3):
    return figure.filters(principal(np.random.default_rng(0).normal(size=(40, channels, 4, 4))), when=WHEN)


def of_positions(side):
    return figure.positions(
        similarity(np.random.default_rng(0).normal(size=(side**2, 64))), grid=(side, side), when=WHEN, is_fixed=False
    )


def of_distances(layers=24, heads=16):
    found_LA = np.random.default_rng(0).uniform(10, 110, size=(layers, heads))
    return figure.distances(Distance(found_LA, found_LA, found_LA, 116.0, 128), image_px=224, when=WHEN)


def of_rollouts(masks_Bhw):
    images_BHWC = np.full((len(masks_Bhw), 32, 32, 3), 90, np.uint8)
    return figure.rollouts(images_BHWC, masks_Bhw, when=WHEN)


@pytest.mark.parametrize(
    "draw", [of_filters, lambda: of_positions(7), of_distances, lambda: of_rollouts(np.ones((3, 4, 4)))]
)
def test_a_figure_is_a_picture_on_white_and_the_same_for_the_same_numbers(draw):
    png = draw()
    pixels(png)
    assert draw() == png


def test_filters_of_grey_images_are_grey():
    found_HWC = pixels(of_filters(channels=1))
    assert (np.ptp(found_HWC[150:], axis=2) <= 40).all(), "ink is not quite grey, no pixel is a colour"
    with pytest.raises(ValueError, match="channels: 4 cannot be shown as colours; 1 or 3 would be right"):
        of_filters(channels=4)


def test_a_patch_is_most_like_itself_in_its_own_tile():
    """Yellow, the colour of 1, is seen once in each of 49 tiles."""
    yellow = count(pixels(of_positions(7)), red=(240, 255), green=(220, 240), blue=(20, 50))
    assert yellow == pytest.approx(49 * 12.6**2, rel=0.2)  # a patch is about 12.6 px wide


def test_of_a_large_grid_some_tiles_are_shown():
    assert pixels(of_positions(37)).shape == pixels(of_positions(7)).shape


def test_every_head_of_every_layer_has_a_dot():
    found_HWC = pixels(of_distances(layers=2, heads=3))
    blue = count(found_HWC, red=(60, 100), green=(130, 160), blue=(190, 215))
    more = count(pixels(of_distances(layers=2, heads=6)), red=(60, 100), green=(130, 160), blue=(190, 215))
    assert more > 1.5 * blue > 0


def test_red_is_where_a_mask_exceeds_its_mean():
    masks_Bhw = np.full((1, 4, 4), 0.05)
    red = {"red": (190, 230), "green": (40, 110), "blue": (20, 100)}
    assert count(pixels(of_rollouts(masks_Bhw)), **red) == 0
    masks_Bhw[0, 1, 2] = 0.3
    assert count(pixels(of_rollouts(masks_Bhw)), **red) > 100
