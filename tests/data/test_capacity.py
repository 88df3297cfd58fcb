"""What the parts of an input pipeline deliver: asserted is what is there and how it relates, never a speed."""

import itertools
import os
import threading

import pytest
from bucket import URI, Bucket
from pictures import data_set, encoded, jpeg_of, photo

from pipeline import storage
from pipeline.data import capacity, specimen
from pipeline.data.cache import ShardCache
from pipeline.data.capacity import Clock
from pipeline.data.reader import Reader
from pipeline.data.split import Split
from pipeline.data.view import TrainView

SIZES = (9, 4, 6)
VIEW = TrainView(16)


def ticking(step_s: float = 0.01) -> Clock:
    """A clock that goes on by `step_s` whenever it is looked at, so that a second is a hundred looks."""
    looks, lock = itertools.count(1), threading.Lock()

    def now_s() -> float:
        with lock:
            return next(looks) * step_s

    return Clock(now_s, now_s)


@pytest.fixture
def split(tmp_path):
    data_set(tmp_path / "shards", sizes=SIZES)
    with Split(str(tmp_path / "shards"), split="train") as opened:
        yield opened


@pytest.fixture
def far(tmp_path, monkeypatch):
    """The same in a bucket, and the bucket."""
    data_set(tmp_path / "bucket" / "shards", sizes=SIZES)
    bucket = Bucket(tmp_path / "bucket").installed(monkeypatch)
    with Split(f"{URI}/shards", split="train", cache=ShardCache(str(tmp_path / "cache"))) as opened:
        yield opened, bucket


def test_storage_is_read_by_ranges_of_every_shard(far):
    split, bucket = far
    found = capacity.storage_rate(split, seconds=1, clock=ticking())
    assert found.mb_per_s > 0
    assert found.cpu_s_per_gb > 0
    read = {name for (call, name), count in bucket.calls.items() if call == "read" and name.endswith(".tar") and count}
    assert read == {f"shards/train/{number:06d}.tar" for number in range(3)}
    assert not [call for call in bucket.calls if call[0] == "download"]


def test_single_samples_have_a_latency_and_a_rate(far):
    found = capacity.request_rate(far[0], seconds=1, clock=ticking())
    assert found.requests_per_s > 0
    assert 0 < found.median_ms <= found.p95_ms


def test_a_folder_is_read_too(split):
    assert capacity.storage_rate(split, seconds=0.1, clock=ticking()).mb_per_s > 0


def test_the_cache_is_written_and_left_empty(tmp_path, monkeypatch):
    monkeypatch.setattr(capacity, "SYNC_BYTES", 1 << 20)
    found = capacity.cache_rate(ShardCache(str(tmp_path / "cache")), seconds=0.03, clock=ticking())
    assert found.folder == f"{tmp_path}/cache"
    assert found.write_mb_per_s == pytest.approx(3 * (1 << 20) / 1e6 / 0.03), "a megabyte between two looks"
    assert found.free_bytes > 0
    assert os.listdir(tmp_path / "cache") == []


def test_a_cache_that_cannot_be_is_an_error_of_storage():
    with pytest.raises(storage.StorageError, match=r"the cache folder: cannot write: .*a part of this path is a file"):
        capacity.cache_rate(ShardCache("/dev/null/cache"), seconds=1, clock=ticking())


def test_one_core_decodes_and_makes_views_and_the_parts_add_up():
    found = capacity.core_rate([jpeg_of(0), jpeg_of(1)], view=VIEW, seconds=1, clock=ticking())
    assert found.decode_ms + found.view_ms == pytest.approx(1000 / found.images_per_s)
    assert found.decode_ms == pytest.approx(0), "by this clock both take as long as the view alone"
    assert found.view_ms == pytest.approx(10)


def test_examples_are_counted_with_those_that_are_corrupt(tmp_path):
    data_set(tmp_path, sizes=SIZES, image=lambda i: b"no picture" if i in (2, 11) else encoded(photo(i)))
    with Split(str(tmp_path), split="train") as split:
        found = specimen.examples(split)
    assert (found.looked_at, len(found.images)) == (19, 17)
    assert sorted(found.corrupt) == [
        "train/000000.tar sample 2: is neither JPEG, PNG nor WebP",
        "train/000001.tar sample 2: is neither JPEG, PNG nor WebP",
    ]
    assert (found.mean_width_px, found.mean_height_px) == (48, 40)
    assert found.mean_bytes == pytest.approx(sum(map(len, found.images)) / 17)


def test_a_data_set_of_which_nothing_can_be_used_is_an_error(tmp_path):
    data_set(tmp_path, sizes=SIZES, image=lambda i: b"no picture")
    with Split(str(tmp_path), split="train") as split, pytest.raises(storage.StorageError, match="not one of 19"):
        specimen.examples(split)


def test_of_many_samples_some_of_every_shard_are_taken(split):
    places = specimen.places_of(split, 6)
    assert {shard for shard, _ in places} == {0, 1, 2}
    assert len(places) == 6
    assert len(set(places)) == 6


def test_a_folder_is_nearby_as_it_is(split, tmp_path):
    with specimen.nearby(split, cache=ShardCache(str(tmp_path / "cache")), seconds=1) as uri:
        assert uri == split.uri
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(("seconds", "shards"), [(0.005, 1), (10, 3)])
def test_shards_are_brought_nearby_while_there_is_time_and_removed(far, tmp_path, seconds, shards):
    cache = ShardCache(str(tmp_path / "cache"))
    bring = specimen.nearby(far[0], cache=cache, seconds=seconds, now_s=ticking().wall_s)
    with bring as uri, Split(uri, split="train") as near:
        assert near.is_local
        assert len(near.shards) == shards
        assert set(near.shards) <= set(far[0].shards)
        assert near.read(0, 0)[0][:3] == b"\xff\xd8\xff"
    assert os.listdir(tmp_path / "cache") == []


@pytest.mark.parametrize(("processes", "threads"), [(0, 2), (1, 1), (2, 1)])
def test_readers_are_counted_with_what_they_had_to_replace(tmp_path, monkeypatch, processes, threads):
    monkeypatch.setattr(capacity, "BATCH", 4)
    data_set(tmp_path, sizes=SIZES, image=lambda i: b"no picture" if i == 3 else encoded(photo(i)))
    about = {"split": "train", "view": VIEW, "threads": threads, "processes": processes}
    found = capacity.reader_rate(str(tmp_path), **about, seconds=0.2, clock=ticking())
    assert (found.processes, found.threads, found.corrupt) == (processes, threads, 1)
    assert found.images_per_s > 0


def test_a_reader_that_fails_ends_the_measuring(split, monkeypatch):
    def batches(self, step=0):
        yield None
        raise ValueError("train/000000.tar: is gone")

    monkeypatch.setattr(Reader, "batches", batches)
    with pytest.raises(ValueError, match="is gone"):
        capacity.reader_rate(split.uri, split="train", view=VIEW, threads=1, seconds=1, clock=ticking())


def test_cores_are_those_of_the_container(tmp_path, monkeypatch):
    allowed = len(os.sched_getaffinity(0))
    limit = tmp_path / "cpu.max"
    monkeypatch.setattr(capacity, "CPU_LIMIT", limit)
    assert capacity.cores() == allowed
    limit.write_text("max 100000\n")
    assert capacity.cores() == allowed
    limit.write_text("50000 100000\n")
    assert capacity.cores() == 0.5
