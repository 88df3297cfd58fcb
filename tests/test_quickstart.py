"""The quickstart, with every stage it has, only smaller: from nothing to a report, on Ray, with MLflow in SQLite."""

import json
import os
import subprocess
import sys

import pytest

from pipeline import storage
from pipeline.tracking import search

SMALLER = (
    "shards/fractals.source.num_classes=8",
    "shards/fractals.source.per_class=24",
    "shards/fractals.samples_per_shard=64",
    "pretrain.model.num_classes=8",
    "pretrain.steps=24",
    "pretrain.global_batch=32",
    "pretrain.checkpoint_every=12",
    "pretrain.log_every=6",
    *(f"finetune/digits-{init}.{field}" for init in ("pretrained", "random") for field in ("steps=8", "per_class=[5]")),
    *(f"finetune/digits-{init}.lrs=[0.01,0.03]" for init in ("pretrained", "random")),
)
STAGES = {
    *("shards/fractals", "shards/digits", "pretrain", "report"),
    *(f"{verb}/digits-{init}" for verb in ("transfer", "finetune") for init in ("pretrained", "random")),
}
PROTOCOLS = {"1-shot", "5-shot", "10-shot", "25-shot", "knn-20", "linear", "finetune-5shot"}


def tessera(*arguments, cwd):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW")}
    return subprocess.run(
        [sys.executable, "-m", "launch", *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder in which `tessera run quickstart` has been run, and what it said."""
    folder = tmp_path_factory.mktemp("quickstart")
    settings = [word for setting in SMALLER for word in ("--set", setting)]
    done = tessera("run", "quickstart", *settings, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, settings, done


def test_the_run_ends_in_the_transfer_table_and_says_where_the_rest_is(finished):
    _, _, done = finished
    assert "pre-trained" in done.stdout
    assert "random init" in done.stdout
    for protocol in PROTOCOLS:
        assert protocol in done.stdout
    assert "report.html" in done.stderr
    assert "mlflow ui --backend-store-uri sqlite:///" in done.stderr


def test_mlflow_holds_the_pipeline_its_stages_the_trials_and_the_results(finished):
    folder, _, _ = finished
    runs = list(search(f"sqlite:///{folder}/runs/mlflow.db"))
    kinds = {
        kind: [run for run in runs if run["tags"]["tessera.kind"] == kind]
        for kind in ("pipeline", "stage", "trial", "result")
    }
    assert len(kinds["pipeline"]) == 1
    assert {run["tags"]["stage"] for run in kinds["stage"]} == STAGES
    assert len(kinds["trial"]) == 2 * (2 + 3)
    assert len(kinds["result"]) == 2 * len(PROTOCOLS)
    parent = kinds["pipeline"][0]["run_id"]
    assert all(run["tags"]["mlflow.parentRunId"] == parent for run in kinds["stage"])
    assert {run["status"] for run in runs} == {"FINISHED"}
    for run in (*kinds["trial"], *(r for r in kinds["stage"] if r["tags"]["stage"] != "report")):
        assert run["params"], run["name"]
        assert run["metrics"], run["name"]
        assert run["datasets"], run["name"]


def test_results_are_rows_with_checkpoint_task_protocol_metric_mean_std_seeds_and_init(finished):
    folder, _, _ = finished
    asked = tessera("results", "quickstart", "--output", "json", cwd=folder)
    assert asked.returncode == 0, asked.stderr
    rows = json.loads(asked.stdout)
    assert {row["protocol"] for row in rows} == PROTOCOLS
    assert {row["init"] for row in rows} == {"pretrained", "random"}
    tuned = next(row for row in rows if row["protocol"] == "finetune-5shot" and row["init"] == "pretrained")
    assert tuned["task"] == "digits"
    assert tuned["metric"] == "top1"
    assert 0 <= tuned["mean"] <= 1
    assert tuned["std"] >= 0
    assert tuned["seeds"] == [0, 1, 2]
    assert tuned["checkpoint"].endswith("pretrain/weights.safetensors")
    assert tuned["checkpoint_digest"]


def test_status_shows_every_stage_done(finished):
    folder, _, _ = finished
    asked = tessera("status", "quickstart", "--output", "json", cwd=folder)
    assert {(line["stage"], line["state"]) for line in json.loads(asked.stdout)} == {
        (stage, "done") for stage in STAGES
    }


def test_the_same_command_again_computes_nothing_and_prints_the_same_table(finished):
    folder, settings, done = finished
    again = tessera("run", "quickstart", *settings, cwd=folder)
    assert again.returncode == 0
    assert again.stdout == done.stdout
    assert "every stage is done already" in again.stderr
    assert "starting Ray" not in again.stderr


def test_another_learning_rate_is_refused_and_named(finished):
    folder, settings, _ = finished
    refused = tessera("run", "quickstart", *settings, "--set", "pretrain.optim.lr=0.5", cwd=folder)
    assert refused.returncode == 2
    assert "config.optim.lr: 0.002 -> 0.5" in refused.stderr
    assert "--rebuild pretrain" in refused.stderr


def test_the_report_is_one_file_that_loads_nothing_from_elsewhere(finished):
    folder, _, _ = finished
    page = storage.read(f"{folder}/runs/quickstart/report/report.html").decode()
    assert "<svg" in page
    assert 'src="http' not in page
    assert 'href="http' not in page.replace('href="https://arxiv.org', "")
