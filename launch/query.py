"""Transfer results out of MLflow, as rows; the means of VTAB and the paper's figures beside them. Knows no checkpoint.

Everything is asked for in whole pages: how many requests are made depends on how many results there are, and on
nothing else.
"""

import csv
import dataclasses
import io
import json
import math
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from pipeline.evals import compare, vtab
from pipeline.tracking import Query, search

_AGE = re.compile(r"(\d+) ?(min|h|d|w)")
_UNIT = {"min": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


@dataclasses.dataclass(frozen=True)
class Row:
    """One result: `mean` ± `std` of `metric` over `seeds`. `created` is ISO 8601 in UTC.

    `model` and `data` are the variant and what it was pre-trained on, as papers call them, where MLflow knows; `paper`
    is what `paper_table` reports of these, and `difference` the mean less that. A mean of VTAB is of no run.
    """

    recipe: str
    checkpoint: str
    checkpoint_digest: str
    task: str
    protocol: str
    metric: str
    mean: float
    std: float
    seeds: tuple[int, ...]
    init: str
    run_id: str
    created: str
    values: tuple[float, ...] = ()
    model: str = ""
    data: str = ""
    paper: float | None = None
    paper_table: str = ""
    difference: float | None = None

    @property
    def key(self) -> tuple[str, str]:
        """Whose result it is: weights, or a draw, as a recipe measures them."""
        return self.recipe, self.checkpoint_digest or self.checkpoint or self.init

    @property
    def column(self) -> tuple[str, str, str]:
        """What was measured."""
        return self.task, self.protocol, self.metric


@dataclasses.dataclass(frozen=True)
class Asked:
    """Which results. `task` may have * for any text; `checkpoint` is a URI or the beginning of a digest.

    Of several results for the same recipe, checkpoint, task, protocol, metric and init only the newest, unless `every`.
    """

    recipe: str | None = None
    task: str | None = None
    protocol: str | None = None
    metric: str | None = None
    checkpoint: str | None = None
    since_ms: int | None = None
    every: bool = False

    @property
    def query(self) -> Query:
        """What MLflow is asked for; at least these results."""
        where = {"recipe": self.recipe, "protocol": self.protocol, "metric": self.metric}
        like = {}
        if self.task is not None and (pattern := _pattern(self.task)):
            like["task"] = pattern
        else:
            where["task"] = self.task
        if self.checkpoint is not None and re.search("[/:]", self.checkpoint):
            where["checkpoint"] = self.checkpoint
        elif self.checkpoint is not None:
            like["checkpoint_digest"] = f"{self.checkpoint}*"
        told = {name: value for name, value in where.items() if value is not None}
        return Query(kind="result", where=told, like=like, since_ms=self.since_ms)

    def fits(self, row: Row) -> bool:
        """Whether a result is among those that are asked for, its age aside."""
        exact = (self.recipe, row.recipe), (self.protocol, row.protocol), (self.metric, row.metric)
        return (
            all(wanted in (None, found) for wanted, found in exact)
            and (self.task is None or _matches(row.task, self.task))
            and (self.checkpoint is None or _is_about(row, self.checkpoint))
        )


def results(uri: str, asked: Asked) -> list[Row]:
    """The results that are asked for, and the means of VTAB over them, by task and then best first.

    Raises what `pipeline.tracking.search` raises.
    """
    rows = [row for row in map(_row, search(uri, asked.query)) if row is not None]
    newest = list({(*row.key, *row.column, row.init): row for row in reversed(rows)}.values())
    found = [*(rows if asked.every else newest), *_means(newest)]
    return sorted(filter(asked.fits, found), key=_order)


def moment_ms(text: str, *, now: datetime) -> int:
    """Milliseconds since 1970 of '24h', '7d', 'today', 'yesterday', '2026-11-24' or '2026-11-24T22:00', in UTC."""
    midnight = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if age := _AGE.fullmatch(text.strip()):
        found = now - int(age[1]) * _UNIT[age[2]]
    elif text.strip() in ("today", "yesterday"):
        found = midnight - timedelta(days=text.strip() == "yesterday")
    else:
        try:
            found = datetime.fromisoformat(text.strip())
        except ValueError:
            raise ValueError(
                f"since: {text!r} is no time; '24h', '7d', 'yesterday' or '2026-11-24T22:00' (UTC) would be right"
            ) from None
    return int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() * 1000)


