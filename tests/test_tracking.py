"""Tracking into a real MLflow on sqlite: what the runs, their statuses, points and models look like afterwards."""

import json
import logging
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.tracking import Result, Tracker, log_result, search
from pipeline.tracking.client import connect

KEY = "quickstart/pretrain/3f2a"


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    path = tmp_path_factory.mktemp("mlflow") / "empty.db"
    connect(f"sqlite:///{path}", create=True)
    return path


@pytest.fixture
def uri(tmp_path, empty_database):
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture
def tracker(tmp_path, uri):
    """Makes trackers on the same spool, one after the other; the clock gives 1000 s, 1001 s, ..."""
    ticks = iter(range(1000, 10**9))

    def make(to: str = uri, spool: str = "spool") -> Tracker:
        return Tracker(
            to,
            experiment="quickstart",
            spool=tmp_path / spool,
            clock=lambda: float(next(ticks)),
            pace_s=0.05,
            patience_s=300,
        )

    return make


def runs(uri: str) -> dict[str, dict]:
    found = list(search(uri, experiment="quickstart"))
    assert len(found) == len({run["key"] for run in found}), "a key has more than one run"
    return {run["key"]: run for run in found}


def points(uri: str, run_id: str, metric: str) -> list[tuple[int, float]]:
    client = connect(uri, create=False)
    return sorted((point.step, point.value) for point in client.get_metric_history(run_id, metric))


def test_a_run_carries_params_points_tags_and_a_note(tracker, uri):
    with tracker() as tracking:
        tags = {"recipe": "quickstart", "stage": "pretrain"}
        with tracking.run(KEY, name="pretrain", kind="stage", tags=tags) as track:
            track.params({"optim": {"lr": 3e-4, "betas": (0.9, 0.95)}, "seed": 0, "crop": None})
            track.metrics({"train/loss": 2.5, "perf/images_per_s": 31}, step=10)
            track.metrics({"train/loss": 2.0, "train/bad": math.nan, "train/worse": -math.inf}, step=20)
            track.note("# A *note*")
        assert tracking.close() == 0
    run = runs(uri)[KEY]
    assert (run["name"], run["status"], run["kind"]) == ("pretrain", "FINISHED", "stage")
    assert run["params"] == {"optim.lr": "0.0003", "optim.betas": "[0.9, 0.95]", "seed": "0", "crop": "None"}
    assert run["tags"] | tags == run["tags"]
    assert run["tags"]["mlflow.note.content"] == "# A *note*"
    assert points(uri, run["run_id"], "train/loss") == [(10, 2.5), (20, 2.0)]
    assert math.isnan(run["metrics"]["train/bad"])
    assert run["metrics"]["train/worse"] < -1e300  # SQL has no infinity
    assert run["created"] == "1970-01-01T00:16:40Z"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (None, "FINISHED"),
        (RuntimeError("loss is nan"), "FAILED"),
        (KeyboardInterrupt(), "KILLED"),
        (SystemExit(143), "KILLED"),
        (SystemExit(130), "KILLED"),
        (SystemExit(0), "FINISHED"),
        (SystemExit(1), "FAILED"),
    ],
)
def test_the_status_says_how_the_run_was_left(tracker, uri, error, status):
    def work():
        with tracking.run(KEY, name="pretrain", kind="stage"):
            if error:
                raise error

    with tracker() as tracking:
        if error:
            with pytest.raises(type(error)):
                work()
        else:
            work()
    run = runs(uri)[KEY]
    assert run["status"] == status
    assert run["tags"].get("tessera.error") == (f"{type(error).__name__}: {error}" if status != "FINISHED" else None)


