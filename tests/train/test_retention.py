"""Which checkpoints stay, and what is swept: by pure functions, and then for real."""

import datetime

import pytest

from pipeline import storage
from pipeline.train import checkpoint
from pipeline.train.checkpoint import MANIFEST, File, Manifest
from pipeline.train.retention import Keeper, Retention, attempt_name, orphans, superfluous

NOW = datetime.datetime(2026, 5, 4, 12, tzinfo=datetime.UTC)
LOSSES = {10: 5.0, 20: 1.0, 30: 2.0, 40: 1.5, 50: 3.0}


def kept(retention: Retention, losses=LOSSES, *, newest: int = 50, metric: str = "loss") -> list[int]:
    metrics = {step: {metric: loss} for step, loss in losses.items()}
    return sorted(set(losses) - set(superfluous(retention, metrics, newest=newest)))


def test_the_last_ones_are_kept():
    assert kept(Retention(last=1)) == [50]
    assert kept(Retention(last=3)) == [30, 40, 50]
    assert kept(Retention(last=9)) == [10, 20, 30, 40, 50]


def test_every_nth_step_is_kept():
    assert kept(Retention(last=1, every=20)) == [20, 40, 50]


def test_the_best_are_kept_and_of_equals_the_later():
    assert kept(Retention(last=1, best=2)) == [20, 40, 50]
    assert kept(Retention(last=1, best=1), {10: 1.0, 20: 1.0, 30: 2.0}, newest=30) == [20, 30]


def test_the_best_may_be_those_of_the_highest_metric():
    retention = Retention(last=1, best=1, metric="accuracy", is_lowest_best=False)
    assert kept(retention, metric="accuracy") == [10, 50]


def test_one_without_the_metric_is_not_among_the_best():
    assert kept(Retention(last=1, best=3), metric="accuracy") == [50]
    assert kept(Retention(last=1, best=1), {10: float("nan"), 20: 9.0, 30: 10.0}, newest=30) == [20, 30]


def test_later_ones_than_the_one_just_saved_are_left_alone_and_count_for_nothing():
    assert kept(Retention(last=2), newest=30) == [20, 30, 40, 50]
    assert kept(Retention(last=1, best=1), newest=30) == [20, 30, 40, 50]


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"last": 0}, "last: must be at least 1, got 0"),
        ({"every": -1}, r"every: must be 0 \(none\) or more, got -1"),
        ({"best": -2}, r"best: must be 0 \(none\) or more, got -2"),
    ],
)
def test_a_retention_that_cannot_be_meant_is_refused(fields, complaint):
    with pytest.raises(ValueError, match=complaint):
        Retention(**fields)


def file_of(*, hours_ago: float, rank: int = 0) -> str:
    return f"{attempt_name('0a1b', now=NOW - datetime.timedelta(hours=hours_ago))}-{rank}.safetensors"


@pytest.mark.parametrize(
    ("names", "is_swept"),
    [
        ([file_of(hours_ago=25), file_of(hours_ago=24.1, rank=1)], True),
        ([file_of(hours_ago=25), file_of(hours_ago=23, rank=1)], False),
        ([file_of(hours_ago=0)], False),
        ([file_of(hours_ago=25), "manifest.damaged-0123.json"], True),
        ([file_of(hours_ago=1), "manifest.damaged-0123.json"], False),
        (["aa-0.safetensors"], False),
    ],
    ids=["old", "half of it young", "in flight", "old and damaged", "damaged just now", "of unknown age"],
)
def test_files_without_a_manifest_go_after_a_day(names, is_swept):
    assert orphans([(20, name) for name in names], newest=10, now=NOW) == [20] * is_swept
    assert orphans([(20, name) for name in [*names, MANIFEST]], newest=10, now=NOW) == []


def test_what_an_earlier_attempt_left_before_the_newest_checkpoint_goes_at_once():
    assert orphans([(10, file_of(hours_ago=0)), (20, MANIFEST)], newest=20, now=NOW) == [10]


def save(uri: str, step: int, **metrics: float) -> Manifest:
    name = f"{attempt_name('0a1b', now=NOW)}-0.safetensors"
    storage.write(storage.join(checkpoint.folder(uri, step), name), b"12345678")
    digest = "any: only sizes are looked at"
    fragments = [("w", "master", 0, 2, 0, 0)]
    manifest = Manifest(step, "run", {"w": (2,)}, [File(name, 8, digest)], fragments, 1, 1, f"a{step}", metrics=metrics)
    return checkpoint.publish(uri, manifest)


def test_a_keeper_removes_what_is_superfluous_and_reads_the_metrics_it_has_not_seen(tmp_path):
    uri = str(tmp_path)
    for step, loss in LOSSES.items():
        newest = save(uri, step, loss=loss)
    assert Keeper(uri, Retention(last=1, best=1)).tidy(newest, now=NOW) == [10, 30, 40]
    assert checkpoint.steps(uri) == [20, 50]
    assert {name.partition("/")[0] for name in storage.listing(uri)} == {"step-00000020", "step-00000050"}


def test_one_whose_manifest_is_damaged_is_not_among_the_best(tmp_path):
    uri = str(tmp_path)
    save(uri, 10, loss=1.0)
    save(uri, 20, loss=2.0)
    storage.write(checkpoint.manifest_at(uri, 10), b"{")
    assert Keeper(uri, Retention(last=1, best=1)).tidy(save(uri, 30, loss=3.0), now=NOW) == [10]


def test_orphans_are_swept_with_the_rest(tmp_path):
    uri = str(tmp_path)
    for step, hours_ago in ((5, 0), (40, 30), (50, 1)):
        storage.write(storage.join(checkpoint.folder(uri, step), file_of(hours_ago=hours_ago)), b"")
    assert Keeper(uri, Retention()).tidy(save(uri, 20), now=NOW) == [5, 40]
    assert {name.partition("/")[0] for name in storage.listing(uri)} == {"step-00000020", "step-00000050"}


class Killed(BaseException):
    pass


@pytest.mark.parametrize("removals", range(1, 4))
def test_killed_while_removing_no_half_one_counts(tmp_path, monkeypatch, removals):
    uri, left = str(tmp_path), [removals]
    for step in (1, 2, 3):
        newest = save(uri, step)

    def counting(function):
        def removing(place):
            if not left[0]:
                raise Killed
            left[0] -= 1
            function(place)

        return removing

    for word in ("remove", "remove_tree"):
        monkeypatch.setattr(storage, word, counting(getattr(storage, word)))
    with pytest.raises(Killed):
        Keeper(uri, Retention(last=1)).tidy(newest, now=NOW)
    for step in checkpoint.steps(uri):
        manifest = checkpoint.read_manifest(uri, step)
        for file in manifest.files:
            checkpoint.check(storage.join(checkpoint.folder(uri, step), file.name), file, is_read=False)
    assert 3 in checkpoint.steps(uri)
