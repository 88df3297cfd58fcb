"""An object store that resets, cuts, delays, refuses and hangs changes no batch, and one that is wrong says how."""

import pytest
from pictures import data_set
from test_exactness import PLAN, SIZES, STEPS, VIEW, read

from pipeline import storage
from pipeline.data.cache import ShardCache
from pipeline.data.dataset import read_manifest
from pipeline.data.reader import Reader
from pipeline.storage import hedge, s3, s3_client
from tests.fault_proxy import Fault, FaultProxy, fault_proxy

RAIN = {
    Fault("reset", match="GET "): 0.05,
    Fault("cut", match="GET ", after_bytes=300): 0.02,
    Fault("delay", match="GET ", seconds=0.2): 0.02,
    Fault("refuse", match="GET "): 0.05,
    Fault("hang", match="GET ", seconds=30): 0.005,
}


@pytest.fixture
def folder(tmp_path):
    data_set(tmp_path / "shards", sizes=SIZES)
    return tmp_path / "shards"


@pytest.fixture
def proxy(s3_environment, monkeypatch):
    with fault_proxy(s3_environment.url) as running:
        monkeypatch.setattr(s3_client, "READ_TIMEOUT_S", 1)
        monkeypatch.setenv("AWS_ENDPOINT_URL", running.url)
        yield running


@pytest.fixture
def bucket(folder, proxy, s3_environment, request) -> str:
    uri = f"{s3_environment.uri}/faults/{abs(hash(request.node.name))}"
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        storage.upload(path, storage.join(uri, str(path.relative_to(folder))))
    return uri


def reader_of(uri: str, tmp_path, **options) -> Reader:
    cache = ShardCache(str(tmp_path / "cache"))
    return Reader(uri, split="train", plan=PLAN, view=VIEW, seed=5, cache=cache, **options)


def shards_of(uri: str):
    return read_manifest(uri).shards("train")


@pytest.mark.parametrize("room", ["whole shards", "one shard, the rest by ranges"])
def test_two_epochs_through_a_storm_are_those_of_fair_weather(folder, bucket, proxy, tmp_path, room):
    expected = read(str(folder), threads=1)
    largest = max(shard.num_bytes for shard in shards_of(bucket))
    size = {} if room == "whole shards" else {"capacity_bytes": largest}
    proxy.rain(RAIN, seed=1)
    proxy.inject(Fault("hang", match=".tar", times=2, seconds=30))  # at half a percent there may be none
    proxy.inject(Fault("stall", match=".tar ", times=2, after_bytes=700, seconds=30))
    found = []
    for epoch in range(2):  # a cache of its own each time
        cache = ShardCache(str(tmp_path / f"cache-{epoch}"), **size)
        start, stop = epoch * STEPS // 2, (epoch + 1) * STEPS // 2
        found += read(bucket, ranks=2, threads=4, cache=cache, step=start, stop=stop)
    assert found == expected
    if size:  # enough requests that every kind of fault met some
        assert {"reset", "cut", "delay", "refuse"} <= set(proxy.rained), dict(proxy.rained)


@pytest.fixture
def eager(monkeypatch):
    """Hedges after a second, and time-outs as long as they really are."""
    monkeypatch.setattr(hedge, "LEAST_S", 1.0)
    monkeypatch.setattr(s3, "_hedges", hedge.Hedges())
    monkeypatch.setattr(s3_client, "READ_TIMEOUT_S", 20)
    monkeypatch.setenv("AWS_PROFILE_UNUSED", "so that the client is made anew")


@pytest.mark.parametrize("room", ["whole shards", "one shard, the rest by ranges"])
def test_requests_that_hang_hold_up_no_epoch(folder, bucket, proxy, eager, tmp_path, room):
    """Each would for 20 s by its time-out. The first request for every shard does, and what is asked beside it not."""
    expected = read(str(folder), threads=1, stop=STEPS // 2)
    largest = max(shard.num_bytes for shard in shards_of(bucket))
    size = {} if room == "whole shards" else {"capacity_bytes": largest}
    for number, shard in enumerate(shards_of(bucket)):
        where = storage.join(bucket, shard.name).removeprefix("s3:/")
        proxy.inject(Fault(("hang", "stall")[number % 2], match=f"GET {where} ", after_bytes=300, seconds=60))
    before = storage.counters()
    found = read(bucket, threads=4, cache=ShardCache(str(tmp_path / "cache"), **size), stop=STEPS // 2)
    assert found == expected
    after = storage.counters()
    assert after.hedges_won - before.hedges_won >= len(SIZES)
    assert after.retries == before.retries


def test_an_object_that_was_overwritten_is_told_where_a_hedge_fetched_it(bucket, proxy, eager, tmp_path):
    shard = shards_of(bucket)[2]
    where = storage.join(bucket, shard.name)
    storage.write(where, storage.read(where)[::-1])
    for method in ("HEAD", "GET"):
        proxy.inject(Fault("hang", match=f"{method} {where.removeprefix('s3:/')} ", seconds=60))
    with pytest.raises(ValueError, match=rf"{where}: .*overwritten or damaged"):
        ShardCache(str(tmp_path / "cache")).fetch(bucket, shard)
    assert list((tmp_path / "cache").glob("*.tar")) == []


def test_an_object_that_was_overwritten_is_named_with_what_to_do(bucket, tmp_path):
    shard = shards_of(bucket)[2]
    where = storage.join(bucket, shard.name)
    storage.write(where, storage.read(where)[::-1])
    with (
        reader_of(bucket, tmp_path) as reader,
        pytest.raises(
            ValueError, match=rf"{where}: .*overwritten or damaged: remove it and prepare the data set again"
        ),
    ):
        read_all(reader)


def test_a_shard_that_was_deleted_is_named(bucket, tmp_path):
    where = storage.join(bucket, shards_of(bucket)[1].name)
    storage.remove(where)
    with reader_of(bucket, tmp_path) as reader, pytest.raises(storage.NotFound, match=rf"{where}: .*no such"):
        read_all(reader)


def test_a_revoked_credential_is_told_and_not_shown(bucket, tmp_path, monkeypatch):
    reader = reader_of(bucket, tmp_path)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "revoked-secret")
    with reader, pytest.raises(storage.StorageError, match=r"AWS_SECRET_ACCESS_KEY|credential|refused") as told:
        read_all(reader)
    assert "revoked-secret" not in str(told.value)


def test_a_full_cache_disk_names_the_folder(bucket, tmp_path, monkeypatch):
    import errno
    import os

    def full(descriptor: int, data: bytes, position: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with (
        reader_of(bucket, tmp_path) as reader,
        pytest.raises(storage.StorageError, match=r"disk is full \(.* GiB left\)"),
    ):
        read_all(reader)


def test_a_server_that_never_answers_is_given_up_within_its_time(bucket, proxy: FaultProxy, tmp_path, monkeypatch):
    monkeypatch.setattr(s3_client, "ATTEMPTS", 2)
    monkeypatch.setenv("AWS_PROFILE_UNUSED", "so that the client is made anew")
    reader = reader_of(bucket, tmp_path)
    proxy.inject(Fault("hang", match=".tar", times=1000, seconds=30))
    with reader, pytest.raises(storage.StorageError, match=r"s3://.*"):
        read_all(reader)


def read_all(reader: Reader) -> None:
    for _, batch in zip(range(STEPS), reader.batches(), strict=False):
        assert len(batch.ids_B)
