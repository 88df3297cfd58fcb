"""Answers and champions through a real MLflow server, whose rules for models and pages are its own."""

import pytest

from launch import answer, champion
from launch.query import Asked
from pipeline.evals.champion import Rule
from pipeline.tracking import lines
from tests.mlflow_server import MlflowServer, free_port
from tests.mlflow_store import Made, fill


@pytest.fixture
def server(tmp_path):
    """Its database is full before it starts."""
    scores = {("pets", "finetune", "top1"): [0.80, 0.81, 0.82]}
    better = {("pets", "finetune", "top1"): [0.90, 0.91, 0.92]}
    local = "/runs/nightly/pretrain/weights.safetensors"
    made = [Made("nightly", "aaaa", 0, scores, uri=local), Made("nightly", "bbbb", 86_400, better, data="imagenet21k")]
    fill(tmp_path / "server.db", made)
    server = MlflowServer(tmp_path, port=free_port())
    server.start()
    yield server
    server.kill()


def test_what_a_server_holds_is_answered_and_moved_as_what_a_file_holds(server):
    uri, asked, rule = server.uri, Asked("nightly"), Rule(("pets",))

    def move(checkpoint: str) -> str:
        found = answer.gather(uri, asked)
        return champion.move(
            uri, champion.decide(found, recipe="nightly", rule=rule, checkpoint=checkpoint, because="")
        )

    told = answer.headline(uri, asked, answer.gather(uri, asked))
    assert told.startswith("Better at 1 of 1 (pets +10.00): nightly@bbbb of 2026-11-25 07:00 against the one before, ")
    assert move("aaaa").startswith("Moved: nightly@aaaa is champion, version 1")
    assert move("newest").startswith(
        "Moved: nightly@bbbb is champion in place of nightly@aaaa, version 2: mean 81.00 ->"
    )
    (line,) = lines(uri, name="nightly")
    assert [(one.checkpoint_digest, one.before) for one in line.moves] == [("aaaa", ""), ("bbbb", "aaaa")]
    assert line.champion == line.moves[1]
    server.kill()
    with pytest.raises(ConnectionError, match="is the server running"):
        lines(uri)
