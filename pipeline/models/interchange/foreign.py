"""A model of somebody else in our terms, and what their ViTs have that ours do not.

Sizes are read off the tensors. What tensors cannot say, the heads and the GELU above all, comes from a config beside
them, or from whoever imports.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pipeline.models import weights
from pipeline.models.interchange.unsaid import agreed
from pipeline.models.variant import Gelu, Pool, Position, ViTConfig
from pipeline.models.vit import ViT

State = dict[str, Tensor]
Source = Literal["tessera", "timm", "huggingface", "npz"]

SUPPORTED = (
    "a plain ViT would be right: pre-norm blocks with biases, pooling by class token, mean or attention, "
    "and learned, sine-cosine or no positions"
)
# The first pattern that is found in a key says what makes it one that we do not have.
_NOT_OURS = (
    (r"reg_token|register_token", "register tokens"),
    (r"\.ls[12]\.|layer_?scale|lambda_?1|gamma_[12]", "layer scale"),
    (r"rope|rotary", "rotary positions"),
    (r"rel_pos|relative_position", "relative positions"),
    (r"[qk]_norm|query_norm|key_norm|attn\.norm|mlp\.norm", "norms inside attention or MLP"),
    (r"norm_pre|pre_layernorm|pre_layrnorm", "a norm before the blocks"),
    (r"fc_norm", "a norm after the pooling"),
    (r"dist_token|distillation|head_dist", "a distillation token"),
    (r"backbone|conv_root|^block\d+/", "a convolutional stem"),
    (r"fc1_g|w12|gate|GLU", "a gated MLP"),
    (r"MixerBlock", "an MLP-Mixer"),
    (r"^decoder", "a decoder of masked images"),
)


@dataclass(frozen=True)
class Foreign:
    """A model that was read, its weights float32. `remarks` say what was left out or is not quite the same."""

    format: Source
    config: ViTConfig
    state: State
    remarks: tuple[str, ...] = ()


def refusal(key: str, *, name: str, more: int = 0) -> ValueError:
    """The error for a weight that ours have no place for."""
    what = next((what for pattern, what in _NOT_OURS if re.search(pattern, key)), "a weight that is not known here")
    also = f" ({more} such weights more)" if more else ""
    return ValueError(f"{name}: {key}: is {what}{also}; {SUPPORTED}")


def blank(config: ViTConfig) -> ViT:
    """The model without memory for its weights: their names and shapes, and what `weights.to_bytes` reads."""
    with torch.device("meta"):
        return ViT(config)


def model_of(
    state: Mapping[str, Tensor],
    *,
    format: Source,
    name: str,
    heads: int,
    gelu: Gelu,
    image_px: int | None,
    without_position: Position = "none",
    remarks: tuple[str, ...] = (),
) -> Foreign:
    """A model from tensors with our names; sizes come from their shapes.

    A class token without a position gets one of zeros. Without a position embedding `without_position` tells what
    there is instead, and `image_px`, which otherwise must agree, is needed. ValueError where it is no ViT of ours.
    """
    width, channels, patch_px = _patches(state, name=name)
    pool: Pool = "cls" if "cls_token" in state else "map" if "attn_pool.latent" in state else "gap"
    state, found_px = _placed(state, pool=pool, patch_px=patch_px, name=name)
    own_px = agreed("image_px", file=found_px, user=image_px, name=name)
    hidden = _needed(state, "blocks.0.mlp.fc1.weight", dimensions=2, name=name)
    try:
        config = ViTConfig(
            width=width,
            depth=len({key.split(".")[1] for key in state if key.startswith("blocks.")}),
            heads=heads,
            mlp_dim=len(hidden),
            patch_px=patch_px,
            image_px=own_px,
            num_classes=len(state["head.weight"]) if "head.weight" in state else 0,
            channels=channels,
            pool=pool,
            position="learned" if "pos_embed" in state else without_position,
            pre_logits="pre_logits.weight" in state,
            gelu=gelu,
        )
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    return Foreign(format, config, _sound(state, config, name=name), remarks)


def _patches(state: Mapping[str, Tensor], *, name: str) -> tuple[int, int, int]:
    """The width of the model, the channels of its images, and the side of its patches."""
    width, channels, patch_px, across_px = _needed(state, "patch_embed.proj.weight", dimensions=4, name=name).shape
    if patch_px != across_px:
        raise ValueError(
            f"{name}: patch_embed.proj.weight: patches of {patch_px} x {across_px}; squares would be right"
        )
    return width, channels, patch_px


def _placed(state: Mapping[str, Tensor], *, pool: Pool, patch_px: int, name: str) -> tuple[State, int | None]:
    """The state with a position for every token, and the image size that its positions are for."""
    if "pos_embed" not in state:
        return dict(state), None
    pos_1ND = _needed(state, "pos_embed", dimensions=3, name=name)
    num_rows = pos_1ND.shape[1]
    side = math.isqrt(num_rows)
    if pool == "cls" and side**2 == num_rows:
        pos_1ND = torch.cat([torch.zeros_like(pos_1ND[:, :1]), pos_1ND], dim=1)
    elif pool == "cls":
        side = math.isqrt(num_rows - 1)
    if side**2 + (pool == "cls") != pos_1ND.shape[1]:
        raise ValueError(f"{name}: pos_embed: {num_rows} positions are no square of patches; 197 would be 14 x 14")
    return {**state, "pos_embed": pos_1ND}, side * patch_px


def _sound(state: State, config: ViTConfig, *, name: str) -> State:
    """The state in float32; ValueError for names, shapes or numbers that are not those of a model of `config`."""
    expected = blank(config).state_dict()
    if unknown := sorted(state.keys() - expected.keys()):
        raise refusal(unknown[0], name=name, more=len(unknown) - 1)
    weights.check(state, config, name=name)
    for key, tensor in state.items():
        if not tensor.is_floating_point():
            raise ValueError(f"{name}: {key}: is {tensor.dtype}; floats would be right")
        if not tensor.isfinite().all():
            raise ValueError(f"{name}: {key}: has numbers that are not finite; another copy of the file would be right")
    return {key: state[key].float().contiguous() for key in expected}


def _needed(state: Mapping[str, Tensor], key: str, *, dimensions: int, name: str) -> Tensor:
    if key not in state:
        raise ValueError(f"{name}: {key}: is missing, so this is no ViT; {SUPPORTED}")
    if state[key].ndim != dimensions:
        shape = tuple(state[key].shape)
        raise ValueError(f"{name}: {key}: shape {shape}; one of {dimensions} dimensions would be right")
    return state[key]
