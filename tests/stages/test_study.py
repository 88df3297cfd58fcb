"""A study from pre-trainings and results to figures and tables; and what it refuses."""

import csv
import dataclasses
import json
import subprocess
import sys

import pytest

from pipeline import record, storage
from pipeline.config import encode
from pipeline.data.view import EvalView, TrainView
from pipeline.evals import compare
from pipeline.evals.protocol import Fewshot
from pipeline.models.variant import vit
from pipeline.stage import Artifact
from pipeline.stages.portion import Portion, portion
from pipeline.stages.pretrain import Pretrain, pretrain
from pipeline.stages.study import Study, study, variant_name
from pipeline.stages.transfer import Transfer, transfer
from pipeline.train.optim import Optim
from tests.fakes import InProcessCluster, NullTrack
from tests.gang import gang
from tests.stages.conftest import MODEL, PX

TRAINING = Pretrain(
    MODEL, TrainView(PX, crop="none"), Optim(3e-3), steps=4, global_batch=16, precision="fp32", lanes=4, window=16
)
FEWSHOT = Transfer("fractals", EvalView(PX), fewshot=Fewshot(shots=(1, 5), seeds=(0, 1)), test_split="val")


def finished(stage, run, config, out, *, cluster, **needs) -> Artifact:
    """What a runner makes of a stage: its result has been through JSON, and a record stands beside it."""
    result = json.loads(json.dumps(run(config, out=str(out), cluster=cluster, track=NullTrack(), **needs)))
    built_from = {name: need.id for name, need in needs.items()}
    record.write(str(out), record.Record(f"build of {stage}", stage, {}, built_from, encode(config), "", result))
    return Artifact(f"build of {stage}", stage, str(out), result)


@pytest.fixture(scope="module")
def needs(shards, tmp_path_factory):
    """A model on two portions of the fractals, with its few-shot accuracy on the rest of them."""
    root, machines, made = tmp_path_factory.mktemp("study"), InProcessCluster(), {}
    for name, share in (("third", 1 / 3), ("whole", 1.0)):
        part = finished(f"portion/{name}", portion, Portion(share), root / name, cluster=machines, shards=shards)
        with gang(1, folder=root) as cluster:
            out = root / f"pretrain-{name}"
            trained = finished(f"pretrain/{name}", pretrain, TRAINING, out, cluster=cluster, shards=part)
        out = root / f"transfer-{name}"
        found = finished(f"transfer/{name}", transfer, FEWSHOT, out, cluster=machines, weights=trained, shards=shards)
        made |= {f"shards_{name}": part, f"weights_{name}": trained, f"found_{name}": found}
    return made


CONFIG = Study("A tiny model", models=("tiny",), data=("33 %", "100 %"))


def run(out, needs, config=CONFIG, *, track=None):
    return study(config, out=str(out), cluster=InProcessCluster(), track=track or NullTrack(), **needs)


def test_a_study_of_real_pre_trainings_ends_in_figures_and_tables(tmp_path, needs):
    track = NullTrack()
    result = run(tmp_path, needs, track=track)
    files = {f"{name}.{ending}" for name in ("samples", "data") for ending in ("png", "svg")}
    files |= {"study.csv", "study.json", "study.md"}
    assert set(storage.listing(str(tmp_path))) == files == set(track.told_artifacts)
    assert all(track.told_artifacts[name] == storage.read(storage.join(str(tmp_path), name)) for name in files)
    assert [figure["name"] for figure in result["figures"]] == ["samples", "data"]
    assert (result["points"], json.loads(json.dumps(result))) == (4, result)
    assert "rows" not in result, "these are measured elsewhere"
    assert result["headline"] in track.told_notes[0]


def test_every_own_point_knows_its_samples_epochs_and_compute(tmp_path, needs):
    told = run(tmp_path, needs)
    own = [r for r in csv.DictReader(storage.read(told["table"]).decode().splitlines()) if r["source"] == "own"]
    assert [(r["data"], r["samples"], r["protocol"]) for r in own] == [
        (data, samples, protocol)
        for data, samples in (("33 %", "32"), ("100 %", "96"))
        for protocol in ("1-shot", "5-shot")
    ]
    flops = needs["weights_whole"].result["train_flops"]
    assert {float(r["exaflops"]) for r in own} == {flops / 1e18}
    assert [float(r["epochs"]) for r in own] == pytest.approx([2.0, 2.0, 2 / 3, 2 / 3])
    mean = needs["found_whole"].result["rows"][1]["mean"]
    assert float(own[-1]["mean"]) == pytest.approx(mean)


