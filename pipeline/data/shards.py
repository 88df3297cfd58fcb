"""WebDataset shards: writing them, indexing them, reading one sample. The only importer of webdataset, and lazily.

A shard is a plain tar; sample 12 of a split is the members 000000012.cls (its label, decimal), 000000012.json (what
else its source knew) and 000000012.jpg or .png. The same samples give the same bytes, on every machine and every run.
"""

import json
import mmap
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import xxhash

from pipeline import storage
from pipeline.data import index as sidecar
from pipeline.data.dataset import Shard, shard_uri
from pipeline.data.index import Index

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")

_BLOCK = 512
_MEMBER = re.compile(r"^((?:.*/)?[^./]+)\.([^/]+)$")  # key and extension as webdataset splits them


class Sample(Protocol):
    """What a source yields: an encoded image, its label, and JSON data about it."""

    @property
    def key(self) -> str: ...
    @property
    def image(self) -> bytes: ...
    @property
    def extension(self) -> str: ...
    @property
    def label(self) -> int: ...
    @property
    def info(self) -> Mapping[str, Any]: ...


def write_shard(uri: str, *, name: str, samples: Iterable[tuple[int, Sample]]) -> Shard:
    """Write (number in the split, sample) pairs as shard `name` of the data set at `uri`, its index last.

    Both files appear atomically, so a shard whose index is there is whole. The tar passes through a temporary file:
    memory holds one sample. ValueError for a shard without samples or an extension that no reader knows.
    """
    from webdataset.writer import TarWriter

    with tempfile.TemporaryDirectory(prefix="tessera-shard-") as folder:
        path = Path(folder) / "shard.tar"
        with path.open("wb") as stream:
            tar: Any = TarWriter(stream, encoder=False, mtime=0, user="", group="", mode=0o444)
            with tar:
                for number, sample in samples:
                    tar.write(_members(number, sample))
        index = index_tar(path, uri=storage.join(uri, name))
        storage.upload(str(path), storage.join(uri, name))
    encoded = sidecar.encode(index)
    storage.write(storage.join(uri, sidecar.index_name(name)), encoded)
    return _shard(name, index, encoded)


def finished_shard(uri: str, *, name: str) -> tuple[Shard, Index] | None:
    """The shard if tar and index are whole on storage, else None: what a restart need not write again."""
    try:
        encoded = storage.read(storage.join(uri, sidecar.index_name(name)))
        index = sidecar.decode(encoded, uri=name)
        num_bytes = storage.size(storage.join(uri, name))
    except (storage.NotFound, ValueError):
        return None
    return (_shard(name, index, encoded), index) if num_bytes == index.tar_bytes else None


def read_sample(uri: str, shard: Shard, *, index: Index, number: int) -> tuple[bytes, int]:
    """The encoded image and the label of sample `number` of a shard, by one ranged read; ValueError if damaged."""
    where = shard_uri(uri, shard)
    start = int(index.offset_S[number])
    image = storage.read(where, start=start, stop=start + int(index.size_S[number]))
    if xxhash.xxh3_64_intdigest(image) != int(index.digest_S[number]):
        raise ValueError(
            f"{where}: sample {number} is damaged (bytes {start} to {start + len(image)}); prepare it again"
        )
    return image, int(index.label_S[number])


def index_tar(path: Path, *, uri: str) -> Index:
    """The index of a local WebDataset tar, by a walk over its headers; errors call it `uri`.

    ValueError if it is no plain tar, or a sample has no image or no `.cls`.
    """
    if path.stat().st_size == 0:
        raise ValueError(f"{uri}: is empty, not a tar")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as tar:
        rows = [_row(tar, key, members, uri=uri) for key, members in _samples(tar, uri=uri)]
        if not rows:
            raise ValueError(f"{uri}: a shard needs at least one sample; use fewer samples per shard, or more samples")
        offset, size, label, digest = zip(*rows, strict=True)
        return Index(
            tar_bytes=len(tar),
            tar_digest=sidecar.digest(memoryview(tar)),
            offset_S=np.array(offset, np.uint64),
            size_S=np.array(size, np.uint32),
            label_S=np.array(label, np.int32),
            digest_S=np.array(digest, np.uint64),
        )


def _members(number: int, sample: Sample) -> dict[str, Any]:
    if sample.extension not in IMAGE_EXTENSIONS:
        raise ValueError(f"{sample.key}: extension {sample.extension!r} is not one of {', '.join(IMAGE_EXTENSIONS)}")
    info = {"key": sample.key, **sample.info}
    return {
        "__key__": f"{number:09d}",
        "cls": str(sample.label).encode(),
        "json": json.dumps(info, sort_keys=True).encode(),
        sample.extension: sample.image,
    }


def _shard(name: str, index: Index, encoded: bytes) -> Shard:
    return Shard(name, index.num_samples, index.tar_bytes, index.tar_digest, sidecar.digest(encoded))


def _samples(tar: mmap.mmap, *, uri: str) -> Iterator[tuple[str, dict[str, tuple[int, int]]]]:
    """(key, {extension: (start, stop)}) of every sample, in order: members that follow each other and share a key."""
    current, members = "", {}
    for name, start, stop in _files(tar, uri=uri):
        match = _MEMBER.match(name)
        if match is None:
            raise ValueError(f"{uri}: member {name!r} is not named <key>.<extension>")
        key, extension = match.groups()
        if key != current and members:
            yield current, members
            members = {}
        current = key
        members[extension.lower()] = (start, stop)
    if members:
        yield current, members


def _files(tar: mmap.mmap, *, uri: str) -> Iterator[tuple[str, int, int]]:
    """(name, start, stop) of every member of a ustar archive."""
    at = 0
    while at + _BLOCK <= len(tar):
        header = tar[at : at + _BLOCK]
        if not any(header):
            return
        kind, start = header[156:157], at + _BLOCK
        name, prefix = header[:100].rstrip(b"\0").decode(), header[345:500].rstrip(b"\0").decode()
        try:
            stop = start + int(header[124:136].rstrip(b"\0 ") or b"0", 8)
        except ValueError:
            raise ValueError(f"{uri}: no tar header at byte {at}; the file is damaged or not a tar") from None
        if kind not in (b"0", b"\0") or stop > len(tar):
            raise ValueError(f"{uri}: {name!r} at byte {at} is cut short or no plain file; write plain ustar archives")
        yield (f"{prefix}/{name}" if prefix else name), start, stop
        at = stop + -stop % _BLOCK
    raise ValueError(f"{uri}: ends without an end-of-archive mark: it was cut short")


def _row(tar: mmap.mmap, key: str, members: Mapping[str, tuple[int, int]], *, uri: str) -> tuple[int, int, int, int]:
    """Offset, size, label and digest of a sample."""
    extension = next((extension for extension in IMAGE_EXTENSIONS if extension in members), None)
    if extension is None or "cls" not in members:
        raise ValueError(f"{uri}: sample {key} has members {', '.join(sorted(members))}; it needs an image and .cls")
    start, stop = members[extension]
    label = int(tar[slice(*members["cls"])])
    return start, stop - start, label, xxhash.xxh3_64_intdigest(memoryview(tar)[start:stop])
