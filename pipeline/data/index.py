"""The sidecar of a tar shard: where each image lies, its label and a digest of its bytes. Knows no tar, no pixels.

The file, little-endian: magic, version u32, samples u32, size of the tar u64, xxh3_128 of the tar (16 bytes, big-endian
as its hex digits); then four columns, one number per sample: offset of the image's bytes u64, their number u32, label
i32, xxh3_64 of them u64; then xxh3_64 of all before it.

Dimension key: S samples of the shard.
"""

import struct
from dataclasses import dataclass

import numpy as np
import xxhash
from numpy.typing import NDArray

from pipeline import storage
from pipeline.data.dataset import Shard

SUFFIX = ".index"

_MAGIC = b"TESSERA\x1a"
_VERSION = 1
_HEADER = struct.Struct("<8sIIQ16s")
_TRAILER = struct.Struct("<Q")
_COLUMNS = (np.dtype("<u8"), np.dtype("<u4"), np.dtype("<i4"), np.dtype("<u8"))
_ROW = sum(column.itemsize for column in _COLUMNS)


@dataclass(frozen=True, eq=False)
class Index:
    """Sample i's image is bytes [offset_S[i], offset_S[i] + size_S[i]) of the tar.

    The tar has `tar_bytes` in all and `tar_digest` (see `digest`); `digest_S` holds xxh3_64 of each image's bytes.
    """

    tar_bytes: int
    tar_digest: str
    offset_S: NDArray[np.uint64]
    size_S: NDArray[np.uint32]
    label_S: NDArray[np.int32]
    digest_S: NDArray[np.uint64]

    @property
    def num_samples(self) -> int:
        return len(self.offset_S)


def index_name(shard_name: str) -> str:
    """The sidecar's name: it lies next to the tar."""
    return shard_name + SUFFIX


def encode(index: Index) -> bytes:
    """The sidecar's bytes: the same for the same index, on every machine."""
    body = _HEADER.pack(_MAGIC, _VERSION, index.num_samples, index.tar_bytes, bytes.fromhex(index.tar_digest))
    columns = (index.offset_S, index.size_S, index.label_S, index.digest_S)
    body += b"".join(
        np.asarray(values).astype(dtype).tobytes() for values, dtype in zip(columns, _COLUMNS, strict=True)
    )
    return body + _TRAILER.pack(xxhash.xxh3_64_intdigest(body))


def decode(data: bytes, *, uri: str) -> Index:
    """The index in `data`, read from `uri`; ValueError, naming file and remedy, unless every byte is right."""
    remedy = "remove it and prepare the data set again"
    if len(data) < _HEADER.size + _TRAILER.size:
        raise ValueError(f"{uri}: {len(data)} bytes are too few for an index; {remedy}")
    magic, version, num_samples, tar_bytes, tar_digest = _HEADER.unpack_from(data)
    if magic != _MAGIC:
        raise ValueError(f"{uri}: is not an index of a shard (starts with {magic!r}); {remedy}")
    if version != _VERSION:
        raise ValueError(f"{uri}: index version {version}, this program reads {_VERSION}; {remedy}")
    (expected,) = _TRAILER.unpack_from(data, len(data) - _TRAILER.size)
    intact = xxhash.xxh3_64_intdigest(memoryview(data)[: -_TRAILER.size]) == expected
    if not intact or len(data) != _HEADER.size + num_samples * _ROW + _TRAILER.size:
        raise ValueError(f"{uri}: the index is damaged (its check sum does not match); {remedy}")
    columns, start = [], _HEADER.size
    for dtype in _COLUMNS:
        columns.append(np.frombuffer(data, dtype, num_samples, start))
        start += num_samples * dtype.itemsize
    offset_S, size_S, label_S, digest_S = columns
    return Index(tar_bytes, tar_digest.hex(), offset_S, size_S, label_S, digest_S)


def read_index(uri: str, shard: Shard) -> Index:
    """The index of a shard of the data set at `uri`; ValueError if it is damaged or belongs to another tar."""
    where = storage.join(uri, index_name(shard.name))
    data = _read(where, num_samples=shard.num_samples)
    index = decode(data, uri=where)
    found = index.num_samples, index.tar_bytes, index.tar_digest
    if found != (shard.num_samples, shard.num_bytes, shard.digest) or digest(data) != shard.index_digest:
        raise ValueError(
            f"{where}: is not the index of the {shard.name} in the manifest: it is of a tar of {found[1]} bytes with "
            f"{found[0]} samples, digest {found[2]} (the manifest says {shard.num_bytes}, {shard.num_samples}, "
            f"{shard.digest}); remove it and prepare the data set again"
        )
    return index


def _read(where: str, *, num_samples: int) -> bytes:
    """As a range, since a ranged request that takes long is made a second time; whole where the size is another."""
    try:
        return storage.read(where, start=0, stop=_HEADER.size + num_samples * _ROW + _TRAILER.size)
    except storage.Truncated:
        return storage.read(where)


def digest(data: bytes | memoryview) -> str:
    """xxh3_128 of a file's bytes, as 32 hex digits: what a Shard is checked by."""
    return xxhash.xxh3_128_hexdigest(data)
