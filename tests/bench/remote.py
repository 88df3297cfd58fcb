"""Ours from object storage beside ours from a folder, in interleaved rounds: what `input.py --s3` measures.

A real S3 server (OpenStack Swift, tests/s3_server.py) has one core, we have another: it decodes and fetches. Every
round from S3 begins with an empty cache, and takes one pass over shards of which a part is in use at once, so that they
are fetched all the time. A pass is timed after its first quarter, when what the first batch waits for has long come;
how long that took is told beside it. The cache is in the temporary folder, on its disk, or in memory (/dev/shm): where
a host gives a virtual machine its memory at the first touch, the pages of a new file cost more than the file. "reading"
is what HTTP costs us: nothing but reading, dropped as it comes, beside boto3 alone; to files, as the cache does; and by
single samples.
"""

import argparse
import contextlib
import functools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pipeline import storage
from pipeline.data.cache import ShardCache
from pipeline.data.dataset import Manifest, shard_uri, write_manifest
from pipeline.data.plan import Plan
from pipeline.data.reader import Reader
from pipeline.data.shards import write_shard
from pipeline.data.split import Split
from pipeline.data.view import TrainView
from pipeline.datasets.source import Sample
from pipeline.storage import s3
from tests.bench.loaders import BATCH, VIEW_PX, Corpus
from tests.s3_server import Endpoint, s3_server

BUCKET = "bench"
PER_SHARD = 512  # of 100 kB: 50 MB
LANES, WINDOW = 2, 256  # about six shards of sixteen are in use at once
WARM = 0.25  # of a pass, not timed
IN_MEMORY = Path("/dev/shm")
FEW, SINGLY = 4, 100  # shards whose reading is timed; samples that are read one by one


@contextlib.contextmanager
def served(folder: Path) -> Iterator[None]:
    """The server on the second of our cores and this process on the first; its storage is then at s3://bench."""
    every = sorted(os.sched_getaffinity(0))
    if len(every) < 2:
        raise SystemExit("--s3: needs two cores, one for the server")
    try:
        os.sched_setaffinity(0, every[1:2])  # what it starts stays there
        with s3_server(folder) as endpoint:
            os.sched_setaffinity(0, every[:1])
            _enter(endpoint)
            yield
    finally:
        os.sched_setaffinity(0, every)


def _enter(endpoint: Endpoint) -> None:
    import boto3.session

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ |= {
        "AWS_ENDPOINT_URL": endpoint.url,
        "AWS_ACCESS_KEY_ID": endpoint.access_key,
        "AWS_SECRET_ACCESS_KEY": endpoint.secret_key,
        "AWS_REGION": "us-east-1",
        "AWS_CONFIG_FILE": "/dev/null",
        "NO_PROXY": "127.0.0.1",
    }
    boto3.session.Session(region_name="us-east-1").client("s3").create_bucket(Bucket=BUCKET)


def write_many(corpus: Corpus, folder: Path, *, shards: int) -> str:
    """A data set of so many shards, in which the images of the corpus come again and again."""
    images, uri, written = [path.read_bytes() for path in corpus.files], str(folder), []
    for shard in range(shards):
        numbers = range(shard * corpus.per_shard, (shard + 1) * corpus.per_shard)
        some = [(i, Sample(f"{i}", images[i % len(images)], "jpg", 0)) for i in numbers]
        written.append(write_shard(uri, name=f"train/{shard:06d}.tar", samples=some))
    counts = {"train": (shards * corpus.per_shard,)}
    write_manifest(uri, Manifest("bench", ("one",), {"train": tuple(written)}, counts, {}, 0))
    return uri


def sent(uri: str, *, name: str) -> str:
    """The same data set in the bucket."""
    there = f"s3://{BUCKET}/{name}"
    for file in storage.listing(uri):
        storage.upload(Path(uri, file), storage.join(there, file))
    return there


def pass_rate(uri: str, *, folder: Path) -> tuple[float, float]:
    """Images a second of a Reader of one thread over most of a pass, and the seconds to its first batch.

    The cache is empty and new, in `folder`.
    """
    with tempfile.TemporaryDirectory(dir=folder) as cache, Split(uri, split="train") as split:
        sizes = split.manifest.shard_sizes("train")
        plan = Plan(sizes, global_batch=BATCH, seed=0, lanes=LANES, window=WINDOW)
        about: dict[str, Any] = {"split": "train", "plan": plan, "view": TrainView(VIEW_PX), "seed": 0, "threads": 1}
        with Reader(uri, cache=ShardCache(cache), **about) as reader:
            batches, began = reader.batches(), time.perf_counter()
            next(batches)
            first_s = time.perf_counter() - began
            warm = round(WARM * plan.steps_per_epoch)
            for _ in range(warm - 1):
                next(batches)
            began, timed = time.perf_counter(), plan.steps_per_epoch - warm
            for _ in range(timed):
                next(batches)
            took_s = time.perf_counter() - began
            batches.close()  # type: ignore[attr-defined]  # a generator
    return timed * BATCH / took_s, first_s