def as_json(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Every field of every row. JSON has no nan: null."""
    return [{name: finite(value) for name, value in dataclasses.asdict(row).items()} for row in rows]


def finite(value: Any) -> Any:
    """None instead of a number that JSON does not have."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def as_csv(rows: Sequence[Row]) -> str:
    """With a header, every field, several values in one separated by blanks."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(field.name for field in dataclasses.fields(Row))
    for row in rows:
        cells = dataclasses.asdict(row).values()
        writer.writerow(" ".join(map(str, cell)) if isinstance(cell, tuple) else cell for cell in cells)
    return text.getvalue()


def as_text(found: Any) -> str:
    """JSON for people and programs."""
    return json.dumps(found, indent=2, ensure_ascii=False) + "\n"


def _pattern(task: str) -> str | None:
    """What to ask for where a task is several, or the mean of several."""
    if task.removeprefix(vtab.PREFIX) in (vtab.ALL, *vtab.GROUPS) and task.startswith(vtab.PREFIX):
        return f"{vtab.PREFIX}*"
    return task if "*" in task else None


def _matches(task: str, pattern: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), task, re.DOTALL) is not None


def _row(run: dict[str, Any]) -> Row | None:
    """None for a run that has not got so far: its metrics are not there yet."""
    facts, metrics = {**run["tags"], **run["params"]}, run["metrics"]
    if "mean" not in metrics or "task" not in facts:
        return None
    return Row(
        recipe=facts.get("recipe", run["experiment"]),
        checkpoint=facts.get("checkpoint", ""),
        checkpoint_digest=facts.get("checkpoint_digest", ""),
        task=facts["task"],
        protocol=facts.get("protocol", ""),
        metric=facts.get("metric", ""),
        mean=metrics["mean"],
        std=metrics.get("std", math.nan),
        seeds=_numbers(facts.get("seeds", ""), int),
        init=facts.get("init", ""),
        run_id=run["run_id"],
        created=run["created"],
        values=_numbers(facts.get("values", ""), float),
    )


def _numbers(text: str, kind: type) -> tuple[Any, ...]:
    """Those of a list with commas; none where it is none, such as one that was too long for MLflow."""
    try:
        return tuple(kind(part) for part in text.split(",") if part)
    except ValueError:
        return ()


def _means(rows: Iterable[Row]) -> list[Row]:
    """VTAB's means of every checkpoint that has all the tasks; with values that are whole."""
    by_key: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.task.startswith(vtab.PREFIX) and len(row.values) == len(row.seeds) > 0:
            by_key.setdefault(row.key, []).append(row)
    names = {field.name for field in dataclasses.fields(Row)}
    made = []
    for (recipe, _), found in by_key.items():
        newest = max(row.created for row in found)
        for mean in vtab.summaries(dataclasses.asdict(row) for row in found):
            told = {name: value for name, value in mean.items() if name in names}
            told |= {"seeds": tuple(mean["seeds"]), "values": tuple(mean["values"])}
            made.append(Row(recipe=recipe, run_id="", created=newest, **told))
    return made


def _is_about(row: Row, checkpoint: str) -> bool:
    return row.checkpoint == checkpoint or (bool(checkpoint) and row.checkpoint_digest.startswith(checkpoint))


def _order(row: Row) -> tuple[Any, ...]:
    mean = math.inf if math.isnan(row.mean) else row.mean if compare.lower_is_better(row.metric) else -row.mean
    return (row.recipe, *row.column, mean)