def test_children_are_shown_below_their_parents_and_inherit_recipe_and_stage(tracker, uri):
    with (
        tracker() as tracking,
        tracking.run("q/all", name="quickstart", kind="pipeline", tags={"recipe": "quickstart"}),
        tracking.run(KEY, name="pretrain", kind="stage", parent="q/all", tags={"recipe": "quickstart"}) as track,
        track.child("lr=3e-4 seed=0") as trial,
    ):
        trial.metrics({"val/top1": 0.5})
    found = runs(uri)
    child = found[f"{KEY}/lr=3e-4 seed=0"]
    assert child["name"] == "lr=3e-4 seed=0"
    assert child["kind"] == "trial"
    assert child["tags"]["recipe"] == "quickstart"
    assert child["tags"]["mlflow.parentRunId"] == found[KEY]["run_id"]
    assert found[KEY]["tags"]["mlflow.parentRunId"] == found["q/all"]["run_id"]


def test_a_parent_of_an_earlier_process_is_found_in_mlflow(tracker, uri):
    with tracker() as tracking, tracking.run("q/all", name="quickstart", kind="pipeline"):
        pass
    with tracker() as tracking, tracking.run(KEY, name="pretrain", kind="stage", parent="q/all"):
        pass
    found = runs(uri)
    assert found[KEY]["tags"]["mlflow.parentRunId"] == found["q/all"]["run_id"]


def test_a_run_continued_under_another_parent_moves_there(tracker, uri):
    for parent in ("q/monday", "q/tuesday"):
        with (
            tracker() as tracking,
            tracking.run(parent, name="quickstart", kind="pipeline"),
            tracking.run(KEY, name="pretrain", kind="stage", parent=parent),
        ):
            pass
    found = runs(uri)
    assert found[KEY]["tags"]["mlflow.parentRunId"] == found["q/tuesday"]["run_id"]


def test_a_continued_run_has_every_point_once(tracker, uri):
    for first, last in ((0, 30), (20, 50)):  # the second process resumes from a checkpoint at step 20
        with tracker() as tracking, tracking.run(KEY, name="pretrain", kind="stage") as track:
            for step in range(first, last):
                track.metrics({"train/loss": 1 / (step + 1)}, step=step)
    run = runs(uri)[KEY]
    assert points(uri, run["run_id"], "train/loss") == [(step, 1 / (step + 1)) for step in range(50)]


def test_points_that_a_lost_spool_held_are_not_sent_again(tracker, uri):
    for spool in ("spool", "another machine"):
        with tracker(spool=spool) as tracking, tracking.run(KEY, name="pretrain", kind="stage") as track:
            for step in range(20):
                track.metrics({"train/loss": 1 / (step + 1)}, step=step)
    assert len(points(uri, runs(uri)[KEY]["run_id"], "train/loss")) == 20


def test_a_different_value_at_a_known_step_is_dropped_with_a_warning(tracker, caplog):
    with tracker() as tracking, tracking.run(KEY, name="pretrain", kind="stage") as track:
        track.metrics({"train/loss": 1.0}, step=5)
        track.metrics({"train/loss": 1.0}, step=5)
        assert not caplog.messages
        track.metrics({"train/loss": 2.0}, step=5)
    assert "step 5 is tracked already; dropped: train/loss 2.0 (was 1.0)" in caplog.text


def test_a_changed_param_is_a_warning_and_a_tag(tracker, uri, caplog):
    for rate in (1e-3, 1e-3, 3e-4):
        with tracker() as tracking, tracking.run(KEY, name="pretrain", kind="stage") as track:
            track.params({"lr": rate, "seed": 0})
    run = runs(uri)[KEY]
    assert run["params"] == {"lr": "0.001", "seed": "0"}
    assert run["tags"]["changed.lr"] == "0.0003"
    assert [text for text in caplog.messages if "param" in text] == [
        "tracking: param lr is now 0.0003 but was 0.001; MLflow keeps the old one"
    ]


