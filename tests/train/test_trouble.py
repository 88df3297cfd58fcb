"""What befalls a gang, as its driver hears it: a line of the log, a metric, a tag and an event each."""

import json
import logging
import math

import pytest

from pipeline import storage
from pipeline.train import events
from pipeline.train.driver import Driver
from tests.fakes import NullTrack
from tests.train.test_driver import Clock, begun, step


@pytest.fixture
def track():
    return NullTrack()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def driver(tmp_path, track, clock):
    return lambda: Driver(out=str(tmp_path), steps=100, title="pretrain", track=track, clock=clock)


def checkpoint(number: int, **told) -> dict:
    return {"kind": "checkpoint", "step": number, "wall_s": 12.0, "stall_s": 0.5, "num_bytes": 9_100_000_000, **told}


def guard(number: int, event: str, **told) -> dict:
    given = {"reason": "the loss is nan", "loss": math.nan, "grad_norm": 7.5, "ids": [number, 40 + number]}
    return {"kind": "guard", "step": number, "event": event, **given, **told}


def warned(caplog):
    """What was said at least as a warning, whatever level others have set."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_checkpoint_that_took_no_time_is_no_news(driver, caplog):
    caplog.set_level(logging.INFO)
    with driver() as ear:
        ear.hear(checkpoint(10, wall_s=0.5))
        ear.hear(checkpoint(20, where="s3://bucket/run"))
    assert caplog.messages == [
        "pretrain: checkpoint of step 20 to s3://bucket/run: 9.1 GB in 12 s, 0.5 s of it waited for"
    ]


def test_a_checkpoint_is_a_line_and_what_it_cost_is_tracked_beside_goodput(driver, track, clock, caplog):
    caplog.set_level(logging.INFO)
    with driver() as ear:
        ear.hear(begun(0))
        clock.now += 30
        ear.hear(step(10, wait_share=0.0))
        clock.now += 30
        ear.hear(checkpoint(10))
    assert track.told_metrics[1:] == [
        (
            10,
            {
                "checkpoint/write_s": 12.0,
                "checkpoint/stall_s": 0.5,
                "checkpoint/gb": 9.1,
                "run/goodput": (30 + 18.5 - 0.5) / (30 + 18.5),
            },
        ),
    ]
    assert track.told_tags == {"goodput": f"{48 / 60:.4f}"}
    assert "pretrain: checkpoint of step 10: 9.1 GB in 12 s, 0.5 s of it waited for" in caplog.messages


def test_a_gang_after_the_first_is_a_restart_and_a_driver_after_the_first_a_resumption(driver, track, caplog):
    caplog.set_level(logging.INFO)
    with driver() as ear:
        for message in (begun(0), begun(0), step(10), begun(10)):
            ear.hear(message)
        assert (ear.summary()["restarts"], ear.summary()["resumptions"]) == (2, 0)
    assert (track.told_tags["restarts"], "resumptions" in track.told_tags) == ("2", False)
    assert "pretrain: beginning anew, there was no checkpoint yet" in caplog.messages
    with driver() as ear:
        ear.hear(begun(10))
        assert (ear.summary()["restarts"], ear.summary()["resumptions"]) == (2, 1)
        ear.hear(step(20))
    assert (track.told_tags["restarts"], track.told_tags["resumptions"]) == ("2", "1")
    (_, metrics) = track.told_metrics[-1]
    assert (metrics["run/restarts"], metrics["run/resumptions"]) == (2, 1)


def test_a_skipped_batch_is_warned_of_counted_and_its_sample_ids_are_kept(driver, track, tmp_path, caplog):
    with driver() as ear:
        for message in (begun(0), guard(7, "skipped"), guard(8, "skipped")):
            ear.hear(message)
    assert warned(caplog) == [f"pretrain: step {number} was skipped: the loss is nan" for number in (7, 8)]
    assert track.told_metrics == [(8, {"guard/skipped": 2.0})]
    assert track.told_tags["skipped_batches"] == "2"
    kept = json.loads((tmp_path / "skipped" / "step-00000007.json").read_text())
    assert (kept["step"], kept["ids"], kept["reason"], kept["grad_norm"]) == (7, [7, 47], "the loss is nan", 7.5)
    (row, _) = [row for row in events.read(str(tmp_path)) if row["event"] == "skipped"]
    assert (row["step"], row["loss"], row["file"]) == (7, None, "skipped/step-00000007.json")


def test_a_rollback_is_no_restart_and_what_is_passed_over_keeps_its_first_reason(driver, track, tmp_path, caplog):
    rolled_back = guard(8, "rolled back", reason="2 updates in a row were skipped", ids=[])
    passed = guard(7, "passed over", reason="rolled back after it")
    with driver() as ear:
        for message in (begun(0), guard(7, "skipped"), guard(8, "skipped"), rolled_back, begun(0), passed):
            ear.hear(message)
    assert "pretrain: rolled back after step 8: 2 updates in a row were skipped" in caplog.messages
    assert "pretrain: step 7 was passed over: rolled back after it" in caplog.messages
    assert (track.told_tags["skipped_batches"], track.told_tags["rollbacks"]) == ("1", "1")
    assert track.told_metrics == [(7, {"guard/rollbacks": 1.0, "guard/skipped": 1.0})]
    assert json.loads((tmp_path / "skipped" / "step-00000007.json").read_text())["event"] == "skipped"


TROUBLE = [
    (
        {"kind": "notice", "asks": "stop", "reason": "the node is drained"},
        "told to stop after step 40: the node is drained",
        "notices",
    ),
    (
        {"kind": "hang", "rank": 3, "waited_s": 312.4, "uri": "/out/stacks"},
        "rank 3 hangs after step 40, for 312 s: /out/stacks",
        "hangs",
    ),
    (
        {"kind": "straggler", "rank": 2, "ratio": 1.84, "what": "its forward passes"},
        "rank 2 is slow: its forward passes, 1.8 x the others'",
        "stragglers",
    ),
    (
        {"kind": "corrupt", "ranks": [1, 3]},
        "after step 40 the weights of ranks 1, 3 differ from the others'",
        "corruptions",
    ),
    (
        {"kind": "fallback", "reason": "its bytes have changed"},
        "the checkpoint of step 40 was passed over: its bytes have changed",
        "fallbacks",
    ),
]


@pytest.mark.parametrize(("message", "line", "tag"), TROUBLE, ids=[tag for _, _, tag in TROUBLE])
def test_trouble_is_a_line_a_metric_a_tag_and_an_event(driver, track, tmp_path, caplog, message, line, tag):
    with driver() as ear:
        ear.hear({**message, "step": 40})
        ear.hear({**message, "step": 40})
        assert track.told_tags == {tag: "2"}
        ear.hear(step(50))
    assert warned(caplog) == 2 * [f"pretrain: {line}"]
    ((at, metrics),) = track.told_metrics
    assert (at, metrics[f"run/{tag}"]) == (50, 2)
    told = [row["event"] for row in events.read(str(tmp_path))]
    assert told == ["opened", message["kind"], message["kind"], "steps", "closed"]


def test_the_summary_tells_of_goodput_restarts_and_skipped_batches(driver, clock):
    with driver() as ear:
        ear.hear(begun(0))
        clock.now += 10
        ear.hear(step(10, wait_share=0.5))
        ear.hear(guard(10, "skipped"))
        clock.now += 10
        ear.hear(begun(10))
        clock.now += 10
        ear.hear(step(20, wait_share=0.0))
        summary = ear.summary()
    assert summary["goodput"] == pytest.approx(15 * 19 / 20 / 30)
    assert (summary["restarts"], summary["resumptions"], summary["skipped"]) == (1, 0, 1)


def test_an_error_that_ends_the_driver_is_its_last_event(driver, tmp_path):
    for error, reason in (
        (RuntimeError("worker 1 failed"), "RuntimeError: worker 1 failed"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
    ):
        ear = driver()
        ear.__enter__()
        ear.__exit__(type(error), error, None)
        assert events.read(str(tmp_path))[-1]["reason"] == reason


def test_storage_that_is_away_stops_nobody_from_listening(driver, tmp_path, monkeypatch, caplog):
    def fail(uri, data):
        raise storage.StorageError(f"{uri}: SlowDown")

    with driver() as ear, monkeypatch.context() as patched:
        patched.setattr(storage, "write", fail)
        patched.setattr(storage, "write_if_absent", fail)
        for message in (begun(0), step(10), checkpoint(10), guard(11, "skipped")):
            ear.hear(message)
    assert [row["step"] for row in json.loads((tmp_path / "history.json").read_text())] == [10]
    (row,) = [row for row in events.read(str(tmp_path)) if row["event"] == "skipped"]
    assert row["ids"] == [11, 51]
    assert any("the sample ids of step 11 are among the events instead" in message for message in warned(caplog))