def bare(split: Split) -> int:
    """Every shard by boto3 alone, in the ranges and chunks that we use."""
    client = _alone()
    for shard in split.shards:
        bucket, _, key = shard_uri(split.uri, shard).removeprefix("s3://").partition("/")
        for start in range(0, shard.num_bytes, s3.RANGE_BYTES):
            wanted = f"bytes={start}-{min(start + s3.RANGE_BYTES, shard.num_bytes) - 1}"
            for _ in client.get_object(Bucket=bucket, Key=key, Range=wanted)["Body"].iter_chunks(s3.CHUNK_BYTES):
                pass
    return sum(shard.num_bytes for shard in split.shards)


@functools.cache
def _alone() -> Any:
    import boto3.session

    return boto3.session.Session().client("s3")


def dropped(split: Split) -> int:
    """Every shard as a download reads it, hedges and all, but for the writing."""
    for shard in split.shards:
        s3.fetch(shard_uri(split.uri, shard), put=lambda chunk, position: None)
    return sum(shard.num_bytes for shard in split.shards)


def download(split: Split) -> int:
    """Every shard to a file on the disk; how many bytes."""
    with tempfile.TemporaryDirectory() as folder:
        for shard in split.shards:
            storage.download(shard_uri(split.uri, shard), Path(folder, "shard"))
    return sum(shard.num_bytes for shard in split.shards)


def read_samples(split: Split) -> int:
    """Some samples of the first shard, one after the other; how many bytes."""
    index = split.index(0)
    rows = zip(index.offset_S[:SINGLY].tolist(), index.size_S[:SINGLY].tolist(), strict=True)
    where = shard_uri(split.uri, split.shards[0])
    return sum(len(storage.read(where, start=start, stop=start + size)) for start, size in rows)


READ: dict[str, Callable[[Split], int]] = {
    "boto3 alone": bare,
    "shards, dropped": dropped,
    "shards, to files": download,
    "single samples": read_samples,
}


def cost(read: Callable[[Split], int], split: Split) -> tuple[float, float]:
    """CPU seconds of this process for a GB, and MB a second."""
    began, began_cpu = time.perf_counter(), time.process_time()
    num_bytes = read(split)
    return (time.process_time() - began_cpu) / (num_bytes / 1e9), num_bytes / 1e6 / (time.perf_counter() - began)


def compare(asked: argparse.Namespace, seen: dict[str, Any], corpus: Corpus, *, kind: str, folder: Path) -> None:
    """All rounds over one corpus; adds to `results` and to `reading` of `seen`."""
    with served(folder / "s3"):
        whole = Corpus(corpus.folder, corpus.shards, PER_SHARD)
        here = write_many(whole, folder / "many", shards=asked.s3_shards)
        there = sent(here, name=kind)
        few = sent(write_many(whole, folder / "few", shards=FEW), name=f"{kind}-few")
        ways = {"ours, from a folder": (here, folder), "ours, from S3": (there, folder)}
        if IN_MEMORY.is_dir():
            ways["ours, from S3, cached in memory"] = there, IN_MEMORY
        passes: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        costs: dict[str, list[tuple[float, float]]] = {how: [] for how in READ}
        with Split(few, split="train") as split:
            for _ in range(asked.rounds):
                for name, (uri, cache) in ways.items():
                    passes[name].append(pass_rate(uri, folder=cache))
                for name, read in READ.items():
                    costs[name].append(cost(read, split))
    near = [rate for rate, _ in passes["ours, from a folder"]]
    for name, rounds in passes.items():
        found = [rate for rate, _ in rounds]
        ratio = statistics.median(mine / other for mine, other in zip(found, near, strict=True))
        row = {"corpus": kind, "workers": 1, "loader": name, "images_per_s": round(statistics.median(found), 1)}
        row["first_batch_s"] = round(statistics.median(first_s for _, first_s in rounds), 2)
        seen["results"].append(
            row | {"this_over_folder": round(ratio, 3), "rounds": [round(rate, 1) for rate in found]}
        )
        print(f"{kind:6} 1 {name:32} {row['images_per_s']:8.1f} images/s   this / folder {ratio:.2f}", file=sys.stderr)
    for name, pairs in costs.items():
        cpu_s, mb_per_s = (round(statistics.median(column), 3) for column in zip(*pairs, strict=True))
        bare_s = [pair[0] for pair in costs["boto3 alone"]]
        ratio = statistics.median(pair[0] / other for pair, other in zip(pairs, bare_s, strict=True))
        row = {"corpus": kind, "how": name, "cpu_s_per_gb": cpu_s, "over_boto3_alone": round(ratio, 3)}
        row["mb_per_s"] = mb_per_s
        seen["reading"].append(row | {"rounds_cpu_s_per_gb": [round(pair[0], 3) for pair in pairs]})
        print(f"{kind:6} 1 {name:32} {cpu_s:8.2f} CPU s/GB  {mb_per_s:.0f} MB/s", file=sys.stderr)
