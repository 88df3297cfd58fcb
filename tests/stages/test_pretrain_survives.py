"""Pre-training that goes back, is told to stop, and goes on: gangs of real processes, everything wired as in a run."""

import dataclasses
import functools
import json

import pytest

from pipeline import storage
from pipeline.stage import Notice, Stopped
from pipeline.stages.pretrain import pretrain
from pipeline.train import audit, checkpoint
from pipeline.train.gang import train_member
from pipeline.train.guard import Guard, Guards, TooManyReturns
from tests.fakes import NullTrack
from tests.gang import gang
from tests.stages.test_pretrain import CONFIG

GUARDS = Guards(sigma=0, in_row=2, back=2, most_returns=1)
QUIET = ("steps", "checkpoint", "straggler")  # which rank is slow on a busy machine is another question
LONG = dataclasses.replace(
    CONFIG, steps=14, checkpoint_every=2, keep_checkpoints=9, log_every=1, guards=GUARDS, audit=True
)


def refusing(calls, member, job):
    """What a member does whose guard refuses some of the updates that it is asked about, counted from 1."""
    judge, asked = Guard.judge, []

    def judged(self, *, loss, grad_norm):
        asked.append(loss)
        return judge(self, loss=float("nan") if len(asked) in calls else loss, grad_norm=grad_norm)

    Guard.judge = judged
    try:
        return train_member(member, job)
    finally:
        Guard.judge = judge


def notified(notice, after, member, job):
    """A member that is told something after so many looks."""
    looks = []

    def told():
        looks.append(1)
        return notice if member.rank == 0 and len(looks) > after else None

    member.notice = told
    try:
        return train_member(member, job)
    finally:
        del member.notice


def _pretrain(config, folder, *, cluster, shards, does=None, monkeypatch=None):
    """(result, tracking) of a run, whose members do something of their own."""
    track = NullTrack()
    if does is not None:
        monkeypatch.setattr("pipeline.stages.pretrain.train_member", does)
    return pretrain(config, out=str(folder / "out"), cluster=cluster, track=track, shards=shards), track


def _events(folder):
    rows = [json.loads(line) for line in (folder / "out" / "events.jsonl").read_text().splitlines()]
    return [(row["event"], row["step"]) for row in rows if row["event"] not in QUIET]


def test_a_run_goes_back_passes_the_batches_over_and_ends(shards, tmp_path, monkeypatch):
    does = functools.partial(refusing, {7, 8})
    with gang(2, folder=tmp_path) as pair:
        result, track = _pretrain(LONG, tmp_path, cluster=pair, shards=shards, does=does, monkeypatch=monkeypatch)
    assert result["steps"] == 14
    assert [one for one in _events(tmp_path) if one[0] not in ("opened", "closed")] == [
        ("begun", 0),
        ("skipped", 7),
        ("skipped", 8),
        ("rolled back", 8),
        ("begun", 4),
        *(("passed over", step) for step in (5, 6, 7, 8)),
    ]
    assert json.loads((tmp_path / "out" / "checkpoints" / "passed.json").read_text()) == [[4, 8]]
    manifest = checkpoint.read_manifest(str(tmp_path / "out" / "checkpoints"), 14)
    assert (manifest.step, manifest.updates) == (14, 10)
    ids = dict(audit.steps(str(tmp_path / "out"), last=14))
    assert [step for step, some in ids.items() if not some] == [5, 6, 7, 8]
    skipped = json.loads((tmp_path / "out" / "skipped" / "step-00000007.json").read_text())
    assert len(skipped["ids"]) == LONG.global_batch
    assert (result["skipped"], result["restarts"]) == (4, 0)
    assert track.told_tags["rollbacks"] == "1"


def test_a_run_that_would_go_back_too_often_says_what_to_do(shards, tmp_path, monkeypatch):
    does = functools.partial(refusing, {7, 8, 10, 11})
    with gang(1, folder=tmp_path) as alone, pytest.raises(TooManyReturns, match="after going back 1 times already"):
        _pretrain(LONG, tmp_path, cluster=alone, shards=shards, does=does, monkeypatch=monkeypatch)


def test_a_run_that_is_told_to_stop_saves_and_the_next_one_ends_with_the_same_bits(shards, tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    stop = functools.partial(notified, Notice("stop", "the run was interrupted", 0.0), 3)
    with gang(2, folder=tmp_path) as pair:
        expected, _ = _pretrain(LONG, whole, cluster=pair, shards=shards)
        with monkeypatch.context() as patch, pytest.raises(Stopped, match="saved at step 5 of 14"):
            _pretrain(LONG, parts, cluster=pair, shards=shards, does=stop, monkeypatch=patch)
        assert checkpoint.steps(str(parts / "out" / "checkpoints"))[-1] == 5
        result, _ = _pretrain(LONG, parts, cluster=pair, shards=shards)
    assert result["digest"] == expected["digest"]
    assert list(audit.steps(str(parts / "out"), last=14)) == list(audit.steps(str(whole / "out"), last=14))
    assert ("notice", 5) in _events(parts)


def test_a_run_that_is_told_to_save_does_so_at_once_and_goes_on(shards, tmp_path, monkeypatch):
    config = dataclasses.replace(LONG, checkpoint_every=100)
    save = functools.partial(notified, Notice("save", "a machine will go", 0.0), 3)
    with gang(2, folder=tmp_path) as pair:
        _pretrain(config, tmp_path, cluster=pair, shards=shards, does=save, monkeypatch=monkeypatch)
    assert checkpoint.steps(str(tmp_path / "out" / "checkpoints")) == [5, 14]


def test_any_number_of_workers_goes_on_with_the_same_losses(shards, tmp_path):
    """Three workers take over from two, in the middle; a batch of eight does not divide among them."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    with gang(2, folder=tmp_path) as pair:
        expected, _ = _pretrain(LONG, whole, cluster=pair, shards=shards)
        _pretrain(LONG, parts, cluster=pair, shards=shards)
    uri = str(parts / "out" / "checkpoints")
    for step in checkpoint.steps(uri):
        if step > 6:
            storage.remove_tree(checkpoint.folder(uri, step))
    with gang(3, folder=parts) as three:
        result, _ = _pretrain(LONG, parts, cluster=three, shards=shards)
    losses = [[row[:2] for row in one["history"]] for one in (expected, result)]
    assert [step for step, _ in losses[1]] == list(range(1, 15))
    assert [loss for _, loss in losses[1]] == pytest.approx([loss for _, loss in losses[0]], abs=1e-5)
