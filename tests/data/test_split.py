"""Samples by number: from the cache, from ranges, verified either way, and nobody waits for a whole shard."""

import os
import threading
import time

import pytest
from bucket import URI, Bucket
from pictures import NUM_CLASSES, data_set, jpeg_of, label_of

from pipeline import storage
from pipeline.data.cache import CacheCounts, ShardCache
from pipeline.data.decode import Corrupt
from pipeline.data.index import index_name, read_index
from pipeline.data.split import Counts, Split


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    return Bucket(tmp_path / "bucket").installed(monkeypatch)


@pytest.fixture
def manifest(bucket):
    return data_set(bucket.folder, sizes=[3, 4, 5])


@pytest.fixture
def cache(tmp_path, manifest):
    return ShardCache(str(tmp_path / "cache"), capacity_bytes=2 * max(s.num_bytes for s in manifest.splits["train"]))


def flip(path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def tar(bucket, manifest, shard: int):
    return bucket.folder / manifest.splits["train"][shard].name


def wait_for(condition) -> None:
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.002)
    raise AssertionError("it did not happen")


def test_samples_are_read_by_their_numbers_wherever_the_shards_are(bucket, manifest, cache):
    for uri in (str(bucket.folder), URI):
        with Split(uri, split="train", cache=cache) as split:
            assert split.read(1, 2) == (jpeg_of(5), label_of(5))
            assert split.read(2, 4) == (jpeg_of(11), label_of(11))


def test_an_unknown_split_is_refused_with_those_there_are(bucket, manifest):
    with pytest.raises(ValueError, match="no 'val'; it has train"):
        Split(str(bucket.folder), split="val")


def test_a_flipped_byte_is_corrupt(bucket, manifest):
    index = read_index(str(bucket.folder), manifest.splits["train"][0])
    flip(tar(bucket, manifest, 0), int(index.offset_S[1]) + 100)
    with Split(str(bucket.folder), split="train") as split:
        assert split.read(0, 0)[0] == jpeg_of(0)
        with pytest.raises(Corrupt, match="bytes do not match their digest"):
            split.read(0, 1)


def test_a_flipped_byte_in_the_cache_only_is_read_from_the_original(bucket, manifest, cache):
    with Split(URI, split="train", cache=cache) as split:
        split.fetch(0)
        index = split.index(0)
        flip(cache.folder / f"{manifest.splits['train'][0].digest}.tar", int(index.offset_S[1]) + 100)
        assert split.read(0, 1)[0] == jpeg_of(1)


def test_a_range_that_arrives_damaged_is_read_again(bucket, manifest, cache):
    with Split(URI, split="train", cache=cache) as split:
        split.index(0)
        bucket.spoil.append(manifest.splits["train"][0].name)
        assert split.read(0, 1)[0] == jpeg_of(1)


def test_a_label_outside_the_classes_is_corrupt(tmp_path):
    data_set(tmp_path, sizes=[3], label=lambda i: (2, NUM_CLASSES, 3)[i])
    with Split(str(tmp_path), split="train") as split:
        assert split.read(0, 0)[1] == 2
        with pytest.raises(Corrupt, match="label 5 is none of the 5 classes"):
            split.read(0, 1)


@pytest.mark.parametrize("where", ["bucket", "folder"])
def test_a_truncated_shard_is_an_error_of_the_shard_not_of_a_sample(bucket, manifest, cache, where):
    os.truncate(tar(bucket, manifest, 0), 3000)
    with (
        Split(URI if where == "bucket" else str(bucket.folder), split="train", cache=cache) as split,
        pytest.raises(ValueError, match=r"has 3000 bytes, the manifest says .* truncated") as caught,
    ):
        split.read(0, 2)
    assert not isinstance(caught.value, Corrupt)


