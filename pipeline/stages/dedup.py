"""Stage: leave out of a pre-training set what is in the test sets of its downstream tasks, as BiT and ViT did.

BiT (arXiv 1912.11370, appendix C) removed every image that is a duplicate or a near-duplicate of a test image, and ViT
(arXiv 2010.11929, 4.1) followed it; neither says how they were found. Here an exact duplicate has the same pixels when
decoded, and a near one a perceptual hash at most `max_distance` bits away (`dedup.perceptual`).

<out>/manifest.json         the data set without them: indexes of its own, over tars that stay where they are
<out>/left_out.jsonl        every sample that is left out, by its number in the split, and the test image closest to it
<out>/found/<test>.jsonl    every image of a test set that has a duplicate, and the sample closest to it
<out>/duplicates.csv        how many, by test set
<out>/pairs.png             pairs at every distance, to look at
<out>/prints/, <out>/parts/ what a killed run goes on from
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import xxhash

from pipeline import storage
from pipeline.config import encode, fingerprint
from pipeline.data.dataset import Manifest, Shard, read_manifest, write_manifest
from pipeline.dedup import prints, sheet
from pipeline.dedup.sift import Part, sift
from pipeline.dedup.tally import Count, Tally, add_up, lines
from pipeline.stage import Artifact, Cluster, Track
from pipeline.train.ledger import Ledger

log = logging.getLogger(__name__)

_FORMAT = 1  # of prints and of what is told of a part: results of another are not gone on from
_OURS = "shards"
_TOGETHER = 1 << 18  # samples that a task compares: reading the test sets' prints is little beside that
_BEYOND = 2  # bits: what is only just kept is shown and counted, too
_MAX_DISTANCE = 14

_COLUMNS = ("test set", "split", "images", "exact", "near", "share", "left out exact", "left out near")


@dataclass(frozen=True)
class Against:
    """A test set: the name of the need that it is, and which of its splits is tested on."""

    name: str
    split: str = "test"

    def __post_init__(self) -> None:
        if not self.name.isidentifier() or self.name == _OURS:
            raise ValueError(f"name: must be that of a need, and not {_OURS!r}, got {self.name!r}")


@dataclass(frozen=True)
class Dedup:
    """Leaves out of `split` what is in any of `tests`; the other splits stay as they are.

    Distances are even numbers of 64 bits. Of a photograph that was encoded anew (JPEG, quality 75), resized or made a
    little brighter it was 6 at most, of another one 22 and more, where that was measured (`dedup.perceptual`). Were
    codes drawn at random, one or two pairs of a million and a hundred thousand would be within 6, seventy within 8.
    Drawings of a few strokes look alike much sooner: look at pairs.png.
    """

    tests: tuple[Against, ...]
    split: str = "train"
    max_distance: int = 6

    def __post_init__(self) -> None:
        names = [test.name for test in self.tests]
        if not names:
            raise ValueError("tests: must not be empty; name the needs that are test sets")
        if len(set(names)) < len(names):
            raise ValueError(f"tests: each need may be named once, got {', '.join(names)}")
        if not 0 <= self.max_distance <= _MAX_DISTANCE:
            raise ValueError(f"max_distance: must be 0 to {_MAX_DISTANCE}, got {self.max_distance}")


@dataclass(frozen=True)
class Named:
    """A split of a data set, by the name of the need that it is."""

    name: str
    uri: str
    split: str
    manifest: Manifest

    @property
    def shards(self) -> tuple[Shard, ...]:
        return self.manifest.shards(self.split)

    @property
    def num_images(self) -> int:
        return self.manifest.num_samples(self.split)


def dedup(
    config: Dedup, *, out: str, cluster: Cluster, track: Track, shards: Artifact, **tests: Artifact
) -> Mapping[str, Any]:
    """Write a data set that is `shards` without what is in `tests`, to pre-train on.

    Returns {"samples", "left_out", "left_out_digest", "unreadable", "digest", "tests"}; "tests" has the counts of each.
    Can be killed and called again: no shard is decoded twice. ValueError where nothing would be left, or for needs
    that the config does not name.
    """
    ours, theirs = _named(config, {_OURS: shards, **tests})
    track.params(encode(config))
    for one in (ours, *theirs):
        context = "pretrain" if one is ours else "dedup"
        track.dataset(name=one.manifest.name, digest=one.manifest.digest, source=one.uri, context=context)
    about = [_FORMAT, encode(config, identity=True), *(one.manifest.digest for one in (ours, *theirs))]
    unreadable = _print(ours, theirs, out=out, cluster=cluster, identity=fingerprint(about))
    ledger = Ledger(storage.join(out, "parts"), fingerprint([*about, _TOGETHER]))
    sifted = ledger.map(sift, _parts(config, ours, theirs, out=out), cluster=cluster, title="dedup: compare", gpus=0)
    tally = add_up(
        _of_split(sifted, config.split), tests=[test.name for test in theirs], max_distance=config.max_distance
    )
    digest = _write_lists(tally, theirs, out=out)
    counts = {test.name: tally.count(test.name, images=test.num_images) for test in theirs}
    _publish(theirs, counts, _pairs(tally, ours, theirs), out=out, track=track)
    manifest = _manifest(config, ours, theirs, sifted, left_out=digest)
    write_manifest(out, manifest)
    result = {
        "samples": manifest.num_samples(config.split),
        "left_out": len(tally.left_out),
        "unreadable": unreadable,
    }
    track.metrics(result)
    track.tags({"left_out_digest": digest})
    found = {name: {**asdict(count), "share": count.share} for name, count in counts.items()}
    return {**result, "left_out_digest": digest, "digest": manifest.digest, "tests": found}


def _named(config: Dedup, needs: Mapping[str, Artifact]) -> tuple[Named, tuple[Named, ...]]:
    """What is pre-trained on, and the test sets in the order of the config."""
    splits = {_OURS: config.split, **{test.name: test.split for test in config.tests}}
    if sorted(splits) != sorted(needs):
        raise ValueError(
            f"tests: names {', '.join(name for name in splits if name != _OURS)}, but the stage needs "
            f"{', '.join(name for name in needs if name != _OURS) or 'none'}; name each need that is a test set"
        )
    every = [Named(name, needs[name].uri, split, read_manifest(needs[name].uri)) for name, split in splits.items()]
    ours, theirs = every[0], tuple(every[1:])
    for test in theirs:
        if (test.uri, test.split) == (ours.uri, ours.split):
            raise ValueError(f"tests: {test.name} is the {test.split} that is pre-trained on; name another split of it")
    for one in every:
        if not one.num_images:
            raise ValueError(f"{one.uri}: has no images in {one.split}; prepare some, or name another split")
    return ours, theirs


def _print(ours: Named, theirs: Sequence[Named], *, out: str, cluster: Cluster, identity: str) -> int:
    """Have the prints of all shards in files, those of each test set in one. How many images could not be read."""
    works = {
        f"{one.name}/{shard.name}": prints.Work(one.uri, shard, _prints_uri(out, one, shard))
        for one in (ours, *theirs)
        for shard in one.shards
    }
    ledger = Ledger(storage.join(out, "prints"), identity)
    told = ledger.map(prints.print_shard, works, cluster=cluster, title="dedup: decode", gpus=0)
    for test in theirs:
        prints.join((_prints_uri(out, test, shard) for shard in test.shards), to=_joined_uri(out, test))
    for one in (ours, *theirs):
        if unread := sum(told[f"{one.name}/{shard.name}"]["unreadable"] for shard in one.shards):
            log.warning("%s: %d of %d images cannot be decoded; nothing equals them", one.name, unread, one.num_images)
    return sum(result["unreadable"] for result in told.values())


def _prints_uri(out: str, one: Named, shard: Shard) -> str:
    return storage.join(out, "prints", one.name, f"{shard.name}.npy")


def _joined_uri(out: str, test: Named) -> str:
    return storage.join(out, "prints", f"{test.name}.npy")


def _parts(config: Dedup, ours: Named, theirs: Sequence[Named], *, out: str) -> dict[str, Part]:
    """All splits, cut between shards, by the split and a number: only one of them is compared with anything."""
    parts = {}
    for split, shards in ours.manifest.splits.items():
        compared = split == config.split
        for number, (first, together) in enumerate(_together(shards)):
            parts[f"{split}/{number:06d}"] = Part(
                source=ours.uri,
                out=out,
                shards=together,
                first=first,
                num_classes=len(ours.manifest.classes),
                prints=tuple(_prints_uri(out, ours, shard) for shard in together) if compared else (),
                tests={test.name: _joined_uri(out, test) for test in theirs} if compared else {},
                max_distance=config.max_distance,
                radius=config.max_distance + _BEYOND,
            )
    return parts


def _together(shards: Sequence[Shard]) -> Iterator[tuple[int, tuple[Shard, ...]]]:
    """Shards that follow each other, with the number of the first sample; the last is the one that makes it enough."""
    first, size, together = 0, 0, []
    for shard in shards:
        together.append(shard)
        size += shard.num_samples
        if size >= _TOGETHER or shard is shards[-1]:
            yield first, tuple(together)
            first, size, together = first + size, 0, []


def _write_lists(tally: Tally, theirs: Sequence[Named], *, out: str) -> str:
    """What is left out, and what of each test set was found. Returns the xxh3_128 of the first."""
    for test in theirs:
        storage.write(storage.join(out, "found", f"{test.name}.jsonl"), lines(tally.found(test.name)))
    data = lines(tally.left_out)
    storage.write(storage.join(out, "left_out.jsonl"), data)
    return xxhash.xxh3_128_hexdigest(data)


def _pairs(tally: Tally, ours: Named, theirs: Sequence[Named]) -> bytes:
    """The contact sheet; b"" where no two images are alike."""
    return sheet.sheet(
        (match for test in theirs for match in tally.closest[test.name]),
        most=tally.max_distance + 1,
        ours=sheet.images_of(ours.uri, split=ours.split),
        theirs={test.name: sheet.images_of(test.uri, split=test.split) for test in theirs},
    )


def _publish(theirs: Sequence[Named], counts: Mapping[str, Count], pairs: bytes, *, out: str, track: Track) -> None:
    """Write and track the counts of the test sets and the sheet."""
    from pipeline.evals.table import Table

    rows = []
    for test in theirs:
        count = counts[test.name]
        cells = (count.images, count.exact, count.near, count.share, count.left_out_exact, count.left_out_near)
        rows.append((test.name, test.split, *cells))
        track.metrics({f"{test.name}/{name}": value for name, value in zip(_COLUMNS[2:], cells, strict=True)})
        log.info("%s: of %d images %d exact and %d near duplicates (%.2f %%)", test.name, *cells[:3], 100 * count.share)
    table = Table(_COLUMNS, tuple(rows))
    files = {"duplicates.csv": table.csv(), **({"pairs.png": pairs} if pairs else {})}
    for name, data in files.items():
        storage.write(storage.join(out, name), data)
        track.artifact(name, data)
    track.artifact("duplicates.json", table.json())


def _of_split(sifted: Mapping[str, Mapping[str, Any]], split: str) -> list[Mapping[str, Any]]:
    return [told for name, told in sifted.items() if name.rpartition("/")[0] == split]


def _manifest(
    config: Dedup, ours: Named, theirs: Sequence[Named], sifted: Mapping[str, Mapping[str, Any]], *, left_out: str
) -> Manifest:
    before, splits, class_counts = ours.manifest, {}, {}
    for split in before.splits:
        parts = _of_split(sifted, split)
        splits[split] = tuple(Shard(**shard) for told in parts for shard in told["shards"])
        counts_K = sum((np.array(told["class_counts"]) for told in parts), np.zeros(len(before.classes), np.int64))
        class_counts[split] = tuple(counts_K.tolist())
    if not splits[config.split]:
        raise ValueError(
            f"tests: every image of {config.split} in {ours.uri} is a duplicate of one of theirs; pairs.png shows some"
        )
    source = {
        "is": "without duplicates",
        "of": {"uri": storage.absolute(ours.uri), "digest": before.digest},
        "tests": {test.name: test.manifest.digest for test in theirs},
        "config": encode(config, identity=True),
        "left_out": left_out,
    }
    return replace(before, splits=splits, class_counts=class_counts, source=source)
