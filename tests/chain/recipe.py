"""The whole chain, small: a ViT learns fractals and is transferred to five data sets, beside one with random weights.

TESSERA_CHAIN_DATA is the folder in which `formats.write_all` has written them.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from pipeline.data.view import EvalView, TrainView
from pipeline.datasets.choice import Choice
from pipeline.datasets.cifar import Cifar
from pipeline.datasets.flowers import Flowers
from pipeline.datasets.fractals import Fractals
from pipeline.datasets.idx import Idx
from pipeline.datasets.pets import Pets
from pipeline.datasets.vtab import Vtab
from pipeline.evals.protocol import Fewshot, Linear
from pipeline.models.origin import Init
from pipeline.models.variant import ViTConfig
from pipeline.stage import Resources, Stage
from pipeline.stages.finetune import Finetune, finetune
from pipeline.stages.prepare import Prepare, prepare
from pipeline.stages.pretrain import Pretrain, pretrain
from pipeline.stages.report import Report, report
from pipeline.stages.transfer import Transfer, transfer
from pipeline.train.optim import Optim
from pipeline.train.schedule import Schedule
from tests.chain import formats

DATA = "TESSERA_CHAIN_DATA"
CLASSES, IMAGE_PX = 16, 16
INITS: tuple[Init, ...] = ("pretrained", "random")
LRS, SEEDS = (0.01, 0.03), (0, 1, 2)
MODEL = ViTConfig(*(48, 2, 3, 96), patch_px=4, image_px=IMAGE_PX, num_classes=CLASSES, position="sincos2d", pool="gap")


@dataclass(frozen=True)
class Task:
    source: Choice
    train_split: str = "train"


def tasks(data: Path) -> dict[str, Task]:
    """By name, the data sets that are transferred to; the results are of the split "test" of each."""
    return {
        "digits": Task(Idx(str(data / "digits"))),
        "cifar10": Task(Cifar(str(data / "cifar10"))),
        "pets": Task(Pets(str(data / "pets"))),
        "flowers102": Task(Flowers(str(data / "flowers102"), joined=True)),
        "vtab/svhn": Task(Vtab("svhn", str(data / "tfds")), train_split="train800val200"),
    }


def stages() -> tuple[Stage, ...]:
    formats.allow_few()
    fractals = Stage(
        "shards/fractals",
        prepare,
        Prepare(Fractals(CLASSES, per_class=60, image_px=20, val_per_class=0), samples_per_shard=240),
    )
    weights = Stage(
        "pretrain",
        pretrain,
        Pretrain(
            MODEL,
            TrainView(IMAGE_PX, crop="affine", rotate_degrees=20, scale=(0.8, 1.2), shift=0.1),
            Optim(2e-3, weight_decay=0.05, beta2=0.99, schedule=Schedule("cosine", warmup_steps=10)),
            steps=150,
            global_batch=64,
            precision="fp32",
            zero_stage=2,
            checkpoint_every=50,
            log_every=10,
        ),
        needs={"shards": fractals},
        resources=Resources(workers=1),
    )
    results = {}
    for name, task in tasks(Path(os.environ[DATA])).items():
        key = name.replace("/", "-")
        needs = {"weights": weights, "shards": Stage(f"shards/{key}", prepare, Prepare(task.source))}
        for init in INITS:
            for run, config in ((transfer, _transfer(name, task, init)), (finetune, _finetune(name, task, init))):
                stage = Stage(f"{run.__name__}/{key}-{init}", run, config, needs)
                results[stage.name.replace("/", "_").replace("-", "_")] = stage
    return (Stage("report", report, Report("Fractals to five data sets"), needs={"pretrain": weights, **results}),)


def _transfer(name: str, task: Task, init: Init) -> Transfer:
    return Transfer(
        name,
        EvalView(IMAGE_PX),
        init=init,
        fewshot=Fewshot(shots=(1, 5), seeds=SEEDS),
        linear=Linear(l2=(1e-2, 1e-1), tolerance=1e-4),
        train_split=task.train_split,
    )


def _finetune(name: str, task: Task, init: Init) -> Finetune:
    """VTAB's tasks all have one learning rate (arXiv 2010.11929, Table 4)."""
    return Finetune(
        name,
        view=TrainView(IMAGE_PX, crop="affine", flip=False, rotate_degrees=10),
        eval_view=EvalView(IMAGE_PX),
        steps=20,
        batch=32,
        lrs=LRS[:1] if name.startswith("vtab/") else LRS,
        warmup_steps=2,
        init=init,
        held_out=0.2,
        seeds=SEEDS,
        precision="fp32",
        train_split=task.train_split,
    )
