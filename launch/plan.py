"""What a run would do, before it does it: action, machines, figures and values of every stage.

All of it follows from the steps and their configs: nothing is read, and neither torch nor Ray is loaded.
"""

import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from launch.size import Cost, Training, training
from pipeline.config import encode
from pipeline.evals.findings import si
from pipeline.runner import Step
from pipeline.stage import Resources

WIDTH = 100

_HOW_TO_CHANGE = """\
config: change a value with --set PATH=VALUE (* makes no output stale)
machines: --set STAGE.resources.workers=8, .gpus_per_worker, .cpus_per_worker, .max_restarts"""


@dataclass(frozen=True)
class Row:
    """One stage. `config` is all of it; a change of a path in `execution` makes no output stale."""

    stage: str
    does: str
    action: str
    why: str
    resources: Resources
    training: Training | None
    config: Mapping[str, Any]
    execution: tuple[str, ...]


def plan_rows(steps: Sequence[Step]) -> list[Row]:
    """What would happen to every stage, in order, and how much that is."""
    return [_row(step) for step in steps]


def _row(step: Step) -> Row:
    config = encode(step.stage.config)
    identity = {path for path, _ in _leaves(encode(step.stage.config, identity=True))}
    return Row(
        stage=step.stage.name,
        does=step.stage.run.__name__,
        action=step.action,
        why=step.why,
        resources=step.stage.resources,
        training=training(step.stage),
        config=config,
        execution=tuple(path for path, _ in _leaves(config) if path not in identity),
    )


def _leaves(data: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(path, value) of everything that is no mapping."""
    if not isinstance(data, Mapping):
        yield path, data
        return
    for name, value in data.items():
        yield from _leaves(value, f"{path}.{name}" if path else name)


def render(steps: Sequence[Step], *, output: Literal["table", "json"]) -> str:
    """The plan as a JSON list of stages; or for a person: all stages, what is trained, and every value with its path.

    The paths are those that `--set` takes.
    """
    rows = plan_rows(steps)
    if output == "json":
        return json.dumps([asdict(row) for row in rows], indent=1)
    trained = [_trained(row.stage, row.training) for row in rows if row.training]
    return "\n\n".join([_stages(rows), *trained, _HOW_TO_CHANGE, *map(_config, rows)])


def _stages(rows: Sequence[Row]) -> str:
    cells = [("stage", "action", "on"), *((row.stage, row.action, _on(row.resources)) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in cells]
    reasons = [textwrap.indent(row.why, "    ") for row in rows]
    return "\n".join(filter(None, (text for pair in zip(lines, ["", *reasons], strict=True) for text in pair)))


def _on(resources: Resources) -> str:
    gpus = f"{resources.gpus_per_worker:g} GPU + " if resources.gpus_per_worker else ""
    workers = f"{resources.workers or 'as many as fit'} × {gpus}{resources.cpus_per_worker:g} CPU"
    return f"{workers}, {resources.max_restarts} restarts"


def _trained(stage: str, size: Training) -> str:
    trials = f"{size.trials} trials × " if size.trials > 1 else ""
    chosen = f"; {size.choosing} of the trials choose the learning rate" if size.choosing else ""
    epochs = f", {size.epochs:.3g} epochs" if size.epochs else ""
    images = ("images", f"{trials}{size.steps:,} steps × {size.batch:,} = {size.images:,}{epochs}{chosen}")
    model, *rest = _costs(size, size.cost) if size.cost else [None]
    lines = [line for line in (model, images, *rest) if line]
    lines += [("WARNING", warning) for warning in size.warnings]
    return "\n".join([stage, *(_wrapped(f"  {name:<9}{text}", indent=11) for name, text in lines)])


def _costs(size: Training, cost: Cost) -> list[tuple[str, str]]:
    state, activations = cost.state_gib, cost.activations_gib
    zero = f", ZeRO-{size.zero_stage} over {size.workers}" if size.workers > 1 else ""
    lines = [
        ("model", f"{cost.parameters / 1e6:.2f} M parameters, {cost.tokens} tokens at {cost.image_px} px"),
        (
            "compute",
            f"{cost.forward_gmac:.4g} GMAC forward and {cost.train_gflop_per_image:.4g} GFLOP in training an image; "
            f"{si(1e18 * cost.exaflops, 'FLOP')} in all",
        ),
        (
            "memory",
            f"about {_memory(state + activations)} a worker: {_memory(state)} of weights, gradients and "
            f"optimizer{zero}; {_memory(activations)} of activations of {size.micro_batch} images",
        ),
    ]
    if cost.hours:
        hours = ", ".join(f"{_hours(hours)} on {size.workers} {device}" for device, hours in cost.hours.items())
        lines.append(("time", f"about {hours}: an estimate, at {cost.mfu:.0%} of the peak in bf16"))
    return lines


def _memory(gib: float) -> str:
    return f"{gib:.1f} GiB" if gib >= 1 else f"{1024 * gib:.0f} MiB"


def _hours(hours: float) -> str:
    return f"{hours:,.0f} h" if hours >= 10 else f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.0f} min"


def _wrapped(line: str, *, indent: int) -> str:
    return "\n".join(
        textwrap.wrap(line, WIDTH, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False)
    )


def _config(row: Row) -> str:
    lines = [(path, f"{row.stage}.{path} = {_value(value)}") for path, value in _leaves(row.config)]
    return "\n".join(f"{'*' if path in row.execution else ' '} {line}" for path, line in lines)


def _value(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
