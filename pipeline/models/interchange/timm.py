"""A folder of timm, read and written: config.json and model.safetensors, for `timm.create_model("local-dir:...")`.

Keys and shapes are ours. What differs are defaults, so a folder that we write states every one of them.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pipeline.models.interchange.foreign import SUPPORTED, Foreign, State, model_of
from pipeline.models.interchange.unsaid import Unsaid, agreed
from pipeline.models.variant import VARIANTS, Gelu, Pool, ViTConfig

_GELUS: dict[str, Gelu] = {"gelu": "exact", "gelu_tanh": "tanh"}
_POOLS: dict[str, Pool] = {"token": "cls", "avg": "gap", "map": "map"}
_ARCHITECTURES = {
    "Ti": "vit_tiny_patch16_224",
    "S": "vit_small_patch16_224",
    "B": "vit_base_patch16_224",
    "L": "vit_large_patch16_224",
    "H": "vit_huge_patch14_224",
    "g": "vit_giant_patch14_224",
}
# Architectures that are a VisionTransformer of timm's defaults: exact GELU, and nothing that no key would show.
_PLAIN = re.compile(r"(vit|deit)_(tiny|small|base|large|huge|giant)_patch\d+_\d+(\.\w+)?")
# Arguments whose effect is in the shapes and keys, is read below, or is none on what the model computes.
# fmt: off
_UNDERSTOOD = frozenset((
    "img_size", "patch_size", "in_chans", "num_classes", "embed_dim", "depth",
    "num_heads", "mlp_ratio", "act_layer", "global_pool", "class_token", "no_embed_class",
    "pos_embed", "qkv_bias", "pos_drop_rate", "drop_rate", "patch_drop_rate", "proj_drop_rate",
    "attn_drop_rate", "drop_path_rate", "dynamic_img_size", "dynamic_img_pad", "strict_img_size", "weight_init",
))
# fmt: on


def read(found: Mapping[str, Tensor], config: Mapping[str, Any] | None, *, unsaid: Unsaid, name: str) -> Foreign:
    """A model from the tensors and, if there is one, the config.json of a folder. ValueError for no ViT of ours.

    Where the config is silent, what `unsaid` says goes before timm's defaults: weights that JAX trained are often kept
    there as if their GELU were exact.
    """
    config = config or {}
    arguments = dict(config.get("model_args") or {})
    _check(found, config, arguments, name=name)
    architecture = str(config.get("architecture", ""))
    gelu = _GELUS[arguments["act_layer"]] if "act_layer" in arguments else None
    usual_heads = None if "num_heads" in arguments else _usual_heads(found)
    usual_gelu: Gelu | None = "exact" if gelu is None and _PLAIN.fullmatch(architecture) else None
    image_px = unsaid.image_px
    if image_px is None and "pos_embed" not in found:
        image_px = _image_px(config, arguments)
    return model_of(
        found,
        format="timm",
        name=name,
        heads=agreed("heads", file=arguments.get("num_heads"), user=unsaid.heads or usual_heads, name=name),
        gelu=agreed("gelu", file=gelu, user=unsaid.gelu or usual_gelu, name=name),
        image_px=image_px,
    )


def write(state: State, config: ViTConfig) -> tuple[State, dict[str, Any]]:
    """The tensors, and the contents of config.json. ValueError for what timm's VisionTransformer is not."""
    if config.pre_logits:
        raise ValueError(
            "pre_logits: timm's ViT has none; leaving the head out leaves it out too, or npz would be right"
        )
    pool = next(theirs for theirs, ours in _POOLS.items() if ours == config.pool)
    about = {
        "architecture": _ARCHITECTURES.get(_letters(config) or "", _ARCHITECTURES["B"]),
        "num_classes": config.num_classes,
        "num_features": config.width,
        "global_pool": pool,
        "model_args": {
            "img_size": config.image_px,
            "patch_size": config.patch_px,
            "in_chans": config.channels,
            "num_classes": config.num_classes,
            "embed_dim": config.width,
            "depth": config.depth,
            "num_heads": config.heads,
            "mlp_ratio": _ratio(config),
            "act_layer": "gelu_tanh" if config.gelu == "tanh" else "gelu",
            "global_pool": pool,
            "class_token": config.pool == "cls",
            "fc_norm": False,
        },
        "pretrained_cfg": _shown(config),
    }
    return state, {"config.json": about}


