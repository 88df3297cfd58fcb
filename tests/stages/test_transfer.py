"""Frozen features: what the evaluators are given, and what a killed stage does not do again."""

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import config as configs
from pipeline.data.dataset import read_manifest
from pipeline.data.view import EvalView
from pipeline.data.whole import read_split
from pipeline.evals import compare, fewshot
from pipeline.evals.features import Features
from pipeline.evals.protocol import Fewshot, Knn, Linear
from pipeline.models import weights as files
from pipeline.models.vit import ViT
from pipeline.stage import Resources
from pipeline.stages.transfer import Transfer, transfer
from tests.fakes import InProcessCluster, NullTrack
from tests.stages.conftest import MODEL, PX, changed

CONFIG = Transfer(
    "fractals",
    EvalView(PX),
    fewshot=Fewshot(shots=(1, 5)),
    knn=Knn(neighbours=(5, 20)),
    linear=Linear(l2=(1e-3, 1e-1)),
    test_split="val",
    slice_images=50,
)


class Machines(InProcessCluster):
    """Runs at most so many tasks before it is killed, and counts them by title."""

    def __init__(self, most: int = 1000) -> None:
        super().__init__(Resources(workers=None))
        self.most, self.ran = most, []

    def map(self, function, items, *, title, cpus=1, gpus=0):
        for index, result in super().map(function, items, title=title, cpus=cpus, gpus=gpus):
            if len(self.ran) == self.most:
                raise KeyboardInterrupt
            self.ran.append(title)
            yield index, result


def run(config, out, *, weights, shards, cluster=None, track=None):
    return transfer(
        config, out=str(out), cluster=cluster or Machines(), track=track or NullTrack(), weights=weights, shards=shards
    )["rows"]


def features_of(model, shards, *, split):
    """Straight from the model, without the stage."""
    images_BHWC, labels_B, _ = read_split(shards.uri, split=split, view=EvalView(PX))
    with torch.inference_mode():
        images_BCHW = torch.from_numpy(images_BHWC).permute(0, 3, 1, 2) / 127.5 - 1
        features_BD = model.eval().features(images_BCHW).numpy()
    return Features(features_BD, labels_B, read_manifest(shards.uri).classes, split)


def test_every_protocol_has_a_row_under_the_name_that_the_report_knows(tmp_path, weights, shards):
    rows = run(CONFIG, tmp_path, weights=weights, shards=shards)
    assert [row["protocol"] for row in rows] == ["1-shot", "5-shot", "knn-5", "knn-20", "linear"]
    assert [compare.shots(row["protocol"]) for row in rows] == [1, 5, None, None, None]
    assert [row["seeds"] for row in rows] == [[0, 1, 2], [0, 1, 2], [0], [0], [0]]
    assert all(row["checkpoint_digest"] == weights.result["digest"] for row in rows)
    assert str(rows[-1]["details"]["l2"]) in rows[-1]["details"]["grid"]
    json.dumps(rows)


def test_weights_that_know_the_task_beat_random_ones_under_every_protocol(tmp_path, weights, shards):
    rows = run(CONFIG, tmp_path / "pretrained", weights=weights, shards=shards)
    rows += run(dataclasses.replace(CONFIG, init="random"), tmp_path / "random", weights=weights, shards=shards)
    pairs = compare.table(rows)
    assert len(pairs) == 5
    assert all(pair.difference > 0.1 for pair in pairs)


def test_the_features_are_those_of_the_whole_pre_trained_model_with_its_pre_logits(tmp_path, weights, shards):
    rows = run(CONFIG, tmp_path, weights=weights, shards=shards)
    config, state = files.from_bytes(Path(weights.result["weights"]).read_bytes())
    model = ViT(config)
    model.load_state_dict(state)
    assert model.pre_logits is not None
    train, test = (features_of(model, shards, split=split) for split in ("train", "val"))
    found = fewshot.evaluate(CONFIG.fewshot, train=train, test=test)
    assert [row["values"] for row in rows[:2]] == [list(one.values) for one in found.values()]
    file = (tmp_path / "features" / "train-000000050.npy").read_bytes()
    features_ND = np.load(io.BytesIO(file), allow_pickle=False)
    assert features_ND.dtype == np.float32
    np.testing.assert_allclose(features_ND, train.features_ND[50:96], atol=1e-5)


def test_random_weights_are_those_of_the_seed(tmp_path, weights, shards):
    config = dataclasses.replace(CONFIG, init="random", seed=7, knn=None, linear=None)
    rows = run(config, tmp_path, weights=weights, shards=shards)
    model = ViT(MODEL, generator=torch.Generator().manual_seed(7))
    train, test = (features_of(model, shards, split=split) for split in ("train", "val"))
    assert rows[0]["values"] == list(fewshot.evaluate(config.fewshot, train=train, test=test)[1].values)
    assert (rows[0]["init"], rows[0]["checkpoint"]) == ("random", "")


def test_how_the_work_is_cut_changes_no_figure(tmp_path, weights, shards):
    first = run(CONFIG, tmp_path / "first", weights=weights, shards=shards)
    other = dataclasses.replace(CONFIG, slice_images=7, batch=3, decode_threads=2)
    second = run(other, tmp_path / "second", weights=weights, shards=shards)
    assert [row["values"] for row in second] == [row["values"] for row in first]


def test_images_may_be_larger_than_in_pre_training(tmp_path, weights, shards):
    config = dataclasses.replace(CONFIG, view=EvalView(24), knn=None, linear=None)
    assert run(config, tmp_path, weights=weights, shards=shards)[1]["mean"] > 0.4


