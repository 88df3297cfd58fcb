"""The names and layouts of the papers' own code, in JAX: as released, as their code names them now, and big_vision's.

Read are all of them, written is what was released ("pre-linen"), because vit_jax and timm read that:

    released, AugReg    MultiHeadDotProductAttention_1  LayerNorm_2  MlpBlock_3   positions under Transformer/
    linen               MultiHeadDotProductAttention_0  LayerNorm_1  MlpBlock_0
    big_vision          the same, positions at the top, blocks one by one or stacked in one array

A dense kernel is [in, out] there, one of queries, keys and values [width, heads, width of a head], and that of a
convolution [height, width, in, out].
"""

import logging
import re
from collections.abc import Iterator, Mapping

from torch import Tensor

from pipeline.models.interchange import layer as table
from pipeline.models.interchange.foreign import Foreign, State, model_of
from pipeline.models.interchange.layer import Dialect, Kind, Layer
from pipeline.models.interchange.unsaid import Unsaid, agreed
from pipeline.models.variant import ViTConfig

log = logging.getLogger(__name__)

_ATTENTION, _MLP, _NORM = "MultiHeadDotProductAttention_1", "MlpBlock_3", "LayerNorm_2"
_LINEN = {"MultiHeadDotProductAttention_0": _ATTENTION, "MlpBlock_0": _MLP, "LayerNorm_1": _NORM}
_POSITION = "Transformer/posembed_input/pos_embedding"
_PREFIXES = ("opt/target/", "params/img/", "params/", "")
# How many dimensions the kernel and the bias of a layer have.
_DIMENSIONS: dict[Kind, tuple[int, int]] = {
    "linear": (2, 1),
    "split": (3, 2),
    "merge": (3, 1),
    "norm": (1, 1),
    "patch": (4, 1),
    "bare": (3, 3),
}


def read(found: Mapping[str, Tensor], *, unsaid: Unsaid, name: str) -> Foreign:
    """A model from arrays of any of the families. What is beside the model, such as an optimiser's, is left out.

    The GELU is that of JAX, tanh. A file without positions is big_vision's with the fixed sine-cosine table; it does
    not say the image size. ValueError for arrays that no ViT of ours has.
    """
    own, beside = _unwrapped(found, name=name)
    named = _released(own, name=name)
    depth = len({key.split("/")[1] for key in named if key.startswith("Transformer/encoderblock_")})
    queries = named.get(f"Transformer/encoderblock_0/{_ATTENTION}/query/kernel")
    heads = int(queries.shape[1]) if queries is not None and queries.ndim == 3 else None
    remark = (f"{len(beside)} arrays beside the model were left out, {beside[0]} first",) if beside else ()
    return model_of(
        table.to_ours(named, _layers(depth), _JAX, name=name),
        format="npz",
        name=name,
        heads=agreed("heads", file=heads, user=unsaid.heads, name=name),
        gelu=agreed("gelu", file="tanh", user=unsaid.gelu, name=name),
        image_px=unsaid.image_px,
        without_position="sincos2d",
        remarks=remark,
    )


def write(state: Mapping[str, Tensor], config: ViTConfig) -> State:
    """The arrays as they were released; attention pooling, which came later, has big_vision's names."""
    if config.gelu != "tanh":
        raise ValueError(
            "gelu: is 'exact', but the JAX code knows only tanh; a timm or Hugging Face folder would be right"
        )
    return table.to_theirs(state, _layers(config.depth), _JAX, heads=config.heads)


def _unwrapped(found: Mapping[str, Tensor], *, name: str) -> tuple[State, list[str]]:
    """The model's arrays without what stands before their names, and the names of the other arrays."""
    prefix = next((prefix for prefix in _PREFIXES if f"{prefix}embedding/kernel" in found), None)
    if prefix is None:
        example = next(iter(sorted(found)), "nothing")
        raise ValueError(
            f"{name}: embedding/kernel: is missing among {len(found)} arrays (first: {example}); a ViT has it"
        )
    own = {key.removeprefix(prefix): tensor for key, tensor in found.items() if key.startswith(prefix)}
    return own, sorted(key for key in found if not key.startswith(prefix))


