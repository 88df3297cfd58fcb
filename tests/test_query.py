"""Transfer results out of a real MLflow, as rows; and what is asked for to have them."""

import csv
import io
import json
import math
from datetime import UTC, datetime

import pytest

from launch.query import Asked, as_csv, as_json, as_text, moment_ms, results
from pipeline.evals import vtab
from pipeline.tracking import Result, Tracker, log_result
from tests.mlflow_store import START_S, Made, fill


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
    newest = results(uri, Asked("nightly", "cifar10"))
    assert [(row.init, row.mean) for row in newest] == [("pretrained", pytest.approx(0.85)), ("random", 0.25)]
    every = results(uri, Asked("nightly", "cifar10", every=True))
    assert [row.mean for row in every] == [pytest.approx(0.85), pytest.approx(0.6), 0.25]


def test_results_can_be_asked_for_by_recipe_task_protocol_metric_and_checkpoint(uri):
    assert {row.recipe for row in results(uri, Asked())} == {"nightly", "quickstart"}
    assert [row.recipe for row in results(uri, Asked(recipe="quickstart"))] == ["quickstart"]
    assert [row.task for row in results(uri, Asked(protocol="knn"))] == ["pets|cats"]
    assert len(results(uri, Asked("nightly", metric="top1"))) == 3
    assert results(uri, Asked("nightly", metric="ece")) == []
    assert {row.init for row in results(uri, Asked(checkpoint="abc123"))} == {"pretrained"}
    assert {row.init for row in results(uri, Asked(checkpoint="s3://bucket/nightly/pretrain/weights"))} == {
        "pretrained"
    }
    assert results(uri, Asked(checkpoint="abd")) == []
    assert results(uri, Asked(task="imagenet")) == []


def test_a_star_in_a_task_is_any_text_and_nothing_else_is_special(uri):
    assert {row.task for row in results(uri, Asked(task="pets*"))} == {"pets|cats"}
    assert {row.task for row in results(uri, Asked(task="*1*"))} == {"cifar10"}
    assert results(uri, Asked(task="CIFAR*")) == []
    assert results(uri, Asked(task="c_far*")) == []
    assert results(uri, Asked(task="cifar1?")) == []


def test_json_has_every_field_of_every_row(uri):
    rows = results(uri, Asked("nightly", "cifar10"))
    first, _ = json.loads(as_text(as_json(rows)))
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
        "values": [0.9, 0.8],
        "model": "",
        "data": "",
        "paper": None,
        "paper_table": "",
        "difference": None,
    }


def test_csv_has_a_header_and_the_same_rows(uri):
    rows = results(uri, Asked())
    read = list(csv.DictReader(io.StringIO(as_csv(rows))))
    assert [float(row["mean"]) for row in read] == [row.mean for row in rows]
    assert read[0]["seeds"] == "0 1"
    assert list(read[0]) == list(as_json(rows)[0])


TASKS = {
    (f"vtab/{task}", "finetune", "top1"): (0.5 + i / 100, 0.5 + i / 100 + 0.02) for i, task in enumerate(vtab.TASKS)
}
FEWER = {column: values for column, values in TASKS.items() if column[0] != "vtab/svhn"}


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    """A checkpoint with all of VTAB, one with 18 of its tasks, and one with names that are no good."""
    odd = {("it's|\nodd", "5-shot", "top1"): (0.25,), ("100% \\ 'x'", "knn-20", "top1"): (0.5,)}
    made = [
        Made("vtab", "aaaa", 0, TASKS),
        Made("vtab", "bbbb", 86_400, FEWER),
        Made("odd 'recipe'", "cccc", 2 * 86_400, odd),
    ]
    return fill(tmp_path_factory.mktemp("suite") / "mlflow.db", made)


def test_vtab_s_means_are_rows_where_every_task_of_a_group_is_there(suite):
    rows = results(suite, Asked("vtab"))
    means = {(row.checkpoint_digest, row.task): row for row in rows if not row.run_id}
    assert means.keys() == {
        *(("aaaa", f"vtab/{name}") for name in ("all", "natural", "specialized", "structured")),
        *(("bbbb", f"vtab/{name}") for name in ("specialized", "structured")),
    }
    whole = means["aaaa", "vtab/all"]
    assert whole.mean == pytest.approx(0.5 + 9 / 100 + 0.01)
    assert (whole.seeds, whole.values[1] - whole.values[0]) == ((0, 1), pytest.approx(0.02))
    assert whole.created == max(row.created for row in rows if row.checkpoint_digest == "aaaa")


def test_a_mean_can_be_asked_for_though_it_is_no_run(suite):
    assert [row.task for row in results(suite, Asked(task="vtab/natural"))] == ["vtab/natural"]
    assert {row.task for row in results(suite, Asked(task="vtab/*", checkpoint="bbbb"))} == {
        "vtab/specialized",
        "vtab/structured",
        *(column[0] for column in FEWER),
    }


def test_names_of_any_kind_are_found(suite):
    rows = results(suite, Asked("odd 'recipe'"))
    assert {row.task for row in rows} == {"it's|\nodd", "100% \\ 'x'"}
    for row in rows:
        assert results(suite, Asked(task=row.task)) == [row]


def test_results_can_be_asked_for_since_a_time(suite):
    since = Asked(since_ms=(START_S + 2 * 86_400) * 1000)
    assert {row.recipe for row in results(suite, since)} == {"odd 'recipe'"}


@pytest.mark.parametrize(
    ("text", "iso"),
    [
        ("24h", "2026-11-24T08:30:00+00:00"),
        ("90min", "2026-11-25T07:00:00+00:00"),
        ("7d", "2026-11-18T08:30:00+00:00"),
        ("2w", "2026-11-11T08:30:00+00:00"),
        ("today", "2026-11-25T00:00:00+00:00"),
        ("yesterday", "2026-11-24T00:00:00+00:00"),
        ("2026-11-20", "2026-11-20T00:00:00+00:00"),
        (" 2026-11-20T22:15 ", "2026-11-20T22:15:00+00:00"),
        ("2026-11-20T22:15:00+02:00", "2026-11-20T20:15:00+00:00"),
    ],
)
def test_a_time_is_an_age_a_day_or_a_moment_in_utc(text, iso):
    now = datetime(2026, 11, 25, 8, 30, tzinfo=UTC)
    assert moment_ms(text, now=now) == datetime.fromisoformat(iso).timestamp() * 1000


@pytest.mark.parametrize("text", ["", "last night", "24", "h", "2026-13-01"])
def test_what_is_no_time_is_refused_with_examples(text):
    with pytest.raises(ValueError, match=r"since: .* is no time; '24h', '7d', 'yesterday' or"):
        moment_ms(text, now=datetime(2026, 11, 25, tzinfo=UTC))
