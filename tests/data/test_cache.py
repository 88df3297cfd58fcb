"""Shards of object storage on this machine: whole, verified, bounded, shared."""

import multiprocessing
import os
import pickle
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest
from bucket import URI, Bucket
from pictures import data_set

from pipeline import storage
from pipeline.data.cache import CacheCounts, ShardCache


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    return Bucket(tmp_path / "bucket").installed(monkeypatch)


@pytest.fixture
def shards(bucket):
    return data_set(bucket.folder, sizes=[3, 3, 3, 3]).splits["train"]


def cache_for(tmp_path: Path, shards, *, room_for: int) -> ShardCache:
    largest = max(shard.num_bytes for shard in shards)
    return ShardCache(str(tmp_path / "cache"), capacity_bytes=room_for * largest)


def kept(cache: ShardCache) -> set[str]:
    return {path.stem for path in cache.folder.glob("*.tar")}


def test_a_fetched_shard_is_the_shard_and_is_fetched_once(tmp_path, bucket, shards):
    cache = cache_for(tmp_path, shards, room_for=4)
    assert cache.look_up(URI, shards[0]) is None
    first = cache.fetch(URI, shards[0])
    again = cache.fetch(URI, shards[0])
    expected = (bucket.folder / shards[0].name).read_bytes()
    assert first.read(start=0, num_bytes=len(expected)) == expected
    assert again.read(start=512, num_bytes=100) == expected[512:612]
    assert bucket.calls["download", shards[0].name] == 1
    assert not list(cache.folder.glob("*.part"))


def test_shards_with_the_same_bytes_are_kept_once(tmp_path, bucket, shards):
    cache = cache_for(tmp_path, shards, room_for=4)
    cache.fetch(URI, shards[0])
    shutil.copytree(bucket.folder, bucket.folder / "copy")
    assert cache.look_up(URI + "/copy", shards[0]) is not None


def test_a_local_shard_is_opened_in_place(tmp_path, bucket, shards):
    cache = ShardCache(str(tmp_path / "cache"))
    opened = cache.fetch(str(bucket.folder), shards[1])
    assert opened.read(start=0, num_bytes=9) == b"000000003"
    assert not (tmp_path / "cache").exists()


def test_an_open_shard_refuses_to_read_past_its_end(tmp_path, bucket, shards):
    opened = ShardCache().look_up(str(bucket.folder), shards[0])
    with pytest.raises(ValueError, match=r"000000\.tar: ends at byte \d+, its index names .*truncated"):
        opened.read(start=shards[0].num_bytes - 5, num_bytes=10)


@pytest.mark.parametrize("where", ["bucket", "folder"])
def test_a_truncated_shard_is_refused_with_both_sizes_and_a_remedy(tmp_path, bucket, shards, where):
    path = bucket.folder / shards[0].name
    os.truncate(path, 1000)
    uri = URI if where == "bucket" else str(bucket.folder)
    message = rf"000000\.tar: has 1000 bytes, the manifest says {shards[0].num_bytes}; .*prepare the data set again"
    with pytest.raises(ValueError, match=message):
        cache_for(tmp_path, shards, room_for=4).fetch(uri, shards[0])


def test_a_transfer_that_spoils_a_byte_is_repeated(tmp_path, bucket, shards):
    bucket.spoil.append(shards[0].name)
    assert cache_for(tmp_path, shards, room_for=4).fetch(URI, shards[0]) is not None
    assert bucket.calls["download", shards[0].name] == 2


def test_an_object_with_other_bytes_is_refused_and_not_kept(tmp_path, bucket, shards):
    path = bucket.folder / shards[0].name
    data = bytearray(path.read_bytes())
    data[700] ^= 1
    path.write_bytes(data)
    cache = cache_for(tmp_path, shards, room_for=4)
    with pytest.raises(ValueError, match=r"000000\.tar: has digest \w{32}, the manifest says \w{32}; .*remove it"):
        cache.fetch(URI, shards[0])
    assert kept(cache) == set()


