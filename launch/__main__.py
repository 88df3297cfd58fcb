"""The command line: `tessera run | plan | status | results | champion | doctor | export | import | shards`.

Data go to stdout, the rest to stderr.

Exit codes: 0 done, 1 a run failed, 2 usage or configuration, 3 not found, 4 storage or another precondition,
130 interrupted, 143 terminated.
"""

from enum import StrEnum
from typing import Annotated

import typer

from launch import interchange, shards
from launch import results as reading
from launch.border import PRECONDITION, errors

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    help="Pre-train Vision Transformers at scale and find out what they transfer to.",
)
app.add_typer(shards.app, name="shards")


class PlanOutput(StrEnum):
    """How a plan or a status is printed."""

    table = "table"
    json = "json"


class LogFormat(StrEnum):
    """How log lines look."""

    text = "text"
    json = "json"


Root = Annotated[str | None, typer.Option("--root", help="Folder or s3://bucket/prefix. Default: runs/<recipe>.")]
Tracking = Annotated[
    str | None,
    typer.Option("--tracking", help="MLflow URI. Default: $MLFLOW_TRACKING_URI, else runs/mlflow.db (SQLite)."),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show debug lines, and tracebacks of errors.")]


@app.command(
    epilog="Exit codes: 0 done; 1 a run failed; 2 usage or configuration; 3 not found; 4 storage or another "
    "precondition; 130 interrupted and 143 terminated, after training has saved what it has: the same command goes on."
)
def run(
    recipe: Annotated[str, typer.Argument(help="A recipe in configs/, such as quickstart, or a .py file.")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="STAGE.PATH=VALUE", help="Change a value; repeatable.")
    ] = None,
    root: Root = None,
    rebuild: Annotated[list[str] | None, typer.Option(metavar="STAGE", help="Compute this stage anew.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be done and stop.")] = False,
    output: Annotated[PlanOutput, typer.Option(help="How --dry-run prints.")] = PlanOutput.table,
    address: Annotated[
        str | None, typer.Option(help="A Ray cluster. Default: a local one.", envvar="RAY_ADDRESS")
    ] = None,
    tracking: Tracking = None,
    log_format: Annotated[LogFormat, typer.Option(help="How log lines look.")] = LogFormat.text,
    debug: Debug = False,
) -> None:
    """Make what a recipe asks for and is not there yet. The same command goes on where a killed run stopped."""
    with errors(debug=debug, log_format="json" if log_format is LogFormat.json else "text"):
        from launch import run as running
        from launch.recipe import load

        chosen = load(recipe, assignments=settings or [])
        where = running.Where(
            root or running.default_root(chosen.name), tracking or running.default_tracking(), address
        )
        if dry_run:
            from launch import plan
            from pipeline import runner

            steps = runner.plan(chosen.stages, root=where.root, rebuild=rebuild or [])
            typer.echo(plan.render(steps, output=output.value))
            return
        done = running.execute(chosen, where, rebuild=rebuild or [])
        from launch.ending import ending

        ending(chosen, where, done)


@app.command()
def plan(
    recipe: Annotated[str, typer.Argument(help="A recipe in configs/, or a .py file.")],
    gpus: Annotated[
        int | None, typer.Option(help="Say more of this number of GPUs. Default: the recipe's workers.")
    ] = None,
    gpu: Annotated[str, typer.Option(help="h100, h200, a100, a100-40, b200 or l40s.")] = "h100",
    images_per_s: Annotated[
        float | None, typer.Option(help="Measured on one GPU, by tests/bench/step.py. Default: 40 % of the peak.")
    ] = None,
    network_gbps: Annotated[float, typer.Option(help="Gbit/s of a GPU's network card.")] = 400,
    storage_gbps: Annotated[float, typer.Option(help="Gbit/s that a node writes to storage.")] = 10,
    price: Annotated[float | None, typer.Option(help="$ for an hour of a GPU. Default: no cost is told.")] = None,
    mtbf_hours: Annotated[float, typer.Option(help="Hours of one GPU from a fault to the next.")] = 50_000,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="STAGE.PATH=VALUE", help="Change a value; repeatable.")
    ] = None,
    plot: Annotated[str | None, typer.Option(metavar="FILE", help="Draw it too: .svg, .png or .pdf.")] = None,
    output: Annotated[PlanOutput, typer.Option()] = PlanOutput.table,
    debug: Debug = False,
) -> None:
    """Predict pre-training on a number of GPUs, before they are paid for: time, cost, memory, traffic, checkpoints.

    And on 1 to 4096 of them, a line each. What does not fit is refused, with what would.
    """
    with errors(debug=debug):
        from launch import forecast, forecast_text
        from launch.recipe import load

        asked = forecast.Asked(gpu, gpus, images_per_s, network_gbps, storage_gbps, price, mtbf_hours)
        found = forecast.forecast(load(recipe, assignments=settings or []).stages, asked)
        if plot:
            forecast_text.draw(found, plot)
        typer.echo(forecast_text.render(found, output=output.value))


