"""ViT-B/16 as its authors released it, fine-tuned as in the paper (arXiv 2010.11929): no pre-training of one's own.

The weights were pre-trained on ImageNet-21k (Table 3) and lie, for everybody, at

    https://storage.googleapis.com/vit_models/imagenet21k/ViT-B_16.npz

Put the file into weights/, or say where it is. Any other that `tessera import` reads will do, of another size too, and
weights of one's own from another root:

    tessera run finetune_released --set weights.source=runs/vit_l16_i21k/pretrain

Fine-tuning is Table 4 and appendix B.1.1. Expect at 384 px, mean of three runs (Table 5): ImageNet 83.97, CIFAR-10
98.95, CIFAR-100 91.67, Pets 94.43, Flowers 99.38.

Uncertain: whether the released weights are the very ones of Table 5; and Flowers, as in `vit_b16_i1k`.
"""

from configs import paper
from pipeline.stage import Resources, Stage
from pipeline.stages.adopt import Adopt, adopt
from pipeline.stages.report import Report, report

NODE = Resources(workers=8, gpus_per_worker=1, cpus_per_worker=12)


def stages() -> tuple[Stage, ...]:
    weights = Stage("weights", adopt, Adopt("weights/ViT-B_16.npz"))
    downstream = {name: paper.shards(name) for name in paper.TABLE_4}
    results = {
        f"finetune_{name}": paper.tuned(
            name, tuning, image_px=384, weights=weights, on=downstream[name], resources=NODE, micro_batch=64
        )
        for name, tuning in paper.TABLE_4.items()
    }
    results["fewshot"] = paper.fewshot("imagenet1k", weights=weights, on=downstream["imagenet1k"], test_split="val")
    return (Stage("report", report, Report("The released ViT-B/16"), needs={"weights": weights, **results}),)
