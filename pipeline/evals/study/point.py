"""What a study compares: pre-trainings, what each took, and how well each transfers. Standard library only."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.evals import compare, paper
from pipeline.evals.compare import PRETRAINED
from pipeline.evals.findings import si

METRIC = "top1"
FINETUNE = "finetune"
MEAN = "mean"  # what the mean over tasks is called where a task is


@dataclass(frozen=True)
class Trained:
    """A pre-training: what the study calls its model and its data; distinct `samples` and `images` seen in training.

    `digest` is that of the weights, by which results are known.
    """

    model: str
    data: str
    samples: int
    images: int
    parameters: int
    flops: float
    digest: str

    @property
    def epochs(self) -> float:
        return self.images / self.samples

    @property
    def epochs_text(self) -> str:
        return f"{self.epochs:,.0f}" if self.epochs >= 10 else f"{self.epochs:.2g}"


@dataclass(frozen=True)
class Point:
    """Top-1 of a pre-training on a task under a protocol, a share in [0, 1]; `std` over `num_seeds`."""

    trained: Trained
    task: str
    protocol: str
    mean: float
    std: float
    num_seeds: int

    @property
    def is_fewshot(self) -> bool:
        """Of frozen features, whatever their number of shots."""
        return compare.shots(self.protocol) is not None


Panels = Mapping[tuple[str, str], Sequence[Point]]


def points(trained: Sequence[Trained], rows: Iterable[Mapping[str, Any]]) -> tuple[Point, ...]:
    """Every top-1 of a pre-trained model, in the order of the pre-trainings. Rows of random weights are passed over.

    ValueError for a row of weights that no pre-training here has published.
    """
    by_digest = {one.digest: one for one in trained}
    found = []
    for row in rows:
        if row["init"] != PRETRAINED or row["metric"] != METRIC:
            continue
        if (one := by_digest.get(row["checkpoint_digest"])) is None:
            raise ValueError(
                f"{row['task']}, {row['protocol']}: was measured of {row['checkpoint'] or 'other weights'}, which none "
                f"of {', '.join(dict.fromkeys(one.model for one in trained))} has published; the stage that made them "
                "has to be a need, too"
            )
        mean, std = (math.nan if row[key] is None else float(row[key]) for key in ("mean", "std"))
        found.append(Point(one, row["task"], row["protocol"], mean, std, len(row["values"])))
    return tuple(sorted(found, key=lambda point: trained.index(point.trained)))


def panels(found: Iterable[Point]) -> Panels:
    """Points by (task, protocol), in the order of their first. Those of models that diverged are left out."""
    grouped: dict[tuple[str, str], list[Point]] = {}
    for point in filter(lambda point: math.isfinite(point.mean), found):
        grouped.setdefault((point.task, point.protocol), []).append(point)
    return grouped


def by_model(found: Iterable[Point]) -> dict[str, list[Point]]:
    """Points by the name of the model, in the order of their first."""
    grouped: dict[str, list[Point]] = {}
    for point in found:
        grouped.setdefault(point.trained.model, []).append(point)
    return grouped


def mean_of_five(found: Sequence[Point]) -> tuple[Point, ...]:
    """The mean over the tasks of figure 5 of each pre-training that was fine-tuned on all of them."""
    tasks = paper.TABLE_6[0].top1
    tuned: dict[Trained, dict[str, Point]] = {}
    for point in found:
        if point.protocol == FINETUNE and point.task in tasks:
            tuned.setdefault(point.trained, {})[point.task] = point
    return tuple(
        Point(trained, MEAN, FINETUNE, statistics.fmean(one.mean for one in by_task.values()), 0.0, 1)
        for trained, by_task in tuned.items()
        if len(by_task) == len(tasks)
    )


def headline(found: Sequence[Point]) -> str:
    """Which model is best with the least data and with the most; of one data set, what a tenth of the compute gives."""
    (task, protocol), chosen = next(iter(panels(found).items()))
    sizes = sorted({point.trained.samples for point in chosen})
    if len(sizes) > 1:
        ends = [[p for p in chosen if p.trained.samples == size] for size in (sizes[0], sizes[-1])]
        told = [f"with {si(size)} samples {_best(end)}" for size, end in zip((sizes[0], sizes[-1]), ends, strict=True)]
    else:
        best = max(chosen, key=lambda point: point.mean)
        cheap = [point for point in chosen if point.trained.flops <= best.trained.flops / 10]
        told = [f"{_best(chosen)} with {si(best.trained.flops, 'FLOP')}"]
        told += [f"of those with a tenth of it or less {_best(cheap)}"] if cheap else []
    return f"Best on {task}, {protocol}: {', '.join(told)}."


def _best(found: Sequence[Point]) -> str:
    best = max(found, key=lambda point: point.mean)
    return f"{best.trained.model} ({100 * best.mean:.1f} %)"
