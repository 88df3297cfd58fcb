"""ViT-B/16 from scratch on ImageNet-1k, and fine-tuned (arXiv 2010.11929): what a ViT does without a large data set.

Where the numbers stand: sizes in Table 1, pre-training in Table 3 (the row "ViT-*, ImageNet") and appendix B.1,
fine-tuning in Table 4 and appendix B.1.1.

Expect at 384 px, mean of three runs (Table 5): ImageNet 77.91, CIFAR-10 98.13, CIFAR-100 87.13, Pets 93.81, Flowers
89.49. Before fine-tuning, at 224 px: 74.79 % top-1 on ImageNet (vision_transformer issue #62).
`vit_s16_i1k_90` is better at a quarter of the compute: it is the recipe to start with.

Uncertain, since neither the paper nor its code say so:
* The loss. Sigmoid is what the authors used on ImageNet-21k (issue #34) and, with a bias of -6.9, on ImageNet-1k in
  AugReg (arXiv 2106.10270); their later code has softmax (big_vision/configs/vit_i1k.py):
  `--set pretrain.objective.kind=softmax --set pretrain.model.head_bias=0`.
* Section 4.3 mentions label smoothing as one of three tuned regularisers on ImageNet, without a value: none here.
* Flowers has 1,020 images to train on and as many to validate; the paper does not say whether "train" is both. It is
  the former here, as in the authors' later code: `--set shards/flowers102.source.joined=true` for both.
"""

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
NODE = Resources(workers=8, gpus_per_worker=1, cpus_per_worker=12)


def stages() -> tuple[Stage, ...]:
    imagenet = paper.shards("imagenet1k")
    weights = Stage(
        "pretrain",
        pretrain,
        Pretrain(
            # Table 1; one hidden layer in the head while pre-training (section 3.1); dropout: Table 3.
            model=vit("B/16", image_px=224, num_classes=1000, pre_logits=True, dropout=0.1, head_bias=-6.9),
            view=paper.train_view(224),
            objective=Objective("sigmoid"),
            # Table 3: Adam, 3e-3, cosine, weight decay 0.3. B.1: betas, batch, warm-up, and clipping on ImageNet.
            optim=Optim(
                lr=3e-3,
                weight_decay=0.3,
                beta1=0.9,
                beta2=0.999,
                clip=1.0,
                schedule=Schedule("cosine", warmup_steps=10_000),
            ),
            steps=round(300 * paper.IMAGENET_1K / BATCH),  # 300 epochs (Table 3)
            global_batch=BATCH,
            reading=Reading(threads=12),
            speed=paper.COMPILED,
        ),
        needs={"shards": imagenet},
        resources=NODE,
    )
    downstream = {name: paper.shards(name) for name in paper.TABLE_4 if name != "imagenet1k"}
    downstream["imagenet1k"] = imagenet
    results = {
        f"finetune_{name}": paper.tuned(
            name, tuning, image_px=384, weights=weights, on=downstream[name], resources=NODE, micro_batch=64
        )
        for name, tuning in paper.TABLE_4.items()
    }
    results["fewshot"] = paper.fewshot("imagenet1k", weights=weights, on=imagenet, test_split="val")
    return (Stage("report", report, Report("ViT-B/16 on ImageNet-1k"), needs={"pretrain": weights, **results}),)
