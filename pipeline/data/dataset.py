"""What a prepared data set is: its classes, its splits, their shards. Knows nothing of what is inside a shard."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pipeline import storage

_FILE = "manifest.json"
_FORMAT = 1


@dataclass(frozen=True)
class Shard:
    """One tar. `name` is its path below the data set ("train/000003.tar"), `digest` the xxh3_128 of its bytes.

    `at` is where a tar lies that others wrote and that was indexed where it is; its index is below the data set.
    """

    name: str
    num_samples: int
    num_bytes: int
    digest: str
    index_digest: str
    at: str | None = None


@dataclass(frozen=True)
class Manifest:
    """A whole data set. `class_counts` holds, per split, how many samples each class has, in the order of `classes`.

    The order of a split's shards is the order that `Plan.shard_sizes` and sample ids count in.
    """

    name: str
    classes: tuple[str, ...]
    splits: Mapping[str, tuple[Shard, ...]]
    class_counts: Mapping[str, tuple[int, ...]]
    source: Mapping[str, Any]
    seed: int

    def __post_init__(self) -> None:
        if set(self.splits) != set(self.class_counts):
            raise ValueError(f"class_counts: has {sorted(self.class_counts)}, but splits has {sorted(self.splits)}")
        for split, counts in self.class_counts.items():
            if len(counts) != len(self.classes):
                raise ValueError(f"class_counts: {split} has {len(counts)} numbers for {len(self.classes)} classes")
            if sum(counts) != self.num_samples(split):
                raise ValueError(
                    f"class_counts: {split} has {sum(counts)}, its shards {self.num_samples(split)} samples"
                )

    @property
    def digest(self) -> str:
        """Sixteen hex digits that change if and only if anything here, hence any byte of any shard, does."""
        return hashlib.sha256(json.dumps(_plain(self), sort_keys=True).encode()).hexdigest()[:16]

    def shards(self, split: str) -> tuple[Shard, ...]:
        """The shards of a split; ValueError, listing the splits there are, for another name."""
        if split not in self.splits:
            raise ValueError(f"split: {self.name} has no {split!r}; it has {', '.join(self.splits)}")
        return self.splits[split]

    def num_samples(self, split: str) -> int:
        """Samples in a split."""
        return sum(shard.num_samples for shard in self.shards(split))

    def shard_sizes(self, split: str) -> tuple[int, ...]:
        """Samples per shard of a split: what a Plan is made of."""
        return tuple(shard.num_samples for shard in self.shards(split))


def manifest_uri(uri: str) -> str:
    """Where the manifest of the data set at `uri` is."""
    return storage.join(uri, _FILE)


def shard_uri(uri: str, shard: Shard) -> str:
    """Where the tar of a shard of the data set at `uri` is."""
    return shard.at or storage.join(uri, shard.name)


def write_manifest(uri: str, manifest: Manifest) -> None:
    """Declare the data set at `uri` whole: written last, atomically, the same bytes for the same content."""
    data = {"format": _FORMAT, "digest": manifest.digest, **_plain(manifest)}
    storage.write(manifest_uri(uri), (json.dumps(data, indent=1) + "\n").encode())


def read_manifest(uri: str) -> Manifest:
    """The data set at `uri`; storage.NotFound if nothing whole is there, ValueError if the file is not as written."""
    where = manifest_uri(uri)
    try:
        text = storage.read(where)
    except storage.NotFound as error:
        raise storage.NotFound(
            f"{where}: no data set is here, or it was not finished; run the stage that prepares it (`prepare`)"
        ) from error
    try:
        data = json.loads(text)
        manifest = _decode(data, where)
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(f"{where}: is not a manifest of shards ({error!r}); prepare the data set again") from error
    if manifest.digest != data["digest"]:
        raise ValueError(
            f"{where}: was changed after it was written (says {data['digest']}, is {manifest.digest}); "
            "prepare the data set again"
        )
    return manifest


def check_sizes(uri: str, manifest: Manifest, *, split: str) -> None:
    """ValueError, naming it, for the first shard of a split whose size on storage is not the manifest's."""
    for shard in manifest.shards(split):
        check_size(uri, shard)


def check_size(uri: str, shard: Shard) -> None:
    """ValueError if the tar on storage is longer or shorter than the manifest says."""
    where = shard_uri(uri, shard)
    if (found := storage.size(where)) != shard.num_bytes:
        raise ValueError(
            f"{where}: has {found} bytes, the manifest says {shard.num_bytes}; "
            "it was truncated or overwritten: remove it and prepare the data set again"
        )


def _plain(manifest: Manifest) -> dict[str, Any]:
    """JSON data; a field that a shard does not use is left out, so that older digests stay what they are."""
    data = asdict(manifest)
    for shards in data["splits"].values():
        for shard in shards:
            if shard["at"] is None:
                del shard["at"]
    return data


def _decode(data: Any, where: str) -> Manifest:
    if data["format"] != _FORMAT:
        raise ValueError(
            f"{where}: format {data['format']!r}, this version reads {_FORMAT}; prepare the data set again"
        )
    return Manifest(
        name=data["name"],
        classes=tuple(data["classes"]),
        splits={split: tuple(Shard(**shard) for shard in shards) for split, shards in data["splits"].items()},
        class_counts={split: tuple(counts) for split, counts in data["class_counts"].items()},
        source=data["source"],
        seed=data["seed"],
    )