def test_a_damaged_index_names_itself_and_the_remedy(bucket, manifest):
    flip(bucket.folder / index_name(manifest.splits["train"][0].name), 60)
    with Split(str(bucket.folder), split="train") as split, pytest.raises(ValueError, match="index is damaged"):
        split.read(0, 0)


def test_reading_does_not_wait_for_a_shard_that_is_being_fetched(bucket, manifest, cache):
    name = manifest.splits["train"][0].name
    with Split(URI, split="train", cache=cache) as split:
        bucket.downloads_may_go_on.clear()
        split.fetch_soon(0)
        split.fetch_soon(0)
        wait_for(lambda: bucket.calls["download", name] == 1)
        assert split.read(0, 1)[0] == jpeg_of(1)
        ranges = bucket.calls["read", name]
        assert ranges == 1
        bucket.downloads_may_go_on.set()
        wait_for(lambda: cache.look_up(URI, split.shards[0]) is not None and not split._entries[0].fetching)
        assert split.read(0, 2)[0] == jpeg_of(2)
        assert bucket.calls["read", name] == ranges
        assert bucket.calls["download", name] == 1


def test_a_fetch_that_failed_is_raised_by_who_reads_the_shard(bucket, manifest, cache):
    name = manifest.splits["train"][0].name
    bucket.fail[name] = storage.StorageError(f"{name}: the disk is full")
    with Split(URI, split="train", cache=cache) as split:
        split.fetch_soon(0)
        wait_for(lambda: split._entries[0].failure is not None)
        with pytest.raises(storage.StorageError, match="the disk is full"):
            split.read(0, 0)
        assert split.read(1, 0)[0] == jpeg_of(3)


def test_without_room_samples_come_by_ranges_and_shards_in_use_stay(bucket, manifest, tmp_path):
    cache = ShardCache(str(tmp_path / "small"), capacity_bytes=max(s.num_bytes for s in manifest.splits["train"]))
    names = [shard.name for shard in manifest.splits["train"]]
    with Split(URI, split="train", cache=cache) as split:
        split.fetch(0)
        for shard in (1, 2):
            split.fetch_soon(shard)
        wait_for(lambda: split._no_room)
        assert [split.read(shard, 0)[0] for shard in range(3)] == [jpeg_of(0), jpeg_of(3), jpeg_of(7)]
        assert bucket.calls["download", names[0]] == 1
        assert bucket.calls["download", names[1]] == bucket.calls["download", names[2]] == 0
        assert bucket.calls["read", names[0]] == 0


def test_a_shard_is_let_go_when_others_were_used_long_enough(bucket, manifest, tmp_path):
    cache = ShardCache(str(tmp_path / "small"), capacity_bytes=max(s.num_bytes for s in manifest.splits["train"]))
    with Split(URI, split="train", cache=cache, keep_uses=5) as split:
        split.fetch(0)
        split.fetch(1)
        assert bucket.calls["download", split.shards[1].name] == 0
        for _ in range(5):
            split.read(2, 0)
        split.fetch(1)
        assert bucket.calls["download", split.shards[1].name] == 1


def test_samples_are_read_ahead_by_a_request_each_and_once(bucket, manifest, cache):
    name = manifest.splits["train"][0].name
    with Split(URI, split="train", cache=cache) as split:
        assert all(split.read_soon(0, number) for number in (0, 1, 0, 2))
        wait_for(lambda: split.counts.ranged == 3)
        assert [split.read(0, number)[0] for number in range(3)] == [jpeg_of(i) for i in range(3)]
        assert bucket.calls["read", name] == 3
        sizes = split.index(0).size_S
        expected = Counts(samples=3, ranged=3, ranged_bytes=int(sizes.sum()), ahead=3, cache=CacheCounts())
        assert split.counts == expected
        assert split.read(0, 1)[0] == jpeg_of(1)  # was taken, so is read again
        assert bucket.calls["read", name] == 4


