"""One order of samples and pixels, whoever reads it, from where, and however often it was interrupted."""

import contextlib
import hashlib
import itertools
import os
import random
import signal
from pathlib import Path

import pytest
from pictures import data_set, jpeg_of
from test_reader_process import children

from pipeline import storage
from pipeline.data.cache import ShardCache
from pipeline.data.dataset import read_manifest
from pipeline.data.mixture import mixed
from pipeline.data.plan import Plan
from pipeline.data.reader import Batch, Reader
from pipeline.data.reader_process import ReaderProcess
from pipeline.data.remote_reader import RemoteReader
from pipeline.data.view import TrainView
from tests.fakes import InProcessHost

SIZES, GLOBAL_BATCH = (31, 17, 40, 23, 40), 24
STEPS = 2 * (sum(SIZES) // GLOBAL_BATCH)  # two epochs
PLAN = Plan(SIZES, global_batch=GLOBAL_BATCH, seed=11, lanes=5, window=30)
VIEW = TrainView(16, rand_augment=(2, 10))
RANKS = (1, 2, 3, 4, 6, 8)
ABOUT = {"split": "train", "plan": PLAN, "view": VIEW, "seed": 5, "mixup": 0.2}
OTHER_SIZES = (20, 13, 22)
MIXTURE = mixed([SIZES, OTHER_SIZES], weights=(2, 1), global_batch=GLOBAL_BATCH, seed=1, lanes=5, window=30)


def hashes(ranks: list[list[Batch]]) -> list[str]:
    """Of every global batch: ids, labels, pixels and what mixup keeps, put together from the ranks' parts."""
    found = []
    for parts in zip(*ranks, strict=True):
        hashed = hashlib.sha256()
        for name in ("ids_B", "labels_B", "images_BHWC", "mixed_B"):
            for part in parts:
                hashed.update(getattr(part, name).tobytes())
        found.append(hashed.hexdigest())
    return found


def read(uri, *, ranks: int = 1, step: int = 0, kind=Reader, stop: int = STEPS, **options) -> list[str]:
    part, read_by = GLOBAL_BATCH // ranks, []
    for rank in range(ranks):
        slots = (rank * part, (rank + 1) * part)
        with kind(uri, **{**ABOUT, **options}, slots=slots) as reader:
            read_by.append(list(itertools.islice(reader.batches(step), stop - step)))
    return hashes(read_by)


def read_by_hosts(uri, *, ranks: int, hosts: int, **options) -> list[str]:
    """All ranks go on together, as they ask the same hosts."""
    part, some = GLOBAL_BATCH // ranks, [InProcessHost() for _ in range(hosts)]
    every = [(rank * part, (rank + 1) * part) for rank in range(ranks)]
    streams = [RemoteReader(uri, hosts=some, slots=slots, **{**ABOUT, **options}).batches() for slots in every]
    parts = [[next(stream) for stream in streams] for _ in range(STEPS)]
    for host in some:
        host.close()
    return hashes([list(one) for one in zip(*parts, strict=True)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("shards")
    data_set(made, sizes=SIZES)
    return made


@pytest.fixture(scope="module")
def order(folder) -> list[str]:
    return read(str(folder), threads=1)


@pytest.fixture
def bucket(folder, s3_environment) -> str:
    uri = f"{s3_environment.uri}/exactness"
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        storage.upload(path, storage.join(uri, str(path.relative_to(folder))))
    return uri


def test_two_epochs_are_two_orders_of_every_sample_but_less_than_a_batch(folder, order):
    assert len(set(order)) == STEPS
    with Reader(str(folder), split="train", plan=PLAN, view=VIEW, seed=5) as reader:
        taken = [batch.ids_B.tolist() for batch in itertools.islice(reader.batches(), STEPS)]
    for epoch in (taken[: STEPS // 2], taken[STEPS // 2 :]):
        seen = list(itertools.chain(*epoch))
        assert len(seen) == len(set(seen)) > sum(SIZES) - GLOBAL_BATCH


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("ranks", RANKS)
def test_ranks_and_threads_change_nothing(folder, order, ranks, threads):
    assert read(str(folder), ranks=ranks, threads=threads) == order


@pytest.mark.parametrize("ranks", RANKS)
def test_processes_change_nothing(folder, order, ranks):
    assert read(str(folder), ranks=ranks, threads=2, kind=ReaderProcess) == order


@pytest.mark.parametrize(("ranks", "kind"), [(1, Reader), (3, Reader), (8, Reader), (2, ReaderProcess)])
def test_object_storage_changes_nothing_with_a_cold_or_a_warm_cache_or_one_without_room(
    bucket, order, tmp_path, ranks, kind
):
    cache, machine = ShardCache(str(tmp_path / "cache")), (0, GLOBAL_BATCH)  # one machine has all ranks
    for _ in ("cold", "warm"):
        assert read(bucket, ranks=ranks, threads=2, kind=kind, cache=cache, machine=machine) == order
    assert len(list((tmp_path / "cache").glob("*.tar"))) == len(SIZES)
    narrow = ShardCache(str(tmp_path / "narrow"), capacity_bytes=max(s.num_bytes for s in _shards(bucket)))
    assert read(bucket, ranks=ranks, threads=2, kind=kind, cache=narrow, machine=machine) == order


@pytest.mark.parametrize("ranks", [2, 8])
def test_machines_that_share_shards_read_samples_of_them_one_by_one_and_change_nothing(bucket, order, tmp_path, ranks):
    cache = ShardCache(str(tmp_path / "cache"))
    assert read(bucket, ranks=ranks, threads=2, cache=cache) == order
    assert cache.counts.fetched < ranks * len(SIZES)


@pytest.mark.parametrize("ranks", RANKS)
def test_hosts_elsewhere_change_nothing(folder, order, ranks):
    assert read_by_hosts(str(folder), ranks=ranks, hosts=5) == order


def test_hosts_elsewhere_that_read_object_storage_change_nothing(bucket, order, tmp_path):
    cache = ShardCache(str(tmp_path / "cache"))
    for ranks, hosts in ((1, 3), (4, 2)):
        assert read_by_hosts(bucket, ranks=ranks, hosts=hosts, cache=cache) == order


@pytest.mark.parametrize("ranks", RANKS)
def test_what_is_read_of_a_mixture_changes_with_nothing_either(folder, bucket, tmp_path, ranks):
    data_set(tmp_path / "other", sizes=OTHER_SIZES, image=lambda i: jpeg_of(i + 1000))
    uris, other = (str(folder), str(tmp_path / "other")), {"plan": MIXTURE}
    expected = read(uris, threads=1, **other)
    assert len(set(expected)) == STEPS
    assert read(uris, ranks=ranks, threads=4, **other) == expected
    assert read((bucket, uris[1]), ranks=ranks, threads=2, cache=ShardCache(str(tmp_path / "c")), **other) == expected
    if ranks == 2:
        assert read(uris, ranks=ranks, kind=ReaderProcess, **other) == expected
    assert read_by_hosts(uris, ranks=ranks, hosts=3, **other) == expected
    assert read(uris, ranks=ranks, step=5, stop=9, **other) == expected[5:9]


def test_fifty_interruptions_by_other_ranks_and_threads_change_nothing(folder, order):
    draw = random.Random(3)
    for _ in range(50):
        step, ranks, threads = draw.randrange(STEPS), draw.choice(RANKS), draw.choice((1, 2, 4))
        stop = draw.randrange(step, STEPS) + 1
        assert read(str(folder), ranks=ranks, threads=threads, step=step, stop=stop) == order[step:stop]


def test_killed_processes_change_nothing(folder, order):
    draw, found = random.Random(4), []
    while len(found) < STEPS:
        before = children()
        options = {"split": "train", "plan": PLAN, "view": VIEW, "seed": 5, "mixup": 0.2}
        with ReaderProcess(str(folder), **options) as reader, contextlib.suppress(RuntimeError):
            batches = reader.batches(len(found))
            for batch in itertools.islice(batches, draw.randint(1, 4)):
                found += hashes([[batch]])
            for process in children() - before:
                os.kill(process, signal.SIGKILL)
            for batch in batches:  # those that were on their way, and then the error
                found += hashes([[batch]])
    assert found[:STEPS] == order


def _shards(uri: str):
    return read_manifest(uri).shards("train")
