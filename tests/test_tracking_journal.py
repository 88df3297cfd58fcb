"""Tracking without MLflow: what the caller pays, what the journal keeps, and what never gets into it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.tracking import Result, Tracker
from pipeline.tracking.redact import environment_secrets, redact
from pipeline.tracking.spool import Busy, Spool, path_of

AWAY = "http://127.0.0.1:9"  # nobody listens there


def journal(spool: Path) -> list[dict]:
    return [json.loads(line) for path in sorted(spool.rglob("*.jsonl")) for line in path.read_text().splitlines()]


COUNTING = """
import sys, threading
from pathlib import Path
calls = []
def watch(event, arguments):
    if threading.current_thread() is threading.main_thread():
        if event in ("socket.connect", "socket.getaddrinfo", "sqlite3.connect", "subprocess.Popen", "time.sleep"):
            calls.append(event)
        if event == "import" and arguments[0].partition(".")[0] in ("mlflow", "sqlalchemy", "requests"):
            calls.append(f"import {arguments[0]}")
from pipeline.tracking import Tracker
sys.addaudithook(watch)
tracker = Tracker(sys.argv[1], experiment="quickstart", spool=Path(sys.argv[2]), pace_s=0.05)
with tracker.run("q/pretrain/1", name="pretrain", kind="stage") as track:
    for step in range(10_000):
        track.metrics({"train/loss": 1 / (step + 1)}, step=step)
    track.params({"lr": 1e-3}); track.note("hello"); track.artifact("a.txt", b"a")
    with track.child("trial"):
        pass
