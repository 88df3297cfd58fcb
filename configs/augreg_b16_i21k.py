"""ViT-B/16 on ImageNet-21k as in "How to train your ViT?" (AugReg, arXiv 2106.10270): the B/16 that everybody uses.

Where the numbers stand: pre-training in section 3 and big_vision/configs/vit_i21k.py, fine-tuning in Table 4. Of the 28
settings of augmentation and regularisation tried per model, this is the one of the published weights
(vision_transformer's README): 300 epochs, medium1, weight decay 0.1, no dropout and no stochastic depth. big_vision
itself defaults to light2 for B/16, as a compromise between 30 and 300 epochs:
`--set pretrain.view.rand_augment=[2,10]`.

Expect 85.49 % top-1 on ImageNet at 384 px after fine-tuning (vision_transformer's README, learning rate 0.03).

Weight decay of 0.1 is the paper's, multiplied by the learning rate as AdamW does; big_vision writes 1e-4 for the same.

Uncertain, and deviations:
* How many images the paper's epochs have: near-duplicates of the test images were removed, and big_vision leaves out
  51,200 more. Here an epoch is the 14,197,122 images of the release of fall 2011; nothing is removed.
* 21,843 classes are those of the reference. The release has 21,841: `--set pretrain.model.num_classes=21841`.
* big_vision's port pools by average; the published weights, and this recipe, have a class token.
* Adam's first moment is bfloat16 in the reference, float32 here. RandAugment is TensorFlow's there, Pillow's here.
* The paper also tries fewer steps: 500 on Pets, 2,500 on CIFAR-100. Here each data set has the longer of its two.
"""

from dataclasses import replace

from configs import paper
from pipeline.models.variant import vit
from pipeline.stage import Resources, Stage
from pipeline.stages.pretrain import Pretrain, pretrain
from pipeline.stages.report import Report, report
from pipeline.train.objective import Objective
from pipeline.train.optim import Optim
from pipeline.train.reading import Reading
from pipeline.train.schedule import Schedule

BATCH = 4096
RAND_AUGMENT, MIXUP = paper.AUGREG["medium1"]  # (2, 15) and 0.2
FOUR_NODES = Resources(workers=32, gpus_per_worker=1, cpus_per_worker=12, max_restarts=10)
NODE = Resources(workers=8, gpus_per_worker=1, cpus_per_worker=12)

# Table 4: batch 512, SGD with momentum 0.9, clipped at norm 1. What is held out: as in the ViT paper.
TABLE_4 = {
    "imagenet1k": paper.Tuning(20_000, (0.01, 0.03), warmup_steps=500, held_out=0.01, test_split="val"),
    "cifar100": paper.Tuning(10_000, (0.001, 0.003, 0.01), warmup_steps=500, held_out=0.02),
    "pets": paper.Tuning(2500, (0.001, 0.003, 0.01), warmup_steps=200, held_out=0.1),
}


def stages() -> tuple[Stage, ...]:
    weights = Stage(
        "pretrain",
        pretrain,
        Pretrain(
            # No hidden layer in the head (section 3); sigmoid and the bias of -10: section 3, vit_i21k.py.
            model=vit("B/16", image_px=224, num_classes=21_843, dropout=0.0, drop_path=0.0, head_bias=-10.0),
            view=replace(paper.train_view(224), rand_augment=RAND_AUGMENT),
            objective=Objective("sigmoid", mixup=MIXUP),
            optim=Optim(
                lr=1e-3,
                weight_decay=0.1,
                beta1=0.9,
                beta2=0.999,
                clip=1.0,
                schedule=Schedule("cosine", warmup_steps=10_000),
            ),
            steps=round(300 * paper.IMAGENET_21K / BATCH),  # 300 epochs
            global_batch=BATCH,
            reading=Reading(threads=12),
            speed=paper.COMPILED,
        ),
        needs={"shards": paper.shards("imagenet21k", samples_per_shard=5000)},
        resources=FOUR_NODES,
    )
    downstream = {name: paper.shards(name) for name in TABLE_4}
    results = {
        f"finetune_{name}": paper.tuned(
            name, tuning, image_px=384, weights=weights, on=downstream[name], resources=NODE, micro_batch=64
        )
        for name, tuning in TABLE_4.items()
    }
    results["fewshot"] = paper.fewshot("imagenet1k", weights=weights, on=downstream["imagenet1k"], test_split="val")
    return (Stage("report", report, Report("AugReg ViT-B/16 on ImageNet-21k"), needs={"pretrain": weights, **results}),)