def test_what_is_too_long_for_mlflow_is_cut_and_kept_as_a_file(tracker, uri, tmp_path):
    with tracker() as tracking, tracking.run(KEY, name="pretrain", kind="stage") as track:
        track.params({"classes": "c" * 7000, "seed": 0})
        track.note("n" * 9000)
        track.metrics({"odd@name": 1.0})
    run = runs(uri)[KEY]
    assert len(run["params"]["classes"]) == 6000
    assert run["params"]["classes"].endswith("[cut]")
    assert len(run["tags"]["mlflow.note.content"]) == 8000
    assert run["tags"]["tessera.cut_params"] == "classes"
    assert run["metrics"] == {"odd_name": 1.0}
    (kept,) = (tmp_path / "mlartifacts").rglob("params.json")
    assert json.loads(kept.read_text())["classes"] == "c" * 7000


def test_thousands_of_params_tags_and_metrics_pass_the_limits_of_a_request(tracker, uri):
    with tracker() as tracking, tracking.run(KEY, name="pretrain", kind="stage") as track:
        track.params({f"p{number}": number for number in range(450)})
        track.tags({f"t{number}": "x" * 8000 for number in range(150)})
        track.metrics({f"m/{number}": number for number in range(2500)})
        assert tracking.close() == 0
    run = runs(uri)[KEY]
    assert len(run["params"]) == 450
    assert len(run["metrics"]) == 2500
    assert sum(name.startswith("t") for name in run["tags"]) >= 150


def test_an_event_that_mlflow_refuses_is_left_out_and_the_rest_arrives(tracker, uri, caplog):
    with tracker() as tracking, tracking.run(KEY, name="pretrain", kind="stage") as track:
        track.metrics({"train/loss": 1.0}, step=1)
        track.metrics({"a//../b": 1.0}, step=1)
        track.metrics({"train/loss": 2.0}, step=2)
        assert tracking.close() == 0
    run = runs(uri)[KEY]
    assert points(uri, run["run_id"], "train/loss") == [(1, 1.0), (2, 2.0)]
    assert [text for text in caplog.messages if "refuses" in text and "a//../b" in text]


def test_artifacts_and_datasets_arrive_once(tracker, uri, tmp_path):
    for _ in range(2):
        with tracker() as tracking, tracking.run(KEY, name="pretrain", kind="stage") as track:
            track.artifact("report.html", b"<h1>old</h1>")
            track.artifact("figures/attention.png", b"\x89PNG\xff")
            track.artifact("report.html", b"<h1>new</h1>")
            track.artifact("../escape", b"")
            track.dataset(name="digits", digest="d" * 50, source="s3://bucket/shards", context="pretrain")
    files = {path.name: path for path in (tmp_path / "mlartifacts").rglob("*") if path.is_file()}
    assert files.keys() == {"report.html", "attention.png"}
    assert files["report.html"].read_bytes() == b"<h1>new</h1>"
    assert files["attention.png"].parent.name == "figures"
    assert not (tmp_path / "escape").exists()
    (read,) = connect(uri, create=False).get_run(runs(uri)[KEY]["run_id"]).inputs.dataset_inputs
    assert (read.dataset.name, read.dataset.digest, read.dataset.source_type) == ("digits", "d" * 36, "s3")
    assert [(tag.key, tag.value) for tag in read.tags] == [("mlflow.data.context", "pretrain")]


def test_results_are_linked_to_the_checkpoint_they_are_about(tracker, uri):
    result = Result.of(
        (0.9, 0.8), task="cifar10", protocol="linear", metric="top1", seeds=(0, 1),
        init="pretrained", checkpoint="s3://b/weights", checkpoint_digest="abc123",
    )  # fmt: skip
    for _ in range(2):
        with tracker() as tracking:
            with tracking.run(KEY, name="pretrain", kind="stage") as track:
                track.model(name="vit-h/14 step:9", uri="s3://b/weights", digest="abc123", params={"depth": 2}, step=9)
            with tracking.run("quickstart/transfer/1", name="transfer", kind="stage") as track:
                log_result(track, result)
    client = connect(uri, create=False)
    experiment_id = client.get_experiment_by_name("quickstart").experiment_id
    (model,) = client.search_logged_models([experiment_id])
    assert (model.name, model.status, model.params) == ("vit-h-14 step-9", "READY", {"depth": "2"})
    assert model.tags["checkpoint"] == "s3://b/weights"
    assert {metric.key: metric.value for metric in model.metrics}["transfer/cifar10_linear"] == pytest.approx(0.85)
    found = runs(uri)
    assert found[KEY]["tags"]["checkpoint_digest"] == "abc123"
    (row,) = [run for run in found.values() if run["kind"] == "result"]
    assert row["tags"]["mlflow.parentRunId"] == found["quickstart/transfer/1"]["run_id"]
    assert row["params"]["values"] == "0.9,0.8"
    assert row["metrics"]["std"] == pytest.approx(0.0707, abs=1e-4)


