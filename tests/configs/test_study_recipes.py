"""The studies compare what they say: one thing differs, the rest is the same."""

import json

import pytest

from configs import study
from launch import recipe
from pipeline.config import encode
from pipeline.data.view import EvalView, TrainView
from pipeline.datasets.folder import Folder
from pipeline.evals.protocol import Fewshot
from pipeline.models.variant import vit
from pipeline.stage import Resources, Stage, in_order
from pipeline.stages.prepare import Prepare, prepare
from pipeline.stages.pretrain import Pretrain
from pipeline.stages.transfer import Transfer, transfer
from pipeline.train.optim import Optim

STUDIES = ("study_data", "study_compute")


def stages(name: str) -> dict[str, Stage]:
    return {stage.name: stage for stage in in_order(recipe.load(name).stages)}


def trained(name: str) -> list[Stage]:
    """The pre-trainings of the study, in the order of its needs."""
    return [stage for stage in stages(name)["study"].needs.values() if stage.run.__name__ == "pretrain"]


@pytest.mark.parametrize("name", STUDIES)
def test_the_study_has_the_shards_of_every_pre_training_and_a_name_for_each(name):
    last = stages(name)["study"]
    read = {stage.needs["shards"].name for stage in trained(name)}
    assert read <= {stage.name for stage in last.needs.values()}
    assert len(last.config.data) == len(read)
    assert len(last.config.models) == len(dict.fromkeys(stage.config.model for stage in trained(name)))


@pytest.mark.parametrize("name", STUDIES)
def test_every_pre_training_is_measured_in_the_same_ways(name):
    needs = stages(name)["study"].needs.values()
    found = {}
    for stage in needs:
        if stage.run.__name__ in ("transfer", "finetune"):
            found.setdefault(stage.needs["weights"].name, []).append([encode(stage.config), stage.needs["shards"].name])
    assert sorted(found) == sorted(stage.name for stage in trained(name))
    assert len({json.dumps(ways) for ways in found.values()}) == 1


def test_the_data_study_differs_in_model_and_data_alone():
    found = trained("study_data")
    assert [(stage.config.model.width, stage.needs["shards"].config.share) for stage in found] == [
        (width, share) for share in (0.1, 0.3, 1.0) for width in (32, 64)
    ]
    for model in {stage.config.model for stage in found}:
        assert len({json.dumps(encode(stage.config)) for stage in found if stage.config.model == model}) == 1
    portions = [stage.needs["shards"] for stage in found]
    assert len({portion.config.seed for portion in portions}) == 1, "else they would not be nested"
    assert {portion.needs["shards"].name for portion in portions} == {"shards/fractals"}
    sources = [stages("study_data")[name].config.source for name in ("shards/fractals", "shards/unseen")]
    assert len({source.seed for source in sources}) == 2, "else the classes would have been pre-trained on"
    config = stages("study_data")["study"].config
    assert (config.models, config.data) == (("tiny", "small"), ("10 %", "30 %", "100 %"))


def test_the_compute_study_differs_in_model_and_epochs_alone():
    found = trained("study_compute")
    samples = study.STROKES.splits()["train"]
    epochs = [(s.config.model.width, s.config.steps * s.config.global_batch / samples) for s in found]
    assert epochs == [(width, number) for width in (64, 128) for number in (1, 3, 9)]
    assert {stage.needs["shards"].name for stage in found} == {"shards/fractals"}
    assert {stage.config.optim.schedule.shape for stage in found} == {"cosine"}


def test_a_study_of_one_s_own_is_wired_by_the_same_functions():
    photographs = Stage("shards/photographs", prepare, Prepare(Folder("/data/photographs")))
    pets = Stage("shards/pets", prepare, Prepare(Folder("/data/pets")))
    node = Resources(workers=8, gpus_per_worker=1)
    cases = [
        study.trained(
            Pretrain(
                vit(model, image_px=224, num_classes=1000), TrainView(224), Optim(1e-3), steps=100, global_batch=64
            ),
            model=model,
            data=data,
            on=part,
            resources=node,
        )
        for data, part in study.portions(photographs, (0.005, 1.0)).items()
        for model in ("S/16", "B/16")
    ]
    found = study.measured(cases, transfer, Transfer("pets", EvalView(224), fewshot=Fewshot()), on=pets)
    whole = study.compared("S/16 and B/16 on our photographs", cases, found, figures=("samples",))
    names = [stage.name for stage in in_order([whole])]
    assert {"portion/0-5-percent", "pretrain/s-16-0-5-percent", "transfer/pets-b-16-100-percent"} <= set(names)
    assert len(names) == 2 + 2 + 4 + 4 + 1
    assert {case.weights.resources for case in cases} == {node}
