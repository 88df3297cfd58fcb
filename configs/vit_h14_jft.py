"""ViT-H/14, pre-trained on JFT-300M and fine-tuned: the largest model of the ViT paper (arXiv 2010.11929).

Where the numbers stand: sizes in Table 1, pre-training in Table 3 and appendix B.1, fine-tuning in Table 4 and appendix
B.1.1, the higher resolution for ImageNet in section 4.1.

Expect, mean of three runs (Table 2): ImageNet 88.55, CIFAR-10 99.50, CIFAR-100 94.55, Pets 97.56, Flowers 99.68. The
ImageNet figure is with Polyak averaging, as here; without it, at the lower resolution, Table 5 has 88.04.
4262 exaFLOPs (Table 6), 2500 TPUv3-core-days (Table 2).

JFT-300M is Google's own: put your own large set in its place, and say how many classes and steps that makes:

    tessera run vit_h14_jft --set shards/jft300m.source.path=s3://images/mine \
        --set pretrain.model.num_classes=21843 --set pretrain.steps=500000

Uncertain, since neither the paper nor its code say so:
* The sigmoid loss and the head's bias of -10 are those of ImageNet-21k (vision_transformer issues #2 and #34).
* Linear decay ends at 1e-5, as on ImageNet-21k (issue #2), and gradients are not clipped: the paper says it clips on
  ImageNet.
* 18,291 classes are BiT's (arXiv 1912.11370); the paper says 18k. There an image has 1.26 labels on average; in a
  folder it has one.
* 384 px are no multiple of 14. The reference's convolution leaves out the last 6 pixels, so its 27 × 27 patches show
  378 px; here the image is resized to these.
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
LINEAR = Schedule("linear", warmup_steps=10_000, end=1e-5)
POD = Resources(workers=64, gpus_per_worker=1, cpus_per_worker=12, max_restarts=20)  # eight nodes of eight H100
NODE = Resources(workers=8, gpus_per_worker=1, cpus_per_worker=12)


def stages() -> tuple[Stage, ...]:
    weights = Stage(
        "pretrain",
        pretrain,
        Pretrain(
            # Table 1; one hidden layer in the head while pre-training (section 3.1); no dropout on JFT (Table 3).
            model=vit("H/14", image_px=224, num_classes=18_291, pre_logits=True, dropout=0.0, head_bias=-10.0),
            view=paper.train_view(224),
            objective=Objective("sigmoid"),
            # Table 3: Adam, 3e-4, linear, weight decay 0.1. B.1: betas, batch, warm-up.
            optim=Optim(lr=3e-4, weight_decay=0.1, beta1=0.9, beta2=0.999, clip=None, schedule=LINEAR),
            steps=round(14 * paper.JFT_300M / BATCH),  # 14 epochs (Table 3)
            global_batch=BATCH,
            reading=Reading(threads=4),
            speed=paper.COMPILED,
        ),
        needs={"shards": paper.shards("jft300m", samples_per_shard=10_000)},
        resources=POD,
    )
    downstream = {name: paper.shards(name) for name in paper.TABLE_4}
    results = {}
    for name, tuning in paper.TABLE_4.items():
        large = name == "imagenet1k"
        results[f"finetune_{name}"] = paper.tuned(
            name,
            tuning,
            image_px=518 if large else 378,  # section 4.1; 384 elsewhere (B.1.1), in whole patches
            weights=weights,
            on=downstream[name],
            resources=POD if large else NODE,
            micro_batch=8 if large else 32,
            polyak=paper.POLYAK if large else None,
        )
    results["fewshot"] = paper.fewshot("imagenet1k", weights=weights, on=downstream["imagenet1k"], test_split="val")
    return (Stage("report", report, Report("ViT-H/14 on JFT-300M"), needs={"pretrain": weights, **results}),)
