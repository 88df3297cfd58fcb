"""Fractals to digits: every part of the pipeline in minutes, on two CPU cores, with nothing downloaded.

A small ViT learns to tell 48 fractals apart (Kataoka et al., ACCV 2020) at 24 px. Then it is transferred to the
handwritten digits of scikit-learn, frozen at 24 px and fine-tuned at 28 px, beside the same model from random weights.
What to expect is the table in the README.
"""

from pipeline.data.view import EvalView, TrainView
from pipeline.datasets.digits import Digits
from pipeline.datasets.fractals import Fractals
from pipeline.evals.protocol import Fewshot, Knn, Linear
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

CLASSES = 48
PRETRAIN_PX, FINETUNE_PX = 24, 28
INITS: tuple[Init, ...] = ("pretrained", "random")

MODEL = ViTConfig(
    width=128,
    depth=4,
    heads=4,
    mlp_dim=512,
    patch_px=4,
    image_px=PRETRAIN_PX,
    num_classes=CLASSES,
    position="sincos2d",  # learned positions need longer than this to become any use
)

# Few maps and no mirrors: shapes that look like strokes and can be told apart within a few epochs.
STROKES = Fractals(CLASSES, per_class=100, image_px=16, val_per_class=0, max_maps=4, fill=(0.1, 0.5), mirrored=False)


def stages() -> tuple[Stage, ...]:
    fractals = Stage(
        "shards/fractals",
        prepare,
        Prepare(STROKES, samples_per_shard=400),
    )
    digits = Stage("shards/digits", prepare, Prepare(Digits(image_px=32), samples_per_shard=400))
    weights = Stage(
        "pretrain",
        pretrain,
        Pretrain(
            MODEL,
            TrainView(PRETRAIN_PX, crop="affine", flip=False, rotate_degrees=30, scale=(0.7, 1.2), shift=0.15),
            Optim(2e-3, weight_decay=0.05, beta2=0.99, schedule=Schedule("cosine", warmup_steps=50)),
            steps=700,
            global_batch=64,
            precision="fp32",
            zero_stage=2,
            checkpoint_every=50,
            log_every=10,
        ),
        needs={"shards": fractals},
        resources=Resources(workers=2),
    )
    needs = {"weights": weights, "shards": digits}
    frozen = {f"transfer/digits-{init}": _transfer(init) for init in INITS}
    tuned = {f"finetune/digits-{init}": _finetune(init) for init in INITS}
    measured = [Stage(name, transfer, config, needs=needs) for name, config in frozen.items()]
    measured += [Stage(name, finetune, config, needs=needs) for name, config in tuned.items()]
    results = {stage.name.replace("/", "_").replace("-", "_"): stage for stage in (weights, *measured)}
    page = Stage("report", report, Report("Fractals to digits", command="make run"), needs=results)
    return (page,)


def _transfer(init: Init) -> Transfer:
    return Transfer(
        "digits",
        EvalView(PRETRAIN_PX),
        init=init,
        fewshot=Fewshot(shots=(1, 5, 10, 25)),
        knn=Knn(neighbours=(20,)),
        linear=Linear(l2=(1e-3, 1e-2, 1e-1)),
    )


def _finetune(init: Init) -> Finetune:
    """On 5 and on 10 images of each digit; no flips, which would make other digits of some."""
    return Finetune(
        "digits",
        view=TrainView(FINETUNE_PX, crop="affine", flip=False, rotate_degrees=10, scale=(0.9, 1.1), shift=0.1),
        eval_view=EvalView(FINETUNE_PX),
        steps=45,
        batch=32,
        lrs=(0.01, 0.03, 0.1),
        warmup_steps=5,
        init=init,
        per_class=(5, 10),
        held_out=0.2,
        precision="fp32",
    )