def _released(own: State, *, name: str) -> State:
    """Every array under the name that it had in the first release."""
    named: State = {}
    for key, tensor in own.items():
        if key.startswith("Transformer/encoderblock/"):
            for index, one in enumerate(tensor.unbind() if tensor.ndim else ()):
                named[f"Transformer/encoderblock_{index}/{_renamed(key.split('/', 2)[2])}"] = one
        elif match := re.fullmatch(r"(Transformer/encoderblock_\d+/)(.+)", key):
            named[match[1] + _renamed(match[2])] = tensor
        else:
            named[_POSITION if key == "pos_embedding" else key] = tensor
    assert named, name
    return named


def _renamed(rest: str) -> str:
    first, slash, tail = rest.partition("/")
    return _LINEN.get(first, first) + slash + tail


def _layers(depth: int) -> Iterator[Layer]:
    yield Layer("cls_token", ("cls",), "bare")
    yield Layer("pos_embed", (_POSITION,), "bare")
    yield Layer("patch_embed.proj", ("embedding",), "patch")
    for index in range(depth):
        ours, theirs = f"blocks.{index}", f"Transformer/encoderblock_{index}"
        attention, mlp = f"{theirs}/{_ATTENTION}", f"{theirs}/{_MLP}"
        yield Layer(f"{ours}.norm1", (f"{theirs}/LayerNorm_0",), "norm")
        yield Layer(f"{ours}.attn.qkv", tuple(f"{attention}/{part}" for part in ("query", "key", "value")), "split")
        yield Layer(f"{ours}.attn.proj", (f"{attention}/out",), "merge")
        yield Layer(f"{ours}.norm2", (f"{theirs}/{_NORM}",), "norm")
        yield Layer(f"{ours}.mlp.fc1", (f"{mlp}/Dense_0",), "linear")
        yield Layer(f"{ours}.mlp.fc2", (f"{mlp}/Dense_1",), "linear")
    yield Layer("norm", ("Transformer/encoder_norm",), "norm")
    pool = "MAPHead_0/MultiHeadDotProductAttention_0"
    yield Layer("attn_pool.latent", ("MAPHead_0/probe",), "bare")
    yield Layer("attn_pool.q", (f"{pool}/query",), "split")
    yield Layer("attn_pool.kv", (f"{pool}/key", f"{pool}/value"), "split")
    yield Layer("attn_pool.proj", (f"{pool}/out",), "merge")
    yield Layer("attn_pool.norm", ("MAPHead_0/LayerNorm_0",), "norm")
    yield Layer("attn_pool.mlp.fc1", ("MAPHead_0/MlpBlock_0/Dense_0",), "linear")
    yield Layer("attn_pool.mlp.fc2", ("MAPHead_0/MlpBlock_0/Dense_1",), "linear")
    yield Layer("pre_logits", ("pre_logits",), "linear")
    yield Layer("head", ("head",), "linear")


def _suffixes(kind: Kind) -> tuple[tuple[str, str], ...]:
    if kind == "bare":
        return (("", ""),)
    return (".weight", "/scale" if kind == "norm" else "/kernel"), (".bias", "/bias")


def _to_ours(kind: Kind, tensor: Tensor, key: str) -> Tensor:
    dimensions = _DIMENSIONS[kind][key.endswith("/bias")]
    if tensor.ndim != dimensions:
        raise ValueError(f"{key}: shape {tuple(tensor.shape)}; one of {dimensions} dimensions would be right")
    if kind in ("norm", "bare") or key.endswith("/bias"):
        return tensor if kind == "bare" else tensor.flatten()
    if kind == "patch":
        return tensor.permute(3, 2, 0, 1)
    return (tensor.flatten(1) if kind == "split" else tensor.flatten(0, -2)).T


def _to_theirs(kind: Kind, tensor: Tensor, heads: int) -> Tensor:
    if kind == "patch" and tensor.ndim == 4:
        return tensor.permute(2, 3, 1, 0)
    across = tensor.T if tensor.ndim == 2 else tensor
    if kind == "split":
        return across.unflatten(-1, (heads, -1))
    return across.unflatten(0, (heads, -1)) if kind == "merge" and tensor.ndim == 2 else across


_JAX = Dialect(_suffixes, _to_ours, _to_theirs)
