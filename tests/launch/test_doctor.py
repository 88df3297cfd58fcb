"""What keeps a run from working is found, with its remedy; the rest is said to be well."""

import collections
import http.server
import shutil
import threading

import pytest

from launch import doctor
from launch.doctor import Finding, findings, render


@pytest.fixture
def machine(tmp_path):
    """Every finding on this machine, by what it is about."""

    def look(root: str | None = None, tracking: str = "sqlite:///runs/mlflow.db") -> dict[str, Finding]:
        found = list(findings(root=root or str(tmp_path / "runs"), tracking=tracking))
        assert not [what for what, count in collections.Counter(f.what for f in found).items() if count > 1]
        return {finding.what: finding for finding in found}

    return look


def test_this_machine_can_run_tessera(machine, tmp_path):
    found = machine()
    assert {what for what, finding in found.items() if finding.state == "fail"} == set()
    assert set(found) >= {"python", "torch", "deepspeed", "ray", "mlflow", "root", "disk", "devices", "mlflow store"}
    assert found["root"].found == f"{tmp_path}/runs can be written and read"
    assert list((tmp_path / "runs").iterdir()) == [], "the probe is gone"


def test_every_complaint_has_a_remedy_and_praise_has_none(machine):
    for finding in machine(root="/dev/null/runs", tracking="http://127.0.0.1:9").values():
        assert bool(finding.remedy) == (finding.state != "ok"), finding


def test_a_root_that_cannot_be_written_fails(machine):
    found = machine(root="/dev/null/runs")["root"]
    assert (found.state, found.found) == ("fail", "/dev/null/runs")
    assert "a part of this path is a file" in found.remedy


def test_a_bucket_that_is_not_there_fails(machine, s3_environment):
    found = machine(root="s3://no-such-bucket/runs")
    assert found["root"].state == "fail"
    assert "no-such-bucket" in found["root"].remedy
    assert found["disk"].state == "ok"


def test_a_bucket_that_is_there_is_well(machine, s3_environment):
    assert machine(root=f"{s3_environment.uri}/doctor")["root"].state == "ok"


def test_a_package_that_is_missing_fails(monkeypatch):
    monkeypatch.setattr(doctor, "PACKAGES", ("torch", "no-such-package"))
    found = {finding.what: finding for finding in findings(root="/dev/null", tracking="")}
    assert found["torch"].state == "ok"
    assert found["no-such-package"] == Finding("no-such-package", "fail", "not installed", "run `make setup`")


@pytest.mark.parametrize(("built", "state"), [(True, "ok"), (False, "warn")])
def test_crops_that_cost_more_than_they_need_are_a_warning(machine, monkeypatch, built, state):
    monkeypatch.setattr("pipeline.data.jpeg_crop.is_built", lambda: built)
    assert machine()["JPEG crops"].state == state


def test_little_space_is_a_warning(machine, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(2**40, 2**40 - 2**29, 2**29))
    found = machine()
    assert (found["disk"].state, found["/dev/shm"].state) == ("warn", "warn")
    assert found["disk"].found.startswith("0.5 GiB free under ")


def test_a_tracking_server_that_does_not_answer_is_a_warning_since_runs_go_on(machine):
    found = machine(tracking="http://127.0.0.1:9")["mlflow store"]
    assert (found.state, found.found[:19]) == ("warn", "http://127.0.0.1:9:")
    assert "runs go on without it" in found.remedy


class Answer(http.server.BaseHTTPRequestHandler):
    code = 200

    def do_GET(self):
        self.send_response(self.code if self.path == "/health" else 404)
        self.end_headers()

    def log_message(self, *args) -> None:
        pass


@pytest.mark.parametrize(("code", "state"), [(200, "ok"), (500, "warn")])
def test_a_tracking_server_is_asked_for_its_health(machine, monkeypatch, code, state):
    monkeypatch.setattr(Answer, "code", code)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        place = f"127.0.0.1:{server.server_port}"
        found = machine(tracking=f"http://me:hidden@{place}/")["mlflow store"]
        server.shutdown()
    assert found.state == state
    assert found.found.startswith(f"http://me:***@{place}/"), "the password is not shown"
    assert "hidden" not in found.found


def test_the_text_puts_remedies_below_what_they_are_for():
    text = render([Finding("python", "ok", "3.11"), Finding("disk", "warn", "full", "free some")])
    assert text.splitlines() == [
        "ok    python  3.11",
        "warn  disk    full",
        "              -> free some",
    ]
