"""What is under a root: which stages are done, which were begun, their figures, how training fares. Reads records.

Of every stage one small file is read, and of one that trains its events too.
"""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from launch import health
from launch.health import Health
from pipeline import record, storage
from pipeline.evals.findings import duration
from pipeline.train import events
from pipeline.train.goodput import Event

SHOWN = ("samples", "loss", "accuracy", "images_per_s", "rows", "quarantined")


@dataclass(frozen=True)
class Line:
    """One stage. `step` is the newest checkpoint of one that is not done, `result` the small numbers of one that is.

    `health` is of stages that train, done or not.
    """

    stage: str
    state: Literal["done", "begun"]
    build: str
    code: str
    wall_s: float | None
    step: int | None
    result: dict[str, Any]
    health: Health | None = None


@dataclass(frozen=True)
class Detail:
    """A stage that trains, and the gist of its newest events."""

    line: Line
    events: list[Event]


class NothingThere(LookupError):
    """No stage was ever begun under this root."""


def lines(root: str, *, now: float | None = None) -> list[Line]:
    """One line per stage under `root`, by name. NothingThere if there is none. `now` is in seconds since 1970."""
    return [line for line, _ in _found(root, now)]


def details(root: str, *, stage: str | None, most: int, now: float | None = None) -> list[Detail]:
    """Of one stage, or of all that train, with `most` events at most. NothingThere where that is none."""
    found = list(_found(root, now))
    names = [line.stage for line, _ in found]
    if stage is not None and stage not in names:
        raise NothingThere(f"{root}: no stage {stage!r} was begun there; it has {', '.join(names)}")
    told = [(line, health.gist(rows)) for line, rows in found if rows and stage in (None, line.stage)]
    kept = [Detail(line, rows[max(0, len(rows) - most) :]) for line, rows in told]
    if not kept:
        what = stage or ", ".join(names)
        raise NothingThere(f"{root}: no events were written down for {what}; only pre-training does that")
    return kept


def _found(root: str, now: float | None) -> Iterator[tuple[Line, list[Event]]]:
    names = storage.listing(root)
    stages = sorted({name.rsplit("/", 1)[0] for name in names if name.endswith(f"/{record.BEGUN}")})
    if not stages:
        raise NothingThere(f"{root}: nothing was run there; start with `tessera run RECIPE --root {root}`")
    for stage in stages:
        out = storage.join(root, stage)
        rows = events.read(out) if f"{stage}/{events.FILE}" in names else []
        yield _line(out, stage, names, rows, time.time() if now is None else now), rows


def _line(out: str, stage: str, names: Sequence[str], rows: Sequence[Event], now: float) -> Line:
    step = _newest_step(stage, names)
    fares = health.health(rows, checkpoint=step, now=now) if rows else None
    done = record.read(out)
    if done is not None:
        result = {name: _small(value) for name, value in (done.result or {}).items() if name in SHOWN}
        return Line(stage, "done", done.id, done.code, done.wall_s, None, result, fares)
    begun = record.read(out, record.BEGUN)
    assert begun is not None, "it was listed just now"
    return Line(stage, "begun", begun.id, begun.code, None, step, {}, fares)


def _newest_step(stage: str, names: Sequence[str]) -> int | None:
    start = f"{stage}/checkpoints/step-"
    steps = [
        int(name.removeprefix(start).split("/")[0])
        for name in names
        if name.startswith(start) and name.endswith("/manifest.json")
    ]
    return max(steps, default=None)


def _small(value: Any) -> Any:
    return len(value) if isinstance(value, list) else value


def render(found: Sequence[Line], output: Literal["table", "json"]) -> str:
    """The lines as text for a person or as a JSON list."""
    if output == "json":
        return json.dumps([asdict(line) for line in found], indent=1)
    rows = [("stage", "state", "took", "figures")]
    for line in found:
        first, *more = _figures(line) or [""]
        rows.append((line.stage, line.state, _took(line), first))
        rows += [("", "", "", text) for text in more]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    text = [[*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]] for row in rows]
    return "\n".join("  ".join(cells).rstrip() for cells in text)


def render_details(found: Sequence[Detail], output: Literal["table", "json"]) -> str:
    """Where the time of each went and what happened last, as text or as a JSON list."""
    if output == "json":
        return json.dumps([{**asdict(one.line), "events": one.events} for one in found], indent=1)
    return "\n\n".join(map(_detail, found))


def _detail(one: Detail) -> str:
    fares = one.line.health
    assert fares is not None, "it has events"
    head = f"{one.line.stage}: {one.line.state}, " + "\n".join(_course(one.line, fares))
    return "\n\n".join([head, health.course(fares), *([health.happened(one.events)] if one.events else [])])


def _took(line: Line) -> str:
    return "" if line.wall_s is None else f"{line.wall_s:.0f} s"


def _figures(line: Line) -> list[str]:
    """What is said of a stage, in lines."""
    shown = {k: f"{v:.4g}" if isinstance(v, float) else str(v) for k, v in line.result.items()}
    result = ", ".join(f"{name} {value}" for name, value in shown.items())
    if line.health is not None:
        return [*([result] if result else []), *_course(line, line.health)]
    if line.step is not None:
        return [f"checkpoint of step {line.step}"]
    return [result] if result else []


def _course(line: Line, fares: Health) -> list[str]:
    if line.state == "done":
        return [health.said(fares)]
    age = "" if fares.checkpoint_s is None else f", {duration(fares.checkpoint_s)} old"
    saved = "no checkpoint yet" if line.step is None else f"checkpoint of step {line.step}{age}"
    return [
        f"step {fares.step} of {fares.steps}, {saved}",
        health.said(fares),
        f"{duration(fares.heard_s)} ago: {fares.last}",
    ]
