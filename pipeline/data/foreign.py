"""Shards that others wrote, indexed where they are: a data set of indexes and a manifest, over tars it does not own.

Each index is written when its tar has been read, the manifest last: a killed run goes on where it was. Samples that
cannot be used are left out and listed; a tar that is broken as a whole is an error, told when all have been read.
"""

import json
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline import record, storage
from pipeline.data import index as sidecar
from pipeline.data import shards
from pipeline.data.dataset import Manifest, Shard, read_manifest, write_manifest
from pipeline.data.index import Index
from pipeline.data.quarantine import LeftOut, list_uri, read_list, write_list
from pipeline.data.scan import MAX_CLASSES, MAX_MEMBER_BYTES, Flaw, Rules, scan
from pipeline.stage import Cluster
from pipeline.storage.expression import files_of

log = logging.getLogger(__name__)

_BEGUN = "tars.json"
_KIND = "tars of others"
_HOPELESS = 1000  # so many samples beyond the permitted ones, and looking at the rest is a waste
_HOPELESS_SHARDS = 20


@dataclass(frozen=True)
class Foreign:
    """`tars` as `files_of` takes it, `label` and `max_member_bytes` as in `Rules`. One call indexes one split.

    `classes` None keeps the names that the data set has, else takes "0", "1" ... to the largest label. Up to
    `max_corrupt` samples that cannot be used are left out and listed in quarantine.jsonl.
    """

    tars: str
    split: str = "train"
    label: str | None = None
    classes: tuple[str, ...] | None = None
    name: str | None = None
    max_corrupt: int = 0
    max_member_bytes: int = MAX_MEMBER_BYTES

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w-]+", self.split):
            raise ValueError(f"split: a name is letters, digits, - and _, got {self.split!r}")
        if self.max_corrupt < 0:
            raise ValueError(f"max_corrupt: must not be negative, got {self.max_corrupt}")
        if self.classes is not None and not self.classes:
            raise ValueError("classes: there must be at least one")
        Rules(label=self.label, max_member_bytes=self.max_member_bytes)


@dataclass(frozen=True)
class Job:
    """The work on one tar, as it travels to a worker. With `anew` an index that is there does not count."""

    out: str
    name: str
    tar: str
    rules: Rules
    anew: bool


@dataclass(frozen=True)
class Indexed:
    """What became of a tar. No shard if it is `broken`, or has no sample that can be used.

    `encoded` is an index that must not be on storage before its `flaws` are listed there.
    """

    name: str
    shard: Shard | None = None
    label_K: tuple[int, ...] = ()
    count_K: tuple[int, ...] = ()
    flaws: tuple[Flaw, ...] = ()
    encoded: bytes | None = None
    broken: str | None = None

    def left_out(self) -> list[LeftOut]:
        split = self.name.partition("/")[0]
        samples = [LeftOut(split, self.name, flaw.key, flaw.reason) for flaw in self.flaws]
        return [*samples, LeftOut(split, self.name, None, self.broken)] if self.broken else samples


@dataclass
class _Found:
    """What is known of a split so far: shards and flaws by place, samples per label."""

    through: set[str] = field(default_factory=set)
    shards: dict[int, Shard] = field(default_factory=dict)
    flawed: dict[int, Indexed] = field(default_factory=dict)
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    num_flaws: int = 0
    num_broken: int = 0

    def add(self, place: int, one: Indexed) -> None:
        self.through.add(one.name)
        if one.shard:
            self.shards[place] = one.shard
        if one.flaws or one.broken:
            self.flawed[place] = one
            self.num_flaws += len(one.flaws)
            self.num_broken += one.broken is not None
        if one.label_K:
            num_classes = max(len(self.counts), one.label_K[-1] + 1)
            self.counts = np.pad(self.counts, (0, num_classes - len(self.counts)))
            self.counts[list(one.label_K)] += one.count_K

    def left_out(self) -> list[LeftOut]:
        """In the order of the tars."""
        return [entry for _, one in sorted(self.flawed.items()) for entry in one.left_out()]


