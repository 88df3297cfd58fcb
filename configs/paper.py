"""What the recipes share: data sets, views, fine-tuning and few-shot evaluation as the papers have them. No recipe.

Every data set is read from data/<name>, in the form that it is published in (`SOURCES`, and pipeline/datasets); a
benchmark is refused unless it is whole. Where yours lies is said on the command line; so are the classes of ImageNet's
validation images, where they lie in one tar:

    tessera run vit_b16_i1k --set shards/imagenet1k.source.path=/data/imagenet \
        --set shards/imagenet1k.source.val_labels=/data/imagenet_2012_validation_synset_labels.txt

Any other source may stand there instead. A folder of images, <path>/<split>/<class>/<image>, of any number and any
classes, with the splits "train" and "test" ("train" and "val" for ImageNet-1k), is

    tessera run vit_b16_i1k --set shards/pets.source='{"is": "Folder", "path": "/data/pets"}'

[ViT] is arXiv 2010.11929, [AugReg] arXiv 2106.10270, [BPV] arXiv 2205.01580 ("Better plain ViT baselines").
"""

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.data.view import EvalView, TrainView
from pipeline.datasets.archive import Archive
from pipeline.datasets.choice import Choice
from pipeline.datasets.cifar import Cifar
from pipeline.datasets.flowers import Flowers
from pipeline.datasets.folder import Folder
from pipeline.datasets.imagenet import Imagenet
from pipeline.datasets.pets import Pets
from pipeline.evals.protocol import Fewshot
from pipeline.stage import Resources, Stage
from pipeline.stages.finetune import Finetune, finetune
from pipeline.stages.prepare import Prepare, prepare
from pipeline.stages.transfer import Transfer, transfer
from pipeline.train.speed import Speed

COMPILED = Speed(compile=True)  # not of the papers: half a minute once, for every step after it

# How many images there are to train on: epochs are counted in these.
JFT_300M = 303_000_000  # [ViT] 4.1
IMAGENET_21K = 14_197_122  # the release of fall 2011; "14M images" in [ViT] 4.1
IMAGENET_1K = 1_281_167  # ILSVRC-2012

# "train" is all that there is to train on, of Pets what is called trainval; but of Flowers 1,020 images, without the
# 1,020 to validate on, as in the authors' code (big_vision/configs/transfer.py: train[:90%] and train[90%:]).
SOURCES: Mapping[str, Choice] = {
    "imagenet1k": Imagenet("data/imagenet1k"),
    "imagenet21k": Archive("data/imagenet21k"),  # fall11_whole.tar, or the tars in it
    "cifar10": Cifar("data/cifar10", num_classes=10),
    "cifar100": Cifar("data/cifar100", num_classes=100),
    "pets": Pets("data/pets"),
    "flowers102": Flowers("data/flowers102"),
}

# RandAugment's (operations, magnitude) and Mixup's parameter, by the names of [AugReg] section 3.
AUGREG: dict[str, tuple[tuple[int, int] | None, float]] = {
    "none": (None, 0.0),
    "light1": ((2, 0), 0.0),
    "light2": ((2, 10), 0.2),
    "medium1": ((2, 15), 0.2),
    "medium2": ((2, 15), 0.5),
    "strong1": ((2, 20), 0.5),
    "strong2": ((2, 20), 0.8),
}


@dataclass(frozen=True)
class Tuning:
    """How one data set is fine-tuned on; `held_out` is the share of train that the learning rate is chosen on."""

    steps: int
    lrs: tuple[float, ...]
    warmup_steps: int
    held_out: float
    test_split: str = "test"


# [ViT] Table 4; what is held out: appendix B.1.1; warm-up: vit_jax/configs/common.py and big_vision's transfer.py.
TABLE_4 = {
    "imagenet1k": Tuning(20_000, (0.003, 0.01, 0.03, 0.06), warmup_steps=500, held_out=0.01, test_split="val"),
    "cifar100": Tuning(10_000, (0.001, 0.003, 0.01, 0.03), warmup_steps=500, held_out=0.02),
    "cifar10": Tuning(10_000, (0.001, 0.003, 0.01, 0.03), warmup_steps=500, held_out=0.02),
    "pets": Tuning(500, (0.001, 0.003, 0.01, 0.03), warmup_steps=100, held_out=0.1),
    "flowers102": Tuning(500, (0.001, 0.003, 0.01, 0.03), warmup_steps=100, held_out=0.1),
}


POLYAK = 0.9999  # [ViT] B.1.1, of Table 2's ImageNet figures


def shards(name: str, *, samples_per_shard: int = 1000) -> Stage:
    """The data set in data/<name>, as shards; a thousand photographs of ImageNet's are about 110 MB.

    One that is not published, or not among `SOURCES`, is a folder of images.
    """
    source = SOURCES.get(name, Folder(f"data/{name}"))
    return Stage(f"shards/{name}", prepare, Prepare(source, samples_per_shard=samples_per_shard))


def train_view(image_px: int) -> TrainView:
    """Inception crop of 5 % to 100 % of the area and a flip, all there is in [ViT] (vit_jax/input_pipeline.py)."""
    return TrainView(image_px, crop="inception", min_area=0.05, max_area=1.0, flip=True)


def tuned(
    name: str,
    tuning: Tuning,
    *,
    image_px: int,
    weights: Stage,
    on: Stage,
    resources: Resources,
    micro_batch: int = 0,
    polyak: float | None = None,
) -> Stage:
    """Fine-tuning on the shards `on`, as in [ViT] B.1.1: three runs with the best of the learning rates.

    Test images are resized straight to the square (vit_jax).
    """
    config = Finetune(
        task=name,
        view=train_view(image_px),
        eval_view=EvalView(image_px),
        steps=tuning.steps,
        batch=512,
        lrs=tuning.lrs,
        warmup_steps=tuning.warmup_steps,
        held_out=tuning.held_out,
        seeds=(0, 1, 2),
        momentum=0.9,
        clip=1.0,
        polyak=polyak,
        test_split=tuning.test_split,
        micro_batch=micro_batch,
        decode_threads=8,
        speed=COMPILED,
    )
    return Stage(f"finetune/{name}", finetune, config, {"weights": weights, "shards": on}, resources)


def fewshot(name: str, *, weights: Stage, on: Stage, test_split: str = "test") -> Stage:
    """Least squares on frozen features of a few images a class ([ViT] 4.1), with big_vision's constants.

    Images are resized to a square of 256 and cropped to 224; [ViT] shows 5 shots of ImageNet, big_vision 10.
    (big_vision/evaluators/fewshot_lsr.py and configs/common_fewshot.py; its shots come from 65,000 images of ImageNet,
    ours from all.)
    """
    config = Transfer(
        task=name,
        view=EvalView(224, resize_px=256, keep_aspect=False),
        fewshot=Fewshot(shots=(1, 5, 10, 25), seeds=(0, 1, 2), l2=2.0**10),
        test_split=test_split,
        decode_threads=8,
    )
    machines = Resources(gpus_per_worker=1, cpus_per_worker=12)
    return Stage(f"transfer/{name}", transfer, config, {"weights": weights, "shards": on}, machines)
