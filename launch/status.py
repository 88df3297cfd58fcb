"""What is under a root: which stages are done, which were begun, and the figures they ended with. Reads records."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pipeline import record, storage

SHOWN = ("samples", "loss", "accuracy", "images_per_s", "rows", "quarantined")


@dataclass(frozen=True)
class Line:
    """One stage. `step` is the newest checkpoint of one that is not done, `result` the small numbers of one that is."""

    stage: str
    state: Literal["done", "begun"]
    build: str
    code: str
    wall_s: float | None
    step: int | None
    result: dict[str, Any]


class NothingThere(LookupError):
    """No stage was ever begun under this root."""


def lines(root: str) -> list[Line]:
    """One line per stage under `root`, by name. NothingThere if there is none."""
    names = storage.listing(root)
    found = sorted({name.rsplit("/", 1)[0] for name in names if name.endswith(f"/{record.BEGUN}")})
    if not found:
        raise NothingThere(f"{root}: nothing was run there; start with `tessera run RECIPE --root {root}`")
    return [_line(root, stage, names) for stage in found]


def _line(root: str, stage: str, names: Sequence[str]) -> Line:
    out = storage.join(root, stage)
    done = record.read(out)
    if done is not None:
        result = {name: _small(value) for name, value in (done.result or {}).items() if name in SHOWN}
        return Line(stage, "done", done.id, done.code, done.wall_s, None, result)
    begun = record.read(out, record.BEGUN)
    assert begun is not None, "it was listed just now"
    return Line(stage, "begun", begun.id, begun.code, None, _newest_step(stage, names), {})


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
    head = ("stage", "state", "took", "figures")
    rows = [(line.stage, line.state, _took(line), _figures(line)) for line in found]
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(3)]
    text = [[*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]] for row in (head, *rows)]
    return "\n".join("  ".join(cells).rstrip() for cells in text)


def _took(line: Line) -> str:
    return "" if line.wall_s is None else f"{line.wall_s:.0f} s"


def _figures(line: Line) -> str:
    if line.state == "begun":
        return "" if line.step is None else f"checkpoint of step {line.step}"
    shown = {k: f"{v:.4g}" if isinstance(v, float) else str(v) for k, v in line.result.items()}
    return ", ".join(f"{name} {value}" for name, value in shown.items())
