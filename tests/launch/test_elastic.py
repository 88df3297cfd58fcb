"""Gangs that lose machines, get them back, and are told things: real Ray, several raylets, no training."""

import contextlib
import dataclasses
import queue
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from launch.cluster import GangFailed
from pipeline import storage
from pipeline.stage import Resources
from tests import elastic_gang
from tests.raylets import Machines

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of Ray's own parts

TWO = Resources(workers=2, workers_on="trainer", grace_s=30)
WAIT_S = 90.0  # for what comes of itself


@pytest.fixture(scope="module")
def machines():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
        patch.setenv(
            "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "3"
        )  # a machine that is to go takes no one, though alive
        made = Machines()
        yield made
        made.cluster.shutdown()


@pytest.fixture(scope="module")
def cluster(machines):
    from launch.cluster import connected

    with connected(address=machines.cluster.address) as found:
        yield found


@pytest.fixture
def complete(machines):
    """All machines are there before a test and after it."""
    yield machines
    machines.complete()


@contextlib.contextmanager
def running(cluster, resources: Resources, enough: Path):
    """A gang in a thread, until there is the file `enough`: the Future of what it returns, the queue of what it says.

    Ray's machines want to be made in the main one.
    """
    said = queue.SimpleQueue()
    with ThreadPoolExecutor(1) as pool:
        made = dataclasses.replace(cluster, resources=resources)
        try:
            yield pool.submit(made.gang, elastic_gang.run, str(enough), on_message=said.put), said
        finally:
            enough.touch()


def until(said, **wanted) -> list[dict]:
    """The messages up to the first one of rank 0 with these values."""
    found = []
    while not found or {"rank": 0, **wanted}.items() - {"rank": 0, **found[-1]}.items():
        found.append(said.get(timeout=WAIT_S))
    return found


def test_a_gang_goes_on_with_the_machines_that_are_left_and_saves_before_it_grows_again(
    cluster, complete, tmp_path, monkeypatch
):
    monkeypatch.setattr("launch.cluster.gang.RESIZE_S", 1.0)
    elastic = dataclasses.replace(TWO, min_workers=1, max_restarts=1)
    with running(cluster, elastic, tmp_path / "enough") as (gang, said):
        until(said, kind="listening")
        complete.lose()
        until(said, kind="begun", size=1)
        complete.complete()
        *_, asked, _saved = until(said, kind="checkpoint")
        assert (asked["asked"], asked["reason"]) == ("save", "the gang goes on with 2 workers")
        until(said, kind="begun", size=2)
    assert gang.result() == "of 2"


def test_a_gang_saves_when_a_machine_of_it_is_to_go_and_the_loss_is_no_failure(cluster, complete, tmp_path):
    elastic = dataclasses.replace(TWO, min_workers=1, max_restarts=0)
    with running(cluster, elastic, tmp_path / "enough") as (gang, said):
        until(said, kind="listening")
        complete.drain(deadline_s=5)
        *_, asked, saved = until(said, kind="checkpoint")
        assert (asked["asked"], asked["reason"]) == ("save", "1 of the gang's machines will be taken away")
        assert saved["left_s"] <= 5
        time.sleep(max(0.0, saved["left_s"]) + 1)  # one that goes before its time is a fault like any other
        complete.lose()
        until(said, kind="begun", size=1)
    assert gang.result() == "of 1"


def test_an_interrupted_driver_has_the_gang_save_and_says_where(cluster, complete, tmp_path, request):
    def hear(message) -> None:
        if message["kind"] == "listening" and message["rank"] == 0:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)

    def interrupt(*_) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, interrupt)  # whether SIGINT is ignored is up to the shell of the tests
    request.addfinalizer(lambda: signal.signal(signal.SIGUSR1, before))
    one = dataclasses.replace(cluster, resources=dataclasses.replace(TWO, workers=1))  # that is told is rank 0 alone
    with pytest.raises(KeyboardInterrupt, match=r"saved at step \d+"):
        one.gang(elastic_gang.run, str(tmp_path / "never"), on_message=hear)


def test_an_error_of_who_hears_the_gang_ends_it(cluster, complete, tmp_path):
    def hear(message) -> None:
        raise storage.StorageError("s3://runs/history.json: no such bucket")

    enough = tmp_path / "enough"
    with pytest.raises(storage.StorageError, match="no such bucket"):
        dataclasses.replace(cluster, resources=TWO).gang(elastic_gang.run, str(enough), on_message=hear)
    enough.touch()  # it holds its machines for as long as its driver lives
    for thread in threading.enumerate():  # who speaks with Ray when it is gone is ended by it
        if thread.name == "gang":
            thread.join(WAIT_S)


@pytest.mark.parametrize(("function", "said"), [("fail", "failed: RuntimeError: no such luck"), ("die", "was lost: ")])
def test_a_gang_that_fails_for_good_names_the_worker_its_error_and_how_often_it_was_restarted(
    cluster, complete, tmp_path, function, said
):
    once = dataclasses.replace(TWO, max_restarts=1)
    made = dataclasses.replace(cluster, resources=once)
    with pytest.raises(GangFailed, match=rf"worker 1 {said}.*\(restarted 1 times, max_restarts is 1\)"):
        made.gang(getattr(elastic_gang, function), str(tmp_path / "never"), on_message=print)
