"""Subsets of a data set for a study: exact, nested, of the images as they are, and without a copy of any."""

import numpy as np
import pytest

from pipeline import storage
from pipeline.data import inspect
from pipeline.data.dataset import read_manifest
from pipeline.data.view import EvalView
from pipeline.data.whole import read_split
from pipeline.stage import Artifact
from pipeline.stages import portion as room
from pipeline.stages.portion import Portion, portion
from tests.data.pictures import data_set
from tests.fakes import InProcessCluster, NullTrack

VIEW = EvalView(16)


@pytest.fixture
def whole(tmp_path) -> Artifact:
    data_set(tmp_path / "whole", sizes=(9, 11, 10))
    return Artifact("build", "shards", str(tmp_path / "whole"), {})


def run(out, whole, config):
    return portion(config, out=str(out), cluster=InProcessCluster(), track=NullTrack(), shards=whole)


def images_of(uri, split="train"):
    return {image.tobytes() for image in read_split(str(uri), split=split, view=VIEW)[0]}


def test_every_share_has_exactly_its_samples_and_is_part_of_the_larger(tmp_path, whole):
    smaller = set()
    for share, samples in ((0.03, 1), (0.1, 3), (0.3, 9), (0.5, 15), (1.0, 30)):
        told = run(tmp_path / f"{samples}", whole, Portion(share))
        assert (told["samples"], told["of"]) == (samples, 30)
        larger = images_of(tmp_path / f"{samples}")
        assert len(larger) == samples
        assert smaller <= larger
        smaller = larger
    assert smaller == images_of(whole.uri)


def test_a_number_of_samples_is_the_same_as_its_share(tmp_path, whole):
    run(tmp_path / "share", whole, Portion(0.3))
    run(tmp_path / "samples", whole, Portion(samples=9))
    assert images_of(tmp_path / "share") == images_of(tmp_path / "samples")


def test_no_tar_is_copied_and_the_data_set_is_sound(tmp_path, whole):
    out = tmp_path / "out"
    told = run(out, whole, Portion(0.5))
    manifest = read_manifest(str(out))
    assert told["digest"] == manifest.digest != read_manifest(whole.uri).digest
    assert not list(out.rglob("*.tar"))
    labels = read_split(str(out), split="train", view=VIEW)[1]
    assert manifest.class_counts["train"] == tuple(np.bincount(labels, minlength=5).tolist())
    assert list(inspect.verify(str(out), split="train", jobs=1, on_shard=lambda shard: None)) == []


def test_other_splits_stay_whole_and_classes_keep_their_labels(tmp_path, shards):
    told = run(tmp_path / "out", shards, Portion(samples=2))
    manifest = read_manifest(str(tmp_path / "out"))
    assert (told["samples"], manifest.num_samples("train"), manifest.num_samples("val")) == (2, 2, 80)
    assert manifest.classes == read_manifest(shards.uri).classes
    assert images_of(tmp_path / "out", "val") == images_of(shards.uri, "val")


def test_how_many_samples_a_task_looks_at_changes_nothing(tmp_path, whole, monkeypatch):
    told = run(tmp_path / "once", whole, Portion(0.4))
    monkeypatch.setattr(room, "_TOGETHER", 10)
    assert run(tmp_path / "parts", whole, Portion(0.4)) == told


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "share, samples: one of them says how much, got None and None"),
        ({"share": 0.1, "samples": 3}, "share, samples: one of them says how much, got 0.1 and 3"),
        ({"share": 1.5}, "share: must be above 0 and at most 1, got 1.5"),
        ({"samples": 0}, "samples: must be at least 1, got 0"),
        ({"share": 0.1, "seed": -1}, "seed: must not be negative, got -1"),
    ],
)
def test_what_cannot_be_meant_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Portion(**fields)


def test_more_samples_than_there_are_are_refused_before_anything_is_written(tmp_path, whole):
    with pytest.raises(ValueError, match="samples: 31 are asked for, train has 30; take fewer"):
        run(tmp_path / "out", whole, Portion(samples=31))
    assert not (tmp_path / "out").exists()


def test_a_portion_of_a_portion_is_a_data_set_as_any_other(tmp_path, whole):
    half = Artifact("half", "portion", str(tmp_path / "half"), run(tmp_path / "half", whole, Portion(0.5)))
    told = run(tmp_path / "less", half, Portion(0.2))
    assert (told["samples"], told["of"]) == (3, 15)
    assert images_of(tmp_path / "less") < images_of(half.uri)


def test_in_a_bucket_it_is_the_same(tmp_path, whole, s3_environment):
    there = f"{s3_environment.uri}/{tmp_path.name}"
    for name in storage.listing(whole.uri):
        storage.write(storage.join(there, "whole", name), storage.read(storage.join(whole.uri, name)))
    told = run(storage.join(there, "out"), Artifact("b", "s", storage.join(there, "whole"), {}), Portion(0.3))
    assert told["samples"] == run(tmp_path / "out", whole, Portion(0.3))["samples"] == 9
    assert images_of(storage.join(there, "out")) == images_of(tmp_path / "out")
    assert not [name for name in storage.listing(storage.join(there, "out")) if name.endswith(".tar")]
