"""Transfer results out of MLflow, as a table for people and as JSON, CSV or Markdown for everything else."""

import csv
import dataclasses
import io
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal, get_args

from pipeline.tracking import search

Output = Literal["table", "json", "csv", "md"]


@dataclasses.dataclass(frozen=True)
class Row:
    """One result: `mean` ± `std` of `metric` over `seeds`. `created` is ISO 8601 in UTC."""

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


def results(
    uri: str,
    *,
    experiment: str | None = None,
    recipe: str | None = None,
    task: str | None = None,
    protocol: str | None = None,
    checkpoint: str | None = None,
    every: bool = False,
) -> list[Row]:
    """The finished results in the MLflow at `uri`, by task and then best first.

    Of several results for the same recipe, checkpoint, task, protocol, metric and init only the newest, unless
    `every`. `checkpoint` is a URI or the beginning of a digest. Raises what `pipeline.tracking.search` raises.
    """
    asked = {"recipe": recipe, "task": task, "protocol": protocol}
    where = {name: value for name, value in asked.items() if value is not None}
    rows, seen = [], set()
    for run in search(uri, experiment=experiment, kind="result", where=where):
        row = _row(run)
        if row is None or not (checkpoint is None or _is_about(row, checkpoint)):
            continue
        what = (row.recipe, row.checkpoint, row.task, row.protocol, row.metric, row.init)
        if every or what not in seen:
            rows.append(row)
        seen.add(what)
    return sorted(rows, key=lambda row: (row.recipe, row.task, row.protocol, row.metric, -row.mean))


def render(rows: Sequence[Row], output: Output) -> str:
    """The rows as text that ends in a newline. JSON is a list of objects and CSV has a header, both with every field;
    the tables for people round and shorten. Raises ValueError for another output."""
    if output == "json":
        return json.dumps([_json(row) for row in rows], indent=2) + "\n"
    if output == "csv":
        return _csv(rows)
    if output == "md":
        return _markdown(rows)
    if output == "table":
        return _table(rows)
    raise ValueError(f"output: {output!r} is not one of {', '.join(get_args(Output))}")


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
        seeds=tuple(int(seed) for seed in facts.get("seeds", "").split(",") if seed),
        init=facts.get("init", ""),
        run_id=run["run_id"],
        created=run["created"],
    )


def _is_about(row: Row, checkpoint: str) -> bool:
    return row.checkpoint == checkpoint or (bool(checkpoint) and row.checkpoint_digest.startswith(checkpoint))


def _json(row: Row) -> dict[str, Any]:
    """JSON has no nan: null."""
    fields = dataclasses.asdict(row)
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in fields.items()}


def _csv(rows: Sequence[Row]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(field.name for field in dataclasses.fields(Row))
    for row in rows:
        writer.writerow({**dataclasses.asdict(row), "seeds": " ".join(map(str, row.seeds))}.values())
    return text.getvalue()


SHOWN = ("recipe", "checkpoint", "task", "protocol", "metric", "mean ± std", "seeds", "init", "created")


def _shown(row: Row) -> list[str]:
    std = "" if math.isnan(row.std) or len(row.seeds) < 2 else f" ± {row.std:.4f}"
    name = row.checkpoint.rstrip("/").rpartition("/")[2]
    checkpoint = f"{name}@{row.checkpoint_digest[:8]}" if row.checkpoint_digest else name
    score, day = f"{row.mean:.4f}{std}", row.created[:10]
    return [
        row.recipe, checkpoint, row.task, row.protocol, row.metric, score, ",".join(map(str, row.seeds)), row.init, day,
    ]  # fmt: skip


def _table(rows: Sequence[Row]) -> str:
    if not rows:
        return "no results\n"
    lines = [list(SHOWN), *(_shown(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    return "".join(_padded(line, widths) for line in lines)


def _padded(cells: Iterable[str], widths: Iterable[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip() + "\n"


def _markdown(rows: Sequence[Row]) -> str:
    lines = [list(SHOWN), ["---"] * len(SHOWN), *([cell.replace("|", r"\|") for cell in _shown(row)] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
