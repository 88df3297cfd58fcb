"""Champions in a real MLflow on sqlite: every move is a version, and the alias says which one counts."""

import os

import pytest

from pipeline.tracking import Outrun, Query, Tracker, line_name, lines, models, move, search
from pipeline.tracking.client import connect


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    """Three checkpoints of `nightly`, one a day, and one of another recipe."""
    folder = tmp_path_factory.mktemp("registry")
    uri = f"sqlite:///{folder}/mlflow.db"
    for recipe, digests in (("nightly", ("aaa1", "bbb2", "ccc3")), ("it's | odd", ("ddd4",))):
        ticks = iter(range(1_800_000_000, 10**12, 86_400))
        tracker = Tracker(uri, experiment=recipe, spool=folder / "spool", clock=lambda t=ticks: next(t), pace_s=0.05)
        for digest in digests:
            key = f"{line_name(recipe).replace(' | ', '-').replace(chr(39), '')}/pretrain/{digest}"
            with tracker.run(key, name="pretrain", kind="stage", tags={"recipe": recipe, "stage": "pretrain"}) as track:
                track.dataset(name="imagenet21k", digest="1", source="/data", context="pretrain")
                track.model(name="vit", uri=f"s3://bucket/{digest}", digest=digest, params={"width": 1024})
        assert tracker.close(timeout_s=300) == 0
    return uri


def facts(uri: str, digest: str, **more: str) -> dict[str, str]:
    (model,) = [one for one in models(uri) if one["digest"] == digest]
    told = {"checkpoint": model["checkpoint"], "checkpoint_digest": digest, "model_id": model["model_id"]}
    return {**told, "recipe": model["experiment"], "why": "it is better", "rule": "{}", **more}


def test_models_are_the_checkpoints_that_runs_published(uri):
    found = {one["digest"]: one for one in models(uri)}
    assert found.keys() == {"aaa1", "bbb2", "ccc3", "ddd4"}
    assert found["bbb2"]["experiment"] == "nightly"
    assert found["bbb2"]["checkpoint"] == "s3://bucket/bbb2"
    assert found["bbb2"]["params"] == {"width": "1024"}
    assert {one["digest"] for one in models(uri, experiment="nightly")} == {"aaa1", "bbb2", "ccc3"}
    runs = {run["run_id"]: run for run in search(uri, Query(kind="stage", reads="pretrain"))}
    assert runs[found["bbb2"]["run_id"]]["reads"] == {"pretrain": ["imagenet21k"]}


def test_models_are_fetched_page_by_page(uri, monkeypatch):
    monkeypatch.setattr("pipeline.tracking.model.PAGE_MODELS", 1)
    assert len(list(models(uri))) == 4


def test_a_move_is_a_version_and_the_alias_says_which_one_counts(uri):
    assert lines(uri, name="nightly") == []
    first = move(uri, line="nightly", expected=None, facts=facts(uri, "aaa1", why="there was none"))
    (line,) = lines(uri, name="nightly")
    assert (line.champion, line.moves) == (first, (first,))
    second = move(uri, line="nightly", expected=line, facts=facts(uri, "bbb2", before="aaa1"))
    (line,) = lines(uri, name="nightly")
    assert (line.champion, line.moves) == (second, (first, second))
    back = move(uri, line="nightly", expected=line, facts=facts(uri, "aaa1", rule="", before="bbb2", why="it crashed"))
    (line,) = lines(uri, name="nightly")
    assert [(one.version, one.checkpoint_digest, one.before) for one in line.moves] == [
        (1, "aaa1", ""),
        (2, "bbb2", "aaa1"),
        (3, "aaa1", "bbb2"),
    ]
    assert line.champion == back
    assert (back.why, back.rule, bool(back.by), line.is_by_hand) == ("it crashed", "", True, False)


def test_mlflow_shows_the_champion_by_its_alias_and_leads_to_the_model(uri):
    move(uri, line="seen", expected=None, facts=facts(uri, "ccc3"))
    version = connect(uri, create=False).get_model_version_by_alias("seen", "champion")
    assert version.source == f"models:/{facts(uri, 'ccc3')['model_id']}"
    assert version.tags["tessera.checkpoint_digest"] == "ccc3"


def test_an_alias_that_somebody_set_elsewhere_is_told(uri):
    for digest in ("aaa1", "bbb2"):
        (line,) = lines(uri, name="hands") or [None]
        move(uri, line="hands", expected=line, facts=facts(uri, digest))
    client = connect(uri, create=False)
    client.set_registered_model_alias("hands", "champion", "1")
    (line,) = lines(uri, name="hands")
    assert line.is_by_hand
    assert line.champion == line.moves[0]
    client.delete_registered_model_alias("hands", "champion")
    (line,) = lines(uri, name="hands")
    assert (line.champion, line.is_by_hand, len(line.moves)) == (None, True, 2)


def test_who_comes_second_is_told_and_moves_nothing(uri):
    move(uri, line="raced", expected=None, facts=facts(uri, "aaa1"))
    with pytest.raises(Outrun, match="raced: the champion has moved meanwhile; look again"):
        move(uri, line="raced", expected=None, facts=facts(uri, "bbb2"))
    (line,) = lines(uri, name="raced")
    assert [one.checkpoint_digest for one in line.moves] == ["aaa1"]


def test_a_recipe_of_any_name_has_a_line_of_its_own(uri):
    move(uri, line="it's | odd/one", expected=None, facts=facts(uri, "ddd4"))
    (line,) = lines(uri, name="it's | odd/one")
    assert line.name == line_name("it's | odd/one") == "it's | odd-one"
    assert line.name in {one.name for one in lines(uri)}


def test_what_is_no_move_of_ours_is_no_line(uri):
    client = connect(uri, create=False)
    client.create_registered_model("of somebody else")
    client.create_model_version("of somebody else", "s3://bucket/other")
    assert lines(uri, name="of somebody else") == []


def test_a_move_leaves_the_environment_as_it_was(uri, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://nowhere.invalid")
    move(uri, line="environment", expected=None, facts=facts(uri, "aaa1"))
    assert os.environ["MLFLOW_TRACKING_URI"] == "http://nowhere.invalid"


def test_a_token_in_the_reason_is_masked(uri, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "a-very-secret-token")
    assert move(uri, line="masked", expected=None, facts=facts(uri, "aaa1", why="a-very-secret-token")).why == "***"


def test_a_query_says_what_is_asked_as_mlflow_reads_it():
    query = Query(kind="result", where={"recipe": "it's"}, like={"task": "vtab/*"}, reads="test", since_ms=5)
    assert str(query) == (
        "tags.`recipe` = \"it's\" AND tags.`tessera.kind` = 'result' AND tags.`task` LIKE 'vtab/%' "
        "AND dataset.context = 'test' AND attributes.start_time >= 5"
    )
    assert str(Query()) == ""
