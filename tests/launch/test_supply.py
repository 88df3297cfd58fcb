"""What limits a machine, and what a model's need asks of it: by hand, from figures that were not measured."""

import dataclasses

import pytest

from launch import verdict
from launch.supply import Data, Measured, Need, outlook, supply
from pipeline.data.capacity import CacheRate, CoreRate, ReaderRate, RequestRate, StorageRate

DATA = Data("pictures", "train", False, 1_000_000, 1000, 100_000_000_000, 256, (), 99_000, 500, 375)
FAR = Measured(
    DATA,
    cores=16,
    storage=StorageRate(2000, 1.0, 16),
    requests=RequestRate(500, 16, 10, 20),
    cache=CacheRate("/nvme", 3000, 500_000_000_000),
    live_bytes=8_000_000_000,
    core=CoreRate(800, 1.0, 0.25),
    readers=(
        ReaderRate(0, 1, 700, 0),
        ReaderRate(1, 1, 690, 0),
        ReaderRate(1, 16, 8000, 0),
        ReaderRate(8, 2, 10000, 0),
    ),
)
NEAR = dataclasses.replace(
    FAR, data=dataclasses.replace(DATA, is_local=True), requests=None, cache=None, live_bytes=None
)
NEED = Need(500, False, "H100", 8, stage="pretrain", threads=2, cpus_per_reader=2.0)


def of(measured: Measured = FAR, **changes) -> Measured:
    return dataclasses.replace(measured, **changes)


def needing(images_per_s: float, **changes) -> Need:
    return dataclasses.replace(NEED, images_per_s_per_gpu=images_per_s, **changes)


def last(measured: Measured, need: Need | None):
    return list(verdict.findings(measured, need))[-1]


def test_the_least_of_all_parts_limits():
    assert supply(NEAR).images_per_s_by_limit == {"disk": pytest.approx(20_000), "decode": pytest.approx(10_000)}
    assert supply(NEAR).limit == "decode"
    assert supply(of(NEAR, storage=StorageRate(300, 1.0, 16))).limit == "disk"
    assert supply(of(storage=StorageRate(300, 1.0, 16))).limit == "network"
    assert supply(of(cache=CacheRate("/slow", 100, 1 << 40))).limit == "cache disk"


def test_what_comes_over_the_network_costs_cpu_time_too():
    assert supply(NEAR).core_ms == pytest.approx(1.6)
    assert supply(FAR).core_ms == pytest.approx(1.6 + 0.1), "100 kB at 1 s a GB"
    assert supply(FAR).images_per_s == pytest.approx(16_000 / 1.7)


def test_cores_that_do_not_add_up_are_told_apart_from_slow_decoding():
    shared = of(NEAR, readers=(ReaderRate(0, 1, 700, 0), ReaderRate(0, 16, 4000, 0)))
    assert supply(shared).scaling == pytest.approx(4000 / 700 / 16)
    assert supply(shared).limit == "cores"


def test_each_trainer_keeps_a_core_and_half_of_few_are_left_to_read():
    assert supply(NEAR, gpus=4).cores_for_reading == 12
    assert supply(NEAR, gpus=8).cores_for_reading == 8
    assert supply(NEAR, gpus=16).cores_for_reading == 8
    assert supply(NEAR, gpus=8).images_per_s == pytest.approx(5000)


def test_a_need_that_is_met_leaves_nobody_waiting():
    found = outlook(NEAR, needing(500))
    assert (found.cores_per_gpu, found.threads, found.readers) == (pytest.approx(0.8), 1, 0)
    assert found.wait_share == found.wait_share_as_set == 0
    said = last(NEAR, needing(500))
    assert (said.state, said.found) == (
        "ok",
        "enough, 5,000 of 4,000 images/s with 2 threads a GPU; first decoding limits",
    )


def test_a_need_that_is_not_met_says_what_is_missing_and_how_long_gpus_would_wait():
    found = outlook(NEAR, needing(1500))
    assert found.cores_per_gpu == pytest.approx(2.4)
    assert (found.threads, found.readers) == (1, 10), "19.2 cores, of which 8 are here"
    assert found.wait_share == pytest.approx(1 - 5000 / 12_000)
    said = last(NEAR, needing(1500))
    assert said.state == "warn"
    assert said.found == ("not enough, 5,000 of 12,000 images/s: decoding limits, GPUs would wait 58% of the time")
    assert said.remedy == (
        "--set pretrain.resources.readers=10: so many processes of 2 CPUs on other machines read it all; "
        "or prepare smaller images"
    )


def test_threads_that_were_not_set_are_asked_for():
    found = outlook(NEAR, needing(1500, gpus=2))
    assert (found.threads, found.wait_share) == (3, 0)
    said = last(NEAR, needing(1500, gpus=2))
    assert said.state == "warn"
    assert said.remedy == "--set pretrain.reading.threads=3"
    assert last(NEAR, needing(1500, gpus=2, threads=3)).state == "ok"


def test_every_limit_below_the_need_has_its_remedy_the_lowest_first():
    slow = of(storage=StorageRate(100, 1.0, 16), cache=CacheRate("/slow", 200, 1 << 40))
    assert [remedy.split()[1].partition("=")[0] for remedy in last(slow, needing(1500)).remedy.splitlines()] == [
        "pretrain.reading.cache_gib",
        "pretrain.reading.cache",
        "pretrain.resources.readers",
    ]


def test_a_cache_with_too_little_room_is_a_warning():
    found = {finding.what: finding for finding in verdict.findings(of(cache=CacheRate("/nvme", 3000, 1 << 30)), NEED)}
    assert found["cache disk"].state == "warn"
    assert "1.1 GB free for the 8.00 GB in use at once (/nvme)" in found["cache disk"].found


def test_corrupt_samples_are_told():
    broken = of(data=dataclasses.replace(DATA, corrupt=("train/000001.tar sample 2: is no image",)))
    found = next(verdict.findings(broken, None))
    assert found.state == "warn"
    assert "1 of 256 looked at are corrupt (train/000001.tar sample 2: is no image)" in found.found
    assert "tessera shards verify" in found.remedy


@pytest.mark.parametrize("need", [None, NEED, needing(9000)])
@pytest.mark.parametrize("measured", [NEAR, FAR])
def test_every_complaint_has_a_remedy_and_praise_has_none(measured, need):
    for finding in verdict.findings(measured, need):
        assert bool(finding.remedy) == (finding.state != "ok"), finding
        assert finding.state != "fail"
