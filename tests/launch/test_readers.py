"""Readers on machines of their own: real Ray, several raylets, a real S3 server; processes and machines are lost."""

import functools
import itertools
import os
import signal
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))

from pictures import data_set

from launch.cluster.host import NoRoom
from pipeline import storage
from pipeline.data.reader import Reader
from pipeline.stage import Resources
from tests.reader_gang import ABOUT, FROM, GLOBAL_BATCH, PLAN, SIZES, STEPS, digest, read

LOST_PROCESS, LOST_MACHINE = 8, 20  # after these steps

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of Ray's own parts


class Machines:
    """Three raylets on this machine: the head, which trains, and two that read."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        noticed = {"health_check_period_ms": 500, "health_check_failure_threshold": 3}  # a lost machine, in 2 s
        about = {"num_cpus": 2, "include_dashboard": False, "resources": {"trainer": 2}, "_system_config": noticed}
        self.cluster = Cluster(initialize_head=True, head_node_args=about)
        self.readers = [self.add_reader(), self.add_reader()]

    def add_reader(self):
        return self.cluster.add_node(num_cpus=4, resources={"reader": 4})

    def lose(self) -> None:
        self.cluster.remove_node(self.readers.pop(), allow_graceful=False)

    def close(self) -> None:
        self.cluster.shutdown()


@pytest.fixture(scope="module")
def machines(s3):
    """Raylets are started in the environment of the S3 server, as those of a user would be."""
    patch = pytest.MonkeyPatch()
    for name, value in {**s3.environment, "PYTHONPATH": str(Path(__file__).parents[2])}.items():
        patch.setenv(name, value)
    made = Machines()
    yield made
    made.close()
    patch.undo()


@pytest.fixture(scope="module")
def cluster(machines):
    from launch.cluster import connected

    with connected(address=machines.cluster.address) as found:
        yield found


@pytest.fixture
def bucket(tmp_path, s3_environment) -> str:
    uri = f"{s3_environment.uri}/readers"
    data_set(tmp_path / "shards", sizes=SIZES)
    for path in sorted(path for path in (tmp_path / "shards").rglob("*") if path.is_file()):
        storage.upload(path, storage.join(uri, str(path.relative_to(tmp_path / "shards"))))
    return uri


def expected(uri: str, *, ranks: int) -> dict[tuple[int, int], str]:
    part, found = GLOBAL_BATCH // ranks, {}
    for rank in range(ranks):
        with Reader(uri, plan=PLAN, slots=(rank * part, (rank + 1) * part), **ABOUT) as reader:
            for batch in itertools.islice(reader.batches(FROM), STEPS):
                found[rank, batch.step] = digest(batch)
    return found


def wanted(**options) -> Resources:
    return Resources(**{"workers": 2, "workers_on": "trainer", "readers_on": "reader", "cpus_per_reader": 1, **options})


def test_batches_are_those_of_local_reading_though_a_reader_and_then_a_machine_are_lost(
    cluster, machines, bucket, tmp_path
):
    heard, processes, lost = {}, [], []

    def hear(message) -> None:
        if message["kind"] == "processes":
            processes[:] = message["processes"]
            return
        heard[message["rank"], message["step"]] = message["digest"]
        if message["rank"] == 0 and message["step"] == FROM + LOST_PROCESS:
            os.kill(processes[0], signal.SIGKILL)
            lost.append("process")
        elif message["rank"] == 0 and message["step"] == FROM + LOST_MACHINE:
            machines.lose()
            lost.append("machine")

    gang = functools.partial(_replaced, cluster, wanted(readers=3))
    gang(read, (bucket, str(tmp_path / "cache")), on_message=hear)
    machines.readers.append(machines.add_reader())
    assert lost == ["process", "machine"]
    assert heard == expected(bucket, ranks=2)


def test_readers_that_find_no_place_are_refused_with_what_there_is(cluster, monkeypatch):
    monkeypatch.setattr("launch.cluster.host.PLACED_S", 1.0)
    with pytest.raises(NoRoom, match=r"readers: 0 of 1 found a place in 1 s; each wants 100 CPUs on a machine that"):
        _replaced(cluster, wanted(readers=1, cpus_per_reader=100), read, None, on_message=print)


def _replaced(cluster, resources, function, payload, *, on_message):
    import dataclasses

    return dataclasses.replace(cluster, resources=resources).gang(function, payload, on_message=on_message)