def index(config: Foreign, *, out: str, cluster: Cluster) -> Manifest:
    """Index every tar, in parallel, and declare the data set at `out`, or this split of it, whole.

    Can be killed and called again, and called for one split after the other. ValueError for broken tars, for more than
    `max_corrupt` samples that cannot be used, or if the split was begun over other tars.
    """
    before = _manifest_before(out)
    folder, tars = files_of(config.tars, suffix=".tar")
    _check_begun(config, out, folder=folder)
    classes = config.classes or _names_kept(before)
    rules = Rules(config.label, len(classes) if classes else MAX_CLASSES, config.max_member_bytes)
    listed = read_list(out)
    to_redo = {entry.shard for entry in listed}  # they may have been mended, with no byte more or less
    names = {f"{config.split}/{name}": uri for name, uri in tars.items()}
    jobs = [Job(out, name, uri, rules, anew=name in to_redo) for name, uri in names.items()]
    found = _collect(cluster.map(index_shard, jobs, title=f"index {config.split}"), config, num_jobs=len(jobs))
    kept = names.keys() - found.through
    others = [one for one in listed if one.shard in kept or one.split != config.split]
    _put_flawed(out, found, others)
    _check_sound(config, out, found, num_jobs=len(jobs))
    manifest = _manifest(config, found, before=before, classes=classes, folder=folder)
    write_manifest(out, manifest)
    return manifest


def index_shard(job: Job) -> Indexed:
    """Index one tar, unless its index is on storage and the tar has the size it speaks of; runs on a worker."""
    finished = None if job.anew else shards.finished_shard(job.out, name=job.name, at=job.tar)
    if finished and finished[1].label_S.max(initial=0) < job.rules.num_classes:
        shard, found = finished
        return Indexed(job.name, shard, *_counted(found))
    try:
        found, flaws = scan(job.tar, rules=job.rules)
    except ValueError as error:
        return Indexed(job.name, broken=str(error))
    if not found.num_samples:
        nothing = f"{job.tar}: holds no samples: no member is an image, .cls or .json named <key>.<extension>"
        return Indexed(job.name, flaws=flaws, broken=None if flaws else nothing)
    encoded = sidecar.encode(found)
    shard = shards.described(job.name, found, encoded, at=job.tar)
    if not flaws:
        storage.write(storage.join(job.out, sidecar.index_name(job.name)), encoded)
    return Indexed(job.name, shard, *_counted(found), flaws=flaws, encoded=encoded if flaws else None)


def classes_of(uri: str) -> tuple[str, ...]:
    """The names in a text file, one per line: line 1 is class 0. ValueError for a blank line or none at all."""
    try:
        lines = storage.read(uri).decode().rstrip().splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{uri}: is not UTF-8 text; write one class name per line") from error
    names = tuple(line.strip() for line in lines)
    if not all(names) or not names:
        raise ValueError(f"{uri}: line {(*names, '').index('') + 1} is blank; write one class name per line")
    return names


def _counted(found: Index) -> tuple[tuple[int, ...], tuple[int, ...]]:
    label_K, count_K = np.unique(found.label_S, return_counts=True)
    return tuple(label_K.tolist()), tuple(count_K.tolist())


def _manifest_before(out: str) -> Manifest | None:
    try:
        manifest = read_manifest(out)
    except storage.NotFound:
        if storage.exists(storage.join(out, record.BEGUN)):
            raise ValueError(f"{out}: a data set is being prepared there; name another place for the indexes") from None
        return None
    if manifest.source.get("is") != _KIND:
        raise ValueError(f"{out}: holds the prepared data set {manifest.name}; name another place for the indexes")
    return manifest


def _names_kept(before: Manifest | None) -> tuple[str, ...] | None:
    """The class names that somebody gave; None where they only number the labels, and may become more."""
    if before is None or before.classes == _numbers(len(before.classes)):
        return None
    return before.classes


