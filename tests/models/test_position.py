"""Positions: the fixed table by hand, resampling against scipy (the papers' code) and timm."""

import math

import numpy as np
import pytest
import scipy.ndimage
import torch

from pipeline.models.position import resample_position, sincos2d

GRIDS = [((2, 2), (3, 3)), ((14, 14), (24, 24)), ((16, 16), (37, 37)), ((24, 24), (14, 14)), ((4, 6), (7, 3))]


def embedding(grid: tuple[int, int], first: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(1, first + grid[0] * grid[1], 6, generator=generator)


@pytest.mark.parametrize("first", [0, 1], ids=["no class token", "class token"])
@pytest.mark.parametrize(("old", "new"), GRIDS)
def test_bilinear_is_scipys_zoom_of_order_1(old, new, first):
    pos_1ND = embedding(old, first)
    zoomed = scipy.ndimage.zoom(
        pos_1ND[0, first:].reshape(*old, -1).double().numpy(), (new[0] / old[0], new[1] / old[1], 1), order=1
    )
    resampled = resample_position(pos_1ND, old, new)
    assert torch.equal(resampled[:, :first], pos_1ND[:, :first])
    np.testing.assert_allclose(resampled[0, first:].numpy(), zoomed.reshape(-1, 6), atol=1e-5)


@pytest.mark.parametrize(("old", "new"), GRIDS)
def test_bicubic_is_timms(old, new):
    from timm.layers.pos_embed import resample_abs_pos_embed

    pos_1ND = embedding(old, 1)
    expected = resample_abs_pos_embed(pos_1ND, list(new), list(old))
    torch.testing.assert_close(resample_position(pos_1ND, old, new, mode="bicubic"), expected)


def test_the_corners_stay_where_they_are():
    pos_1ND = embedding((4, 4), 0)
    resampled = resample_position(pos_1ND, (4, 4), (9, 9)).reshape(9, 9, -1)
    for row, column in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        torch.testing.assert_close(resampled[row, column], pos_1ND.reshape(4, 4, -1)[row, column])


def test_the_same_grid_is_the_same_tensor_but_another_of_equal_size_is_not():
    pos_1ND = embedding((2, 8), 1)
    assert resample_position(pos_1ND, (2, 8), (2, 8)) is pos_1ND
    assert not torch.equal(resample_position(pos_1ND, (2, 8), (4, 4)), pos_1ND)


def test_half_precision_is_resampled_in_float32_and_stays_half():
    pos_1ND = embedding((4, 4), 1).bfloat16()
    resampled = resample_position(pos_1ND, (4, 4), (5, 5))
    assert resampled.dtype == torch.bfloat16
    assert torch.equal(resampled, resample_position(pos_1ND.float(), (4, 4), (5, 5)).bfloat16())


def test_tokens_that_are_not_the_grid_are_refused():
    with pytest.raises(ValueError, match=r"^pos_1ND: 17 tokens are not a 3 x 3 grid; 9 would be, or 10 with a class"):
        resample_position(embedding((4, 4), 1), (3, 3), (4, 4))


def test_the_fixed_table_is_sine_and_cosine_of_x_then_of_y():
    table_1ND = sincos2d((3, 5), width=16)
    row, column = 2, 4
    waves = [10_000 ** -(i / 3) for i in range(4)]  # 1 down to 1/10000
    expected = [f(p * wave) for p in (column, row) for f in (math.sin, math.cos) for wave in waves]
    assert table_1ND.shape == (1, 15, 16)
    np.testing.assert_allclose(table_1ND[0, row * 5 + column].numpy(), expected, atol=1e-6)


def test_a_larger_grid_continues_the_fixed_table():
    small, large = sincos2d((2, 2), width=8), sincos2d((4, 4), width=8)
    assert torch.equal(large.reshape(4, 4, -1)[:2, :2], small.reshape(2, 2, -1))
