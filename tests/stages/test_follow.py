"""What is looked at while training goes on: the figures of the transfer stage, and no trouble for the training."""

import dataclasses
import json
import logging
import time
from concurrent.futures import Future

import pytest

from pipeline import follow, storage
from pipeline.config import encode
from pipeline.data.view import EvalView, TrainView
from pipeline.evals.protocol import Fewshot
from pipeline.follow import Follower
from pipeline.stage import Artifact, Stage, in_order
from pipeline.stages.prepare import prepare
from pipeline.stages.pretrain import Pretrain, pretrain
from pipeline.stages.transfer import Transfer, transfer
from pipeline.train.following import Following
from pipeline.train.optim import Optim
from pipeline.train.pretraining import Job
from tests.fakes import InProcessCluster, NullTrack
from tests.gang import gang
from tests.stages.conftest import MODEL, PX

VIEW = EvalView(PX)
FOLLOWING = Following("digits", "fractals", VIEW, every=4, shots=(1, 3), seeds=(0, 1), test_split="val")
CONFIG = Pretrain(
    MODEL,
    TrainView(PX, crop="none"),
    Optim(3e-3),
    steps=8,
    global_batch=8,
    precision="fp32",
    lanes=4,
    window=16,
    checkpoint_every=2,
    keep_checkpoints=9,
    following=(FOLLOWING,),
)


def test_the_last_look_has_the_figures_of_the_transfer_stage(shards, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    out, track = str(tmp_path / "out"), NullTrack()
    with gang(1, folder=tmp_path) as cluster:
        result = pretrain(CONFIG, out=out, cluster=cluster, track=track, shards=shards, digits=shards)
    rows = result["following"]
    assert [row["step"] for row in rows][-1] == 8
    assert rows == json.loads(storage.read(storage.join(out, "following.json")))
    weights = Artifact("weights", "pretrain", out, result)
    judged = Transfer("fractals", VIEW, fewshot=Fewshot((1, 3), (0, 1)), test_split="val")
    expected = transfer(
        judged, out=str(tmp_path / "t"), cluster=InProcessCluster(), track=NullTrack(), weights=weights, shards=shards
    )
    assert rows[-1]["top1"] == {row["protocol"]: row["values"] for row in expected["rows"]}
    told = {step: metrics for step, metrics in track.told_metrics if "following/fractals/3-shot" in metrics}
    assert told[8]["following/fractals/3-shot"] == pytest.approx(sum(rows[-1]["top1"]["3-shot"]) / 2)
    assert any(message.startswith("fractals at step 8: 1-shot ") for message in caplog.messages)


def test_what_is_looked_at_is_no_part_of_what_is_computed():
    assert encode(CONFIG, identity=True) == encode(dataclasses.replace(CONFIG, following=()), identity=True)
    data, other = Stage("data", prepare, 1), Stage("other", prepare, 2)
    with_it, without = (
        Stage("pretrain", pretrain, CONFIG, {"shards": data}, beside=b) for b in ({"digits": other}, {})
    )
    assert with_it.identity() == without.identity()
    assert [stage.name for stage in in_order([with_it])] == ["data", "other", "pretrain"]


class Waiting(InProcessCluster):
    """Tasks whose end is in the hands of the test."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[int] = []
        self.ends: list[Future] = []

    def map(self, function, items, *, title, cpus=1, gpus=0):
        self.asked.append(items[0].step)
        self.ends.append(Future())
        yield 0, self.ends[-1].result(30)


def found(step: int) -> dict:
    return {"task": "fractals", "step": step, "top1": {"1-shot": [0.25, 0.75]}}


@pytest.fixture
def follower(shards, tmp_path):
    cluster, track = Waiting(), NullTrack()
    job = Job(CONFIG, (), str(tmp_path), "identity")
    return Follower(job, beside={"digits": shards}, cluster=cluster, track=track), cluster, track


def hear(follower, step):
    follower.hear({"kind": "checkpoint", "step": step, "wall_s": 1.0})


def until(condition):
    while not condition():
        time.sleep(0.01)


def test_while_one_is_looked_at_the_newest_of_those_that_are_due_waits(follower):
    follower, cluster, track = follower
    with follower:
        for step in (2, 4, 6, 8, 12, 14):
            hear(follower, step)
        until(lambda: cluster.asked == [4])
        cluster.ends[0].set_result(found(4))
        until(lambda: follower._under_way[1].done())
        follower.hear({"kind": "step", "step": 15})
        until(lambda: cluster.asked == [4, 12])
        assert track.told_metrics == [(4, {"following/fractals/1-shot": 0.5})]
        cluster.ends[1].set_result(found(12))
    assert [row["step"] for row in follower.rows] == [4, 12]


@pytest.mark.parametrize("trouble", ["error", "gone"])
def test_trouble_is_a_warning_and_the_next_one_is_looked_at(follower, caplog, trouble):
    follower, cluster, _ = follower
    with follower:
        hear(follower, 4)
        until(lambda: cluster.ends)
        if trouble == "error":
            cluster.ends[0].set_exception(ValueError("class 'cat' has 2 images"))
        else:
            cluster.ends[0].set_result({"gone": "step-4/manifest.json: no such file"})
        until(lambda: follower._under_way[1].done())
        hear(follower, 8)
        until(lambda: len(cluster.ends) == 2)
        cluster.ends[1].set_result(found(8))
    (warning,) = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.startswith("fractals at step 4 was not looked at")
    assert ("keep_checkpoints" in warning) == (trouble == "gone")
    assert [row["step"] for row in follower.rows] == [8]


def test_a_training_that_fails_does_not_wait(follower):
    follower, cluster, _ = follower

    def fail():
        with follower:
            hear(follower, 4)
            until(lambda: cluster.ends)
            raise RuntimeError("no such luck")

    with pytest.raises(RuntimeError, match="no such luck"):
        fail()
    cluster.ends[0].set_result(found(4))


def test_what_was_looked_at_before_a_kill_is_not_looked_at_again(follower, shards):
    first, cluster, _ = follower
    with first:
        hear(first, 4)
        until(lambda: cluster.ends)
        cluster.ends[0].set_result(found(4))
    again = Follower(first._job, beside={"digits": shards}, cluster=cluster, track=NullTrack())
    with again:
        hear(again, 4)
    assert cluster.asked == [4]
    assert again.rows == first.rows


def test_a_checkpoint_that_is_gone_is_said_to_be(shards, tmp_path):
    look = follow.Look(FOLLOWING, str(tmp_path), 4, MODEL, shards.uri)
    assert "step-00000004" in follow.accuracies(look)["gone"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"need": "cats"}, "following: 'cats' is not beside the stage; give the stage that prepares it there"),
        ({"every": 3}, "every 3 steps, but there is a checkpoint every 2; a multiple of that would be right"),
        ({"view": EvalView(18)}, "following: 18 px are no multiple of 4 px"),
    ],
)
def test_what_cannot_be_looked_at_is_said_before_anything_runs(shards, change, message):
    config = dataclasses.replace(CONFIG, following=(dataclasses.replace(FOLLOWING, **change),))
    with pytest.raises(ValueError, match=message):
        Follower(Job(config, (), "", ""), beside={"digits": shards}, cluster=Waiting(), track=NullTrack())
