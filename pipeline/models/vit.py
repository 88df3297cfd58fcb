"""The Vision Transformer (Dosovitskiy et al. 2021, arXiv 2010.11929), written for one device.

It knows no data, no loss and no parallelism: the engine wraps it, an objective calls it. Parameters carry timm's
names and shapes, so that timm reads our weights and we read timm's without a conversion.

Dimension key: B images, C channels, H x W pixels, N patches, T tokens (patches, after the class token if there is one),
D width, K classes, P pixels along a patch, A heads, E width of a head.
"""

from collections import OrderedDict
from typing import Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from pipeline.models.block import NORM_EPS, Block, Dense, Mlp, split_heads
from pipeline.models.initial import initialise
from pipeline.models.position import Grid, resample_position, sincos2d
from pipeline.models.variant import ViTConfig, nearest_multiples

Output = Literal["logits", "features", "tokens", "patch_logits"]

KEEP, MASKED, REPLACED = 0, 1, 2  # what masks_BN says of a patch


class ViT(nn.Module):
    """A ViT for images float [B,C,H,W] normalised to [-1,1]; H and W multiples of the patch, `image_px` or not.

    Parameters are float32. With `generator` (of the CPU) they are drawn by `initial.py`; without, they are NaN until
    weights are loaded. torch's default generator is not touched by building, but used by dropout and stochastic depth
    while training: whoever trains seeds it per step and rank.

    Where it differs from timm's: `pos_embed` has no row for a class token with pool "gap" and "map", and does not
    exist with a fixed position; `pre_logits` and `patch_head` are linear layers of ours.
    """

    def __init__(self, config: ViTConfig, *, generator: Generator | None = None) -> None:
        super().__init__()
        self.config = config
        width, is_cls = config.width, config.pool == "cls"
        is_learned = config.position == "learned"
        self.cls_token = nn.Parameter(torch.empty(1, 1, width)) if is_cls else None
        self.pos_embed = nn.Parameter(torch.empty(1, config.num_tokens, width)) if is_learned else None
        self.mask_token = nn.Parameter(torch.empty(1, 1, width)) if config.mask_token else None
        self.patch_embed = nn.Sequential(OrderedDict(proj=PatchProjection(config)))
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, index=index) for index in range(config.depth))
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.attn_pool = AttentionPool(config) if config.pool == "map" else None
        self.pre_logits = Dense(width, width) if config.pre_logits else None
        self.head = Dense(width, config.num_classes) if config.num_classes else None
        self.patch_head = Dense(width, config.patch_outputs) if config.patch_outputs else None
        for name, parameter in self.named_parameters():
            if generator is not None:
                initialise(name, parameter, config=config, generator=generator)
            else:
                nn.init.constant_(parameter, float("nan"))

    def forward(
        self,
        images_BCHW: Tensor,
        *,
        masks_BN: Tensor | None = None,
        sources_BN: Tensor | None = None,
        output: Output = "logits",
    ) -> Tensor:
        """Logits [B,K], or features [B,D] where the config has no classes.

        masks_BN, integer: 0 keeps a patch, 1 puts the mask token in its place, 2 the embedding of another patch of the
        image, the one whose number is in sources_BN (integer, read only where masks_BN is 2). Positions stay in place.
        `output` asks for what `features`, `tokens` and `patch_logits` return; it exists so that every
        computation runs through `forward`, where ZeRO-3, compilation and hooks expect it.
        Raises ValueError for images or masks of the wrong shape.
        """
        is_first_enough = self.config.pool == "cls" and output in ("logits", "features")
        tokens_BTD = self._encode(images_BCHW, masks_BN, sources_BN, first=is_first_enough)
        if output in ("tokens", "patch_logits"):
            if self.config.patch_dropout and self.training:
                raise ValueError(f"patch_dropout: {self.config.patch_dropout} leaves patches out; 0 would be right")
            tokens_BND = tokens_BTD[:, 1:] if self.cls_token is not None else tokens_BTD
            if output == "tokens":
                return tokens_BND
            if self.patch_head is None:
                raise ValueError("patch_outputs: is 0, so there are no patch logits; 512 would be the paper's colours")
            return self.patch_head(tokens_BND)
        features_BD = self._pool(tokens_BTD)
        if output == "features" or self.head is None:
            return features_BD
        return self.head(features_BD)

    def features(self, images_BCHW: Tensor) -> Tensor:
        """What the head receives [B,D]: after the last norm, the pooling and pre_logits if there is one."""
        return self(images_BCHW, output="features")

    def tokens(
        self, images_BCHW: Tensor, *, masks_BN: Tensor | None = None, sources_BN: Tensor | None = None
    ) -> Tensor:
        """The patch tokens [B,N,D] in row-major order, after the last norm; no class token. Masks as in `forward`."""
        return self(images_BCHW, masks_BN=masks_BN, sources_BN=sources_BN, output="tokens")

    def patch_logits(
        self, images_BCHW: Tensor, *, masks_BN: Tensor | None = None, sources_BN: Tensor | None = None
    ) -> Tensor:
        """The prediction of masked patch prediction [B,N,patch_outputs], for every patch. Masks as in `forward`."""
        return self(images_BCHW, masks_BN=masks_BN, sources_BN=sources_BN, output="patch_logits")

    def _encode(
        self, images_BCHW: Tensor, masks_BN: Tensor | None, sources_BN: Tensor | None, *, first: bool
    ) -> Tensor:
        """The tokens after the last norm; with `first` only the first one, which is all that the head reads."""
        grid = _grid(images_BCHW, config=self.config)
        x_BTD: Tensor = self.patch_embed(images_BCHW)
        if masks_BN is not None and sources_BN is not None:
            x_BTD = self._mask(x_BTD, masks_BN, sources_BN)
        elif masks_BN is not None or sources_BN is not None:
            raise ValueError("masks_BN: comes with sources_BN, both [B,N] or neither; got one of them")
        x_BTD = self.dropout(self._thin(self._place(x_BTD, grid)))
        *blocks, last = self.blocks
        for block in blocks:
            x_BTD = block(x_BTD)
        return self.norm(last(x_BTD, first))

    def _thin(self, x_BTD: Tensor) -> Tensor:
        """Patch dropout while training: every image keeps its class token and the same number of patches, drawn anew.

        As in FLIP (arXiv 2212.00794): a share of 0.5 halves what the blocks compute.
        """
        config = self.config
        if not config.patch_dropout or not self.training:
            return x_BTD
        start = int(self.cls_token is not None)
        number = x_BTD.shape[1] - start
        scores_BN = torch.rand(x_BTD.shape[0], number, device=x_BTD.device)
        kept_BN = scores_BN.argsort(dim=1)[:, : config.num_kept(number)] + start
        patches_BND = x_BTD.gather(1, kept_BN[:, :, None].expand(-1, -1, x_BTD.shape[2]))
        return torch.cat([x_BTD[:, :start], patches_BND], dim=1)

    def _mask(self, x_BND: Tensor, masks_BN: Tensor, sources_BN: Tensor) -> Tensor:
        for name, marks in (("masks_BN", masks_BN), ("sources_BN", sources_BN)):
            if marks.shape != x_BND.shape[:2]:
                raise ValueError(f"{name}: shape {tuple(marks.shape)}; {tuple(x_BND.shape[:2])} would be right")
        if self.mask_token is None:
            raise ValueError("mask_token: the config has none, so masks_BN cannot be used; True would be right")
        others_BND = x_BND.gather(1, sources_BN.long()[:, :, None].expand_as(x_BND))
        replaced_BND = torch.where((masks_BN == REPLACED)[:, :, None], others_BND, x_BND)
        return torch.where((masks_BN == MASKED)[:, :, None], self.mask_token, replaced_BND)

    def _place(self, x_BND: Tensor, grid: Grid) -> Tensor:
        """Add positions and put the class token first: [B,T,D]."""
        config = self.config
        if config.position == "sincos2d":
            table_1ND = sincos2d(grid, width=config.width, device=x_BND.device)
            x_BND = x_BND + table_1ND.to(self.norm.weight.dtype)
        if self.cls_token is not None:
            x_BND = torch.cat([self.cls_token.expand(x_BND.shape[0], -1, -1), x_BND], dim=1)
        if self.pos_embed is not None:
            x_BND = x_BND + resample_position(self.pos_embed, config.grid, grid, mode=config.position_resize)
        return x_BND

    def _pool(self, x_BTD: Tensor) -> Tensor:
        if self.attn_pool is not None:
            features_BD = self.attn_pool(x_BTD)
        else:
            features_BD = x_BTD[:, 0] if self.cls_token is not None else x_BTD.mean(dim=1)
        return features_BD if self.pre_logits is None else torch.tanh(self.pre_logits(features_BD))


