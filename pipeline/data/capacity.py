"""What the input pipeline alone can deliver on this machine: storage, the cache's disk, one core, whole readers.

Each part is measured by itself and for a bounded time, so that the slowest can be named. Knows no model: what is needed
is the caller's to say. A `Clock` is handed to whatever measures, so that a test need not wait.
"""

import itertools
import math
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pipeline import storage
from pipeline.data import augment
from pipeline.data.cache import ShardCache
from pipeline.data.dataset import read_manifest, shard_uri
from pipeline.data.decode import decode
from pipeline.data.plan import Plan
from pipeline.data.reader import Reader
from pipeline.data.reader_process import ReaderProcess
from pipeline.data.seen import seen
from pipeline.data.specimen import LOOKED_AT, drawn, places_of
from pipeline.data.split import Split
from pipeline.data.view import TrainView, apply
from pipeline.storage.error import explained

CPU_LIMIT = Path("/sys/fs/cgroup/cpu.max")
AT_ONCE = 16  # requests side by side, about as many as a few readers that fetch shards have
RANGE_BYTES = 4 << 20
WRITTEN_BYTES = 4 << 30  # to the cache's disk, at most
SYNC_BYTES = 64 << 20  # about a shard: a fetched one is on the disk before it gets its name
BATCH = 32
WARM_BATCHES = 8  # what a reader made ahead while it started does not count

Done = TypeVar("Done")


@dataclass(frozen=True)
class Clock:
    """Seconds that passed, and those that this process computed, all its threads together."""

    wall_s: Callable[[], float] = time.perf_counter
    cpu_s: Callable[[], float] = time.process_time


CLOCK = Clock()


@dataclass(frozen=True)
class StorageRate:
    """Reading shards by ranges, `at_once` of them side by side; what it costs this machine besides."""

    mb_per_s: float
    cpu_s_per_gb: float
    at_once: int


@dataclass(frozen=True)
class RequestRate:
    """Reading single samples by ranges: how long one takes that goes alone, and how many `at_once` get done."""

    requests_per_s: float
    at_once: int
    median_ms: float
    p95_ms: float


@dataclass(frozen=True)
class CacheRate:
    """The disk of the cache: written and synced, since in the long run the disk must keep up."""

    folder: str
    write_mb_per_s: float
    free_bytes: int


@dataclass(frozen=True)
class CoreRate:
    """One core with nothing but decoding and the view to do."""

    images_per_s: float
    decode_ms: float
    view_ms: float


@dataclass(frozen=True)
class ReaderRate:
    """`processes` ReaderProcesses side by side with `threads` each; 0: one Reader in this process."""

    processes: int
    threads: int
    images_per_s: float
    corrupt: int


def cores() -> float:
    """Those this process may use: by its affinity and, in a container, by its share of time."""
    allowed = float(len(os.sched_getaffinity(0)))
    try:
        quota_us, period_us = CPU_LIMIT.read_text().split()
        return min(allowed, int(quota_us) / int(period_us))
    except (OSError, ValueError):  # no such file, or "max": no limit
        return allowed


def storage_rate(split: Split, *, seconds: float, clock: Clock = CLOCK) -> StorageRate:
    """Of the shards of a split, evenly over all of them. In a folder the disk is measured, not the page cache."""
    ranges = [
        (shard, start, min(start + RANGE_BYTES, shard.num_bytes))
        for shard in drawn(split.shards)[:LOOKED_AT]
        for start in range(0, shard.num_bytes, RANGE_BYTES)
    ]

    def read(number: int) -> int:
        shard, start, stop = ranges[number % len(ranges)]
        return len(_read_cold(shard_uri(split.uri, shard), start=start, stop=stop))

    sizes, took_s, cpu_s = _at_once(read, seconds=seconds, clock=clock)
    return StorageRate(sum(sizes) / 1e6 / took_s, cpu_s / (sum(sizes) / 1e9), AT_ONCE)


def request_rate(split: Split, *, seconds: float, clock: Clock = CLOCK) -> RequestRate:
    """Of single samples: for half the time one after the other, then side by side."""
    places = list(places_of(split, LOOKED_AT))

    def read(number: int) -> float:
        before_s = clock.wall_s()
        shard, sample = places[number % len(places)]
        index = split.index(shard)
        start = int(index.offset_S[sample])
        storage.read(shard_uri(split.uri, split.shards[shard]), start=start, stop=start + int(index.size_S[sample]))
        return clock.wall_s() - before_s

    until_s, alone_s = clock.wall_s() + seconds / 2, [read(0), read(1)][1:]  # the first may have to connect
    while clock.wall_s() < until_s:
        alone_s.append(read(len(alone_s) + 1))
    done, took_s, _ = _at_once(read, seconds=seconds / 2, clock=clock)
    p95_s = sorted(alone_s)[math.ceil(0.95 * len(alone_s)) - 1]
    return RequestRate(len(done) / took_s, AT_ONCE, 1000 * statistics.median(alone_s), 1000 * p95_s)


