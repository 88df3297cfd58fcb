"""VTAB's score: plain means over its 19 tasks and over its three groups. Standard library only.

The tasks are those of Zhai et al., arXiv 1910.04867, in the order of Table 9 of arXiv 2010.11929 (appendix D.10), whose
rows give Table 2's VTAB column as their plain mean. A row of a task is one of `compare.row` whose task is
`vtab/<task>`: the CIFAR-100 of VTAB has 1,000 training images and is another task than the whole one.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.evals import compare

PREFIX = "vtab/"

GROUPS: Mapping[str, tuple[str, ...]] = {
    "natural": ("caltech101", "cifar100", "dtd", "flowers102", "pets", "sun397", "svhn"),
    "specialized": ("camelyon", "eurosat", "resisc45", "retinopathy"),
    "structured": (
        "clevr-count",
        "clevr-dist",
        "dmlab",
        "dsprites-loc",
        "dsprites-ori",
        "kitti-dist",
        "snorb-azim",
        "snorb-elev",
    ),
}

TASKS = tuple(task for tasks in GROUPS.values() for task in tasks)

ALL = "all"  # the name of the mean over every task


def means(score_by_task: Mapping[str, float]) -> dict[str, float]:
    """The mean of each group and, first, of all 19 tasks; tasks are named without `PREFIX`.

    ValueError unless there is a score for every task and for nothing else: a mean of fewer is another figure.
    """
    missing, unknown = [task for task in TASKS if task not in score_by_task], sorted(set(score_by_task) - set(TASKS))
    if missing or unknown:
        wrong = f"{', '.join(missing)} missing" if missing else f"{', '.join(unknown)} unknown"
        raise ValueError(f"vtab: {wrong}; expected a score for each of {', '.join(TASKS)}")
    return {name: statistics.fmean(score_by_task[task] for task in tasks) for name, tasks in _sets().items()}


def summaries(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for the mean of every group, and of all tasks, that the rows have in full; its task is `vtab/natural`.

    Rows are taken together that agree in all but the task: stage names aside, since each task has a stage of its own.
    The i-th value of a mean is that of the tasks' i-th seeds, so its deviation is over seeds and not over tasks. Where
    several rows of a task agree, the last counts; where tasks have other seeds than each other, nothing is summed up.
    """
    found: dict[tuple[str, ...], dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        task = str(row["task"]).removeprefix(PREFIX)
        if task != row["task"] and task in TASKS:
            key = tuple(str(row[name]) for name in ("protocol", "metric", "init", "checkpoint_digest"))
            found.setdefault(key, {})[task] = row
    made = []
    for by_task in found.values():
        for name, tasks in _sets().items():
            if by_task.keys() >= set(tasks):
                made += _summary(name, [by_task[task] for task in tasks])
    return made


def _summary(name: str, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row, or none where the seeds differ."""
    first = rows[0]
    if any(list(row["seeds"]) != list(first["seeds"]) for row in rows):
        return []
    by_seed = zip(*(row["values"] for row in rows), strict=True)
    values = [statistics.fmean(map(_number, of_tasks)) for of_tasks in by_seed]
    kept = {key: first[key] for key in ("protocol", "metric", "seeds", "init", "checkpoint", "checkpoint_digest")}
    return [compare.row(task=f"{PREFIX}{name}", values=values, **kept, details={"tasks": len(rows)})]


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _sets() -> dict[str, tuple[str, ...]]:
    return {ALL: TASKS, **GROUPS}
