"""The transformer block of a ViT, and what makes it fast. Knows neither images nor heads.

Dimension key: B images, T tokens, D width, A heads, E width of a head, F features of a linear layer.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from pipeline.models import float8
from pipeline.models.flops import Recompute
from pipeline.models.variant import ViTConfig

NORM_EPS = 1e-6


class Dense(nn.Linear):
    """nn.Linear that draws no weights of its own: `initial.py` does, from an explicit generator.

    `float8`, set from outside, makes its products while training those of 8-bit floats.
    """

    float8 = False

    def reset_parameters(self) -> None:
        pass

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.product(x, self.weight, self.bias)

    def product(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        linear = float8.linear if self.float8 and self.training else functional.linear
        return linear(x, weight, bias)


class QueriesKeysValues(Dense):
    """One matrix product for queries, keys and values: [B,T,D] -> three of [B,A,T,E].

    With `first`, queries of the first token alone, [B,A,1,E]: two smaller products with slices of the same weight.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__(config.width, 3 * config.width)
        self.heads = config.heads

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, x_BTD: Tensor, first: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        if not first:
            all_three = self.product(x_BTD, self.weight, self.bias)
            q_BATE, k_BATE, v_BATE = split_heads(all_three, parts=3, heads=self.heads)
            return q_BATE, k_BATE, v_BATE
        width = self.in_features
        q_B1D = self.product(x_BTD[:, :1], self.weight[:width], self.bias[:width])
        (q_BA1E,) = split_heads(q_B1D, parts=1, heads=self.heads)
        keys_values = self.product(x_BTD, self.weight[width:], self.bias[width:])
        k_BATE, v_BATE = split_heads(keys_values, parts=2, heads=self.heads)
        return q_BA1E, k_BATE, v_BATE


class Attention(nn.Module):
    """Multi-head self-attention. Dropout only after the output projection, as in the paper (App. B.1)."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.qkv = QueriesKeysValues(config)
        self.proj = Dense(config.width, config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BTD: Tensor, first: bool = False) -> Tensor:
        q_BATE, k_BATE, v_BATE = self.qkv(x_BTD, first)
        mixed_BATE = functional.scaled_dot_product_attention(q_BATE, k_BATE, v_BATE)
        return self.dropout(self.proj(mixed_BATE.transpose(1, 2).flatten(2)))


class Mlp(nn.Module):
    """Two linear layers with a GELU between, dropout after each."""

    def __init__(self, config: ViTConfig, *, dropout: float | None = None) -> None:
        super().__init__()
        self.approximate = "tanh" if config.gelu == "tanh" else "none"
        self.fc1 = Dense(config.width, config.mlp_dim)
        self.fc2 = Dense(config.mlp_dim, config.width)
        self.dropout = nn.Dropout(config.dropout if dropout is None else dropout)

    def forward(self, x_BTD: Tensor) -> Tensor:
        hidden = self.dropout(functional.gelu(self.fc1(x_BTD), approximate=self.approximate))
        return self.dropout(self.fc2(hidden))


class Block(nn.Module):
    """Pre-norm transformer block with stochastic depth (arXiv 1603.09382) on both residuals: [B,T,D] -> [B,T,D].

    `forward(x_BTD, first=True)` gives the first token alone, [B,1,D]: the same numbers, without what only the other
    tokens' outputs need. `recompute`, set from outside, trades memory for a second computation while training.
    """

    def __init__(self, config: ViTConfig, *, index: int) -> None:
        super().__init__()
        self.drop_path = config.drop_path * index / max(config.depth - 1, 1)
        self.recompute: Recompute = "none"
        self.norm1 = nn.LayerNorm(config.width, eps=NORM_EPS)
        self.attn = Attention(config)
        self.norm2 = nn.LayerNorm(config.width, eps=NORM_EPS)
        self.mlp = Mlp(config)

    def forward(self, x_BTD: Tensor, first: bool = False) -> Tensor:
        if self.recompute == "none" or not torch.is_grad_enabled():
            return self._forward(x_BTD, first)
        contexts: dict[str, Any] = {"context_fn": _keep_products} if self.recompute == "selective" else {}
        return checkpoint(self._forward, x_BTD, first, use_reentrant=False, **contexts)

    def _forward(self, x_BTD: Tensor, first: bool) -> Tensor:
        rate = self.drop_path if self.training else 0.0
        onto_BTD = x_BTD[:, :1] if first else x_BTD
        x_BTD = onto_BTD + _drop_path(self.attn(self.norm1(x_BTD), first), rate=rate)
        return x_BTD + _drop_path(self.mlp(self.norm2(x_BTD)), rate=rate)


def split_heads(x_BTF: Tensor, *, parts: int, heads: int) -> tuple[Tensor, ...]:
    """[B, T, parts*A*E] -> `parts` tensors [B,A,T,E], such as q, k and v."""
    return x_BTF.unflatten(2, (parts, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)


def _drop_path(x_BTD: Tensor, *, rate: float) -> Tensor:
    """Drop the residual of whole samples with probability `rate`, and scale the others to keep the expectation."""
    if rate == 0:
        return x_BTD
    kept_B11 = torch.empty(x_BTD.shape[0], 1, 1, dtype=x_BTD.dtype, device=x_BTD.device).bernoulli_(1 - rate)
    return x_BTD * kept_B11.div_(1 - rate)


_aten = torch.ops.aten
_PRODUCTS = frozenset(
    op
    for name in (
        "mm",
        "addmm",
        "bmm",
        "_scaled_mm",
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_cudnn_attention",
        "_scaled_dot_product_flash_attention_for_cpu",
    )
    if (op := getattr(getattr(_aten, name, None), "default", None)) is not None
)


def _policy(context: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if op in _PRODUCTS else CheckpointPolicy.PREFER_RECOMPUTE


def _keep_products() -> Any:
    """Selective recomputation: matrix products and attention are kept, all that is cheap is computed again."""
    return create_selective_checkpoint_contexts(_policy)