def test_the_shard_opened_longest_ago_makes_room(tmp_path, bucket, shards):
    cache = cache_for(tmp_path, shards, room_for=2)
    for number in (0, 1, 0, 2):  # the second use of 0 leaves 1 as the oldest
        assert cache.fetch(URI, shards[number]) is not None
        time.sleep(0.01)  # file times are only so fine
    assert kept(cache) == {shards[0].digest, shards[2].digest}


def words(cache: ShardCache) -> set[str]:
    return {path.stem for path in cache.folder.glob("*.next")}


def test_what_an_order_needs_last_makes_room_before_what_was_opened_longest_ago(tmp_path, bucket, shards):
    cache = cache_for(tmp_path, shards, room_for=3)
    for number, step in ((0, 70), (1, 90), (2, 80)):
        cache.fetch(URI, shards[number])
        cache.note_next_use(shards[number], order="ours", step=step)
    cache.fetch(URI, shards[3], order="ours")
    assert kept(cache) == {shards[number].digest for number in (0, 2, 3)}
    assert words(cache) == {shards[number].digest for number in (0, 2)}


def test_what_nobody_spoke_of_or_another_order_did_makes_room_first(tmp_path, bucket, shards):
    for first, note in ((0, None), (1, ("theirs", 3))):
        cache = ShardCache(str(tmp_path / str(first)), capacity_bytes=3 * max(shard.num_bytes for shard in shards))
        for number in range(3):
            cache.fetch(URI, shards[number])
            if number != first:
                cache.note_next_use(shards[number], order="ours", step=1000)
            elif note is not None:
                cache.note_next_use(shards[number], order=note[0], step=note[1])
        cache.fetch(URI, shards[3], order="ours")
        assert kept(cache) == {shards[number].digest for number in range(4) if number != first}


def test_who_has_no_order_goes_by_when_shards_were_opened(tmp_path, bucket, shards):
    cache = cache_for(tmp_path, shards, room_for=2)
    for number, step in ((0, 1), (1, 1000)):
        cache.fetch(URI, shards[number])
        cache.note_next_use(shards[number], order="ours", step=step)
        time.sleep(0.01)  # file times are only so fine
    cache.fetch(URI, shards[2])
    assert kept(cache) == {shards[1].digest, shards[2].digest}


def test_a_word_ends_when_its_shard_is_opened_or_gone(tmp_path, bucket, shards):
    cache = cache_for(tmp_path, shards, room_for=2)
    for number in (0, 1):
        cache.fetch(URI, shards[number])
        cache.note_next_use(shards[number], order="ours", step=5)
    cache.note_next_use(shards[2], order="ours", step=5)  # is not here
    assert words(cache) == {shards[0].digest, shards[1].digest}
    assert cache.look_up(URI, shards[0]) is not None
    assert words(cache) == {shards[1].digest}
    (cache.folder / f"{shards[1].digest}.tar").unlink()
    cache.fetch(URI, shards[2])
    assert words(cache) == set()


@pytest.mark.parametrize("text", ["", "ours", "ours 12", "ours x\n", "ours -3\n", "\n"])
def test_half_a_word_is_none(tmp_path, bucket, shards, text):
    cache = cache_for(tmp_path, shards, room_for=2)
    for number in (0, 1):
        cache.fetch(URI, shards[number])
    (cache.folder / f"{shards[1].digest}.next").write_text(text)
    cache.note_next_use(shards[0], order="ours", step=10**9)
    assert cache.fetch(URI, shards[2], order="ours") is not None
    assert kept(cache) == {shards[0].digest, shards[2].digest}


def test_it_is_counted_what_was_there_fetched_and_refused(tmp_path, bucket, shards):
    cache = cache_for(tmp_path, shards, room_for=1)
    held = cache.fetch(URI, shards[0])
    assert cache.look_up(URI, shards[0]) is not None
    assert cache.fetch(URI, shards[1]) is None
    assert held is not None
    assert cache.counts == CacheCounts(hits=1, fetched=1, fetched_bytes=shards[0].num_bytes, refused=1)
    assert pickle.loads(pickle.dumps(cache)).counts == CacheCounts()  # in another process


