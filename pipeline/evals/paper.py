"""What the papers report, as data: what one's own results are set beside. Standard library only.

[ViT] is arXiv 2010.11929 (tables 2, 5, 6 and 9; nothing here is read off a figure). Scores are shares in [0, 1], as in
our rows, of top-1 on the whole test split after fine-tuning; ImageNet-ReaL is the metric "real" of the task imagenet1k,
and the tasks of VTAB-1k are named `vtab/<task>` (see `vtab`). A model is named as in the tables without "ViT-", what it
was pre-trained on as below.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pipeline.evals import compare, vtab

IMAGENET_1K, IMAGENET_21K, JFT_300M = "imagenet1k", "imagenet21k", "jft300m"

_ALSO = {"imagenet": IMAGENET_1K, "i1k": IMAGENET_1K, "ilsvrc2012": IMAGENET_1K, "i21k": IMAGENET_21K, "jft": JFT_300M}


@dataclass(frozen=True)
class Reported:
    """A number of a table. `std` is over three fine-tuning runs, None where the table gives none."""

    table: str
    model: str
    data: str
    task: str
    metric: str
    mean: float
    std: float | None = None


@dataclass(frozen=True)
class Scaled:
    """A model of [ViT] Table 6, pre-trained on JFT-300M: exaFLOPs of pre-training, and top-1 by task after it.

    What figure 5 draws; all of it is printed in the table.
    """

    model: str
    epochs: int
    exaflops: float
    top1: Mapping[str, float]

    @property
    def family(self) -> str:
        """'ViT', 'ResNet' (BiT's) or 'hybrid'."""
        return "hybrid" if "+" in self.model else "ResNet" if self.model.startswith("R") else "ViT"

    @property
    def mean(self) -> float:
        """Over all five tasks, as in figure 5 and Table 7 (which prints 89.33 for R50x1 and 94.01 for R152x2)."""
        return sum(self.top1.values()) / len(self.top1)


# [ViT] Table 5: 384 px, neither Polyak averaging nor 512 px. The columns are the models of _TABLE_5_MODELS.
_TABLE_5_MODELS = ("B/16", "B/32", "L/16", "L/32", "H/14")
_TABLE_5: Mapping[tuple[str, str, str], tuple[float, ...]] = {
    (IMAGENET_1K, "cifar10", "top1"): (98.13, 97.77, 97.86, 97.94),
    (IMAGENET_1K, "cifar100", "top1"): (87.13, 86.31, 86.35, 87.07),
    (IMAGENET_1K, "imagenet1k", "top1"): (77.91, 73.38, 76.53, 71.16),
    (IMAGENET_1K, "imagenet1k", "real"): (83.57, 79.56, 82.19, 77.83),
    (IMAGENET_1K, "flowers102", "top1"): (89.49, 85.43, 89.66, 86.36),
    (IMAGENET_1K, "pets", "top1"): (93.81, 92.04, 93.64, 91.35),
    (IMAGENET_21K, "cifar10", "top1"): (98.95, 98.79, 99.16, 99.13, 99.27),
    (IMAGENET_21K, "cifar100", "top1"): (91.67, 91.97, 93.44, 93.04, 93.82),
    (IMAGENET_21K, "imagenet1k", "top1"): (83.97, 81.28, 85.15, 80.99, 85.13),
    (IMAGENET_21K, "imagenet1k", "real"): (88.35, 86.63, 88.40, 85.65, 88.70),
    (IMAGENET_21K, "flowers102", "top1"): (99.38, 99.11, 99.61, 99.19, 99.51),
    (IMAGENET_21K, "pets", "top1"): (94.43, 93.02, 94.73, 93.09, 94.82),
    (JFT_300M, "cifar10", "top1"): (99.00, 98.61, 99.38, 99.19, 99.50),
    (JFT_300M, "cifar100", "top1"): (91.87, 90.49, 94.04, 92.52, 94.55),
    (JFT_300M, "imagenet1k", "top1"): (84.15, 80.73, 87.12, 84.37, 88.04),
    (JFT_300M, "imagenet1k", "real"): (88.85, 86.27, 89.99, 88.28, 90.33),
    (JFT_300M, "flowers102", "top1"): (99.56, 99.27, 99.56, 99.45, 99.68),
    (JFT_300M, "pets", "top1"): (95.80, 93.40, 97.11, 95.83, 97.56),
}

# [ViT] Table 2: ImageNet at 512 px (L/16) and 518 px (H/14) with Polyak averaging of 0.9999 (B.1.1).
_TABLE_2_MODELS = (("H/14", JFT_300M), ("L/16", JFT_300M), ("L/16", IMAGENET_21K))
_TABLE_2: Mapping[tuple[str, str], tuple[float, ...]] = {
    ("imagenet1k", "top1"): (88.55, 87.76, 85.30),
    ("imagenet1k", "real"): (90.72, 90.54, 88.62),
    ("cifar10", "top1"): (99.50, 99.42, 99.15),
    ("cifar100", "top1"): (94.55, 93.90, 93.25),
    ("pets", "top1"): (97.56, 97.32, 94.67),
    ("flowers102", "top1"): (99.68, 99.74, 99.61),
    (f"{vtab.PREFIX}{vtab.ALL}", "top1"): (77.63, 76.28, 72.72),
}
_TABLE_2_STD: Mapping[tuple[str, str], tuple[float, ...]] = {
    ("imagenet1k", "top1"): (0.04, 0.03, 0.02),
    (f"{vtab.PREFIX}{vtab.ALL}", "top1"): (0.23, 0.46, 0.21),
}

# [ViT] Table 9 (D.10), VTAB-1k by task in the order of vtab.TASKS, without its last column, the mean.
_TABLE_9 = (
    (95.3, 85.5, 75.2, 99.7, 97.2, 65.0, 88.9, 83.3, 96.7, 91.4, 76.6, 91.7, 63.8, 53.1, 79.4, 63.3, 84.5, 33.2, 51.2),
    (95.4, 81.9, 74.3, 99.7, 96.7, 63.5, 87.4, 83.6, 96.5, 89.7, 77.1, 86.4, 63.1, 49.7, 74.5, 60.5, 82.2, 36.2, 51.1),
    (90.8, 84.1, 74.1, 99.3, 92.7, 61.0, 80.9, 82.5, 95.6, 85.2, 75.3, 70.3, 56.1, 41.9, 74.7, 64.9, 79.9, 30.5, 41.7),
)

# [ViT] Table 6: model, epochs, exaFLOPs, and top-1 by the tasks of _TABLE_6_TASKS (its column of ReaL is left out).
# Its H/14 is another fine-tuning than that of Table 5 (88.08 on ImageNet, 88.04 there).
_TABLE_6_TASKS = ("imagenet1k", "cifar10", "cifar100", "pets", "flowers102")
_TABLE_6: tuple[tuple[str, int, float, tuple[float, ...]], ...] = (
    ("B/32", 7, 55, (80.73, 98.61, 90.49, 93.40, 99.27)),
    ("B/16", 7, 224, (84.15, 99.00, 91.87, 95.80, 99.56)),
    ("L/32", 7, 196, (84.37, 99.19, 92.52, 95.83, 99.45)),
    ("L/16", 7, 783, (86.30, 99.38, 93.46, 96.81, 99.66)),
    ("L/16", 14, 1567, (87.12, 99.38, 94.04, 97.11, 99.56)),
    ("H/14", 14, 4262, (88.08, 99.50, 94.71, 97.11, 99.71)),
    ("R50x1", 7, 50, (77.54, 97.67, 86.07, 91.11, 94.26)),
    ("R50x2", 7, 199, (82.12, 98.29, 89.20, 93.43, 97.02)),
    ("R101x1", 7, 96, (80.67, 98.48, 89.17, 94.08, 95.95)),
    ("R152x1", 7, 141, (81.88, 98.82, 90.22, 94.17, 96.94)),
    ("R152x2", 7, 563, (84.97, 99.06, 92.05, 95.37, 98.62)),
    ("R152x2", 14, 1126, (85.56, 99.24, 91.92, 95.75, 98.75)),
    ("R200x3", 14, 3306, (87.22, 99.34, 93.53, 96.32, 99.04)),
    ("R50x1+B/32", 7, 106, (84.90, 99.01, 92.24, 95.75, 99.46)),
    ("R50x1+B/16", 7, 274, (85.58, 99.14, 92.63, 96.65, 99.40)),
    ("R50x1+L/32", 7, 246, (85.68, 99.24, 92.93, 96.97, 99.43)),
    ("R50x1+L/16", 7, 859, (86.60, 99.18, 93.64, 97.03, 99.40)),
    ("R50x1+L/16", 14, 1668, (87.12, 99.31, 93.89, 97.36, 99.11)),
)
TABLE_6 = tuple(
    Scaled(model, epochs, exaflops, {task: score / 100 for task, score in zip(_TABLE_6_TASKS, scores, strict=True)})
    for model, epochs, exaflops, scores in _TABLE_6
)


def reported() -> Iterator[Reported]:
    """Every number of tables 5, 2 and 9, and the group means of Table 9, which are not printed there.

    Where several fit a result, the first is of the protocol that recipes have: 384 px, no averaging.
    """
    for (data, task, metric), scores in _TABLE_5.items():
        for model, score in zip(_TABLE_5_MODELS, scores, strict=False):
            yield Reported("[ViT] Table 5", model, data, task, metric, score / 100)
    for (task, metric), scores in _TABLE_2.items():
        stds = _TABLE_2_STD.get((task, metric), (None,) * len(scores))
        for (model, data), score, std in zip(_TABLE_2_MODELS, scores, stds, strict=True):
            yield Reported("[ViT] Table 2", model, data, task, metric, score / 100, std and std / 100)
    for (model, data), scores in zip(_TABLE_2_MODELS, _TABLE_9, strict=True):
        by_task = dict(zip(vtab.TASKS, scores, strict=True))
        by_task |= {name: score for name, score in vtab.means(by_task).items() if name != vtab.ALL}
        for task, score in by_task.items():
            yield Reported("[ViT] Table 9", model, data, f"{vtab.PREFIX}{task}", "top1", score / 100)


def figure_3() -> tuple[Reported, ...]:
    """What [ViT] figure 3 draws of its own models, as printed in Table 5: ImageNet top-1 by what was pre-trained on.

    The shaded area of BiT's ResNets beside them is only drawn.
    """
    return tuple(
        one for one in reported() if (one.table, one.task, one.metric) == ("[ViT] Table 5", IMAGENET_1K, "top1")
    )


def find(model: str, *, data: str, task: str, metric: str = "top1", protocol: str = "finetune") -> Reported | None:
    """What [ViT] reports for a model, `data` it was pre-trained on, a task and a metric; None where it does not.

    Names may be spelt in any usual way: "ViT-L/16", "vit_l16"; "ImageNet-21k", "i21k". Of a task with 1,000 training
    images (VTAB) the protocol may be "finetune" too; few-shot figures are only plotted in the paper.
    """
    if protocol != "finetune":
        return None
    wanted = (_model(model), _data(data), task, metric)
    return next((one for one in reported() if (_model(one.model), one.data, one.task, one.metric) == wanted), None)


def paper_value(model: str, *, data: str, task: str, metric: str = "top1", protocol: str = "finetune") -> float | None:
    """The mean of `find`, a share in [0, 1], or None."""
    found = find(model, data=data, task=task, metric=metric, protocol=protocol)
    return found.mean if found else None


def beside(pair: compare.Pair, *, model: str, data: str) -> tuple[str, str]:
    """The paper's score where the pair has its pre-trained one, and ours less the paper's, as cells beside those of
    `compare.cells`; a dash where there is none.
    """
    found = find(model, data=data, task=pair.task, metric=pair.metric, protocol=pair.protocol)
    if found is None:
        return "–", "–"
    own = pair.pretrained.mean if pair.pretrained else math.nan
    difference = compare.figure(own - found.mean, metric=pair.metric, sign=True) if math.isfinite(own) else "–"
    return compare.figure(found.mean, metric=pair.metric), difference


def _model(name: str) -> str:
    """'l16' of 'ViT-L/16' and 'vit_l16'."""
    return re.sub(r"[^a-z0-9+]", "", name.lower()).removeprefix("vit")


def _data(name: str) -> str:
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    return _ALSO.get(plain, plain)
