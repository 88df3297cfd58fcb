"""What a report says, as text and numbers, before any page is laid out. Standard library only."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.evals import compare, vtab

Point = tuple[float, float, float, float, float]  # step, loss, lr, images/s, share of time spent waiting for data

_PREFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True)
class Source:
    """A stage that the report is made from. `href` is a link to its record, where a browser could follow one."""

    stage: str
    build: str
    record_uri: str
    href: str | None = None
    code: str = ""


@dataclass(frozen=True)
class Pretraining:
    """One pre-training: `facts` are (what, value) as text, `history` at most some hundred points."""

    stage: str
    facts: tuple[tuple[str, str], ...]
    history: tuple[Point, ...]

    @property
    def heading(self) -> str:
        return "Pre-training" if self.stage == "pretrain" else f"Pre-training: {self.stage}"


@dataclass(frozen=True)
class Grid:
    """How one hyper-parameter was chosen: `tried` are (value, held-out score) by rising value."""

    task: str
    protocol: str
    metric: str
    init: str
    parameter: str
    chosen: float
    tried: tuple[tuple[float, float], ...]

    @property
    def on_edge(self) -> bool:
        """The best value is the smallest or largest tried: a better one may lie outside."""
        return len(self.tried) > 1 and self.chosen in (self.tried[0][0], self.tried[-1][0])


@dataclass(frozen=True)
class Picture:
    """A picture (PNG) that the stage `stage` has drawn, and what is to be seen, in a sentence."""

    stage: str
    caption: str
    png: bytes


@dataclass(frozen=True)
class Findings:
    """Everything a page shows, in the order it shows it."""

    title: str
    command: str
    pretrainings: tuple[Pretraining, ...]
    rows: tuple[Mapping[str, Any], ...]
    sources: tuple[Source, ...]
    pictures: tuple[Picture, ...] = ()

    @property
    def pairs(self) -> list[compare.Pair]:
        """The rows side by side, and the means of VTAB where all of its tasks, or those of a group, are among them."""
        return compare.table([*self.rows, *vtab.summaries(self.rows)])

    @property
    def grids(self) -> list[Grid]:
        found = (_grid(row) for row in self.rows)
        return [grid for grid in found if grid is not None]


def pretraining(stage: str, *, result: Mapping[str, Any], model: str = "", data: str = "") -> Pretraining:
    """The facts of a pre-training from what its stage returned; what is missing there is left out."""

    def number(key: str) -> float | None:
        value = result.get(key)
        return float(value) if isinstance(value, int | float) and math.isfinite(value) else None

    known = (
        ("Model", model or None),
        ("Parameters", _show(number("parameters"), si)),
        ("Data", data or None),
        ("Images seen", _show(number("images"), si)),
        ("Steps", _show(number("steps"), lambda value: f"{value:,.0f}")),
        ("Compute", _show(number("train_flops"), lambda value: si(value, "FLOP"))),
        ("Throughput", _show(number("images_per_s"), lambda value: f"{value:,.0f} images/s")),
        ("Wall time", _show(number("wall_s"), duration)),
        ("Goodput", _show(number("goodput"), lambda value: f"{100 * value:.1f} %{_befallen(result)}")),
        ("Last loss", _show(number("loss"), lambda value: f"{value:.4f}")),
        ("Top-1", _show(number("top1"), lambda value: f"{100 * value:.2f} %")),
        ("Weights", str(result["weights"]) if result.get("weights") else None),
        ("Digest", str(result["digest"]) if result.get("digest") else None),
    )
    facts = tuple((what, value) for what, value in known if value is not None)
    return Pretraining(stage, facts, tuple(_point(point) for point in result.get("history", ())))


def _befallen(result: Mapping[str, Any]) -> str:
    """What a run went through: ', 2 restarts, 1 batch skipped'."""
    restarts = result.get("restarts", 0) + result.get("resumptions", 0)
    counted = ((restarts, "restart", "restarts"), (result.get("skipped", 0), "batch skipped", "batches skipped"))
    return "".join(f", {number} {single if number == 1 else many}" for number, single, many in counted if number)


def _show(value: float | None, text: Any) -> str | None:
    return None if value is None else text(value)


def _point(point: Sequence[float | None]) -> Point:
    step, loss, lr, images_per_s, wait_share = (math.nan if value is None else float(value) for value in point)
    return step, loss, lr, images_per_s, wait_share


def _grid(row: Mapping[str, Any]) -> Grid | None:
    details = row.get("details") or {}
    parameter = next((name for name in ("lr", "l2") if name in details), None)
    if parameter is None or not details.get("grid"):
        return None
    tried = sorted(
        (float(value), math.nan if score is None else float(score)) for value, score in details["grid"].items()
    )
    names = (str(row[key]) for key in ("task", "protocol", "metric", "init"))
    return Grid(*names, parameter=parameter, chosen=float(details[parameter]), tried=tuple(tried))


def si(value: float, unit: str = "") -> str:
    """'632 M', '4.26 EFLOP': three digits and a decimal prefix."""
    for size, prefix in _PREFIXES:
        if abs(value) >= size:
            scaled = value / size
            digits = f"{scaled:,.0f}" if scaled >= 99.95 else f"{scaled:.3g}"
            return f"{digits} {prefix}{unit}"
    return f"{value:.3g} {unit}".rstrip()


def duration(seconds: float) -> str:
    """'3 d 4 h', '2 h 5 min', '41 s': the two largest units."""
    whole = round(seconds)
    units = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
    place = next((i for i, (size, _) in enumerate(units) if whole >= size), len(units) - 1)
    parts = []
    for size, unit in units[place : place + 2]:
        count, whole = divmod(whole, size)
        if count or not parts:
            parts.append(f"{count} {unit}")
    return " ".join(parts)