def test_nothing_is_read_ahead_of_a_shard_that_is_here(bucket, manifest, cache):
    with Split(URI, split="train", cache=cache) as split:
        split.fetch(0)
        assert split.read_soon(0, 1)
        assert split.read(0, 1)[0] == jpeg_of(1)
        assert split.counts == Counts(samples=1, cache=CacheCounts(fetched=1, fetched_bytes=split.shards[0].num_bytes))
    with Split(str(bucket.folder), split="train") as split:
        assert split.read_soon(0, 1)
        assert split._ahead is None


def test_what_is_wrong_with_a_sample_read_ahead_is_told_when_it_is_wanted(bucket, manifest, cache):
    index = read_index(str(bucket.folder), manifest.splits["train"][0])
    flip(tar(bucket, manifest, 0), int(index.offset_S[1]) + 100)
    with Split(URI, split="train", cache=cache) as split:
        split.read_soon(0, 1)
        with pytest.raises(Corrupt, match="bytes do not match their digest"):
            split.read(0, 1)
        assert split.read(0, 2)[0] == jpeg_of(2)


class Oracle:
    """In the place of an Outlook."""

    order, step = "oracle", 0

    def reach(self, step: int) -> None:
        self.step = step

    def is_done(self, shards: list[int]) -> list[bool]:
        return [shard < 2 for shard in shards]

    def next_use(self, shard: int) -> int:
        return (500, 100, 300)[shard]


def test_a_shard_that_is_let_go_leaves_word_of_its_next_use(bucket, manifest, cache):
    with Split(URI, split="train", cache=cache, keep_uses=2, outlook=Oracle()) as split:
        split.fetch(0)
        for _ in range(3):
            split.read(1, 0)
        word = cache.folder / f"{split.shards[0].digest}.next"
        assert word.read_text() == "oracle 500\n"
        split.fetch(1)
    assert (cache.folder / f"{split.shards[1].digest}.next").read_text() == "oracle 100\n"


def test_what_is_done_with_is_let_go_at_once(bucket, manifest, cache):
    oracle = Oracle()
    with Split(URI, split="train", cache=cache, outlook=oracle) as split:
        split.fetch(0)
        split.read(2, 0)
        split.reach(7)
        assert set(split._entries) == {0, 2}
        split.reach(8)
        assert set(split._entries) == {2}
        assert oracle.step == 8
        assert (cache.folder / f"{split.shards[0].digest}.next").read_text() == "oracle 500\n"
        assert split.read(0, 1)[0] == jpeg_of(1)


def test_what_is_needed_last_makes_room(bucket, manifest, cache):
    with Split(URI, split="train", cache=cache, outlook=Oracle()) as split:
        split.fetch(1)
    with Split(URI, split="train", cache=cache, outlook=Oracle()) as split:
        split.fetch(0)
    with Split(URI, split="train", cache=cache, outlook=Oracle()) as split:
        split.fetch(2)
    kept = {path.stem for path in cache.folder.glob("*.tar")}
    assert kept == {split.shards[1].digest, split.shards[2].digest}


def test_many_threads_may_read_at_once(bucket, manifest):
    wrong = []

    def read_all(first: int) -> None:
        for step in range(60):
            sample = (first + step) % 12
            shard, number = (0, sample) if sample < 3 else (1, sample - 3) if sample < 7 else (2, sample - 7)
            if split.read(shard, number) != (jpegs[sample], label_of(sample)):
                wrong.append(sample)

    jpegs = [jpeg_of(i) for i in range(12)]
    with Split(str(bucket.folder), split="train", keep_uses=1) as split:
        threads = [threading.Thread(target=read_all, args=(first,)) for first in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_closing_leaves_no_file_open(bucket, manifest):
    before = len(os.listdir("/proc/self/fd"))
    with Split(str(bucket.folder), split="train") as split:
        for shard in range(3):
            split.read(shard, 0)
        assert len(os.listdir("/proc/self/fd")) == before + 3
    assert len(os.listdir("/proc/self/fd")) == before
