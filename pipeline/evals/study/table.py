"""A study as tables: every point, own and the paper's, for programs; a row for each pre-training for people."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.evals import compare, paper
from pipeline.evals.findings import si
from pipeline.evals.markdown import table as to_markdown
from pipeline.evals.study import point as studied
from pipeline.evals.study.point import METRIC, Point, Trained
from pipeline.evals.table import Table

COLUMNS = (
    *("source", "model", "data", "samples", "epochs", "parameters", "exaflops"),
    *("task", "protocol", "metric", "mean", "std", "seeds", "checkpoint_digest"),
)
OWN = "own"


def points(found: Sequence[Point], *, published: bool) -> Table:
    """A row for every point. The paper's follow, where they are asked for: figures 3 and 5 as printed in its tables."""
    rows = [*map(_own, found), *(_published() if published else ())]
    return Table(COLUMNS, tuple(rows))


def markdown(title: str, found: Sequence[Point]) -> str:
    """A row for each pre-training, a column for each task and protocol, in per cent."""
    panels = studied.panels(found)
    head = ("model", "pre-trained on", "samples", "epochs", "compute", *(", ".join(key) for key in panels))
    rows = []
    for trained in dict.fromkeys(point.trained for point in found):
        scores = (next((p for p in panel if p.trained == trained), None) for panel in panels.values())
        rows.append((*_facts(trained), *map(_score, scores)))
    told = (studied.headline(found), to_markdown(head, rows), "Top-1 in per cent, mean ± deviation over seeds.")
    return "\n\n".join((f"# {title}", *told)) + "\n"


def _own(point: Point) -> tuple[Any, ...]:
    trained = point.trained
    took = (trained.samples, trained.epochs, trained.parameters, trained.flops / 1e18)
    mean, std = (value if math.isfinite(value) else None for value in (point.mean, point.std))  # JSON has no NaN
    score = (point.task, point.protocol, METRIC, mean, std, point.num_seeds)
    return (OWN, trained.model, trained.data, *took, *score, trained.digest)


def _published() -> Iterator[tuple[Any, ...]]:
    for one in paper.figure_3():
        took = (None, None, None, None)
        yield (one.table, one.model, one.data, *took, *_scored(one.task, one.mean))
    for scaled in paper.TABLE_6:
        took = (None, scaled.epochs, None, scaled.exaflops)
        for task, mean in scaled.top1.items():
            yield ("[ViT] Table 6", scaled.model, paper.JFT_300M, *took, *_scored(task, mean))


def _scored(task: str, mean: float) -> tuple[Any, ...]:
    return task, studied.FINETUNE, METRIC, mean, None, None, ""


def _facts(trained: Trained) -> tuple[str, ...]:
    took = (f"{trained.samples:,}", trained.epochs_text, si(trained.flops, "FLOP"))
    return (trained.model, trained.data, *took)


def _score(point: Point | None) -> str:
    score = point and compare.Score(point.mean, point.std, point.num_seeds, "", "", "")
    return compare.score_text(score, metric=METRIC)