def cache_rate(cache: ShardCache, *, seconds: float, clock: Clock = CLOCK) -> CacheRate:
    """Of its folder, which is made if need be; the file has no name and vanishes, even if this process is killed."""
    with explained("the cache folder", "write"):
        free_bytes = shutil.disk_usage(cache.folder).free
        chunk, written = os.urandom(1 << 20), 0
        with tempfile.TemporaryFile(dir=cache.folder, buffering=0) as file:
            began_s = now_s = clock.wall_s()
            while now_s - began_s < seconds and written < min(WRITTEN_BYTES, free_bytes // 4):
                for _ in range(SYNC_BYTES // len(chunk)):
                    written += file.write(chunk)
                os.fsync(file.fileno())
                now_s = clock.wall_s()
        rate = written / 1e6 / (now_s - began_s) if written else 0.0
        return CacheRate(str(cache.folder), rate, free_bytes)


def core_rate(images: Sequence[bytes], *, view: TrainView, seconds: float, clock: Clock = CLOCK) -> CoreRate:
    """Of one thread that makes the view of images in memory, and of nothing else.

    The view is timed once more by itself, of the whole image decoded; what is left of the time is decoding's, which
    decodes no more than is seen.
    """
    seen(view, images[0], augment.rng(0, 0, 0))  # what is imported at the first call is imported
    both_s, view_s, number = 0.0, 0.0, 0
    while both_s < seconds or not number:
        number += 1
        data = images[number % len(images)]
        before_s = clock.wall_s()
        seen(view, data, augment.rng(0, 0, number))
        both_s += clock.wall_s() - before_s
        image_HWC = decode(data)
        before_s = clock.wall_s()
        apply(view, image_HWC, augment.rng(0, 0, number))
        view_s += clock.wall_s() - before_s
    view_s = min(view_s, both_s)
    return CoreRate(number / both_s, 1000 * (both_s - view_s) / number, 1000 * view_s / number)


def reader_rate(
    uri: str,
    *,
    split: str,
    view: TrainView,
    threads: int,
    processes: int = 0,
    seconds: float,
    clock: Clock = CLOCK,
) -> ReaderRate:
    """Of one Reader in this process, or of several in processes of their own that share every batch, as ranks do."""
    parts, shard_sizes = max(1, processes), read_manifest(uri).shard_sizes(split)
    part = max(1, min(max(BATCH, 2 * threads), sum(shard_sizes) // parts))
    plan = Plan(shard_sizes, global_batch=parts * part, seed=0)
    options = {"split": split, "plan": plan, "view": view, "seed": 0, "threads": threads, "max_corrupt": 1 << 30}
    with ExitStack() as stack, ThreadPoolExecutor(parts) as pool:
        opened = [
            stack.enter_context(
                (ReaderProcess if processes else Reader)(uri, slots=(n * part, (n + 1) * part), **options)
            )
            for n in range(parts)
        ]
        begun = [reader.batches() for reader in opened]
        for batches in begun:
            stack.callback(batches.close)  # type: ignore[attr-defined]  # a generator
            next(batches)  # all of them are up before any is timed

        def rate(batches: Iterator) -> float:
            for _ in range(WARM_BATCHES):
                next(batches)
            began_s, num_batches = clock.wall_s(), 0
            while (took_s := clock.wall_s() - began_s) < seconds or not num_batches:
                next(batches)
                num_batches += 1
            return num_batches * part / took_s

        total = sum(pool.map(rate, begun))
        corrupt = len({sample.id for reader in opened for sample in reader.quarantined})
    return ReaderRate(processes, threads, total, corrupt)


def _at_once(do: Callable[[int], Done], *, seconds: float, clock: Clock) -> tuple[list[Done], float, float]:
    """What `do(0)`, `do(1)` ... give until the time is up, AT_ONCE side by side; wall and CPU seconds of it all."""
    numbers, began_s, began_cpu_s = itertools.count(), clock.wall_s(), clock.cpu_s()

    def work(_: int) -> list[Done]:
        done = [do(next(numbers))]
        while clock.wall_s() - began_s < seconds:
            done.append(do(next(numbers)))
        return done

    with ThreadPoolExecutor(AT_ONCE) as pool:
        done = [one for some in pool.map(work, range(AT_ONCE)) for one in some]
    return done, clock.wall_s() - began_s, clock.cpu_s() - began_cpu_s


def _read_cold(uri: str, *, start: int, stop: int) -> bytes:
    """A range of a file; in a folder without what the page cache has of it."""
    if storage.is_local(uri):
        with explained(uri, "read"), storage.local_path(uri).open("rb") as file:
            os.posix_fadvise(file.fileno(), start, stop - start, os.POSIX_FADV_DONTNEED)
    return storage.read(uri, start=start, stop=stop)
