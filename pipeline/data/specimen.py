"""A specimen of a split to measure with: some images in memory, some shards in a folder. Measures nothing itself."""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline import storage
from pipeline.data.cache import ShardCache
from pipeline.data.dataset import Shard, shard_uri, write_manifest
from pipeline.data.decode import Corrupt, decode
from pipeline.data.index import index_name
from pipeline.data.plan import permutation
from pipeline.data.split import Split
from pipeline.storage.error import explained

LOOKED_AT = 256  # images
HELD_BYTES = 256 << 20  # of encoded images, at most
NEARBY_BYTES = 1 << 30  # of shards, at most
SHARDS = 16  # that images are taken from: each has an index to be read first
THREADS = 16


@dataclass(frozen=True)
class Examples:
    """Encoded images in memory, every one of which decodes; `corrupt` says what was wrong with the others."""

    images: tuple[bytes, ...]
    corrupt: tuple[str, ...]
    mean_bytes: float
    mean_width_px: float
    mean_height_px: float

    @property
    def looked_at(self) -> int:
        return len(self.images) + len(self.corrupt)


def examples(split: Split) -> Examples:
    """Some images of a split, evenly over its shards. StorageError if not one of them can be used."""
    mean_bytes = sum(shard.num_bytes for shard in split.shards) / sum(shard.num_samples for shard in split.shards)
    places = list(places_of(split, max(1, min(LOOKED_AT, int(HELD_BYTES / mean_bytes)))))

    def look(place: tuple[int, int]) -> tuple[bytes, tuple[int, int], str]:
        try:
            data, _ = split.read(*place)
            height_px, width_px, _ = decode(data).shape
        except Corrupt as error:
            return b"", (0, 0), f"{split.shards[place[0]].name} sample {place[1]}: {error}"
        return data, (width_px, height_px), ""

    with ThreadPoolExecutor(THREADS) as pool:
        seen = list(pool.map(look, places))
    good = [(data, size) for data, size, reason in seen if not reason]
    corrupt = tuple(reason for _, _, reason in seen if reason)
    if not good:
        raise storage.StorageError(
            f"{split.uri}: not one of {len(seen)} samples of {split.name} can be used ({corrupt[0]}); "
            "prepare the data set again"
        )
    images = tuple(data for data, _ in good)
    width_px, height_px = (statistics.fmean(size[axis] for _, size in good) for axis in (0, 1))
    return Examples(images, corrupt, statistics.fmean(map(len, images)), width_px, height_px)


@contextmanager
def nearby(
    split: Split, *, cache: ShardCache, seconds: float, now_s: Callable[[], float] = time.perf_counter
) -> Iterator[str]:
    """The URI of a data set in a folder: the given one, or some of its shards, fetched, and removed at the end.

    What is left to measure is what cores can do; a reader that starts from object storage waits for it at first.
    """
    if split.is_local:
        yield split.uri
        return
    with explained("the cache folder", "write"):
        place = tempfile.TemporaryDirectory(prefix="doctor-", dir=cache.folder)
    with place as uri:
        until_s, fetched = now_s() + seconds, []
        for shard in drawn(split.shards):
            storage.download(shard_uri(split.uri, shard), Path(uri, shard.name))
            index = index_name(shard.name)
            storage.download(storage.join(split.uri, index), Path(uri, index))
            fetched.append(replace(shard, at=None))
            if now_s() >= until_s or sum(some.num_bytes for some in fetched) >= NEARBY_BYTES:
                break
        counts = [sum(shard.num_samples for shard in fetched), *[0] * (len(split.manifest.classes) - 1)]
        some = replace(split.manifest, splits={split.name: tuple(fetched)}, class_counts={split.name: tuple(counts)})
        write_manifest(uri, some)
        yield uri


def drawn(shards: Sequence[Shard]) -> list[Shard]:
    """All of them in an order of no meaning, so that the first few are a fair sample."""
    return [shards[number] for number in permutation(len(shards), key=(0,)).tolist()]


def places_of(split: Split, most: int) -> list[tuple[int, int]]:
    """(shard, sample) of at most so many samples."""
    chosen = permutation(len(split.shards), key=(0,)).tolist()[: min(most, SHARDS)]
    found = []
    for shard in chosen:
        num_samples = split.shards[shard].num_samples
        found += [(shard, sample) for sample in range(0, num_samples, -(-num_samples * len(chosen) // most))]
    return found