@app.command()
def status(
    recipe: Annotated[str, typer.Argument(help="Its default root is looked at.")] = "quickstart",
    root: Root = None,
    stage: Annotated[str | None, typer.Option(help="Say more of this one, which trains.")] = None,
    events: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Say more, with the last N events. Default with --stage: 10.")
    ] = None,
    output: Annotated[PlanOutput, typer.Option()] = PlanOutput.table,
    debug: Debug = False,
) -> None:
    """What is under a root: stages done and begun, the figures they ended with, and how training fares.

    With --stage or --events: where the time of training went, and what happened last.
    """
    with errors(debug=debug):
        from launch import status as reading
        from launch.run import default_root

        where = root or default_root(recipe)
        if stage is None and events is None:
            typer.echo(reading.render(reading.lines(where), output.value))
            return
        found = reading.details(where, stage=stage, most=10 if events is None else events)
        typer.echo(reading.render_details(found, output.value))


@app.command()
def doctor(
    root: Root = None,
    tracking: Tracking = None,
    data: Annotated[
        str | None, typer.Option(metavar="URI", help="Measure instead how fast a prepared data set can be read here.")
    ] = None,
    split: Annotated[str, typer.Option(help="Of the data set.")] = "train",
    recipe: Annotated[str | None, typer.Option(help="Compare with what its model takes in.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="STAGE.PATH=VALUE", help="Change a value; repeatable.")
    ] = None,
    gpu: Annotated[str, typer.Option(help="h100, h200 or a100.")] = "h100",
    gpus: Annotated[int | None, typer.Option(help="On this machine. Default: those that are here, or 1.")] = None,
    images_per_s: Annotated[
        float | None, typer.Option(help="Measured on one GPU, by tests/bench/step.py. Default: 40 % of the peak.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="Time to measure; starting readers comes on top.")] = 20,
    cache: Annotated[str | None, typer.Option(metavar="FOLDER", help="For shards. Default: the recipe's.")] = None,
    output: Annotated[PlanOutput, typer.Option(help="How --data prints.")] = PlanOutput.table,
    debug: Debug = False,
) -> None:
    """Look for what would keep a run from working on this machine, or with --data from being fed; say what to do."""
    with errors(debug=debug):
        if data is not None:
            from launch import doctor_data, verdict
            from launch.recipe import load

            stage = doctor_data.pretraining(load(recipe, assignments=settings or []).stages) if recipe else None
            number = doctor_data.gpus_here() if gpus is None else gpus
            asked = doctor_data.Asked(data, split, seconds, number, gpu, stage, images_per_s, cache)
            typer.echo(verdict.render(doctor_data.measure(asked), asked.need, output=output.value))
            return
        from launch import doctor as checks
        from launch.run import default_tracking

        found = list(checks.findings(root=root or "runs", tracking=tracking or default_tracking()))
        typer.echo(checks.render(found))
        if any(finding.state == "fail" for finding in found):
            raise typer.Exit(PRECONDITION)


app.command()(reading.results)
app.command()(reading.champion)
app.command()(interchange.export)
app.command("import")(interchange.take_in)


@app.callback(invoke_without_command=True)
def _top(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print versions and stop.", is_eager=True)] = False,
) -> None:
    if version:
        names = ("tessera", "torch", "ray", "deepspeed", "mlflow", "webdataset", "boto3")
        typer.echo("\n".join(f"{name} {_installed(name)}" for name in names))
        raise typer.Exit


def _installed(name: str) -> str:
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        return installed(name)
    except PackageNotFoundError:
        return "(not installed)"


def main() -> None:
    """The console script."""
    app()


if __name__ == "__main__":
    main()
