"""Tracking to a real `mlflow server` that is late, dies, and comes back."""

import threading

import pytest

from pipeline.tracking import Result, Tracker, log_result, search
from pipeline.tracking.client import connect
from pipeline.tracking.spool import read_sent
from tests.mlflow_server import MlflowServer, free_port

KEY = "quickstart/pretrain/3f2a"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Not started yet; every test says when it is there."""
    server = MlflowServer(tmp_path_factory.mktemp("server"), port=free_port())
    yield server
    server.kill()


def wait_until_sent(spool):
    """Until MLflow has all that is in the journals now."""
    size = {path: path.stat().st_size for path in spool.rglob("*.jsonl")}
    for path, num_bytes in size.items():
        while read_sent(path).offset < num_bytes:
            threading.Event().wait(0.05)


def test_a_server_that_comes_late_and_dies_in_the_middle_gets_everything_once(server, tmp_path, caplog):
    caplog.set_level("INFO")
    tracker = Tracker(server.uri, experiment="quickstart", spool=tmp_path, pace_s=0.05)
    with tracker.run(KEY, name="pretrain", kind="stage") as track:
        for step in range(10):
            track.metrics({"train/loss": 1 / (step + 1)}, step=step)
        while not caplog.messages:  # it is away, and training goes on
            threading.Event().wait(0.05)
        for step in range(10, 20):
            track.metrics({"train/loss": 1 / (step + 1)}, step=step)
        server.start()
        wait_until_sent(tmp_path)
        (running,) = search(server.uri, experiment="quickstart")
        assert running["status"] == "RUNNING"

        server.kill()
        for step in range(20, 30):
            track.metrics({"train/loss": 1 / (step + 1)}, step=step)
        track.artifact("figures/loss.txt", b"1 1/2 1/3")
        with track.child("trial") as trial:
            trial.metrics({"val/top1": 0.5})
    waiting = tracker.close(timeout_s=300)
    assert waiting == 10 + 1 + 1 + 3  # points, artifact, end; and start, point, end of the trial

    server.start()
    assert Tracker(server.uri, experiment="quickstart", spool=tmp_path, pace_s=0.05).close(timeout_s=300) == 0
    found = {run["key"]: run for run in search(server.uri, experiment="quickstart")}
    assert found.keys() == {KEY, f"{KEY}/trial"}
    assert found[KEY]["run_id"] == running["run_id"]
    assert {run["status"] for run in found.values()} == {"FINISHED"}
    assert found[f"{KEY}/trial"]["tags"]["mlflow.parentRunId"] == running["run_id"]
    client = connect(server.uri, create=False)
    history = client.get_metric_history(running["run_id"], "train/loss")
    assert [(point.step, point.value) for point in history] == [(step, 1 / (step + 1)) for step in range(30)]
    assert [file.path for file in client.list_artifacts(running["run_id"], "figures")] == ["figures/loss.txt"]
    assert sum("the run goes on" in text for text in caplog.messages) == 2  # once per outage
    assert sum("is back" in text for text in caplog.messages) == 1  # the second time another tracker came


def test_models_and_results_pass_through_a_server(server, tmp_path):
    server.start()
    with Tracker(server.uri, experiment="transfer", spool=tmp_path, pace_s=0.05) as tracker:
        with tracker.run("t/pretrain/1", name="pretrain", kind="stage") as track:
            track.model(name="vit", uri="s3://b/w", digest="abc", params={"depth": 2})
            track.dataset(name="digits", digest="1", source="https://host/x", context="pretrain")
        with tracker.run("t/transfer/1", name="transfer", kind="stage") as track:
            log_result(track, Result("cifar10", "knn", "top1", 0.5, 0.0, (0.5,), (0,), "pretrained", "s3://b/w", "abc"))
        assert tracker.close(timeout_s=300) == 0
    client = connect(server.uri, create=False)
    (model,) = client.search_logged_models([client.get_experiment_by_name("transfer").experiment_id])
    assert {metric.key for metric in model.metrics} == {"mean", "std", "transfer/cifar10_knn"}


def test_reading_from_a_server_that_is_away_says_so(server):
    server.kill()
    with pytest.raises(ConnectionError, match=r"does not answer .*; is the server running"):
        list(search(server.uri))
