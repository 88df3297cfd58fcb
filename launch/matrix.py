"""Results as tables: a row for each checkpoint and a column for each task, or the best checkpoint of each task."""

from collections.abc import Collection, Iterable, Sequence

from launch import contest
from launch.checkpoint import Checkpoint
from launch.query import Asked, Row
from pipeline.evals import compare, vtab

Column = tuple[str, str, str]

LEGEND = "Mean ± sample standard deviation over (so many) seeds; times are UTC."
MOST_ROWS = 20
_CHIEF = ("top1", "real")  # what is shown where no metric is asked for


def columns(rows: Sequence[Row], asked: Asked) -> list[Column]:
    """What there is a column for: top-1 and ReaL, and VTAB by its means, unless others are asked for."""
    found = {row.column for row in rows}
    if asked.metric is None and any(metric in _CHIEF for _, _, metric in found):
        found = {column for column in found if column[2] in _CHIEF}
    if asked.task is None:
        single = {column for column in found if column[0].removeprefix(vtab.PREFIX) in vtab.TASKS and _is_vtab(column)}
        found = found - single | {mean for column in single for mean in _means_of(column)}
    return sorted(found, key=contest.column_order)


def table(
    rows: Sequence[Row],
    checkpoints: Sequence[Checkpoint],
    *,
    shown: Sequence[Column],
    champions: Collection[str],
    most: int | None = None,
) -> list[tuple[str, ...]]:
    """Two headers and a row for each checkpoint, in their order; below it the paper's, and the difference to it.

    `champions` are digests. Of more than `most` weights the newest and the champions; draws are shown besides.
    """
    weights = [one for one in checkpoints if not one.is_draw]
    kept = {one.key for one in weights[:most]} | {one.key for one in weights if one.digest in champions}
    by_key: dict[tuple[str, str], dict[Column, Row]] = {}
    for row in rows:
        by_key.setdefault(row.key, {}).setdefault(row.column, row)
    lines = [("checkpoint", "made", *(task for task, _, _ in shown)), ("", "", *map(_how, shown))]
    for one in checkpoints:
        own = by_key.get(one.key, {}) if one.is_draw or one.key in kept else {}
        if not any(_score(own, column) for column in shown):
            continue
        name = f"{one.name} (champion)" if one.digest and one.digest in champions else one.name
        lines.append((name, minute(one.created), *(_score(own, column) or "–" for column in shown)))
        lines += _of_paper(one, [own.get(column) for column in shown])
    return lines


def best(rows: Iterable[Row]) -> list[Row]:
    """Of every column the best result that is a number, in the order of columns."""
    found: dict[Column, Row] = {}
    for row in sorted(rows, key=_worth):
        if row.mean == row.mean:
            found[row.column] = row
    return [found[column] for column in sorted(found, key=contest.column_order)]


def best_table(rows: Sequence[Row], checkpoints: Iterable[Checkpoint]) -> list[tuple[str, ...]]:
    """A header and a row for each column: the best checkpoint, the next, and whether seeds can tell them apart."""
    names = {one.key: one.name for one in checkpoints}
    lines = [("task", "protocol", "metric", "best", "", "next", "", "ahead by", "verdict", "paper", "difference")]
    for first in best(rows):
        others = [row for row in rows if row.column == first.column and row.key != first.key]
        second = next(iter(best(others)), None)
        duel = contest.Duel(first.column, first, second)
        rest = (names[second.key] if second else "–", contest.score(second), contest.difference(duel), duel.verdict)
        lines.append((*first.column, names[first.key], contest.score(first), *rest, *_paper_cells(first)))
    return lines


def minute(iso: str) -> str:
    """'2026-11-25 03:12'"""
    return iso[:16].replace("T", " ")


def _is_vtab(column: Column) -> bool:
    return column[0].startswith(vtab.PREFIX)


def _means_of(column: Column) -> Iterable[Column]:
    task = column[0].removeprefix(vtab.PREFIX)
    group = next(name for name, tasks in vtab.GROUPS.items() if task in tasks)
    return ((f"{vtab.PREFIX}{name}", *column[1:]) for name in (vtab.ALL, group))


def _how(column: Column) -> str:
    _, protocol, metric = column
    return protocol if metric == "top1" else f"{protocol} {metric}"


def _score(own: dict[Column, Row], column: Column) -> str:
    """'' where there is nothing; of a mean that is not whole, how many of its tasks there are."""
    if column in own:
        row = own[column]
        return f"{contest.score(row)} ({len(row.seeds)})"
    name = column[0].removeprefix(vtab.PREFIX)
    tasks = vtab.TASKS if name == vtab.ALL else vtab.GROUPS.get(name, ())
    there = sum((f"{vtab.PREFIX}{task}", *column[1:]) in own for task in tasks) if _is_vtab(column) else 0
    return f"{there} of {len(tasks)} tasks" if there else ""


def _of_paper(one: Checkpoint, rows: Sequence[Row | None]) -> list[tuple[str, ...]]:
    reported = [row for row in rows if row is not None and row.paper is not None]
    if not reported:
        return []
    figures, differences = zip(*(_paper_cells(row) for row in rows), strict=True)
    return [(f"  [ViT] {one.model}, {one.data}", "", *figures), ("  difference", "", *differences)]


def _paper_cells(row: Row | None) -> tuple[str, str]:
    if row is None or row.paper is None or row.difference is None:
        return "–", "–"
    return compare.figure(row.paper, metric=row.metric), compare.figure(row.difference, metric=row.metric, sign=True)


def _worth(row: Row) -> float:
    return -row.mean if compare.lower_is_better(row.metric) else row.mean
