"""A reader in its own process gives the same batches, and leaves nothing behind however it ends."""

import contextlib
import gc
import itertools
import os
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
from pictures import data_set
from test_reader import SIZES, VIEW, assert_same, plan_of

from pipeline import storage
from pipeline.data.feed import Feed
from pipeline.data.plan import Plan
from pipeline.data.reader import Reader
from pipeline.data.reader_process import ReaderProcess


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    data_set(folder, sizes=SIZES)
    return str(folder)


def options_of(uri: str, **options) -> dict:
    return {"uri": uri, "split": "train", "plan": plan_of(), "view": VIEW, "seed": 5, **options}


def children() -> set[int]:
    """Reader processes below this one: others on this machine are none of ours."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "pipeline.data.reader_process" in process.cmdline():
                found.add(process.pid)
    return found


def gone(process: int) -> bool:
    """Whether it ends within ten seconds."""
    return any(_has_ended(process) or time.sleep(0.05) for _ in range(200))


def _has_ended(process: int) -> bool:
    try:
        return psutil.Process(process).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize(("step", "slots", "threads"), [(0, None, 1), (5, (2, 5), 3)])
def test_batches_are_those_of_a_reader_even_when_all_of_them_are_kept(shards, step, slots, threads):
    options = options_of(shards, slots=slots, threads=threads, mixup=0.2)
    with Reader(**options) as near, ReaderProcess(**options) as apart:
        expected = list(itertools.islice(near.batches(step), 15))
        found = list(itertools.islice(apart.batches(step), 15))
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)


def test_a_forgotten_batch_makes_room_for_a_later_one_and_a_kept_one_does_not_change(shards):
    with ReaderProcess(**options_of(shards)) as reader:
        batches, places = reader.batches(), set()
        kept = next(batches)
        before = kept.images_BHWC.copy()
        for _ in range(20):
            places.add(next(batches).images_BHWC.ctypes.data)
            gc.collect()
        assert len(places) <= 6  # slots, less the one that is kept
        assert kept.images_BHWC.ctypes.data not in places
        np.testing.assert_array_equal(kept.images_BHWC, before)


def test_a_feed_makes_the_same_tensors_of_them(shards):
    near, apart = Reader(**options_of(shards)), ReaderProcess(**options_of(shards))
    with near, apart, Feed(near.batches()) as expected, Feed(apart.batches()) as found:
        for _ in range(12):
            one, other = next(found), next(expected)
            assert one.step == other.step
            assert one.images_BCHW.equal(other.images_BCHW)
            assert one.ids_B.equal(other.ids_B)
            del one


def test_corrupt_samples_are_told_and_too_many_are_the_same_error(tmp_path):
    folder = tmp_path / "shards"
    data_set(folder, sizes=SIZES)
    tar = sorted((folder / "train").glob("*.tar"))[0]
    spoiled = bytearray(tar.read_bytes())
    spoiled[1500:2500] = bytes(1000)
    tar.write_bytes(spoiled)
    with Reader(**options_of(str(folder))) as near, ReaderProcess(**options_of(str(folder))) as apart:
        for one, other in zip(itertools.islice(apart.batches(), 8), near.batches(), strict=False):
            assert_same(one, other)
        assert apart.quarantined
        assert {bad.id for bad in apart.quarantined} <= {bad.id for bad in near.quarantined}
    with ReaderProcess(**options_of(str(folder), max_corrupt=0)) as strict:
        with pytest.raises(ValueError, match=r"corrupt samples in train, max_corrupt allows 0") as told:
            list(itertools.islice(strict.batches(), 8))
        assert "in the reader process" in told.value.__notes__[0]
        assert strict.quarantined, "the list comes with the error"


def test_a_shard_that_is_gone_is_a_storage_error_here_too(tmp_path):
    data_set(tmp_path / "shards", sizes=SIZES)
    with ReaderProcess(**options_of(str(tmp_path / "shards"))) as reader:
        for tar in (tmp_path / "shards" / "train").glob("*.tar"):
            tar.unlink()
        with pytest.raises(storage.NotFound, match=r"\.tar"):
            next(reader.batches())


def test_options_that_are_wrong_are_refused_before_anything_starts(shards):
    before = children()
    with pytest.raises(ValueError, match=r"^threads: must be at least 1, got 0"):
        ReaderProcess(**options_of(shards, threads=0))
    with pytest.raises(ValueError, match="make the plan from the manifest"):
        ReaderProcess(**options_of(shards, plan=Plan((3, 3), global_batch=2, seed=0)))
    assert children() == before


def test_closing_ends_the_process(shards):
    before = children()
    with ReaderProcess(**options_of(shards)) as reader:
        next(reader.batches())
        (started,) = children() - before
    assert gone(started)


def test_a_process_that_is_killed_is_told_of_with_its_signal(shards):
    before = children()
    with ReaderProcess(**options_of(shards)) as reader:
        batches = reader.batches()
        next(batches)
        (started,) = children() - before
        os.kill(started, signal.SIGKILL)
        with pytest.raises(RuntimeError, match=r"ended by SIGKILL; the machine may have run out of memory; run again"):
            list(itertools.islice(batches, 20))


PARENT = """
import sys, time
sys.path[:0] = {path!r}
from pipeline.data.reader_process import ReaderProcess
from test_reader_process import options_of
reader = ReaderProcess(**options_of({uri!r}))
batches = reader.batches()
next(batches)
print("ready", flush=True)
time.sleep(60)
"""


def test_a_killed_trainer_leaves_no_reader_behind(shards):
    before = children()
    script = PARENT.format(path=sys.path, uri=shards)
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout.readline() == "ready\n"
        (started,) = children() - before
        parent.kill()
    assert gone(started)
