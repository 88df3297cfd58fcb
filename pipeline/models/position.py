"""Where a patch is: the fixed 2-D sine-cosine table, and how a position embedding follows another grid of patches.

Dimension key: 1 the broadcast batch, N tokens, D width, h x w a grid of patches in row-major order.
"""

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.models.variant import Resize

Grid = tuple[int, int]

_LONGEST_WAVE = 10_000.0


def sincos2d(grid: Grid, *, width: int, device: torch.device | None = None) -> Tensor:
    """The fixed table float32 [1, h*w, D]: quarters sin(x), cos(x), sin(y), cos(y) at D/4 frequencies.

    As in "Better plain ViT baselines" (arXiv 2205.01580) and its code; coordinates are patch numbers, not fractions
    of the image, so a larger image continues the table. `width` must be a multiple of 4.
    """
    quarter = width // 4
    waves_Q = _LONGEST_WAVE ** -(torch.arange(quarter, dtype=torch.float64, device=device) / (quarter - 1))
    rows, columns = (torch.arange(n, dtype=torch.float64, device=device) for n in grid)
    y_N = rows.repeat_interleave(grid[1])
    x_N = columns.repeat(grid[0])
    angles = [position_N[:, None] * waves_Q[None, :] for position_N in (x_N, y_N)]
    table_ND = torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], dim=1)
    return table_ND[None].float()


def resample_position(pos_1ND: Tensor, old_grid: Grid, new_grid: Grid, *, mode: Resize = "bilinear") -> Tensor:
    """A position embedding [1, h*w, D] or [1, 1 + h*w, D] for another grid; the row of a class token stays as it is.

    "bilinear" maps corners to corners without anti-aliasing: what `scipy.ndimage.zoom(order=1)` computes, which the
    papers' code uses. "bicubic" is anti-aliased and not corner-aligned, as in timm: not the same numbers.
    The same grid returns `pos_1ND` itself. Differentiable. Raises ValueError if the tokens are not those of `old_grid`.
    """
    height, width = old_grid
    num_first = pos_1ND.shape[1] - height * width
    if num_first not in (0, 1):
        raise ValueError(
            f"pos_1ND: {pos_1ND.shape[1]} tokens are not a {height} x {width} grid; {height * width} would be, "
            f"or {height * width + 1} with a class token"
        )
    if old_grid == new_grid:
        return pos_1ND
    first_1ND, patches_1ND = pos_1ND[:, :num_first], pos_1ND[:, num_first:]
    # In float32 at least: half-precision weights of the interpolation would move every patch by a little.
    exact = patches_1ND if patches_1ND.dtype == torch.float64 else patches_1ND.float()
    map_1Dhw = exact.transpose(1, 2).unflatten(2, old_grid)
    if mode == "bilinear":
        map_1Dhw = functional.interpolate(map_1Dhw, size=new_grid, mode="bilinear", align_corners=True)
    else:
        map_1Dhw = functional.interpolate(map_1Dhw, size=new_grid, mode="bicubic", antialias=True)
    return torch.cat([first_1ND, map_1Dhw.flatten(2).transpose(1, 2).to(pos_1ND.dtype)], dim=1)
