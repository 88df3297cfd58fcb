"""What a gang's mailbox remembers of notices, and how a gang's failure is told. No cluster."""

import queue
from types import SimpleNamespace

import pytest

from launch.cluster import gang
from launch.cluster.failure import GangFailed, explained
from launch.cluster.mailbox import Mailbox
from pipeline.stage import Notice, Resources

SAVE, STOP = Notice("save", "it grows", 10.0), Notice("stop", "interrupted", 10.0)


def test_messages_are_taken_once_and_in_order():
    mailbox = Mailbox()
    mailbox.put({"kind": "a"})
    mailbox.put({"kind": "b"})
    assert [message["kind"] for message in mailbox.take()] == ["a", "b"]
    assert mailbox.take() == []


def test_a_gang_that_never_looked_does_not_listen_and_one_that_started_anew_neither():
    mailbox = Mailbox()
    assert not mailbox.ask(SAVE)
    mailbox.listens()
    assert mailbox.ask(SAVE)
    mailbox.joined()
    assert not mailbox.ask(SAVE)


def test_a_save_ends_with_the_gang_that_was_asked_and_a_stop_does_not():
    mailbox = Mailbox()
    mailbox.ask(SAVE)
    mailbox.joined()
    assert mailbox.asked() is None
    mailbox.ask(STOP)
    mailbox.ask(SAVE)
    mailbox.joined()
    assert mailbox.asked() == STOP


def test_saved_is_a_checkpoint_not_older_than_the_answer():
    mailbox = Mailbox()
    mailbox.ask(SAVE)
    mailbox.put({"kind": "checkpoint", "step": 10})  # was on its way already
    assert not mailbox.is_saved()
    mailbox.put({"kind": "notice", "step": 12})
    assert not mailbox.is_saved()
    mailbox.put({"kind": "checkpoint", "step": 13})
    assert mailbox.is_saved()
    mailbox.ask(SAVE)
    assert not mailbox.is_saved()


def failed(**failures):
    return SimpleNamespace(worker_failures={int(rank[1:]): failure for rank, failure in failures.items()})


def lost(why: str):
    return SimpleNamespace(health_check_failure=why)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (failed(r0=RuntimeError("peer"), r1=lost("it\n died")), "worker 1 was lost: it died"),
        (failed(r0=RuntimeError("peer"), r1=RuntimeError("b")), "worker 0 failed: RuntimeError: peer"),
        (RuntimeError("no room"), "the gang failed"),
    ],
)
def test_a_failure_names_the_worker_that_was_lost_rather_than_those_that_waited_for_it(error, message):
    told = explained(error, restarts=2, resources=Resources(workers=2))
    assert isinstance(told, GangFailed)
    assert str(told).startswith(message)
    assert "restarted 2 times, max_restarts is 3" in str(told)


def test_the_mistake_of_a_user_is_told_as_it_is():
    mistake = ValueError("global_batch: 7")
    assert explained(failed(r0=mistake), restarts=3, resources=Resources(workers=1)) is mistake


class Unlucky:
    """A trainer that loses a worker each time that it starts, as Ray Train tells it."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self):
        self.made += 1
        return self

    def fit(self):
        from ray.exceptions import RayActorError
        from ray.train.v2.api.exceptions import ControllerError

        raise ControllerError(RayActorError())


def test_a_gang_that_loses_a_worker_while_it_starts_is_started_again_within_the_budget():
    trainer, ended = Unlucky(), queue.SimpleQueue()
    gang._fit(trainer, ended, restarts=2)
    assert trainer.made == 3
    assert "controller" in str(ended.get_nowait().error)
    assert ended.empty()
