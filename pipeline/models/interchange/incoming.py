"""Weights from elsewhere: which format they are, what they are in our terms, and where they are kept from then on.

<out>/weights.safetensors   as a pre-training publishes them
<out>/imported.json         where they came from
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import safetensors.torch
import xxhash
from safetensors import SafetensorError
from torch import Tensor

from pipeline import storage
from pipeline.config import encode
from pipeline.models import weights
from pipeline.models.interchange import huggingface, jax, npz, timm
from pipeline.models.interchange.foreign import Foreign, blank
from pipeline.models.interchange.unsaid import Unsaid

log = logging.getLogger(__name__)

WEIGHTS, RECORD = "weights.safetensors", "imported.json"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".tar")
_FOLDER = ("model.safetensors", WEIGHTS)


@dataclass(frozen=True)
class Imported:
    """`weights` (xxh3-128 `digest`) are those of `source` (`source_digest`), a model of the config `model`."""

    weights: str
    digest: str
    model: Mapping[str, Any]
    source: str
    source_digest: str
    format: str
    remarks: tuple[str, ...]


def keep(source: str, *, out: str, unsaid: Unsaid, digest: str = "") -> Imported:
    """Read weights of any format and write them as ours below `out`, with a record of what was done.

    With `digest`, the source's file must have that xxh3-128. Raises what `read` and the storage raise.
    """
    place, data = _bytes(source)
    found = xxhash.xxh3_128_hexdigest(data)
    if digest and digest != found:
        raise ValueError(f"{place}: has digest {found}, but {digest} was asked for; it is another file or damaged")
    foreign = _read(place, data, unsaid=unsaid)
    for remark in foreign.remarks:
        log.warning("%s: %s", place, remark)
    ours, uri = weights.to_bytes(blank(foreign.config), state=foreign.state), storage.join(out, WEIGHTS)
    storage.write(uri, ours)
    imported = Imported(
        weights=uri,
        digest=xxhash.xxh3_128_hexdigest(ours),
        model=encode(foreign.config),
        source=place,
        source_digest=found,
        format=foreign.format,
        remarks=foreign.remarks,
    )
    storage.write(storage.join(out, RECORD), json.dumps(asdict(imported), indent=1).encode() + b"\n")
    return imported


def read(source: str, *, unsaid: Unsaid = Unsaid()) -> Foreign:  # noqa: B008  frozen
    """The model in a file or a folder: ours, timm's, transformers' (both safetensors), or a .npz of JAX.

    In a folder it is model.safetensors or weights.safetensors; a config.json beside the file is read with it.
    Raises ValueError, naming the key, for what is no ViT of ours, and StorageError where nothing is.
    """
    return _read(*_bytes(source), unsaid=unsaid)


def _bytes(source: str) -> tuple[str, bytes]:
    """The file that is meant, and what is in it."""
    if source.endswith(_PICKLES):
        raise ValueError(f"{source}: would have to be unpickled, which runs code; .safetensors or .npz would be right")
    if source.endswith((".safetensors", ".npz")):
        return source, storage.read(source)
    for name in _FOLDER:
        uri = storage.join(source, name)
        if storage.exists(uri):
            return uri, storage.read(uri)
    raise storage.NotFound(f"{source}: has no {' and no '.join(_FOLDER)}; name a folder with one, or a file")


def _read(place: str, data: bytes, *, unsaid: Unsaid) -> Foreign:
    if place.endswith(".npz"):
        return jax.read(npz.read(data, name=place), unsaid=unsaid, name=place)
    if _is_ours(data):
        config, state = weights.from_bytes(data, name=place)
        return Foreign("tessera", config, state)
    try:
        found: dict[str, Tensor] = safetensors.torch.load(data)
    except SafetensorError as error:
        raise ValueError(f"{place}: is no whole safetensors file ({error}); another copy would be right") from error
    config = _config(place)
    if huggingface.is_theirs(found):
        if config is None:
            raise ValueError(f"{place}: config.json: is missing beside it, and says the heads and the GELU")
        return huggingface.read(found, config, unsaid=unsaid, name=place)
    return timm.read(found, config, unsaid=unsaid, name=place)


def _is_ours(data: bytes) -> bool:
    """Whether `weights.to_bytes` wrote this; damaged files are for `weights.from_bytes` and safetensors to refuse."""
    length = int.from_bytes(data[:8], "little")
    return b'"__metadata__":{"tessera":' in data[8 : 8 + length]


def _config(place: str) -> dict[str, Any] | None:
    """The config.json beside a file, if there is one."""
    uri = storage.join(place.rpartition("/")[0] or ".", "config.json")
    try:
        found = json.loads(storage.read(uri))
    except storage.NotFound:
        return None
    except ValueError as error:
        raise ValueError(f"{uri}: is no JSON ({error}); another copy would be right") from error
    if not isinstance(found, dict):
        raise ValueError(f"{uri}: is a {type(found).__name__}; an object of JSON would be right")  # noqa: TRY004
    return found
