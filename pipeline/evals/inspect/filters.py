"""What the patch embedding looks for in a patch: the principal components of its filters. Weights alone are needed.

Dimension key: D filters (the model's width), C channels, P pixels along a patch, F components.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NUMBER = 28  # of arXiv 2010.11929, figure 7 (left)


@dataclass(frozen=True, eq=False)
class Filters:
    """`components_FCPP` have the norm 1, and are of falling importance: `share_F` of the filters' variance each."""

    components_FCPP: NDArray[np.float64]
    share_F: NDArray[np.float64]


def principal(weight_DCPP: NDArray[np.floating], *, number: int = NUMBER) -> Filters:
    """The `number` directions in which the filters of a patch embedding differ most (all, where there are fewer).

    The D filters, less their mean, are the rows of X [D, C*P*P]. With X = U S V^T, component f is row f of V^T and
    share f is S_f^2 / sum(S^2) (arXiv 2010.11929, section 4.5). The sign of a component means nothing: it is such that
    its value of largest magnitude is positive, so that the same weights give the same picture.
    ValueError for weights that are not finite.
    """
    rows_DI = np.asarray(weight_DCPP, np.float64).reshape(len(weight_DCPP), -1)
    if not np.isfinite(rows_DI).all():
        raise ValueError("patch_embed.proj.weight: is not finite; the checkpoint has diverged")
    _, singular_F, components_FI = np.linalg.svd(rows_DI - rows_DI.mean(axis=0), full_matrices=False)
    largest_F = components_FI[np.arange(len(components_FI)), np.abs(components_FI).argmax(axis=1)]
    components_FI = components_FI * np.where(largest_F < 0, -1.0, 1.0)[:, None]
    total = max(float(np.sum(singular_F**2)), np.finfo(np.float64).tiny)
    return Filters(components_FI[:number].reshape(-1, *weight_DCPP.shape[1:]), singular_F[:number] ** 2 / total)
