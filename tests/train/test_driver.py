"""The driver's ear: what rank 0 says becomes progress, tracked metrics and a history that outlives both."""

import json
import logging

import pytest

from pipeline import storage
from pipeline.train import driver as room
from pipeline.train.driver import MOST_POINTS, Driver
from tests.fakes import NullTrack


@pytest.fixture
def track():
    return NullTrack()


class Clock:
    """Stands still but for what a test adds."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def driver(tmp_path, track, clock):
    return lambda steps=100: Driver(out=str(tmp_path), steps=steps, title="pretrain", track=track, clock=clock)


def step(number: int, **figures: float) -> dict:
    given = {"loss": 1.0 / number, "accuracy": 0.5, "lr": 1e-3, "images_per_s": 100.0 + number, "wait_share": 0.02}
    return {"kind": "step", "step": number, "figures": {**given, **figures}}


def begun(number: int) -> dict:
    return {"kind": "begun", "step": number, "line": "2 workers on cpu"}


def test_figures_are_tracked_under_the_groups_they_belong_to(driver, track):
    with driver() as ear:
        ear.hear(begun(0))
        ear.hear(step(10, mfu=0.4, hfu=0.5, memory_gib=3.0, reserved_gib=4.0, alloc_retries=1.0, grad_norm=2.0))
        ear.hear({"kind": "checkpoint", "step": 10, "wall_s": 1.5})
    assert track.told_metrics == [
        (
            10,
            {
                "train/loss": 0.1,
                "train/accuracy": 0.5,
                "optim/lr": 1e-3,
                "optim/grad_norm": 2.0,
                "perf/images_per_s": 110.0,
                "perf/wait_share": 0.02,
                "perf/mfu": 0.4,
                "perf/hfu": 0.5,
                "perf/memory_gib": 3.0,
                "perf/reserved_gib": 4.0,
                "perf/alloc_retries": 1.0,
            },
        ),
        (10, {"checkpoint/write_s": 1.5, "checkpoint/stall_s": 1.5, "run/goodput": 0.0}),
    ]


def test_what_reading_costs_is_tracked_with_the_step_and_shown_where_storage_is_used(driver, track, monkeypatch):
    shown = {}
    monkeypatch.setattr("pipeline.train.driver.Progress.advance", lambda self, by=1, **figures: shown.update(figures))
    with driver() as ear:
        ear.hear(begun(0))
        figures = {"images": 10, "read_s": 0.1, "view_s": 0.2, "requests": 5, "bytes_read": 10**9, "ready": 2.0}
        ear.hear({"kind": "reading", "rank": 0, "step": 10, "figures": figures})
        ear.hear(step(10))
    (_, metrics) = track.told_metrics[0]
    assert metrics["data/read_ms"] == pytest.approx(10)
    assert metrics["data/view_ms"] == pytest.approx(20)
    assert metrics["data/ready"] == 2.0
    assert metrics["data/requests_per_s"] > 0
    assert shown["storage"].endswith("MB/s")


def test_the_history_is_written_with_every_checkpoint_and_at_the_end(driver, tmp_path):
    def written():
        return [row["step"] for row in json.loads(storage.read(str(tmp_path / "history.json")))]

    with driver() as ear:
        ear.hear(begun(0))
        ear.hear(step(10))
        ear.hear({"kind": "checkpoint", "step": 10, "wall_s": 1.5})
        assert written() == [10]
        ear.hear(step(20))
    assert written() == [10, 20]


def test_a_run_that_failed_leaves_its_history_too(driver, tmp_path):
    ear = driver()
    ear.__enter__()
    ear.hear(step(10))
    ear.__exit__(RuntimeError, RuntimeError(), None)
    assert len(json.loads(storage.read(str(tmp_path / "history.json")))) == 1


def test_a_gang_that_goes_on_from_a_checkpoint_forgets_what_came_after_it(driver, caplog):
    caplog.set_level(logging.INFO)
    with driver() as ear:
        for message in (begun(0), step(10), step(20), step(30), begun(20), step(30, loss=9.0)):
            ear.hear(message)
        summary = ear.summary()
    assert [(row[0], row[1]) for row in summary["history"]] == [(10, 0.1), (20, 0.05), (30, 9.0)]
    assert "pretrain: going on from the checkpoint of step 20" in caplog.messages


def test_a_driver_that_is_started_again_goes_on_with_the_history(driver):
    with driver() as ear:
        for message in (begun(0), step(10), step(20)):
            ear.hear(message)
    with driver() as ear:
        ear.hear(begun(10))
        ear.hear(step(20, loss=7.0))
        assert [row[:2] for row in ear.summary()["history"]] == [[10, 0.1], [20, 7.0]]


def test_a_run_that_was_finished_already_keeps_its_summary(driver):
    with driver() as ear:
        for message in (begun(0), step(10), step(20)):
            ear.hear(message)
        first = ear.summary()
    with driver() as ear:
        ear.hear(begun(20))
        assert ear.summary() == {**first, "resumptions": 1}


def test_the_summary_is_the_end_the_median_rate_and_few_points(driver):
    with driver(5000) as ear:
        ear.hear(begun(0))
        for number in range(1, 5001):
            ear.hear(step(number))
        summary = ear.summary()
    assert summary["loss"] == 1 / 5000
    assert summary["images_per_s"] == 100 + 2501
    assert len(summary["history"]) == MOST_POINTS
    assert summary["history"][-1][0] == 5000
    assert summary["history"][0] == [10, 0.1, 1e-3, 110.0, 0.02]


def test_of_a_gang_that_said_nothing_there_is_no_summary(driver):
    with driver() as ear:
        assert ear.summary() == {"history": []}


def test_corrupt_samples_are_listed_in_a_file_that_a_restart_goes_on_with(driver, tmp_path):
    bad = {"kind": "quarantine", "step": 5, "shard": "train/0.tar", "index": 3, "id": 13, "reason": "no image"}
    with driver() as ear:
        ear.hear(bad)
    with driver() as ear:
        ear.hear(bad)
        ear.hear({**bad, "index": 4, "id": 14})
        assert ear.quarantined == 2
    rows = [json.loads(line) for line in (tmp_path / "quarantine.jsonl").read_text().splitlines()]
    assert [(row["shard"], row["index"], row["id"], row["reason"]) for row in rows] == [
        ("train/0.tar", 3, 13, "no image"),
        ("train/0.tar", 4, 14, "no image"),
    ]


def test_a_corrupt_sample_is_warned_of_and_counted_once(driver, track, caplog):
    bad = {"kind": "quarantine", "step": 5, "shard": "train/0.tar", "index": 3, "id": 13, "reason": "no image"}
    with driver() as ear:
        ear.hear(bad)
        ear.hear({**bad, "step": 9})
        ear.hear({**bad, "index": 4})
        assert ear.quarantined == 2
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings[0] == "train/0.tar, sample 3 (id 13) replaced: no image"
    assert len(warnings) == 2
    assert track.told_metrics == [(5, {"data/quarantined": 1.0}), (5, {"data/quarantined": 2.0})]


def profiled(uri: str) -> dict:
    return {"kind": "profile", "step": 7, "uri": uri, "table": "aten::mm  90%"}


def test_a_profile_is_one_line_of_the_log_and_its_files_are_tracked(driver, track, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    uri = str(tmp_path / "profile" / "trace-7.json.gz")
    storage.write(uri, b"trace")
    with driver() as ear:
        ear.hear(profiled(uri))
    assert track.told_artifacts == {"profile/top-7.txt": b"aten::mm  90%", "profile/trace-7.json.gz": b"trace"}
    assert caplog.messages == [f"pretrain: profile of the steps after 7: {uri} (in MLflow too)"]


def test_a_trace_too_large_for_mlflow_stays_where_it_is_and_the_line_says_so(
    driver, track, tmp_path, caplog, monkeypatch
):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(room, "MOST_TRACE_BYTES", 1_999_999)
    uri = str(tmp_path / "profile" / "trace-7.json.gz")
    storage.write(uri, bytes(2_000_000))
    with driver() as ear:
        ear.hear(profiled(uri))
    assert list(track.told_artifacts) == ["profile/top-7.txt"]
    assert caplog.messages == [f"pretrain: profile of the steps after 7: {uri} (2 MB, too large for MLflow)"]
