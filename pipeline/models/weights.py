"""A model as bytes: safetensors with its ViTConfig and a digest in the header. Never pickle.

    storage.write(uri, weights.to_bytes(model))
    config, state = weights.from_bytes(storage.read(uri), name=uri)
    model = ViT(config)
    model.load_state_dict(state)

Also what fine-tuning does to a state: `adapt`. Names and shapes are those of `vit.py`, which are timm's.
"""

import json
from collections.abc import Mapping
from typing import Any

import safetensors.torch
import torch
import xxhash
from safetensors import SafetensorError
from torch import Tensor

from pipeline.config import decode, encode
from pipeline.models.initial import initialise
from pipeline.models.position import resample_position
from pipeline.models.variant import ViTConfig
from pipeline.models.vit import ViT

State = dict[str, Tensor]

# The one key of the header's metadata. One, because the library writes several in an order that differs from process
# to process, and the same weights are to be the same bytes.
_KEY = "tessera"
_ANOTHER_COPY = "another copy of the file would be right"

# What a fine-tuned model must share with the one it starts from, because the weights mean nothing without it.
_SHARED = ("width", "depth", "heads", "mlp_dim", "patch_px", "channels", "pool", "position", "gelu")
# Weights that belong to pre-training and are made anew where the fine-tuned config has them at all.
_OF_PRETRAINING = ("head.", "pre_logits.", "mask_token", "patch_head.")


def to_bytes(model: ViT, *, state: Mapping[str, Tensor] | None = None) -> bytes:
    """The weights of `model` as a safetensors file; of `state` instead where given (an optimiser's float32 copy).

    Raises ValueError if `state` does not have exactly the names and shapes of the model's config.
    """
    state = model.state_dict() if state is None else state
    tensors = {name: t.detach().cpu().contiguous() for name, t in state.items()}
    check(tensors, model.config)
    config = encode(model.config)
    about = {"config": config, "digest": _digest(tensors, config)}
    return safetensors.torch.save(tensors, metadata={_KEY: json.dumps(about)})


def from_bytes(data: bytes, *, name: str = "weights") -> tuple[ViTConfig, State]:
    """The config and the tensors of `to_bytes`; `name` says in errors where the bytes came from.

    Raises ValueError if they are not a whole safetensors file, are not of this project, are damaged, or do not fit
    their own config.
    """
    about = _about(data, name=name)
    config = decode(ViTConfig, about.get("config"), f"{name}: {_KEY}.config")
    try:
        state = safetensors.torch.load(data)
    except SafetensorError as error:
        raise ValueError(f"{name}: is damaged ({error}); {_ANOTHER_COPY}") from error
    check(state, config, name=name)
    if (found := _digest(state, about["config"])) != about.get("digest"):
        raise ValueError(f"{name}: is damaged: its digest is {found}, not {about.get('digest')}; {_ANOTHER_COPY}")
    return config, {key: state[key] for key in _shapes(config)}


def check(state: Mapping[str, Tensor], config: ViTConfig, *, name: str = "weights") -> None:
    """Raise ValueError unless `state` has exactly the names and shapes that a ViT of `config` has."""
    shapes = _shapes(config)
    for key, shape in shapes.items():
        if key not in state:
            raise ValueError(f"{name}: {key}: is missing; a tensor of shape {shape} would be right")
        if tuple(state[key].shape) != shape:
            raise ValueError(f"{name}: {key}: shape {tuple(state[key].shape)}; {shape} would be right")
    if unknown := sorted(state.keys() - shapes.keys()):
        raise ValueError(f"{name}: {unknown[0]}: no such weight in this config; {len(unknown)} too many in all")


def adapt(state: Mapping[str, Tensor], old: ViTConfig, new: ViTConfig, *, seed: int) -> State:
    """The weights with which fine-tuning starts (arXiv 2010.11929, sections 3.1 and 3.2).

    The head, pre_logits, mask token and patch head of pre-training are dropped; those that `new` has are initialised
    anew, from `seed` where they are random, so its head kernel is zero. The position embedding is resampled to the
    new grid by `new.position_resize`. The rest are the tensors of `state` themselves, not copies.
    Raises ValueError if the two configs are not the same backbone, or `state` is not of `old`.
    """
    for field in _SHARED:
        if getattr(old, field) != getattr(new, field):
            raise ValueError(
                f"{field}: {getattr(new, field)!r} cannot start from weights of {getattr(old, field)!r}; "
                f"{getattr(old, field)!r} would be right"
            )
    check(state, old)
    generator = torch.Generator().manual_seed(seed)
    adapted: State = {}
    for key, shape in _shapes(new).items():
        if key.startswith(_OF_PRETRAINING):
            adapted[key] = torch.empty(shape)
            initialise(key, adapted[key], config=new, generator=generator)
        elif key == "pos_embed":
            adapted[key] = resample_position(state[key], old.grid, new.grid, mode=new.position_resize)
        else:
            adapted[key] = state[key]
    return adapted


def _shapes(config: ViTConfig) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {name: tuple(parameter.shape) for name, parameter in ViT(config).state_dict().items()}


def _about(data: bytes, *, name: str) -> dict[str, Any]:
    """What `to_bytes` wrote into the header: 8 bytes of little-endian length, then JSON.

    Read here because the library gives metadata only of files, not of bytes.
    """
    length = int.from_bytes(data[:8], "little")
    try:
        metadata = json.loads(data[8 : 8 + length]).get("__metadata__") or {}
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{name}: is not a safetensors file, or only part of one ({len(data)} bytes)") from error
    try:
        return dict(json.loads(metadata[_KEY]))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{name}: no {_KEY} in its header; a file that weights.to_bytes wrote would be right"
        ) from error


def _digest(state: Mapping[str, Tensor], config: Any) -> str:
    """xxh3-128 over the config's JSON as it was written, and names, types, shapes and bytes of the tensors.

    safetensors itself would not notice a flipped bit, and with other `heads` the same tensors are another model.
    """
    digest = xxhash.xxh3_128(json.dumps(config, sort_keys=True).encode())
    for name in sorted(state):
        tensor = state[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