def test_what_is_open_is_never_removed_and_without_room_nothing_is_fetched(tmp_path, bucket, shards):
    cache = cache_for(tmp_path, shards, room_for=2)
    held = [cache.fetch(URI, shards[0]), cache.fetch(URI, shards[1])]
    assert cache.fetch(URI, shards[2]) is None
    assert kept(cache) == {shards[0].digest, shards[1].digest}
    del held[0]
    assert cache.fetch(URI, shards[2]) is not None
    assert kept(cache) == {shards[1].digest, shards[2].digest}


def test_a_shard_larger_than_the_cache_is_an_error_that_says_so(tmp_path, bucket, shards):
    cache = ShardCache(str(tmp_path / "cache"), capacity_bytes=1000)
    with pytest.raises(ValueError, match=r"capacity_bytes: 1000 is less than train/000000\.tar has"):
        cache.fetch(URI, shards[0])
    with pytest.raises(ValueError, match="capacity_bytes: must be positive, got 0"):
        ShardCache(capacity_bytes=0)


def test_a_file_of_the_wrong_size_in_the_cache_is_fetched_anew(tmp_path, bucket, shards):
    cache = cache_for(tmp_path, shards, room_for=4)
    cache.fetch(URI, shards[0])
    os.truncate(cache.folder / f"{shards[0].digest}.tar", 10)
    assert cache.fetch(URI, shards[0]) is not None
    assert bucket.calls["download", shards[0].name] == 2


def test_many_at_once_fetch_a_shard_once(tmp_path, bucket, shards):
    caches = [cache_for(tmp_path, shards, room_for=4) for _ in range(6)]  # each as another process would have it
    opened = []
    threads = [threading.Thread(target=lambda c=cache: opened.append(c.fetch(URI, shards[0]))) for cache in caches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 6
    assert None not in opened
    assert bucket.calls["download", shards[0].name] == 1


def test_a_fetch_under_way_counts_as_used_room(tmp_path, bucket, shards):
    cache = cache_for(tmp_path, shards, room_for=1)
    bucket.downloads_may_go_on.clear()
    thread = threading.Thread(target=cache.fetch, args=(URI, shards[0]))
    thread.start()
    while not list(cache.folder.glob("*.part")):
        time.sleep(0.001)
    assert cache_for(tmp_path, shards, room_for=1).fetch(URI, shards[1]) is None
    bucket.downloads_may_go_on.set()
    thread.join()
    assert kept(cache) == {shards[0].digest}


def _fetch_and_hang(folder: Path, cache_folder: str, capacity_bytes: int, shard) -> None:
    bucket = Bucket(folder)
    storage._storage = bucket

    def half_a_download(uri: str, path: Path) -> None:
        path.write_bytes((folder / shard.name).read_bytes()[: shard.num_bytes // 2])
        (path.parent / "hanging").touch()
        time.sleep(60)

    bucket.download = half_a_download
    ShardCache(cache_folder, capacity_bytes=capacity_bytes).fetch(URI, shard)


def test_what_a_killed_process_leaves_is_neither_used_nor_kept(tmp_path, bucket, shards):
    cache = cache_for(tmp_path, shards, room_for=1)
    arguments = (bucket.folder, str(cache.folder), shards[0].num_bytes, shards[0])
    process = multiprocessing.get_context("spawn").Process(target=_fetch_and_hang, args=arguments)
    process.start()
    while not list(cache.folder.glob("*.part/hanging")):
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert cache.look_up(URI, shards[0]) is None
    other = cache.fetch(URI, shards[1])  # its room was claimed by the dead
    assert other is not None
    assert not list(cache.folder.glob("*.part"))
    del other
    assert cache.fetch(URI, shards[0]) is not None


def test_the_default_folder_is_the_users_cache_or_else_a_temporary_one(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert ShardCache().folder == tmp_path / "xdg" / "tessera" / "shards"
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "tmp"))
    assert ShardCache().folder == tmp_path / "tmp" / f"tessera-{os.geteuid()}" / "shards"
