"""What `tessera run` says last: the transfer table on stdout, and on stderr where the rest is."""

import shlex
import sys
from collections.abc import Mapping

import typer

from launch.recipe import Recipe
from launch.run import Where
from pipeline.evals import compare
from pipeline.stage import Artifact
from pipeline.tracking import redact


def ending(recipe: Recipe, where: Where, done: Mapping[str, Artifact]) -> None:
    """Print the table of every row that a stage returned, pre-trained against random, and the way on from here."""
    rows = [{**row, "stage": name} for name, artifact in done.items() for row in artifact.result.get("rows", ())]
    pairs = compare.table(rows)
    if pairs:
        typer.echo(_table([compare.COLUMNS, *map(compare.cells, pairs)]))
        typer.echo(compare.headline(pairs))
        typer.echo(compare.LEGEND, err=True)
    for artifact in done.values():
        if report := artifact.result.get("html"):
            _say("report", str(report))
    _say("outputs", where.root)
    if where.tracking.startswith("sqlite:///"):
        _say("MLflow", f"mlflow ui --backend-store-uri {shlex.quote(redact(where.tracking))}")
    else:
        _say("MLflow", redact(where.tracking))
    root = "" if where.root == f"runs/{recipe.name}" else f" --root {shlex.quote(where.root)}"
    _say("again", f"tessera results {recipe.name} · tessera status {recipe.name}{root}")


def _say(name: str, what: str) -> None:
    typer.echo(f"{name:<8} {what}", err=True)


def _table(rows: list[tuple[str, ...]]) -> str:
    """Rich on a terminal, aligned plain text where stdout is a file or a pipe."""
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table(*rows[0])
        for row in rows[1:]:
            table.add_row(*row)
        console = Console()
        with console.capture() as captured:
            console.print(table)
        return captured.get().rstrip("\n")
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)