def test_a_fresh_mlflow_is_filled_from_the_spool(tracker, uri, tmp_path, empty_database):
    with tracker() as tracking, tracking.run(KEY, name="pretrain", kind="stage") as track:
        track.metrics({"train/loss": 1.0}, step=1)
        track.artifact("report.html", b"<h1>hello</h1>")
    before = runs(uri)[KEY]
    shutil.copy(empty_database, tmp_path / "fresh.db")
    fresh = f"sqlite:///{tmp_path}/fresh.db"
    tracker(fresh).close()
    after = runs(fresh)[KEY]
    assert after["run_id"] != before["run_id"]
    assert {**after, "run_id": 0} == {**before, "run_id": 0}
    for sent in (tmp_path / "spool").rglob("*.sent"):
        sent.unlink()
    tracker().close()  # the old one, which has everything
    assert runs(uri)[KEY] == before
    assert points(uri, before["run_id"], "train/loss") == [(1, 1.0)]


def test_a_run_deleted_in_mlflow_comes_back_whole_when_it_is_continued(tracker, uri):
    with tracker() as tracking, tracking.run(KEY, name="pretrain", kind="stage") as track:
        track.metrics({"train/loss": 1.0}, step=1)
    connect(uri, create=False).delete_run(runs(uri)[KEY]["run_id"])
    with tracker() as tracking, tracking.run(KEY, name="pretrain", kind="stage") as track:
        track.metrics({"train/loss": 0.5}, step=2)
    assert points(uri, runs(uri)[KEY]["run_id"], "train/loss") == [(1, 1.0), (2, 0.5)]


KILLED = f"""
import sys, threading
from pathlib import Path
from pipeline.tracking import Tracker
from pipeline.tracking.spool import read_sent
uri, spool, steps = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
tracker = Tracker(uri, experiment="quickstart", spool=spool, pace_s=0.05)
with tracker.run("{KEY}", name="pretrain", kind="stage") as track:
    for step in range(steps):
        track.metrics({{"train/loss": 1 / (step + 1)}}, step=step)
    journal = next(spool.rglob("*.jsonl"))
    while not read_sent(journal).offset:
        threading.Event().wait(0.05)
    for step in range(steps, steps + 5):
        track.metrics({{"train/loss": 1 / (step + 1)}}, step=step)
    print("ready", flush=True)
    threading.Event().wait()
"""


def test_a_process_killed_in_the_middle_is_told_as_killed_and_can_be_continued(tracker, uri, tmp_path):
    command = [sys.executable, "-c", KILLED, uri, str(tmp_path / "spool"), "30"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parent.parent) as process:
        try:
            assert process.stdout.readline() == b"ready\n"
            assert runs(uri)[KEY]["status"] == "RUNNING"
        finally:
            process.kill()
    journal = next((tmp_path / "spool").rglob("*.jsonl"))
    with journal.open("ab") as file:
        file.write(b'{"event":"metrics","values":{"tra')  # the power went while this line was being written
    last_heard_ms = json.loads(journal.read_bytes().splitlines()[-2])["t"]

    tracker().close()  # a later run that does something else
    run = runs(uri)[KEY]
    assert run["status"] == "KILLED"
    assert connect(uri, create=False).get_run(run["run_id"]).info.end_time == last_heard_ms
    assert len(points(uri, run["run_id"], "train/loss")) == 35

    with tracker() as tracking, tracking.run(KEY, name="pretrain", kind="stage") as track:
        for step in range(20, 60):
            track.metrics({"train/loss": 1 / (step + 1)}, step=step)
    continued = runs(uri)[KEY]
    assert (continued["run_id"], continued["status"]) == (run["run_id"], "FINISHED")
    assert points(uri, run["run_id"], "train/loss") == [(step, 1 / (step + 1)) for step in range(60)]


