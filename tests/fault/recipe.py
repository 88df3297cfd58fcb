"""A small pre-training that lasts long enough to be killed: two workers, a checkpoint every ten steps."""

from pipeline.data.view import TrainView
from pipeline.datasets.fractals import Fractals
from pipeline.models.variant import ViTConfig
from pipeline.stage import Resources, Stage
from pipeline.stages.prepare import Prepare, prepare
from pipeline.stages.pretrain import Pretrain, pretrain
from pipeline.train.optim import Optim
from pipeline.train.schedule import Schedule

CLASSES, STEPS, EVERY = 6, 300, 10


def stages() -> tuple[Stage, ...]:
    shards = Stage(
        "shards",
        prepare,
        Prepare(Fractals(num_classes=CLASSES, per_class=50, image_px=16, val_per_class=0), samples_per_shard=60),
    )
    model = ViTConfig(
        *(48, 2, 3, 96), patch_px=4, image_px=16, num_classes=CLASSES, dropout=0.1, drop_path=0.1, pre_logits=True
    )
    config = Pretrain(
        model,
        TrainView(16, crop="affine", rotate_degrees=20, scale=(0.8, 1.2), shift=0.1),
        Optim(1e-3, weight_decay=0.1, schedule=Schedule("cosine", warmup_steps=10)),
        steps=STEPS,
        global_batch=48,
        precision="fp32",
        zero_stage=2,
        checkpoint_every=EVERY,
        log_every=EVERY,
    )
    return (Stage("pretrain", pretrain, config, needs={"shards": shards}, resources=Resources(workers=2)),)