def _numbers(num: int) -> tuple[str, ...]:
    return tuple(str(label) for label in range(num))


def _check_begun(config: Foreign, out: str, *, folder: str) -> None:
    """An index says how large its tar was, not where it lay nor how labels were read: those must not change."""
    where = storage.join(out, config.split, _BEGUN)
    now = {"folder": folder, "label": config.label, "max_member_bytes": config.max_member_bytes}
    if storage.write_if_absent(where, json.dumps(now).encode()):
        return
    begun = json.loads(storage.read(where))
    for name, value in now.items():
        if begun.get(name) != value:
            raise ValueError(
                f"{where}: {config.split} was begun with {name} {begun.get(name)}, now it is {value}; name another "
                f"place, or remove {storage.join(out, config.split)}"
            )


def _collect(done: Iterator[tuple[int, Indexed]], config: Foreign, *, num_jobs: int) -> _Found:
    """All that was found; of fewer than all tars only if there is hopelessly much to mend."""
    found = _Found()
    for place, one in done:
        found.add(place, one)
        if one.flaws:
            log.warning("%d samples left out; the first is %s", len(one.flaws), one.left_out()[0])
        if found.num_flaws > config.max_corrupt + _HOPELESS or found.num_broken > _HOPELESS_SHARDS:
            log.warning("giving up after %d of %d tars", len(found.through), num_jobs)
            break
    return found


def _put_flawed(out: str, found: _Found, others: Sequence[LeftOut]) -> None:
    """List what is left out, then write the indexes that leave it out: a restart reads the tars of the list again."""
    write_list(out, [*others, *found.left_out()])
    for one in found.flawed.values():
        if one.encoded:
            storage.write(storage.join(out, sidecar.index_name(one.name)), one.encoded)


def _check_sound(config: Foreign, out: str, found: _Found, *, num_jobs: int) -> None:
    where, entries = list_uri(out), found.left_out()
    if broken := [entry for entry in entries if entry.key is None]:
        raise ValueError(
            f"{where}: lists {len(broken)} of {num_jobs} tars that are broken; mend them or leave them out. The first:"
            + _first(broken)
        )
    if len(entries) > config.max_corrupt:
        raise ValueError(
            f"{where}: lists {len(entries)} samples that cannot be used, max_corrupt permits {config.max_corrupt}; "
            f"mend them, or permit more with --max-corrupt {len(entries)}. The first:" + _first(entries)
        )
    if not found.shards:
        raise ValueError(f"{config.tars}: not one sample of {num_jobs} tars can be used; see {where}")


def _first(entries: Sequence[LeftOut]) -> str:
    return "".join(f"\n  {entry}" for entry in entries[:3])


def _manifest(
    config: Foreign, found: _Found, *, before: Manifest | None, classes: Sequence[str] | None, folder: str
) -> Manifest:
    counts = {**(before.class_counts if before else {}), config.split: tuple(found.counts.tolist())}
    splits = {**(before.splits if before else {}), config.split: tuple(found.shards[i] for i in sorted(found.shards))}
    used = max(int(np.flatnonzero(each).max(initial=-1)) + 1 for each in counts.values())
    if classes is not None and used > len(classes):
        raise ValueError(f"classes: {len(classes)} names, but the data set has labels up to {used - 1}; name them all")
    classes = tuple(classes or _numbers(used))
    about = {"folder": folder, "label": config.label, "max_member_bytes": config.max_member_bytes}
    return Manifest(
        name=config.name or (before.name if before else folder.rpartition("/")[2] or "tars"),
        classes=classes,
        splits=splits,
        class_counts={split: tuple(_sized(each, len(classes))) for split, each in counts.items()},
        source={"is": _KIND, "splits": {**(before.source["splits"] if before else {}), config.split: about}},
        seed=0,
    )


def _sized(counts: Sequence[int], num_classes: int) -> list[int]:
    """With as many numbers as there are classes; what is cut off is zero."""
    return [*counts[:num_classes], *[0] * (num_classes - len(counts))]