def test_a_run_that_another_process_tracks_is_left_alone(tracker, uri, caplog):
    with tracker() as one, one.run(KEY, name="pretrain", kind="stage") as track:
        track.metrics({"train/loss": 1.0}, step=1)
        with tracker() as other:
            with other.run(KEY, name="pretrain", kind="stage") as second:
                second.metrics({"train/loss": 9.0}, step=9)
            with other.run("q/other", name="other", kind="stage"):
                pass
    found = runs(uri)
    assert points(uri, found[KEY]["run_id"], "train/loss") == [(1, 1.0)]
    assert found["q/other"]["status"] == "FINISHED"
    assert [text for text in caplog.messages if f"another process writes to {KEY}" in text]


def test_a_damaged_journal_holds_up_no_other(tracker, uri, tmp_path, caplog):
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool" / "damaged.jsonl").write_text('{"event":"start","t":\n{"event":"end","t":1}\n')
    with tracker() as tracking, tracking.run(KEY, name="pretrain", kind="stage") as track:
        track.metrics({"train/loss": 1.0})
    assert runs(uri)[KEY]["status"] == "FINISHED"
    assert "a line of a tracking journal is damaged" in caplog.text


def test_the_first_database_is_made_whole_or_not_at_all(tmp_path):
    path = tmp_path / "root" / "mlflow.db"
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "mlflow.db.new-77-1").write_bytes(b"half a migration, left by a killed process")
    tracking = Tracker(f"sqlite:///{path}", experiment="quickstart", spool=tmp_path / "spool", pace_s=0.05)
    with tracking.run(KEY, name="pretrain", kind="stage"):
        pass
    assert tracking.close(timeout_s=300) == 0
    assert runs(f"sqlite:///{path}")[KEY]["status"] == "FINISHED"
    assert sorted(file.name for file in path.parent.iterdir()) == ["mlflow.db", "mlflow.db.lock"]


def test_many_runs_are_read_page_by_page_newest_first(tracker, uri, monkeypatch):
    monkeypatch.setattr("pipeline.tracking.read.PAGE_RUNS", 3)
    with tracker() as tracking, tracking.run(KEY, name="pretrain", kind="stage") as track:
        for number in range(8):
            with track.child(f"trial {number}") as trial:
                trial.tags({"parity": str(number % 2), "quoted": "it's"})
    names = [run["name"] for run in search(uri, kind="trial")]
    assert names == [f"trial {number}" for number in reversed(range(8))]
    odd = search(uri, experiment="quickstart", where={"parity": "1", "quoted": "it's"})
    assert [run["name"] for run in odd] == ["trial 7", "trial 5", "trial 3", "trial 1"]


def test_reading_says_what_is_missing_and_creates_nothing(tracker, uri, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.db: no tracking database; run a recipe first"):
        list(search(f"sqlite:///{tmp_path}/absent.db"))
    assert not (tmp_path / "absent.db").exists()
    with tracker() as tracking, tracking.run(KEY, name="pretrain", kind="stage"):
        pass
    with pytest.raises(FileNotFoundError, match=r"experiment 'nightly': not in .*; there are: quickstart"):
        list(search(uri, experiment="nightly"))


def test_everything_arrives_without_a_warning(tracker, uri, caplog):
    caplog.set_level(logging.INFO)
    with tracker() as tracking, tracking.run(KEY, name="pretrain", kind="stage") as track:
        track.metrics({"train/loss": 1.0})
    assert caplog.messages == []