print(calls, flush=True)
"""


def test_ten_thousand_points_cost_the_caller_no_call_to_mlflow(tmp_path):
    command = [sys.executable, "-c", COUNTING, f"sqlite:///{tmp_path}/mlflow.db", str(tmp_path / "spool")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent.parent, check=True)
    assert done.stdout == "[]\n"
    assert sum(event["event"] == "metrics" for event in journal(tmp_path / "spool")) == 10_000


def test_importing_tracking_and_query_imports_no_mlflow():
    root = Path(__file__).parent.parent
    code = "import sys, pipeline.tracking, launch.query; print([m for m in sys.modules if m.startswith('mlflow')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout == "[]\n"


def test_a_tracker_without_events_leaves_nothing_behind(tmp_path, caplog):
    assert Tracker(AWAY, experiment="quickstart", spool=tmp_path / "spool").close() == 0
    assert not (tmp_path / "spool").exists()
    assert not caplog.messages


def test_a_server_that_is_away_costs_one_warning_and_nothing_is_lost(tmp_path, caplog):
    tracker = Tracker(AWAY, experiment="quickstart", spool=tmp_path / "spool", pace_s=0.01)
    with tracker.run("q/pretrain/1", name="pretrain", kind="stage") as track:
        for step in range(100):
            track.metrics({"train/loss": 1 / (step + 1)}, step=step)
    assert tracker.close(timeout_s=300) == 102
    down, left = caplog.messages
    assert "MLflow at http://127.0.0.1:9" in down
    assert "the run goes on" in down
    assert "102 events wait in" in left
    assert "the next run with this folder sends them" in left


def leak(tracker: Tracker) -> None:
    """Log secrets in every way there is."""
    with tracker.run("q/1", name="n", kind="stage", tags={"uri": "s3://a:b@c/d"}) as track:
        track.params({"db": "postgresql://mlflow:hunter2@db/mlflow", "nested": {"key": "wJalrXUtnFEMI/K7MDENG"}})
        track.params({"store.password": "swordfish", "cls_token": "learned", "shuffle": False})
        track.tags({"signed": "https://b/k?X-Amz-Signature=0123abc&x=1", "place": "/home/somebody/.ray/auth_token"})
        track.note("curl -H 'Bearer tok-3f9c2e77aa'")
        track.artifact("env.txt", b"AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG")
        track.artifact("image.png", b"\x89PNG\xff\xfe")
        track.dataset(name="d", digest="1", source="https://user:hunter2@host/x?a=wJalrXUtnFEMI%2FK7MDENG", context="c")
        track.model(name="m", uri="https://user:hunter2@host/x", digest="1")
        raise RuntimeError("postgresql://mlflow:hunter2@db refused")


def test_no_secret_reaches_the_journal(tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "tok-3f9c2e77aa")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/home/somebody/.ray/auth_token")
    tracker = Tracker(AWAY, experiment="quickstart", spool=tmp_path / "spool")
    with pytest.raises(RuntimeError):
        leak(tracker)
    tracker.close()
    kept = b"".join(path.read_bytes() for path in (tmp_path / "spool").rglob("*") if path.is_file()).decode("latin1")
    for secret in ("wJalrXUtnFEMI", "tok-3f9c2e77aa", "hunter2", "swordfish", "0123abc", "a:b@c"):
        assert secret not in kept
    assert '"cls_token":"learned"' in kept
    assert '"shuffle":"False"' in kept
    assert "/home/somebody/.ray/auth_token" in kept
    assert "\x89PNG\xff\xfe" in kept


def test_passwords_of_uris_are_masked_in_messages():
    assert redact("postgresql://mlflow:pw@db:5432/x") == "postgresql://mlflow:***@db:5432/x"
    assert redact("http://127.0.0.1:5000/#/x@y") == "http://127.0.0.1:5000/#/x@y"
    assert environment_secrets({"API_KEY": "short", "MY_PASSWORD": "long enough"}) == ("long%20enough", "long enough")


def test_nothing_that_is_logged_wrongly_stops_a_run(tmp_path, caplog):
    tracker = Tracker(AWAY, experiment="quickstart", spool=tmp_path / "spool")
    with tracker.run("q/1", name="n", kind="stage") as track:
        track.metrics({"train/loss": "no number", "train/ok": 1.0})  # type: ignore[dict-item]
        track.params({"object": object(), "path": Path("/a")})
        track.artifact("/etc/passwd", b"")
        (tmp_path / "spool" / ".files").write_text("in the way of a folder")
        track.artifact("report.html", b"x")
    tracker.close()
    assert [event["values"] for event in journal(tmp_path / "spool") if event["event"] == "metrics"] == [
        {"train/ok": 1.0}
    ]
    assert "metric train/loss is no number: 'no number'" in caplog.text
    assert "artifact '/etc/passwd': must be a relative name" in caplog.text
    assert "artifact report.html:" in caplog.text


def test_a_spool_that_cannot_be_written_is_a_warning(tmp_path, caplog):
    (tmp_path / "spool").write_text("a file, no folder")
    tracker = Tracker(AWAY, experiment="quickstart", spool=tmp_path / "spool")
    with tracker.run("q/1", name="n", kind="stage") as track:
        track.metrics({"train/loss": 1.0})
    assert tracker.close() == 0
    assert "this run is not tracked" in caplog.text


@pytest.mark.parametrize("uri", ["file:/tmp/mlruns", "/tmp/mlruns", "mlruns", ""])
def test_a_tracking_uri_that_mlflow_refuses_is_refused_at_once(tmp_path, uri):
    with pytest.raises(ValueError, match="must be sqlite:///<file> or the address of an MLflow server"):
        Tracker(uri, experiment="quickstart", spool=tmp_path)


@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "it's", "a\nb"])
def test_a_malformed_key_is_refused(tmp_path, key):
    tracker = Tracker(AWAY, experiment="quickstart", spool=tmp_path)
    with pytest.raises(ValueError, match="tracking key"):
        tracker.run(key, name="n", kind="stage")
    tracker.close()


def test_a_torn_line_is_cut_off_and_a_spool_has_one_owner(tmp_path):
    path = path_of(tmp_path, "a/b")
    first = Spool(path)
    first.append({"event": "start", "t": 1})
    with pytest.raises(Busy, match="another process is tracking this run"):
        Spool(path)
    first.close()
    with path.open("ab") as file:
        file.write(b'{"event":"metr')
    again = Spool(path)
    again.append({"event": "end", "t": 2})
    assert [event["event"] for event in again.events()] == ["start", "end"]
    assert again.last() == {"event": "end", "t": 2}
    again.close()
    with pytest.raises(OSError):
        again.append({"event": "end", "t": 3})


def test_long_events_and_long_journals_are_read_whole(tmp_path):
    spool = Spool(tmp_path / "long.jsonl")
    for number in range(40):
        spool.append({"event": "tags", "t": number, "values": {"note": "x" * 100_000}})
    spool.append({"event": "tags", "t": 40, "values": {"note": "x" * 3_000_000}})
    assert [event["t"] for event in spool.events()] == list(range(41))
    last = spool.last()
    assert last
    assert last["t"] == 40
    spool.close()


def test_every_key_has_a_file_of_its_own(tmp_path):
    keys = ["a", "a/b", "a.jsonl", "a b", "a%20b", "..", "../x", ".files/x", "x" * 300, "x" * 301, "ä"]
    paths = [path_of(tmp_path, key) for key in keys]
    assert len(set(paths)) == len(keys)
    for path in paths:
        assert path.is_relative_to(tmp_path)
        assert ".." not in path.parts
        assert len(os.fsencode(path.name)) <= 255


def test_a_result_needs_a_value_for_every_seed():
    with pytest.raises(ValueError, match="values: must be one per seed, got 1 for 2 seeds"):
        Result("t", "p", "top1", 0.5, 0.0, (0.5,), (0, 1), "pretrained", "uri", "digest")
