"""The prepare stage: a source of labelled images becomes shuffled shards, their indices and a manifest.

Every image is decoded once here, so that training never meets one that cannot be. Shards are written side by side;
one whose index is on storage is whole and is not written again, and the manifest comes last.
"""

import itertools
import json
import logging
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipeline import storage
from pipeline.config import encode, execution
from pipeline.data import quarantine, sample_list, shards
from pipeline.data.dataset import Manifest, Shard, write_manifest
from pipeline.data.decode import Corrupt
from pipeline.data.limit import Limits, fitted
from pipeline.data.plan import permutation
from pipeline.data.quarantine import LeftOut
from pipeline.datasets import scan
from pipeline.datasets.choice import Choice
from pipeline.datasets.source import Refused, Sample, Source
from pipeline.datasets.vtab import Vtab
from pipeline.stage import Cluster, Track

log = logging.getLogger(__name__)

_SOURCE = "source.json"
_SHOWN = 5  # names of empty classes
_HOPELESS = 1000  # so many corrupt images beyond the permitted ones, and looking at the rest is a waste


@dataclass(frozen=True)
class Prepare:
    """`seed` shuffles every split once, over all its samples, so that each shard is a fair draw of the classes.

    `samples_per_shard` is a ceiling (the shards of a split differ by one sample at most); 100 MB to 1 GB a shard read
    well. `max_side_px` makes large images smaller; `min_side_px`, `max_pixels` and `max_aspect` say which are not taken
    (see `data.limit.Limits`). Up to `max_corrupt` images that are not taken, or cannot be decoded, are left out and
    listed in quarantine.jsonl.
    """

    source: Choice
    samples_per_shard: int = 1000
    seed: int = 0
    max_corrupt: int = execution(0)
    max_side_px: int | None = None
    min_side_px: int | None = None
    max_pixels: int | None = None
    max_aspect: float | None = None

    def __post_init__(self) -> None:
        if self.samples_per_shard < 1:
            raise ValueError(f"samples_per_shard: must be positive, got {self.samples_per_shard}")
        if self.max_corrupt < 0:
            raise ValueError(f"max_corrupt: must not be negative, got {self.max_corrupt}")
        self.limits()  # which check themselves

    def limits(self) -> Limits:
        """Which images are taken, and how large they may be."""
        return Limits(self.max_side_px, self.min_side_px, self.max_pixels, self.max_aspect)


@dataclass(frozen=True)
class Part:
    """The work on one shard, as it travels to a worker: `first` is the number in the split of its first sample."""

    uri: str
    name: str
    split: str
    first: int
    num_samples: int
    num_classes: int
    samples: Iterable[Sample | Refused]
    limits: Limits = Limits()


@dataclass(frozen=True)
class Written:
    """What became of a part; no shard if not one of its images could be decoded."""

    split: str
    shard: Shard | None
    class_counts: tuple[int, ...]
    quarantined: tuple[LeftOut, ...] = ()


def prepare(config: Prepare, *, out: str, cluster: Cluster, track: Track) -> Mapping[str, Any]:
    """Write the shards of every split of the source, then the manifest that declares them whole.

    Returns {"samples", "shards", "bytes", "classes", "quarantined", "digest"}. Can be killed and called again: only
    what is missing is written, and every file has the bytes it would have had. ValueError if more than `max_corrupt`
    images are corrupt, or if the source has other samples than when this output was begun.
    """
    track.params(encode(config))
    source = scan.scanned(config.source, out=out, cluster=cluster)
    _check_same_source(source, out)
    parts = Parts(config, out, source=source)
    written = _collect(cluster.map(write_part, parts, title=f"prepare {source.name}"), parts, config)
    quarantined = [entry for part in written for entry in part.quarantined]
    quarantine.write_list(out, quarantined)
    if len(quarantined) > config.max_corrupt:
        quarantine.forget(out)  # they may be mended before the next attempt
        raise ValueError(
            f"{quarantine.list_uri(out)}: {len(quarantined)} images are corrupt (the first: {quarantined[0].key} "
            f"{quarantined[0].reason}), max_corrupt permits {config.max_corrupt}; mend or remove what the file lists, "
            "or permit more"
        )
    manifest = _manifest(config, written, source=source, lists=_list_samples(config, out, source=source, track=track))
    _log_classes(manifest)
    write_manifest(out, manifest)
    scan.forget(out)
    quarantine.forget(out)
    result = _result(manifest, num_quarantined=len(quarantined))
    track.metrics({name: value for name, value in result.items() if name != "digest"})
    for split in manifest.splits:
        track.dataset(name=manifest.name, digest=manifest.digest, source=out, context=split)
    return result


