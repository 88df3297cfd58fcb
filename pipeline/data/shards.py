"""WebDataset shards of our own: writing them, reading one sample. The only importer of webdataset, and lazily.

A shard is a plain tar; sample 12 of a split is the members 000000012.cls (its label, decimal), 000000012.json (what
else its source knew) and 000000012.jpg or .png. The same samples give the same bytes, on every machine and every run.
"""

import json
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import xxhash

from pipeline import storage
from pipeline.data import index as sidecar
from pipeline.data.dataset import Shard, shard_uri
from pipeline.data.index import Index
from pipeline.data.scan import Rules, scan
from pipeline.tar.name import IMAGE_EXTENSIONS

_OURS = Rules(label="cls", num_classes=1 << 31, max_member_bytes=(1 << 32) - 1)  # whatever an index can hold


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
    return described(name, index, encoded)


def finished_shard(uri: str, *, name: str, at: str | None = None) -> tuple[Shard, Index] | None:
    """The shard if tar and index are whole on storage, else None: what a restart need not write again.

    `at` is where the tar lies if it is somebody else's.
    """
    try:
        encoded = storage.read(storage.join(uri, sidecar.index_name(name)))
        index = sidecar.decode(encoded, uri=name)
        num_bytes = storage.size(at or storage.join(uri, name))
    except (storage.NotFound, ValueError):
        return None
    return (described(name, index, encoded, at=at), index) if num_bytes == index.tar_bytes else None


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

    ValueError if it is no sound tar, or for the first sample that cannot be used: without an image or `.cls`, say.
    """
    index, flaws = scan(str(path), rules=_OURS, called=uri)
    if flaws:
        raise ValueError(f"{uri}: sample {flaws[0].key}: {flaws[0].reason}")
    if not index.num_samples:
        raise ValueError(f"{uri}: a shard needs at least one sample; use fewer samples per shard, or more samples")
    return index


def described(name: str, index: Index, encoded: bytes, *, at: str | None = None) -> Shard:
    """The shard `name` as a manifest has it, by its index and the bytes of that; `at` as in Shard."""
    return Shard(name, index.num_samples, index.tar_bytes, index.tar_digest, sidecar.digest(encoded), at)


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
