"""The table of transfer results, from a real MLflow to all four outputs."""

import csv
import io
import json
import math

import pytest

from launch.query import render, results
from pipeline.tracking import Result, Tracker, log_result


def result(values, **changes) -> Result:
    facts = {
        "task": "cifar10",
        "protocol": "linear",
        "metric": "top1",
        "seeds": tuple(range(len(values))),
        "init": "pretrained",
        "checkpoint": "s3://bucket/nightly/pretrain/weights",
        "checkpoint_digest": "abc123def456",
    }
    return Result.of(tuple(values), **{**facts, **changes})


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    folder = tmp_path_factory.mktemp("query")
    uri = f"sqlite:///{folder}/mlflow.db"
    ticks = iter(range(1_800_000_000, 10**12))
    for recipe in ("nightly", "quickstart"):
        tracker = Tracker(uri, experiment=recipe, spool=folder / "spool", clock=lambda: next(ticks), pace_s=0.05)
        with tracker.run(f"{recipe}/transfer/1", name="transfer", kind="stage", tags={"recipe": recipe}) as track:
            log_result(track, result([0.5, 0.7]))
            if recipe == "nightly":
                log_result(track, result([0.9, 0.8]))  # the same once more, after a repair of the code
                log_result(track, result([0.25], init="random", checkpoint="", checkpoint_digest=""))
                log_result(track, result([0.6], task="pets|cats", protocol="knn"))
            with track.child("a trial that is no result") as trial:
                trial.metrics({"mean": 1.0})
        assert tracker.close(timeout_s=300) == 0
    return uri


def test_only_the_newest_of_equal_results_counts_unless_all_are_asked_for(uri):
    newest = results(uri, experiment="nightly", task="cifar10")
    assert [(row.init, row.mean) for row in newest] == [("pretrained", pytest.approx(0.85)), ("random", 0.25)]
    every = results(uri, experiment="nightly", task="cifar10", every=True)
    assert [row.mean for row in every] == [pytest.approx(0.85), pytest.approx(0.6), 0.25]


def test_results_can_be_asked_for_by_recipe_task_protocol_and_checkpoint(uri):
    assert {row.recipe for row in results(uri)} == {"nightly", "quickstart"}
    assert [row.recipe for row in results(uri, recipe="quickstart")] == ["quickstart"]
    assert [row.task for row in results(uri, protocol="knn")] == ["pets|cats"]
    assert {row.init for row in results(uri, checkpoint="abc123")} == {"pretrained"}
    assert {row.init for row in results(uri, checkpoint="s3://bucket/nightly/pretrain/weights")} == {"pretrained"}
    assert results(uri, checkpoint="abd") == []
    assert results(uri, task="imagenet") == []


def test_json_has_every_field_of_every_row(uri):
    rows = results(uri, experiment="nightly", task="cifar10")
    first, _ = json.loads(render(rows, "json"))
    created, run_id = first.pop("created"), first.pop("run_id")
    assert created.startswith("2027-01-15T")
    assert len(run_id) == 32
    assert first == {
        "recipe": "nightly",
        "checkpoint": "s3://bucket/nightly/pretrain/weights",
        "checkpoint_digest": "abc123def456",
        "task": "cifar10",
        "protocol": "linear",
        "metric": "top1",
        "mean": pytest.approx(0.85),
        "std": pytest.approx(math.sqrt(0.005)),
        "seeds": [0, 1],
        "init": "pretrained",
    }


def test_csv_has_a_header_and_the_same_rows(uri):
    rows = results(uri)
    read = list(csv.DictReader(io.StringIO(render(rows, "csv"))))
    assert [float(row["mean"]) for row in read] == [row.mean for row in rows]
    assert read[0]["seeds"] == "0 1"
    assert list(read[0]) == list(json.loads(render(rows, "json"))[0])


def test_the_table_is_aligned_and_rounded(uri):
    text = render(results(uri, experiment="nightly"), "table")
    header, line, first, *_ = text.splitlines()
    assert header.split() == [
        "recipe",
        "checkpoint",
        "task",
        "protocol",
        "metric",
        *["mean", "±", "std"],
        "seeds",
        "init",
        "created",
    ]
    assert set(line) == {"-", " "}
    assert first.split()[:8] == ["nightly", "weights@abc123de", "cifar10", "linear", "top1", "0.8500", "±", "0.0707"]
    assert first.index("cifar10") == header.index("task")
    assert render([], "table") == "no results\n"


def test_markdown_is_a_table_whose_cells_cannot_break_it(uri):
    lines = render(results(uri, experiment="nightly"), "md").splitlines()
    assert lines[1] == "|" + " --- |" * 9
    assert {line.replace(r"\|", "").count("|") for line in lines} == {10}
    assert any(r"pets\|cats" in line for line in lines)


def test_an_unknown_output_is_refused_with_the_choices():
    with pytest.raises(ValueError, match="'yaml' is not one of table, json, csv, md"):
        render([], "yaml")  # type: ignore[arg-type]