def test_the_same_results_give_the_same_bytes(tmp_path, needs):
    first, again = NullTrack(), NullTrack()
    run(tmp_path / "first", needs, track=first)
    run(tmp_path / "again", needs, track=again)
    assert first.told_artifacts == again.told_artifacts


def test_compute_is_drawn_of_fine_tuning_where_there_is_some(tmp_path, needs):
    digest = needs["weights_whole"].result["digest"]
    row = compare.row(
        task="imagenet1k",
        protocol="finetune",
        metric="top1",
        values=[0.7],
        seeds=[0],
        init="pretrained",
        checkpoint="w",
        checkpoint_digest=digest,
    )
    tuned = Artifact("t", "finetune/imagenet1k", str(tmp_path / "t"), {"rows": [row]})
    config = dataclasses.replace(CONFIG, figures=("compute",))
    result = run(tmp_path, {**needs, "tuned": tuned}, config)
    svg = storage.read(result["figures"][0]["svg"]).decode()
    assert "imagenet1k, finetune" in svg
    assert "5-shot" not in svg


def test_few_shot_figures_need_few_shot_results(tmp_path, needs):
    rows = [{**row, "protocol": "linear"} for row in needs["found_whole"].result["rows"][:1]]
    found = dataclasses.replace(needs["found_whole"], result={"rows": rows})
    with pytest.raises(ValueError, match="figures: 'samples' is of few-shot results, and there are none"):
        run(tmp_path, {**needs, "found_whole": found, "found_third": found})


def test_without_names_it_takes_those_of_the_variant_and_of_the_data_set(tmp_path, needs):
    one = {name: need for name, need in needs.items() if "whole" in name}
    told = run(tmp_path, one, Study("A tiny model"))
    (own, *_) = csv.DictReader(storage.read(told["table"]).decode().splitlines())
    assert (own["model"], own["data"]) == ("32 x 2/4", "fractals-4")


@pytest.mark.parametrize("name", ["Ti/16", "B/32", "H/14"])
def test_a_variant_is_called_by_its_name(name):
    assert variant_name(vit(name, image_px=224, num_classes=10, pool="gap", dropout=0.1)) == name


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"data": ()}, "data: fractals-4, fractals-4 are to name 2: fractals-4, fractals-4; one word for each"),
        ({"data": ("33 %",)}, "data: 33 % are to name 2"),
        ({"models": ("S", "B")}, "models: S, B are to name 1: 32 x 2/4; one word for each, in this order"),
    ],
)
def test_names_that_do_not_fit_are_refused(tmp_path, needs, fields, message):
    with pytest.raises(ValueError, match=message):
        run(tmp_path, needs, dataclasses.replace(CONFIG, **fields))


def test_the_shards_of_a_pre_training_have_to_be_needs(tmp_path, needs):
    without = {name: need for name, need in needs.items() if name != "shards_whole"}
    with pytest.raises(ValueError, match="study: what pretrain/whole was trained on is none of shards_third, weights_"):
        run(tmp_path, without)


def test_of_a_mixture_the_samples_of_all_of_it_count(tmp_path, needs):
    found = record.read(needs["weights_whole"].uri)
    assert found is not None
    mixed = {"mixture": [{"name": "a", "weight": 1.0}, {"name": "b", "weight": 1.0}]}
    ids = {"a": needs["shards_third"].id, "b": needs["shards_whole"].id}
    uri = str(tmp_path / "mixed")
    record.write(uri, dataclasses.replace(found, config={**found.config, **mixed}, built_from=ids))
    weights = dataclasses.replace(needs["weights_whole"], uri=uri)
    told = run(tmp_path, {**needs, "weights_whole": weights})
    own = [r for r in csv.DictReader(storage.read(told["table"]).decode().splitlines()) if r["source"] == "own"]
    assert [r["samples"] for r in own] == ["32", "32", "128", "128"]


def test_a_study_of_nothing_measured_is_refused(tmp_path, needs):
    only = {name: need for name, need in needs.items() if not name.startswith("found")}
    with pytest.raises(ValueError, match=r"study: none of .* has rows; give it a finetune or transfer"):
        run(tmp_path, only)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"title": " "}, "title: must not be empty"),
        ({"models": ("S", " ")}, "models: must be different words"),
        ({"figures": ()}, "figures: must be one or more of 'samples', 'data', 'compute'"),
        ({"figures": ("data", "data")}, "figures: must be different words"),
    ],
)
def test_what_cannot_be_meant_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **fields)


def test_the_config_is_read_without_loading_matplotlib():
    probe = "import sys, pipeline.stages.study; print(sorted({'matplotlib', 'torch', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
