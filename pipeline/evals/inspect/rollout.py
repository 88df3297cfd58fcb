"""Which patches of an image an answer comes from: attention rollout. Knows no images, only attention weights.

Dimension key: B images, A heads, T tokens, N patches of an h x w grid in row-major order.
"""

import torch
from torch import Tensor


class Rollout:
    """Multiplies up what `walk` shows of one batch.

    With W_l the weights of layer l, a mean over its heads, A_l = (W_l + I) / 2 and R = A_L ... A_2 A_1 ("Quantifying
    Attention Flow in Transformers", arXiv 2005.00928, section 3: the identity stands for the residual connection, and
    rows keep the sum 1). R[i, j] is how much of the output i comes from the input j. The ViT paper multiplies the
    means over heads (arXiv 2010.11929, section D.8, figures 6 and 14) and does not speak of the identity: without
    `residual`, A_l = W_l.
    """

    def __init__(self, *, residual: bool = True) -> None:
        self._residual = residual
        self._rolled_BTT: Tensor | None = None

    def see(self, layer: int, weights_BATT: Tensor) -> None:
        """What `attention.walk` calls."""
        mixed_BTT = weights_BATT.mean(dim=1)
        if self._residual:
            mixed_BTT = (mixed_BTT + torch.eye(mixed_BTT.shape[1], device=mixed_BTT.device)) / 2
        self._rolled_BTT = mixed_BTT if self._rolled_BTT is None else mixed_BTT @ self._rolled_BTT

    def masks(self, readout_BT: Tensor, *, grid: tuple[int, int]) -> Tensor:
        """How much of the features comes from each patch, [B, h, w]: `readout_BT` (of `walk`) times R.

        The sum of a mask is 1 less what comes from the class token itself.
        """
        assert self._rolled_BTT is not None, "no layer was seen"
        taken_BT = (readout_BT[:, None] @ self._rolled_BTT)[:, 0]
        return taken_BT[:, -grid[0] * grid[1] :].unflatten(1, grid)
