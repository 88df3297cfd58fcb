"""Stage: some of the samples of a data set, drawn so that less is always part of more. Copies no image.

What arXiv 2010.11929 (4.3) trains on random subsets of 9 M, 30 M, 90 M and all of JFT-300M.

<out>/manifest.json   the data set with fewer samples: indexes of its own, over tars that stay where they are
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipeline import storage
from pipeline.config import encode
from pipeline.data import portion as portions
from pipeline.data.dataset import Manifest, Shard, read_manifest, write_manifest
from pipeline.dedup.thin import thin
from pipeline.stage import Artifact, Cluster, Track

log = logging.getLogger(__name__)

_TOGETHER = 1 << 18  # samples that a task looks at


@dataclass(frozen=True)
class Portion:
    """Keeps a `share` of `split`, or so many `samples` of it, exactly; the other splits stay as they are.

    Portions of one data set with one `seed` are nested. All classes stay, also those that no sample is left of. On
    object storage a small share of every shard costs nearly as much traffic as all of it, where shards are cached.
    """

    share: float | None = None
    samples: int | None = None
    split: str = "train"
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.share is None) == (self.samples is None):
            raise ValueError(f"share, samples: one of them says how much, got {self.share} and {self.samples}")
        if self.share is not None and not 0 < self.share <= 1:
            raise ValueError(f"share: must be above 0 and at most 1, got {self.share}")
        if self.samples is not None and self.samples < 1:
            raise ValueError(f"samples: must be at least 1, got {self.samples}")
        if self.seed < 0:
            raise ValueError(f"seed: must not be negative, got {self.seed}")

    def size(self, num_samples: int) -> int:
        """How many of `num_samples` it keeps."""
        if self.share is not None:
            return max(1, round(self.share * num_samples))
        assert self.samples is not None, "one of the two is given"
        if self.samples > num_samples:
            raise ValueError(f"samples: {self.samples} are asked for, {self.split} has {num_samples}; take fewer")
        return self.samples


@dataclass(frozen=True)
class Part:
    """Shards of one split that follow each other, the first sample having the number `first` in the split.

    limit: the highest hash that is kept; None keeps all.
    """

    source: str
    out: str
    split: str
    shards: tuple[Shard, ...]
    first: int
    num_classes: int
    seed: int
    limit: int | None


@dataclass(frozen=True)
class Kept:
    """What is left of a part."""

    split: str
    shards: tuple[Shard, ...]
    class_counts: tuple[int, ...]


def portion(config: Portion, *, out: str, cluster: Cluster, track: Track, shards: Artifact) -> Mapping[str, Any]:
    """Write a data set that is part of `shards`, to pre-train on.

    Returns {"samples", "of", "digest"}. ValueError for more samples than there are.
    """
    whole = read_manifest(shards.uri)
    num_samples = whole.num_samples(config.split)
    size = config.size(num_samples)
    limit = portions.limit(num_samples, size=size, seed=config.seed)
    track.params(encode(config))
    track.dataset(name=whole.name, digest=whole.digest, source=shards.uri, context="pretrain")
    parts = list(_parts(config, whole, source=shards.uri, out=out, limit=limit))
    kept = dict(cluster.map(write_part, parts, title=f"portion of {whole.name}"))
    manifest = _manifest(config, whole, [kept[place] for place in range(len(parts))], source=shards.uri)
    assert manifest.num_samples(config.split) == size, "no two samples have one hash"
    if empty := sum(not count for count in manifest.class_counts[config.split]):
        log.warning("%s: %d of %d classes have no sample left", config.split, empty, len(manifest.classes))
    write_manifest(out, manifest)
    track.metrics({"samples": size, "of": num_samples})
    return {"samples": size, "of": num_samples, "digest": manifest.digest}


def write_part(part: Part) -> Kept:
    """Write the part's indexes anew, without what is not kept; what a task does."""
    shards, counts_K, first = [], np.zeros(part.num_classes, np.int64), part.first
    for shard in part.shards:
        left_out: list[int] = []
        if part.limit is not None:
            is_kept_S = portions.belongs(first, first + shard.num_samples, limit=part.limit, seed=part.seed)
            left_out = np.flatnonzero(~is_kept_S).tolist()
        kept, label_S = thin(part.source, shard, out=part.out, left_out=left_out)
        if kept is not None:
            shards.append(kept)
            counts_K += np.bincount(label_S, minlength=part.num_classes)
        first += shard.num_samples
    return Kept(part.split, tuple(shards), tuple(counts_K.tolist()))


def _parts(config: Portion, whole: Manifest, *, source: str, out: str, limit: int) -> Iterator[Part]:
    """All splits, cut between shards, in order."""
    for split, shards in whole.splits.items():
        first, stop, together = 0, 0, []
        for shard in shards:
            together.append(shard)
            stop += shard.num_samples
            if stop - first >= _TOGETHER or shard is shards[-1]:
                yield Part(
                    source=source,
                    out=out,
                    split=split,
                    shards=tuple(together),
                    first=first,
                    num_classes=len(whole.classes),
                    seed=config.seed,
                    limit=limit if split == config.split else None,
                )
                first, together = stop, []


def _manifest(config: Portion, whole: Manifest, kept: Sequence[Kept], *, source: str) -> Manifest:
    splits, class_counts = {}, {}
    for split in whole.splits:
        parts = [part for part in kept if part.split == split]
        splits[split] = tuple(shard for part in parts for shard in part.shards)
        class_counts[split] = tuple(sum(part.class_counts[k] for part in parts) for k in range(len(whole.classes)))
    about = {
        "is": "a portion",
        "of": {"uri": storage.absolute(source), "digest": whole.digest},
        "config": encode(config, identity=True),
    }
    return replace(whole, splits=splits, class_counts=class_counts, source=about)