def _shown(config: ViTConfig) -> dict[str, Any]:
    """What images are to look like, and which weights timm may change for others."""
    return {
        "custom_load": False,
        "input_size": [config.channels, config.image_px, config.image_px],
        "fixed_input_size": True,
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "crop_mode": "squash",  # images are resized straight to the square
        "mean": [0.5] * config.channels,
        "std": [0.5] * config.channels,
        "num_classes": config.num_classes,
        "pool_size": None,
        # timm would mix the channels of a first convolution for images of other than three.
        "first_conv": "patch_embed.proj" if config.channels == 3 else None,
        "classifier": "head",
    }


def _check(found: Mapping[str, Tensor], config: Mapping[str, Any], arguments: Mapping[str, Any], *, name: str) -> None:
    """ValueError for what the keys of the tensors do not show."""
    where = f"{name}: config.json"
    unknown = [key for key, value in arguments.items() if key not in _UNDERSTOOD and value]
    if unknown:
        raise ValueError(f"{where}: model_args.{unknown[0]}: {arguments[unknown[0]]!r} is not known here; {SUPPORTED}")
    if not isinstance(heads := arguments.get("num_heads", 1), int):
        raise ValueError(f"{where}: model_args.num_heads: is {heads!r}; a number would be right")  # noqa: TRY004
    if (act := str(arguments.get("act_layer", "gelu"))) not in _GELUS:
        raise ValueError(f"{where}: model_args.act_layer: {act!r} is not one of {', '.join(map(repr, _GELUS))}")
    pool = arguments.get("global_pool", config.get("global_pool", "token" if "cls_token" in found else None))
    if pool is not None and pool not in _POOLS:
        raise ValueError(f"{where}: global_pool: {pool!r} is not one of {', '.join(map(repr, _POOLS))}")
    if pool is not None and (pool == "token") != ("cls_token" in found):
        there = "there is a class token" if "cls_token" in found else "there is no class token"
        raise ValueError(
            f"{where}: global_pool: is {pool!r}, though {there}; with pools other than 'token' ours have none"
        )


def _image_px(config: Mapping[str, Any], arguments: Mapping[str, Any]) -> int | None:
    """The side of the images, where no position embedding shows it."""
    size_px = arguments.get("img_size") or (config.get("pretrained_cfg") or {}).get("input_size")
    return size_px if isinstance(size_px, int) or size_px is None else int(size_px[-1])


def _usual_heads(found: Mapping[str, Tensor]) -> int | None:
    """The heads of the variant of these sizes, if one has them: nobody has built it with others."""
    kernel, hidden = found.get("patch_embed.proj.weight"), found.get("blocks.0.mlp.fc1.weight")
    if kernel is None or hidden is None:
        return None
    depth = len({key.split(".")[1] for key in found if key.startswith("blocks.")})
    sizes = (len(kernel), depth, len(hidden))
    return next((heads for width, depth, heads, mlp in VARIANTS.values() if (width, depth, mlp) == sizes), None)


def _letters(config: ViTConfig) -> str | None:
    sizes = (config.width, config.depth, config.heads, config.mlp_dim)
    return next((letters for letters, variant in VARIANTS.items() if variant == sizes), None)


def _ratio(config: ViTConfig) -> float:
    """timm cuts the product with the width down to an integer, which must be mlp_dim."""
    ratio = config.mlp_dim / config.width
    return ratio if int(config.width * ratio) == config.mlp_dim else math.nextafter(ratio, math.inf)
