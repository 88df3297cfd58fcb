"""Which patches a ViT takes for neighbours: how alike their position embeddings are. Weights alone are needed.

Dimension key: N patches of an h x w grid in row-major order, D width.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.models.position import sincos2d
from pipeline.models.vit import ViT


def similarity(position_ND: NDArray[np.floating]) -> NDArray[np.float64]:
    """The cosine between the position embeddings of every two patches: float64 [N, N], 1 on the diagonal.

    cos(i, j) = p_i . p_j / (|p_i| |p_j|) (arXiv 2010.11929, figures 7 (centre) and 10). One that is all zeros is like
    none, itself included.
    """
    exact_ND = np.asarray(position_ND, np.float64)
    norm_N1 = np.linalg.norm(exact_ND, axis=1, keepdims=True)
    unit_ND = exact_ND / np.where(norm_N1 > 0, norm_N1, 1.0)
    return unit_ND @ unit_ND.T


def of_patches(model: ViT) -> NDArray[np.float32] | None:
    """The position embeddings of the patches [N, D], without that of a class token; None where the model has none."""
    if model.pos_embed is not None:
        return model.pos_embed.detach().float().cpu().numpy()[0, -model.config.num_patches :]
    if model.config.position == "sincos2d":
        return sincos2d(model.config.grid, width=model.config.width, device=torch.device("cpu")).numpy()[0]
    return None