def write_part(part: Part) -> Written:
    """Write one shard, unless it is on storage already; runs on a worker. ValueError for a label that is no class."""
    if done := _finished(part):
        return done
    quarantined: list[LeftOut] = []
    labels: list[int] = []
    sound = _sound(part, labels=labels, quarantined=quarantined)
    first = next(sound, None)
    shard = None
    if first is not None:
        shard = shards.write_shard(part.uri, name=part.name, samples=itertools.chain([first], sound))
    if quarantined:
        quarantine.keep(part.uri, part.name, quarantined)
    return Written(part.split, shard, _counts(labels, part), tuple(quarantined))


class Parts(Sequence[Part]):
    """The parts of every split, made when asked for: a list of them all would hold every name of a large folder."""

    def __init__(self, config: Prepare, out: str, *, source: Source) -> None:
        self._source, self._limits, self._out = source, config.limits(), out
        self._num_classes = len(source.classes())
        self._order = {
            split: permutation(num_samples, key=(config.seed, zlib.crc32(split.encode())))
            for split, num_samples in source.splits().items()
        }
        self._places = [
            (split, number, -(-len(order) // config.samples_per_shard))
            for split, order in self._order.items()
            for number in range(-(-len(order) // config.samples_per_shard))
        ]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, place: Any) -> Any:
        split, number, num_shards = self._places[place]
        order = self._order[split]
        start, stop = number * len(order) // num_shards, (number + 1) * len(order) // num_shards
        return Part(
            uri=self._out,
            name=f"{split}/{number:06d}.tar",
            split=split,
            first=start,
            num_samples=stop - start,
            num_classes=self._num_classes,
            samples=self._source.samples(split, order[start:stop].tolist()),
            limits=self._limits,
        )


def _check_same_source(source: Source, out: str) -> None:
    """The config may be the same and the files behind it not: shards of both must not be mixed."""
    where, digest = storage.join(out, _SOURCE), source.digest()
    if storage.write_if_absent(where, json.dumps({"name": source.name, "digest": digest}).encode()):
        return
    begun_with = json.loads(storage.read(where))["digest"]
    if begun_with != digest:
        raise ValueError(
            f"{where}: {source.name} had other samples when this was begun (digest {begun_with}, now {digest}); "
            "restore them, or prepare everything anew with --rebuild"
        )


def _collect(done: Iterator[tuple[int, Written]], parts: Sequence[Part], config: Prepare) -> list[Written]:
    """The parts in order; fewer than all only if there are hopelessly many corrupt images."""
    written: dict[int, Written] = {}
    num_quarantined = 0
    for place, part in done:
        written[place] = part
        num_quarantined += len(part.quarantined)
        for entry in part.quarantined:
            log.warning("%s: left out: %s", entry.key, entry.reason)
        if num_quarantined > config.max_corrupt + _HOPELESS:
            log.warning("giving up after %d of %d shards", len(written), len(parts))
            break
    return [written[place] for place in sorted(written)]


def _finished(part: Part) -> Written | None:
    """What became of a part before; None unless it is known of each of its images."""
    finished = shards.finished_shard(part.uri, name=part.name)
    num_samples = finished[0].num_samples if finished else 0
    left_out = () if num_samples == part.num_samples else quarantine.kept(part.uri, part.name)
    if num_samples + len(left_out) != part.num_samples:
        return None
    shard, labels = (finished[0], finished[1].label_S) if finished else (None, [])
    return Written(part.split, shard, _counts(labels, part), left_out)


def _sound(part: Part, *, labels: list[int], quarantined: list[LeftOut]) -> Iterator[tuple[int, Sample]]:
    """The samples that are taken, numbered; one that is not leaves a gap in the numbers."""
    for number, sample in enumerate(part.samples, start=part.first):
        if isinstance(sample, Refused):
            quarantined.append(LeftOut(part.split, part.name, sample.key, sample.reason))
            continue
        if not 0 <= sample.label < part.num_classes:
            raise ValueError(
                f"{sample.key}: label {sample.label} is out of range; there are {part.num_classes} classes"
            )
        try:
            image, extension = fitted(sample.image, extension=sample.extension, limits=part.limits)
        except Corrupt as error:
            quarantined.append(LeftOut(part.split, part.name, sample.key, str(error)))
            continue
        labels.append(sample.label)
        yield number, replace(sample, image=image, extension=extension)


def _counts(labels: Any, part: Part) -> tuple[int, ...]:
    return tuple(np.bincount(np.asarray(labels, np.int64), minlength=part.num_classes).tolist())


def _list_samples(config: Prepare, out: str, *, source: Source, track: Track) -> dict[str, str]:
    """Lists, beside the shards and in the run, what the splits of VTAB consist of; returns a digest of each."""
    if not (isinstance(config.source, Vtab) and isinstance(source, scan.Collection)):
        return {}
    digests: dict[str, str] = {}
    for split in source.splits():
        data, digests[split] = sample_list.write_list(out, split, source.keys(split))
        track.artifact(f"samples/{split}.txt", data)
    return digests


def _manifest(config: Prepare, written: Sequence[Written], *, source: Source, lists: Mapping[str, str]) -> Manifest:
    splits: dict[str, tuple[Shard, ...]] = {}
    class_counts: dict[str, tuple[int, ...]] = {}
    for split in source.splits():
        parts = [part for part in written if part.split == split]
        splits[split] = tuple(part.shard for part in parts if part.shard)
        class_counts[split] = tuple(np.sum([part.class_counts for part in parts], axis=0).tolist())
    return Manifest(
        name=source.name,
        classes=source.classes(),
        splits=splits,
        class_counts=class_counts,
        source={**encode(config)["source"], "digest": source.digest()} | ({"samples": lists} if lists else {}),
        seed=config.seed,
    )


def _log_classes(manifest: Manifest) -> None:
    for split, counts in manifest.class_counts.items():
        fewest, most = (f"{counts[at(counts)]} ({manifest.classes[at(counts)]})" for at in (np.argmin, np.argmax))
        spread = f"from {fewest} to {most} samples" if min(counts) < max(counts) else f"{counts[0]} samples each"
        log.info("%s: classes have %s", split, spread)
        empty = [name for name, count in zip(manifest.classes, counts, strict=True) if not count]
        if empty:
            shown = ", ".join(empty[:_SHOWN]) + (" ..." if len(empty) > _SHOWN else "")
            log.warning("%s: %d of %d classes have no sample: %s", split, len(empty), len(counts), shown)


def _result(manifest: Manifest, *, num_quarantined: int) -> dict[str, Any]:
    every = [shard for split in manifest.splits for shard in manifest.shards(split)]
    return {
        "samples": sum(shard.num_samples for shard in every),
        "shards": len(every),
        "bytes": sum(shard.num_bytes for shard in every),
        "classes": len(manifest.classes),
        "quarantined": num_quarantined,
        "digest": manifest.digest,
    }
