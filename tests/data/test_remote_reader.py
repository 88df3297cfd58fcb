"""Batches that hosts elsewhere read are those that a trainer would have read itself, whoever is lost on the way."""

import contextlib
import itertools
import random

import numpy as np
import pytest
from pictures import data_set, jpeg_of

from pipeline.data.mixture import mixed
from pipeline.data.plan import Plan
from pipeline.data.reader import Reader
from pipeline.data.remote_reader import _JUMP, RemoteReader, Server, begin, part_of_batch
from pipeline.data.view import TrainView
from tests.fakes import InProcessHost

SIZES, GLOBAL_BATCH, STEPS = (31, 17, 40), 12, 16
PLAN = Plan(SIZES, global_batch=GLOBAL_BATCH, seed=2, lanes=5, window=30)
OPTIONS = {"split": "train", "plan": PLAN, "view": TrainView(16, mask_patch_px=4), "seed": 5, "mixup": 0.2}


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("shards")
    data_set(folder, sizes=SIZES)
    return str(folder)


@pytest.fixture(scope="module")
def expected(shards) -> list:
    with Reader(shards, **OPTIONS) as reader:
        return list(itertools.islice(reader.batches(), STEPS + 50))


@contextlib.contextmanager
def hosts(number: int):
    made = [InProcessHost() for _ in range(number)]
    try:
        yield made
    finally:
        for host in made:
            host.close()


def ranks_of(shards: str, hosts: list, ranks: int, **options) -> list[RemoteReader]:
    part = GLOBAL_BATCH // ranks
    every = [(rank * part, (rank + 1) * part) for rank in range(ranks)]
    return [RemoteReader(shards, hosts=hosts, slots=slots, **{**OPTIONS, **options}) for slots in every]


def assert_same(parts: list, whole) -> None:
    for name, value in vars(whole).items():
        if isinstance(value, np.ndarray):
            found = np.concatenate([getattr(part, name) for part in parts])
            np.testing.assert_array_equal(found, value, err_msg=f"{name} of step {whole.step}")


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("number", [1, 2, 3, 5, 12])
def test_any_number_of_hosts_reads_the_batches_of_any_number_of_trainers(shards, expected, ranks, number):
    with hosts(number) as some:
        streams = [reader.batches(3) for reader in ranks_of(shards, some, ranks)]
        for whole in expected[3 : 3 + 6]:
            assert_same([next(stream) for stream in streams], whole)


def test_a_host_is_asked_by_every_trainer_and_decodes_each_sample_once(shards):
    with hosts(1) as some:
        readers = ranks_of(shards, some, 4)
        streams = [reader.batches() for reader in readers]
        for _ in range(8):
            for stream in streams:
                next(stream)
        figures = [reader.figures for reader in readers]
    assert figures[1:] == [{}, {}, {}], "each host is told of by one trainer alone"
    assert figures[0]["images"] <= GLOBAL_BATCH * (8 + 3 + 2), "eight steps, and those ahead"


def test_trainers_may_be_some_steps_apart(shards, expected):
    with hosts(2) as some:
        first, second = (reader.batches() for reader in ranks_of(shards, some, 2))
        ahead = [next(first) for _ in range(4)]
        for whole, part in zip(expected, ahead, strict=False):
            assert_same([part, next(second)], whole)


def test_hosts_that_are_lost_change_nothing(shards, expected):
    draw = random.Random(1)
    with hosts(3) as some:
        streams = [reader.batches() for reader in ranks_of(shards, some, 2)]
        for whole in expected[:STEPS]:
            draw.choice(some).die()
            assert_same([next(stream) for stream in streams], whole)


def test_a_gang_that_starts_again_elsewhere_in_the_order_and_of_another_size_reads_the_same(shards, expected):
    with hosts(2) as some:
        for step, ranks in ((0, 1), (9, 3), (4, 2), (40, 4), (4, 1)):
            streams = [reader.batches(step) for reader in ranks_of(shards, some, ranks)]
            for whole in expected[step : step + 3]:
                assert_same([next(stream) for stream in streams], whole)


def test_another_order_is_begun_anew_and_the_same_is_not(shards):
    memory, options = {}, {"uri": shards, **OPTIONS, "slots": (0, 12)}
    assert part_of_batch(memory, "one", 0, 0, 12) is None
    begin(memory, "one", options)
    server = memory["one"]
    begin(memory, "one", options)
    assert memory == {"one": server}
    begin(memory, "other", {**options, "seed": 6})
    assert list(memory) == ["other"]
    assert part_of_batch(memory, "one", 0, 0, 12) is None


def test_a_host_keeps_a_batch_until_all_of_it_was_taken_and_no_longer(shards):
    server = Server({"uri": shards, **OPTIONS, "slots": (0, 12)})
    server.part(0, start=0, stop=6)
    server.part(2, start=0, stop=6)
    assert sorted(server._kept) == [0, 1, 2]
    server.part(0, start=6, stop=12)
    assert sorted(server._kept) == [1, 2]
    server.part(2 + _JUMP + 5, start=0, stop=6)
    assert sorted(server._kept) == [2 + _JUMP + 5], "far away: what was kept for nobody is let go"


def test_what_is_taken_twice_is_made_again_and_the_same(shards, expected):
    server = Server({"uri": shards, **OPTIONS, "slots": (0, 12)})
    for step in (0, 0, 1, 0):
        assert server.part(step, start=0, stop=12)["arrays"]["ids_B"].tolist() == expected[step].ids_B.tolist()


def test_mixtures_are_read_by_hosts_too(shards, tmp_path):
    data_set(tmp_path, sizes=(20, 21), image=lambda i: jpeg_of(i + 1000))
    order = mixed([SIZES, (20, 21)], weights=(2, 1), global_batch=GLOBAL_BATCH, seed=1)
    uris = (shards, str(tmp_path))
    options = {**OPTIONS, "plan": order}
    with Reader(uris, **options) as reader, hosts(3) as some:
        near = itertools.islice(reader.batches(), 12)
        far = [RemoteReader(uris, hosts=some, slots=slots, **options).batches() for slots in ((0, 4), (4, 8), (8, 12))]
        for whole in near:
            assert_same([next(stream) for stream in far], whole)


def test_corrupt_samples_are_told_and_too_many_are_the_same_error(tmp_path):
    data_set(tmp_path, sizes=SIZES, image=lambda i: b"none" if i % 9 == 0 else jpeg_of(i))
    with hosts(2) as some:
        (reader,) = ranks_of(str(tmp_path), some, 1, max_corrupt=100)
        for _ in zip(range(16), reader.batches(), strict=False):
            pass
        assert {bad.id % 9 for bad in reader.quarantined} == {0}
        (reader,) = ranks_of(str(tmp_path), some, 1, max_corrupt=1)
        with pytest.raises(ValueError, match="max_corrupt allows 1"):
            for _ in zip(range(16), reader.batches(), strict=False):
                pass
        assert len(reader.quarantined) > 1


def test_a_host_that_was_asked_again_after_an_error_tells_it_again(tmp_path):
    data_set(tmp_path, sizes=SIZES, image=lambda i: b"none")
    server = Server({"uri": str(tmp_path), **OPTIONS, "slots": (0, 12), "max_corrupt": 0})
    for _ in range(2):
        with pytest.raises(ValueError, match="max_corrupt allows 0"):
            server.part(0, start=0, stop=12)


def test_options_that_cannot_be_are_refused_before_any_host_is_asked(shards):
    with hosts(1) as some:
        with pytest.raises(ValueError, match="threads: must be at least 1"):
            ranks_of(shards, some, 1, threads=0)
        assert not some[0].asked
