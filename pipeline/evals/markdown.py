"""Findings as Markdown: the report's text version, and a note short enough for a tracking server."""

from collections.abc import Iterable, Sequence

from pipeline.evals import compare
from pipeline.evals.findings import Findings, Grid

NOTE_CHARS = 8000  # what MLflow keeps of a tag


def report(findings: Findings) -> str:
    """The whole report but its figures."""
    parts = [f"# {_text(findings.title)}", compare.headline(findings.pairs), *_pretrainings(findings)]
    parts += _transfer(findings.pairs)
    if findings.grids:
        parts += ["## Hyper-parameters chosen on held-out images", _grids(findings.grids)]
    parts += [
        "## Where this comes from",
        _sources(findings),
        "## How to run it again",
        f"```sh\n{findings.command}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def note(findings: Findings, *, limit: int = NOTE_CHARS) -> str:
    """The summary in at most `limit` characters. Of a table too long, the last rows are left out and counted."""
    pairs = findings.pairs
    for shown in range(len(pairs), -1, -1):
        parts = [compare.headline(pairs), *_transfer(pairs[:shown], left_out=len(pairs) - shown)]
        parts += [*_pretrainings(findings), f"```sh\n{findings.command}\n```"]
        text = "\n\n".join(parts)
        if len(text) <= limit:
            return text
    return compare.headline(pairs)[:limit]


def _pretrainings(findings: Findings) -> list[str]:
    parts = []
    for one in findings.pretrainings:
        parts += [f"## {_text(one.heading)}", table(("what", "value"), one.facts)]
    return parts


def _transfer(pairs: Sequence[compare.Pair], *, left_out: int = 0) -> list[str]:
    if not pairs and not left_out:
        return []
    more = f"\n\n{left_out} more in report.html and transfer.json." if left_out else ""
    pairs_table = table(compare.COLUMNS, [compare.cells(pair) for pair in pairs])
    return ["## Transfer", f"{pairs_table}{more}", compare.LEGEND]


def _grids(grids: Iterable[Grid]) -> str:
    rows = []
    for grid in grids:
        tried = ", ".join(f"{value:g}: {compare.figure(score, metric=grid.metric)}" for value, score in grid.tried)
        edge = " (edge of the grid)" if grid.on_edge else ""
        rows.append((grid.task, grid.protocol, grid.init, f"{grid.parameter} {grid.chosen:g}{edge}", tried))
    return table(("task", "protocol", "init", "chosen", "held-out score"), rows)


def _sources(findings: Findings) -> str:
    rows = [(one.stage, one.build, one.code, one.record_uri) for one in findings.sources]
    return table(("stage", "build", "code", "record"), rows)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose cells are text, whatever is in them."""
    lines = [head, ["---"] * len(head), *([_text(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _text(cell: str) -> str:
    """Text that neither ends a cell nor starts markup; names come from data sets."""
    flat = " ".join(cell.split())
    for mark in "\\|`*_<>[]":
        flat = flat.replace(mark, f"\\{mark}")
    return flat
