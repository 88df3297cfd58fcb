"""What is told of a test split beside top-1, from the answers of two seeds."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from pipeline.data import shards
from pipeline.data.dataset import Manifest, write_manifest
from pipeline.datasets.fractals import Fractals
from pipeline.datasets.source import Sample
from pipeline.evals import compare
from pipeline.evals.classify import count
from pipeline.evals.detail import Detail, asked
from pipeline.evals.judge import judge
from pipeline.evals.real import Real
from tests.fakes import NullTrack
from tests.stages.test_finetune import CONFIG

CLASSES = tuple(f"class {number}" for number in range(6))
LABELS = np.array([0, 1, 2, 3, 4, 5, 0])
LOGITS = [np.random.default_rng(seed).normal(size=(7, 6)) for seed in (0, 1)]


def found(logits, *, batch=3):
    """As a trial finds it, its last batch filled up with padding."""
    logits, labels = np.concatenate([logits, logits[:2]]), np.concatenate([LABELS, [-1, -1]])
    parts = [slice(start, start + batch) for start in range(0, 9, batch)]
    outputs = ((torch.from_numpy(logits[part]), torch.from_numpy(labels[part])) for part in parts)
    return json.loads(json.dumps(judge(outputs, num_classes=6).found(whole=True)))


RESULTS = [found(logits) for logits in LOGITS]
DIVERGED = [RESULTS[0], found(np.full((7, 6), np.nan))]


def row(results=RESULTS):
    return compare.row(
        task="pets",
        protocol="finetune",
        metric="top1",
        values=[one["top1"] for one in results],
        seeds=[0, 1],
        init="pretrained",
        checkpoint="weights",
        checkpoint_digest="d1",
        details={"lr": 0.1},
    )


def test_answers_are_those_of_the_images_whatever_the_batches_and_padding_is_left_out():
    for logits, one in zip(LOGITS, RESULTS, strict=True):
        assert one["predicted"] == logits.argmax(axis=1).tolist()
        assert one == found(logits, batch=9)
        assert one["images"] == 7


def test_each_metric_asked_for_is_a_row_of_its_own_with_a_value_per_seed():
    detail = Detail(lambda: LABELS, CLASSES, ("top5", "mean_per_class", "loss", "ece"))
    rows = {one["metric"]: one for one in detail.rows(row(), results=RESULTS)}
    assert list(rows) == ["top5", "mean_per_class", "loss", "ece"]
    for metric, one in rows.items():
        assert one["values"] == [getattr(count(logits, LABELS), metric) for logits in LOGITS]
        assert (one["task"], one["protocol"], one["seeds"], one["checkpoint_digest"]) == (
            "pets",
            "finetune",
            [0, 1],
            "d1",
        )
        assert "details" not in one


def test_real_is_one_of_them():
    real = Real((frozenset(), frozenset({0, 3}), *(frozenset({number}) for number in range(6)), frozenset({5})))
    numbers = (2, 4, 5, 6, 7, 8, 1)  # the last one has no answer
    (one,) = Detail(lambda: LABELS, CLASSES, ("real",), real, numbers).rows(row(), results=RESULTS)
    for logits, value in zip(LOGITS, one["values"], strict=True):
        answers = logits[:6].argmax(axis=1)
        right = [answer in real.answers[number - 1] for answer, number in zip(answers, numbers[:6], strict=True)]
        assert value == sum(right) / 6
    assert one["metric"] == "real"
    assert compare.is_share("real")


def test_real_finds_the_number_of_an_image_in_the_name_it_had(tmp_path):
    picture = next(iter(Fractals(1, per_class=1, image_px=8).samples("train", [0])))
    names = [f"val/n0000000{label}/ILSVRC2012_val_{number:08d}.JPEG" for label, number in ((0, 3), (1, 1), (2, 2))]
    samples = [Sample(name, picture.image, "png", label=label) for label, name in enumerate(names)]
    shard = shards.write_shard(str(tmp_path), name="val/000000.tar", samples=enumerate(samples))
    classes = tuple(f"n{label:08d}" for label in range(1000))
    manifest = Manifest("imagenet1k", classes, {"val": (shard,)}, {"val": (1, 1, 1, *[0] * 997)}, {}, 0)
    write_manifest(str(tmp_path), manifest)
    answers = tmp_path / "real.json"
    answers.write_text(json.dumps([[1], [], [0, 7], *[[0]] * 49_997]))
    detail = Detail.of(str(tmp_path), split="val", manifest=manifest, metrics=None, answers=str(answers))
    assert detail.numbers == (3, 1, 2)
    results = [{"diverged": False, "predicted": predicted} for predicted in ([7, 5, 2], [0, 1, 0])]
    assert detail.rows(row(), results=results)[0]["values"] == [1 / 2, 1.0]  # of images 3 and 1


def test_of_a_seed_that_diverged_shares_are_nothing_and_there_is_no_loss():
    detail = Detail(lambda: LABELS, CLASSES, ("top5", "loss", "ece"))
    (one,) = detail.rows(row(DIVERGED), results=DIVERGED)
    assert (one["metric"], one["values"][1]) == ("top5", 0.0)
    assert detail.tables(DIVERGED, seeds=[0, 1]) == {}


def test_results_without_answers_have_no_tables():
    old = [{"top1": 0.5, "loss": 1.0, "diverged": False, "images": 7}]
    assert Detail(lambda: LABELS, CLASSES).tables(old, seeds=[0]) == {}
    assert Detail(lambda: LABELS, CLASSES).rows(row(), results=old) == []


def test_tables_are_written_beside_the_output_and_tracked_for_mlflow(tmp_path):
    track = NullTrack()
    Detail(lambda: LABELS, CLASSES).publish(row(), results=RESULTS, out=str(tmp_path), track=track)
    names = [f"finetune-{name}" for name in ("per-class", "confusion", "calibration")]
    assert sorted(file.name for file in (tmp_path / "tables").iterdir()) == sorted(f"{name}.csv" for name in names)
    assert set(track.told_artifacts) == {f"tables/{name}.{kind}" for name in names for kind in ("csv", "json")}
    assert (tmp_path / "tables" / f"{names[0]}.csv").read_bytes() == track.told_artifacts[f"tables/{names[0]}.csv"]
    counted = json.loads(track.told_artifacts["tables/finetune-confusion.json"])
    assert sum(cell[2] for cell in counted["data"]) == 14
    right = sum(cell[2] for cell in counted["data"] if cell[0] == cell[1])
    assert right == round(7 * sum(row()["values"]))


def test_top1_is_told_last_and_so_is_the_headline_of_its_protocol():
    track, rows = NullTrack(), [row(), *Detail(lambda: LABELS, CLASSES, ("ece",)).rows(row(), results=RESULTS)]
    Detail.tell(rows, track=track)
    headlines = [values["transfer/pets_finetune"] for _, values in track.told_metrics]
    assert headlines == [rows[1]["mean"], rows[0]["mean"]]
    assert len(track.children) == 2


def test_figures_that_nobody_asked_for_are_no_part_of_what_trials_are():
    assert {"metrics", "real"} & set(asked(CONFIG)) == set()
    assert asked(dataclasses.replace(CONFIG, metrics=("ece",)))["metrics"] == ["ece"]
    assert asked(CONFIG)["clip"] == 1.0
    assert asked(dataclasses.replace(CONFIG, clip=None))["clip"] is None


@pytest.mark.parametrize("batch", [1, 2, 4, 5, 7, 9])
def test_uneven_last_batches_change_no_figure(batch):
    assert found(LOGITS[0], batch=batch) == RESULTS[0]