def test_bf16_gives_nearly_the_same(tmp_path, weights, shards):
    exact = run(CONFIG, tmp_path / "exact", weights=weights, shards=shards)
    half = run(dataclasses.replace(CONFIG, precision="bf16"), tmp_path / "half", weights=weights, shards=shards)
    assert [row["mean"] for row in half] == pytest.approx([row["mean"] for row in exact], abs=0.1)


@pytest.mark.parametrize("after", [0, 1, 4, 6])
def test_a_killed_stage_does_only_what_is_missing_and_finds_the_same(tmp_path, weights, shards, after):
    whole = run(CONFIG, tmp_path / "whole", weights=weights, shards=shards)
    killed, second, third = Machines(most=after), Machines(), Machines()
    with pytest.raises(KeyboardInterrupt):
        run(CONFIG, tmp_path / "out", weights=weights, shards=shards, cluster=killed)
    assert run(CONFIG, tmp_path / "out", weights=weights, shards=shards, cluster=second) == whole
    both = killed.ran + second.ran
    assert (both.count("fractals, pretrained: features"), both.count("fractals, pretrained: evaluators")) == (4, 3)
    assert run(CONFIG, tmp_path / "out", weights=weights, shards=shards, cluster=third) == whole
    assert third.ran == []


def test_rows_are_tracked_as_results(tmp_path, weights, shards):
    track = NullTrack()
    run(CONFIG, tmp_path, weights=weights, shards=shards, track=track)
    assert len(track.children) == 5
    told = [child.told_tags for child in track.children.values()]
    assert {(tags["task"], tags["init"]) for tags in told} == {("fractals", "pretrained")}
    assert track.told_tags["checkpoint_digest"] == weights.result["digest"]
    assert [entry["context"] for entry in track.told_datasets] == ["train", "val"]


def test_of_the_linear_probe_further_metrics_and_tables_are_told(tmp_path, weights, shards):
    track, config = NullTrack(), dataclasses.replace(CONFIG, fewshot=None, knn=None, metrics=("top5", "ece"))
    rows = run(config, tmp_path, weights=weights, shards=shards, track=track)
    assert [(row["protocol"], row["metric"]) for row in rows] == [("linear", name) for name in ("top1", "top5", "ece")]
    assert rows[1]["values"] == [1.0]  # of four classes
    assert "tables/linear-per-class.csv" in track.told_artifacts
    cells = [line.split(",") for line in (tmp_path / "tables" / "linear-confusion.csv").read_text().splitlines()[1:]]
    same = sum(int(images) for label, answered, images, _ in cells if label == answered)
    assert same / 80 == rows[0]["mean"]


def test_a_grid_of_l2_in_few_shot_says_what_it_was_chosen_by(tmp_path, weights, shards):
    config = dataclasses.replace(CONFIG, fewshot=Fewshot(shots=(5,), l2=(1.0, 2.0**10)), knn=None, linear=None)
    (row,) = run(config, tmp_path, weights=weights, shards=shards)
    assert list(row["details"]["grid"]) == list(row["details"]["by_l2"]) == ["1.0", "1024.0"]
    assert row["values"] == row["details"]["by_l2"][str(row["details"]["l2"])]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": ""}, "task: must not be empty"),
        ({"fewshot": None, "knn": None, "linear": None}, "fewshot, knn, linear: none is given"),
        ({"batch": 0}, "batch: must be at least 1, got 0"),
        ({"seed": -1}, "seed: must not be negative, got -1"),
        ({"test_split": "train"}, "test_split: is 'train', what is fitted"),
    ],
)
def test_a_config_that_cannot_be_is_refused_by_the_name_of_its_field(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **change)


def test_a_config_reads_back_and_how_it_is_computed_is_no_part_of_it():
    assert configs.decode(Transfer, configs.encode(CONFIG)) == CONFIG
    other = dataclasses.replace(CONFIG, batch=1, slice_images=1, decode_threads=9)
    assert configs.encode(other, identity=True) == configs.encode(CONFIG, identity=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"view": EvalView(18)}, "view.image_px: 18 is not a multiple of patch_px 4; 16 or 20 would be"),
        ({"test_split": "test"}, "split: fractals-4 has no 'test'; it has"),
        ({"knn": Knn(neighbours=(97,))}, "has 96 samples, but 97 neighbours were asked for"),
        ({"fewshot": Fewshot(shots=(25,))}, "has 24 images, but 25 shots were asked for"),
    ],
)
def test_what_weights_or_shards_do_not_have_is_an_error(tmp_path, weights, shards, change, message):
    with pytest.raises(ValueError, match=message):
        run(dataclasses.replace(CONFIG, **change), tmp_path, weights=weights, shards=shards)


def test_weights_that_have_diverged_are_an_error(tmp_path, weights, shards):
    from tests.stages.conftest import publish

    model = ViT(MODEL, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.norm.weight.fill_(torch.nan)
    with pytest.raises(ValueError, match=r"features that are NaN or infinite, .* the checkpoint has diverged"):
        run(CONFIG, tmp_path / "out", weights=publish(model, folder=tmp_path), shards=shards)


def test_an_artifact_without_weights_is_refused(tmp_path, shards):
    with pytest.raises(ValueError, match="weights: stage 'shards/fractals' returned no weights and no model"):
        run(CONFIG, tmp_path, weights=changed(shards, digest="0"), shards=shards)
