"""A folder of transformers' ViT, read and written: config.json, model.safetensors, preprocessor_config.json.

Keys are those that transformers writes, in its version 4 and in 5, which has other ones in memory; both are read.
`ViTForImageClassification` is a model with a head, `ViTModel` one without; its pooler is what we call pre_logits.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from pipeline.models.block import NORM_EPS
from pipeline.models.interchange import layer as table
from pipeline.models.interchange.foreign import SUPPORTED, Foreign, State, model_of
from pipeline.models.interchange.layer import Dialect, Kind, Layer
from pipeline.models.interchange.unsaid import Unsaid, agreed
from pipeline.models.variant import Gelu, ViTConfig

_GELUS: dict[str, Gelu] = {"gelu": "exact", "gelu_pytorch_tanh": "tanh", "gelu_new": "tanh", "gelu_fast": "tanh"}
_LARGEST_EPS = 1e-5
_IN_MEMORY = (  # of version 5, and what it writes
    (r"^layers\.", "encoder.layer."),
    (r"\.attention\.q_proj\.", ".attention.attention.query."),
    (r"\.attention\.k_proj\.", ".attention.attention.key."),
    (r"\.attention\.v_proj\.", ".attention.attention.value."),
    (r"\.attention\.o_proj\.", ".attention.output.dense."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
)


def is_theirs(found: Mapping[str, Any]) -> bool:
    """Whether these are the keys of a model of transformers."""
    return any(key.removeprefix("vit.").startswith("embeddings.") for key in found)


def read(found: Mapping[str, Tensor], config: Mapping[str, Any], *, unsaid: Unsaid, name: str) -> Foreign:
    """A model from the tensors and the config.json of a folder. ValueError for what is no ViT of ours."""
    _check(config, name=name)
    named = {_on_disk(key): tensor for key, tensor in found.items()}
    remarks = []
    if named.pop("embeddings.mask_token", None) is not None:
        remarks.append("embeddings.mask_token was left out: only masked pre-training reads it")
    if (eps := float(config.get("layer_norm_eps", 1e-12))) != NORM_EPS:
        remarks.append(f"layer_norm_eps was {eps:g} and is {NORM_EPS:g} here: logits differ by about as much")
    depth = len({key.split(".")[2] for key in named if key.startswith("encoder.layer.")})
    gelu = _GELUS[config.get("hidden_act", "gelu")]
    return model_of(
        table.to_ours(named, _layers(depth), _PLAIN, name=name),
        format="huggingface",
        name=name,
        heads=agreed("heads", file=int(config.get("num_attention_heads", 12)), user=unsaid.heads, name=name),
        gelu=agreed("gelu", file=gelu, user=unsaid.gelu, name=name),
        image_px=unsaid.image_px,
        remarks=tuple(remarks),
    )


def write(state: Mapping[str, Tensor], config: ViTConfig) -> tuple[State, dict[str, Any]]:
    """The tensors, and the contents of the files beside them by name. ValueError for what transformers' ViT is not."""
    if config.pool != "cls":
        raise ValueError(f"pool: is {config.pool!r}, but transformers' ViT reads the class token; timm would be right")
    if config.pre_logits and config.num_classes:
        raise ValueError(
            "pre_logits: transformers' classifier has no layer before its head; leaving the head out would be right, "
            "or npz"
        )
    found = table.to_theirs(state, _layers(config.depth), _PLAIN, heads=config.heads)
    if config.num_classes:
        found = {key if key.startswith("classifier.") else f"vit.{key}": tensor for key, tensor in found.items()}
    return found, {"config.json": _config(config), "preprocessor_config.json": _preprocessor(config)}


