"""What the two studies share: how their stages are named and wired, and the toy that both run on. No recipe.

The toy is quickstart's: fractals to pre-train on, handwritten digits to transfer to, on two CPU cores. For a study of
your own copy `study_data.py` or `study_compute.py`, and put your sources, models and values in place of the toy's:

    photographs = Stage("shards/photographs", prepare, Prepare(Folder("/data/photographs")))
    cases = [
        study.trained(Pretrain(model, ...), model=name, data=data, on=part, resources=NODE)
        for data, part in study.portions(photographs, (0.03, 0.1, 0.3, 1.0)).items()
        for name, model in {"S/16": vit("S/16", ...), "B/16": vit("B/16", ...)}.items()
    ]
    measured = study.measured(cases, transfer, Transfer("pets", ...), on=pets, resources=NODE)
    return (study.compared("S/16 and B/16 on our photographs", cases, measured, figures=("samples",)),)

Where a task is named as one of the paper's ("imagenet1k", "cifar100", "pets": see `pipeline.evals.paper`) and wholly
fine-tuned on, the "compute" figure has the paper's points in the same axes as yours.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from configs.quickstart import STROKES
from pipeline.data.view import EvalView, TrainView
from pipeline.datasets.digits import Digits
from pipeline.evals.protocol import Fewshot
from pipeline.models.variant import ViTConfig
from pipeline.stage import Resources, Stage
from pipeline.stages.finetune import Finetune
from pipeline.stages.portion import Portion, portion
from pipeline.stages.prepare import Prepare, prepare
from pipeline.stages.pretrain import Pretrain, pretrain
from pipeline.stages.study import Drawn, Study, study
from pipeline.stages.transfer import Transfer
from pipeline.train.optim import Optim
from pipeline.train.schedule import Schedule


@dataclass(frozen=True)
class Case:
    """A pre-training of a study. `model` and `data` are what figures and tables call them."""

    model: str
    data: str
    name: str
    weights: Stage
    shards: Stage


def portions(whole: Stage, shares: Sequence[float]) -> dict[str, Stage]:
    """Nested subsets of the shards of a stage, by what figures call them: "10 %" and so on."""
    names = {share: f"{100 * share:g}" for share in shares}
    return {
        f"{name} %": Stage(f"portion/{_slug(name)}-percent", portion, Portion(share), {"shards": whole})
        for share, name in names.items()
    }


def trained(
    config: Pretrain, *, model: str, data: str, on: Stage, name: str = "", resources: Resources = Resources(workers=1)
) -> Case:
    """A model pre-trained on the shards `on`. Its stages are named after model and data, or `name`."""
    name = name or _slug(f"{model}-{data}")
    return Case(model, data, name, Stage(f"pretrain/{name}", pretrain, config, {"shards": on}, resources), on)


def measured(
    cases: Sequence[Case],
    run: Callable[..., Mapping[str, Any]],
    config: Transfer | Finetune,
    *,
    on: Stage,
    resources: Resources = Resources(),
) -> list[Stage]:
    """One and the same measurement, `transfer` or `finetune`, of every case on the shards `on`."""
    return [
        Stage(
            f"{run.__name__}/{config.task}-{case.name}", run, config, {"weights": case.weights, "shards": on}, resources
        )
        for case in cases
    ]


def compared(title: str, cases: Sequence[Case], found: Sequence[Stage], *, figures: tuple[Drawn, ...]) -> Stage:
    """The study of these pre-trainings, given what was measured of them."""
    models, data = (tuple(dict.fromkeys(getattr(case, field) for case in cases)) for field in ("model", "data"))
    stages = [stage for case in cases for stage in (case.weights, case.shards)] + list(found)
    config = Study(title, models, data, figures)
    return Stage("study", study, config, {re.sub(r"\W", "_", stage.name): stage for stage in stages})


def _slug(name: str) -> str:
    return re.sub(r"\W+", "-", name.replace("%", "percent")).strip("-").lower()


# The toy.

FRACTALS = Stage("shards/fractals", prepare, Prepare(STROKES, samples_per_shard=400))
DIGITS = Stage("shards/digits", prepare, Prepare(Digits(image_px=32), samples_per_shard=400))
SAMPLES = STROKES.num_classes * STROKES.per_class
BATCH, PX = 64, 24

MODELS = {
    "small": ViTConfig(
        width=64,
        depth=2,
        heads=2,
        mlp_dim=256,
        patch_px=4,
        image_px=PX,
        num_classes=STROKES.num_classes,
        position="sincos2d",
    ),
    "large": ViTConfig(
        width=128,
        depth=4,
        heads=4,
        mlp_dim=512,
        patch_px=4,
        image_px=PX,
        num_classes=STROKES.num_classes,
        position="sincos2d",
    ),
}

FEWSHOT = Transfer("digits", EvalView(PX), fewshot=Fewshot(shots=(5,), seeds=(0, 1, 2, 3, 4)))
TUNED = Finetune(
    "digits",
    view=TrainView(PX, crop="affine", flip=False, rotate_degrees=10, scale=(0.9, 1.1), shift=0.1),
    eval_view=EvalView(PX),
    steps=40,
    batch=32,
    lrs=(0.03,),
    warmup_steps=5,
    per_class=(10,),
    precision="fp32",
)


def pretraining(model: ViTConfig, *, steps: int) -> Pretrain:
    """As in quickstart, for so many steps of `BATCH` images."""
    return Pretrain(
        model,
        TrainView(PX, crop="affine", flip=False, rotate_degrees=30, scale=(0.7, 1.2), shift=0.15),
        Optim(2e-3, weight_decay=0.05, beta2=0.99, schedule=Schedule("cosine", warmup_steps=min(50, steps // 4))),
        steps=steps,
        global_batch=BATCH,
        precision="fp32",
        checkpoint_every=200,
    )
