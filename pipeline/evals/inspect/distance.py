"""How far across the image each head looks: mean attention distance. Knows no images, only attention weights.

Dimension key: B images of a batch, L layers, A heads, T tokens, N patches of an h x w grid in row-major order.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.evals.table import Table

Grid = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Distance:
    """Means over images and over the patches that look; in pixels, float64 [L, A].

    mean_px_LA: the weighted mean of the distance to the patches that are looked at.
    sum_px_LA: the same without dividing by the weights, in which attention to a class token counts as distance 0.
    class_share_LA: how much of the attention goes to the class token; 0 where there is none.
    even_px: what `mean_px_LA` is for a head that looks everywhere alike.
    """

    mean_px_LA: NDArray[np.float64]
    sum_px_LA: NDArray[np.float64]
    class_share_LA: NDArray[np.float64]
    even_px: float
    num_images: int

    def table(self) -> Table:
        """A row for every head of every layer, from 1."""
        columns = ("layer", "head", "distance_px", "distance_sum_px", "class_share")
        layers, heads = self.mean_px_LA.shape
        found = (self.mean_px_LA, self.sum_px_LA, self.class_share_LA)
        rows = [
            (layer + 1, head + 1, *(round(float(one[layer, head]), 6) for one in found))
            for layer in range(layers)
            for head in range(heads)
        ]
        return Table(columns, tuple(rows))


def apart_px(grid: Grid, *, patch_px: int) -> Tensor:
    """The distance of the centres of every two patches, in pixels: float32 [N, N]."""
    rows, columns = (torch.arange(n, dtype=torch.float32) for n in grid)
    place_N2 = torch.stack([rows.repeat_interleave(grid[1]), columns.repeat(grid[0])], dim=1)
    return patch_px * torch.linalg.vector_norm(place_N2[:, None] - place_N2[None, :], dim=2)


class Distances:
    """Counts up what `walk` shows, batch after batch. Sums are in float64, so how images are batched hardly matters.

    For query patch q and key patch k at d(q, k) pixels, with weights a(q, k), a head's distance in an image is the mean
    over q of sum_k a(q, k) d(q, k) / sum_k a(q, k); then the mean over images (arXiv 2010.11929, figures 7 (right) and
    11: "averaging the distance between the query pixel and all other pixels, weighted by the attention weight"). How
    the paper treats the class token is not published: here it neither looks nor is looked at, and what goes to it is
    told beside (`class_share_LA`), as is the sum that public reimplementations show, which is not divided
    (`sum_px_LA`).
    """

    def __init__(self, *, depth: int, heads: int, grid: Grid, patch_px: int, device: torch.device) -> None:
        self._apart_NN = apart_px(grid, patch_px=patch_px).to(device)
        self._sums_3LA = torch.zeros(3, depth, heads, dtype=torch.float64, device=device)
        self._num_images = 0

    def see(self, layer: int, weights_BATT: Tensor) -> None:
        """What `attention.walk` calls."""
        number = len(self._apart_NN)
        to_patches_BANN = weights_BATT[:, :, -number:, -number:]
        share_BAN = to_patches_BANN.sum(dim=3)
        sum_px_BAN = torch.einsum("baqk,qk->baq", to_patches_BANN, self._apart_NN)
        mean_px_BAN = sum_px_BAN / share_BAN.clamp_min(torch.finfo(torch.float32).tiny)
        found_3BAN = torch.stack([mean_px_BAN, sum_px_BAN, 1 - share_BAN]).double()
        self._sums_3LA[:, layer] += found_3BAN.mean(dim=3).sum(dim=1)
        self._num_images += len(weights_BATT) if layer == 0 else 0

    def found(self) -> Distance:
        """The means over all images so far."""
        assert self._num_images, "no image was seen"
        mean_px_LA, sum_px_LA, class_share_LA = (self._sums_3LA / self._num_images).cpu().numpy()
        even_px = float(self._apart_NN.double().mean())
        return Distance(mean_px_LA, sum_px_LA, np.maximum(class_share_LA, 0.0), even_px, self._num_images)
