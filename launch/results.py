"""`tessera results` and `tessera champion`: what was measured, what is better, what is in use. From MLflow alone."""

import logging
import shutil
import sys
from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from launch.border import NOT_FOUND, errors

if TYPE_CHECKING:
    from launch.answer import Answer
    from launch.query import Asked
    from pipeline.evals.champion import Rule

log = logging.getLogger("tessera")


class Output(StrEnum):
    """How results are printed."""

    table = "table"
    json = "json"
    csv = "csv"
    md = "md"


class ChampionOutput(StrEnum):
    """How a champion is printed."""

    table = "table"
    json = "json"


Tracking = Annotated[
    str | None,
    typer.Option("--tracking", help="MLflow URI. Default: $MLFLOW_TRACKING_URI, else runs/mlflow.db (SQLite)."),
]
Task = Annotated[str | None, typer.Option(help="Only results on this data set; 'vtab/*' is every one of VTAB.")]
Two = Annotated[
    tuple[str, str] | None,
    typer.Option(
        metavar="A B",
        help="Two, with a test over seeds: each a digest, a URI, a recipe, newest, previous, champion or random.",
    ),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show debug lines, and tracebacks of errors.")]


def results(
    recipe: Annotated[str | None, typer.Argument(help="Only results of this recipe.")] = None,
    task: Task = None,
    protocol: Annotated[str | None, typer.Option(help="Such as finetune, 5-shot, knn-20, linear.")] = None,
    metric: Annotated[str | None, typer.Option(help="Such as top5, ece. Default of tables: top1 and real.")] = None,
    checkpoint: Annotated[str | None, typer.Option(help="URI, or the beginning of a digest.")] = None,
    since: Annotated[str | None, typer.Option(help="24h, 7d, yesterday, 2026-11-24 or 2026-11-24T22:00, UTC.")] = None,
    compare: Two = None,
    best: Annotated[bool, typer.Option("--best", help="Only the best checkpoint of each task.")] = False,
    every: Annotated[bool, typer.Option("--all", help="Older results of the same thing, and all checkpoints.")] = False,
    output: Annotated[Output, typer.Option()] = Output.table,
    show_query: Annotated[bool, typer.Option("--show-query", help="Print what MLflow is asked for, and stop.")] = False,
    tracking: Tracking = None,
    debug: Debug = False,
) -> None:
    """Is the newest checkpoint better, and at what? Then every checkpoint by task, beside the paper where it can be.

    JSON and CSV have a row for each result: checkpoint, task, protocol, metric, mean, std, seeds, init, paper, ...
    """
    with errors(debug=debug):
        from datetime import UTC, datetime

        from launch.answer import queries
        from launch.query import Asked, moment_ms
        from launch.run import default_tracking

        if compare and (since or checkpoint or best):
            raise ValueError("compare: names its two checkpoints; --since, --checkpoint and --best choose others")
        since_ms = None if since is None else moment_ms(since, now=datetime.now(UTC))
        asked = Asked(recipe, task, protocol, metric, checkpoint, since_ms, every)
        if show_query:
            typer.echo(queries(asked), nl=False)
        else:
            _answer(tracking or default_tracking(), asked, compare=compare, best=best, output=output)


def _answer(uri: str, asked: "Asked", *, compare: tuple[str, str] | None, best: bool, output: Output) -> None:
    from launch import answer
    from launch.matrix import MOST_ROWS

    is_all = asked.every or best or (compare is None and output in (Output.json, Output.csv))
    found = answer.gather(uri, asked, newest=None if is_all else MOST_ROWS)
    if compare is not None:
        _compare(uri, asked, found, *compare, output=output)
    else:
        _tell(uri, asked, found, best=best, output=output)
    if not found.rows:
        log.warning("no results match; %s", answer.choices(uri))
        raise typer.Exit(NOT_FOUND)


def champion(
    recipe: Annotated[str | None, typer.Argument(help="Whose champion. Default: every one there is.")] = None,
    tasks: Annotated[
        list[str] | None, typer.Option("--task", help="Of the rule; repeatable. Default: the recipe's champion().")
    ] = None,
    protocol: Annotated[str, typer.Option(help="Of the rule.")] = "finetune",
    metric: Annotated[str, typer.Option(help="Of the rule.")] = "top1",
    stds: Annotated[float, typer.Option(help="Of the rule: better by more than so many pooled stds.")] = 1.0,
    least: Annotated[float, typer.Option(help="Of the rule: and by more than this, 0.001 being 0.1 % of top-1.")] = 0.0,
    checkpoint: Annotated[str, typer.Option(help="Who is to be judged, by any name that --compare takes.")] = "newest",
    move: Annotated[bool, typer.Option("--move", help="Move the alias, if the rule says so.")] = False,
    because: Annotated[
        str, typer.Option(metavar="REASON", help="Move it without a rule, for a reason that is kept.")
    ] = "",
    output: Annotated[ChampionOutput, typer.Option()] = ChampionOutput.table,
    tracking: Tracking = None,
    debug: Debug = False,
) -> None:
    """Which checkpoint of a recipe is in use, since when and why; whether the newest is to take its place.

    The alias `champion` in MLflow's model registry moves with --move alone. Every move is a version, with its reason.
    """
    with errors(debug=debug):
        from launch.run import default_tracking

        uri = tracking or default_tracking()
        if recipe is None:
            _show_all(uri, output, asks_for_more=move or bool(because or tasks))
            return
        from launch.recipe import champion_rule
        from pipeline.evals.champion import Rule

        name, own = champion_rule(recipe)
        rule = Rule(tuple(tasks), protocol, metric, stds, least) if tasks else own
        _judge(uri, name, rule, checkpoint=checkpoint, move=move, because=because, output=output)


def _show_all(uri: str, output: ChampionOutput, *, asks_for_more: bool) -> None:
    from launch import champion, query
    from pipeline.tracking import lines

    if asks_for_more:
        raise ValueError("recipe: none is named; whose champion is to be judged, as in `tessera champion RECIPE`?")
    found = lines(uri)
    if output is ChampionOutput.json:
        typer.echo(query.as_text([champion.as_data(line, None, is_moved=False) for line in found]), nl=False)
    else:
        typer.echo("\n".join(map(champion.show, found)), nl=False)
    if not found:
        log.warning("there are no champions yet; `tessera champion RECIPE --move` makes one")
        raise typer.Exit(NOT_FOUND)


def _judge(
    uri: str, recipe: str, rule: "Rule | None", *, checkpoint: str, move: bool, because: str, output: ChampionOutput
) -> None:
    """Judge where there is a rule or a reason, move if that is asked for, show what is there then."""
    from launch import answer, champion, grid, query
    from launch.matrix import MOST_ROWS
    from launch.query import Asked
    from pipeline.tracking import lines

    found, decision, told = None, None, ""
    if rule or because or move:
        asked = Asked(recipe, protocol=rule.protocol, metric=rule.metric) if rule and not because else Asked(recipe)
        newest = MOST_ROWS if checkpoint in ("newest", "previous") else None
        found = answer.gather(uri, asked, newest=newest)
        decision = champion.decide(found, recipe=recipe, rule=rule, checkpoint=checkpoint, because=because)
        told = champion.move(uri, decision) if move else decision.text
    line = champion.line_of(recipe, lines(uri, name=recipe))
    is_moved = move and decision is not None and decision.ruling.moves
    if output is ChampionOutput.json:
        typer.echo(query.as_text(champion.as_data(line, decision, is_moved=is_moved)), nl=False)
    else:
        parts = ([grid.cell(told) + "\n"] if told else []) + ([champion.show(line)] if line else [])
        typer.echo("\n".join(parts), nl=False)
    if line is None and decision is None:
        log.warning("%s has no champion yet; `tessera champion %s --move` makes one", recipe, recipe)
        raise typer.Exit(NOT_FOUND)


def _tell(uri: str, asked: "Asked", found: "Answer", *, best: bool, output: Output) -> None:
    from launch import answer, grid, matrix, query

    rows = matrix.best(found.rows) if best else found.rows
    if output is Output.json:
        typer.echo(query.as_text(query.as_json(rows)), nl=False)
        return
    if output is Output.csv:
        typer.echo(query.as_csv(rows), nl=False)
        return
    typer.echo(grid.cell(answer.headline(uri, asked, found)))
    for remark in answer.remarks(uri, asked, found):
        typer.echo(f"Not finished: {grid.cell(remark)}")
    if not rows:
        return
    shown = matrix.columns(found.rows, asked)
    if best:
        lines = matrix.best_table([row for row in found.rows if row.column in shown], found.checkpoints)
    else:
        most = None if asked.every else matrix.MOST_ROWS
        lines = matrix.table(found.rows, found.checkpoints, shown=shown, champions=found.champions, most=most)
        if found.is_part:
            log.info("older checkpoints are left out; --all shows them")
    _print(lines, headers=1 if best else 2, output=output)
    others = sorted({row.metric for row in found.rows} - {column[2] for column in shown})
    typer.echo(matrix.LEGEND + (f" Also measured (--metric): {', '.join(others)}." if others else ""), err=True)


def _compare(uri: str, asked: "Asked", found: "Answer", a: str, b: str, *, output: Output) -> None:
    from launch import answer, contest, grid, query
    from launch.checkpoint import resolve_both

    if not found.rows:
        return
    recipe = asked.recipe or ""
    try:
        one, other = resolve_both(a, b, found.checkpoints, lines=found.lines, recipe=recipe)
    except FileNotFoundError:
        if not found.is_part:
            raise
        found = answer.gather(uri, asked)
        one, other = resolve_both(a, b, found.checkpoints, lines=found.lines, recipe=recipe)
    duels = contest.duels(found.of(one), found.of(other))
    if output is Output.json:
        typer.echo(query.as_text(contest.as_data(duels, one, other)), nl=False)
        return
    lines = contest.cells(duels, one.name, other.name)
    if output is Output.csv:
        typer.echo(grid.comma_separated(lines), nl=False)
        return
    typer.echo(grid.cell(contest.headline(duels, one.name, other.name)))
    _print(lines, headers=1, output=output)
    typer.echo(contest.NOTE, err=True)


def _print(lines: "Sequence[Sequence[str]]", *, headers: int, output: Output) -> None:
    """As wide as the terminal is; a file or a pipe has no width."""
    from launch import grid

    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    text = grid.markdown(lines, headers=headers) if output is Output.md else None
    typer.echo("\n" + (text or grid.aligned(lines, headers=headers, width=width)), nl=False)