class PatchProjection(nn.Module):
    """Cuts images into patches and projects each linearly: [B,C,H,W] -> [B,N,D].

    The weight is kept as timm's convolution has it, [D,C,P,P], and used as the matrix [D, C*P*P]: the same numbers
    as a convolution of stride P, by one matrix product.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.width, config.channels, config.patch_px, config.patch_px))
        self.bias = nn.Parameter(torch.empty(config.width))

    def forward(self, images_BCHW: Tensor) -> Tensor:
        patch_px = self.weight.shape[-1]
        height, width = images_BCHW.shape[2] // patch_px, images_BCHW.shape[3] // patch_px
        # [B, C, h, P, w, P] -> [B, h, w, C, P, P]: the order of the weight's own dimensions
        cut = images_BCHW.unflatten(3, (width, patch_px)).unflatten(2, (height, patch_px))
        patches_BNI = cut.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        return functional.linear(patches_BNI.to(self.weight.dtype), self.weight.flatten(1), self.bias)


class AttentionPool(nn.Module):
    """Multi-head attention pooling: one learned query attends to all tokens, then an MLP: [B,T,D] -> [B,D].

    As in "Scaling Vision Transformers" (arXiv 2106.04560) and big_vision; without dropout there, and so here.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.latent = nn.Parameter(torch.empty(1, 1, config.width))
        self.q = Dense(config.width, config.width)
        self.kv = Dense(config.width, 2 * config.width)
        self.proj = Dense(config.width, config.width)
        self.norm = nn.LayerNorm(config.width, eps=NORM_EPS)
        self.mlp = Mlp(config, dropout=0.0)

    def forward(self, x_BTD: Tensor) -> Tensor:
        query_B1D = self.q(self.latent.expand(x_BTD.shape[0], -1, -1))
        (q_BA1E,) = split_heads(query_B1D, parts=1, heads=self.heads)
        k_BATE, v_BATE = split_heads(self.kv(x_BTD), parts=2, heads=self.heads)
        mixed_BA1E = functional.scaled_dot_product_attention(q_BA1E, k_BATE, v_BATE)
        pooled_B1D = self.proj(mixed_BA1E.transpose(1, 2).flatten(2))
        return (pooled_B1D + self.mlp(self.norm(pooled_B1D)))[:, 0]


def _grid(images_BCHW: Tensor, *, config: ViTConfig) -> Grid:
    """The grid of patches of these images; ValueError if they are none that the model takes."""
    shape = tuple(images_BCHW.shape)
    if len(shape) != 4 or shape[1] != config.channels:
        raise ValueError(f"images_BCHW: shape {shape}; (B, {config.channels}, height, width) would be right")
    if not images_BCHW.is_floating_point():
        raise ValueError(f"images_BCHW: {images_BCHW.dtype}; floats normalised to [-1, 1] would be right")
    for side, size_px in zip(("height", "width"), shape[2:], strict=True):
        if size_px % config.patch_px or size_px == 0:
            raise ValueError(f"images_BCHW: shape {shape}: {side} {nearest_multiples(size_px, config.patch_px)}")
    return shape[2] // config.patch_px, shape[3] // config.patch_px