def _config(config: ViTConfig) -> dict[str, Any]:
    labels = [f"LABEL_{number}" for number in range(config.num_classes)]
    head = {
        "id2label": {str(number): label for number, label in enumerate(labels)},
        "label2id": {label: number for number, label in enumerate(labels)},
    }
    return {
        "architectures": ["ViTForImageClassification" if config.num_classes else "ViTModel"],
        "model_type": "vit",
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "intermediate_size": config.mlp_dim,
        "hidden_act": "gelu_pytorch_tanh" if config.gelu == "tanh" else "gelu",
        "layer_norm_eps": NORM_EPS,
        "qkv_bias": True,
        "image_size": config.image_px,
        "patch_size": config.patch_px,
        "num_channels": config.channels,
        "pooler_act": "tanh",
        "pooler_output_size": config.width,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        **(head if config.num_classes else {}),
    }


def _preprocessor(config: ViTConfig) -> dict[str, Any]:
    """Images as evaluation sees them: resized straight to the square, bilinear (2), from -1 to 1."""
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": config.image_px, "width": config.image_px},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5] * config.channels,
        "image_std": [0.5] * config.channels,
    }


def _check(config: Mapping[str, Any], *, name: str) -> None:
    """ValueError for what the keys of the tensors do not show."""
    where = f"{name}: config.json"
    for field in ("num_attention_heads", "layer_norm_eps"):
        if not isinstance(config.get(field, 1), int | float):
            raise ValueError(f"{where}: {field}: is {config[field]!r}; a number would be right")  # noqa: TRY004
    if config.get("model_type") != "vit":
        raise ValueError(f"{where}: model_type: is {config.get('model_type')!r}; 'vit' would be right")
    if (act := str(config.get("hidden_act", "gelu"))) not in _GELUS:
        raise ValueError(f"{where}: hidden_act: {act!r} is not one of {', '.join(map(repr, _GELUS))}")
    if (act := config.get("pooler_act", "tanh")) != "tanh":
        raise ValueError(f"{where}: pooler_act: is {act!r}; 'tanh' would be right")
    if not config.get("qkv_bias", True):
        raise ValueError(f"{where}: qkv_bias: is false; {SUPPORTED}")
    if not 0 <= float(config.get("layer_norm_eps", 1e-12)) <= _LARGEST_EPS:
        raise ValueError(f"{where}: layer_norm_eps: is {config['layer_norm_eps']}; {NORM_EPS:g} would be right")


def _on_disk(key: str) -> str:
    key = key.removeprefix("vit.")
    for pattern, written in _IN_MEMORY:
        key = re.sub(pattern, written, key)
    return key


def _layers(depth: int) -> Iterator[Layer]:
    yield Layer("cls_token", ("embeddings.cls_token",), "bare")
    yield Layer("pos_embed", ("embeddings.position_embeddings",), "bare")
    yield Layer("patch_embed.proj", ("embeddings.patch_embeddings.projection",), "patch")
    for index in range(depth):
        ours, theirs = f"blocks.{index}", f"encoder.layer.{index}"
        queries_keys_values = tuple(f"{theirs}.attention.attention.{part}" for part in ("query", "key", "value"))
        yield Layer(f"{ours}.norm1", (f"{theirs}.layernorm_before",), "norm")
        yield Layer(f"{ours}.attn.qkv", queries_keys_values, "split")
        yield Layer(f"{ours}.attn.proj", (f"{theirs}.attention.output.dense",), "merge")
        yield Layer(f"{ours}.norm2", (f"{theirs}.layernorm_after",), "norm")
        yield Layer(f"{ours}.mlp.fc1", (f"{theirs}.intermediate.dense",), "linear")
        yield Layer(f"{ours}.mlp.fc2", (f"{theirs}.output.dense",), "linear")
    yield Layer("norm", ("layernorm",), "norm")
    yield Layer("pre_logits", ("pooler.dense",), "linear")
    yield Layer("head", ("classifier",), "linear")


def _suffixes(kind: Kind) -> tuple[tuple[str, str], ...]:
    return (("", ""),) if kind == "bare" else ((".weight", ".weight"), (".bias", ".bias"))


_PLAIN = Dialect(_suffixes, lambda kind, tensor, key: tensor, lambda kind, tensor, heads: tensor)
