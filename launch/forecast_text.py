"""What `tessera plan` prints of a forecast: words and a table for a person, JSON for a program, a figure."""

import json
import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from launch.forecast import ZERO_STAGES, Forecast
from pipeline.evals.findings import si
from pipeline.models import flops
from pipeline.models.scaling import GIB, USABLE, Point

WIDTH = 100


def render(found: Forecast, *, output: Literal["table", "json"]) -> str:
    """What the recipe takes on the chosen number of GPUs, then a line for each number, then what all that assumes."""
    if output == "json":
        return json.dumps(_data(found), indent=1)
    said = [*_in_words(found, found.chosen), ""] if found.chosen else []
    assumed = [_wrapped(f"  {line}", indent=4) for line in (*found.assumptions, *_of_cuts(found))]
    return "\n".join([*said, *_table(found), "", "Assumed:", *assumed])


def _data(found: Forecast) -> dict[str, Any]:
    return {
        "stage": found.stage,
        "gpu": found.machine.name,
        "gpus": found.gpus,
        "zero_stage": found.config.zero_stage,
        "parameters": flops.num_parameters(found.config.model),
        "train_flops": found.total_flops,
        "assumptions": found.assumptions,
        "points": [_point(found, point) for point in found.points],
    }


def _point(found: Forecast, point: Point) -> dict[str, Any]:
    held, upkeep = point.memory, found.upkeep(point)
    return {
        **asdict(point),
        "memory": {**asdict(held), "total": held.total},
        "step_s": point.step_s,
        "days": found.days(point),
        "gpu_hours": found.gpu_hours(point),
        "cost": found.cost(point),
        "checkpoint": asdict(upkeep),
    }


def _in_words(found: Forecast, best: Point) -> Iterator[str]:
    cost = found.cost(best)
    price = f", ${_count(cost)}" if cost is not None else ""
    hours = f"{_count(found.gpu_hours(best))} GPU hours{price}"
    yield f"{found.stage} on {best.gpus} {found.machine.name}: {_time(86400 * found.days(best))}, {hours}"
    yield ""
    for name, text in (*_of_work(found, best), *_of_memory(found, best), *_of_upkeep(found, best)):
        yield _wrapped(f"  {name:<11}{text}", indent=13)


def _of_work(found: Forecast, best: Point) -> Iterator[tuple[str, str]]:
    config = found.config
    model, images = config.model, config.steps * config.global_batch
    size = f"{flops.num_parameters(model) / 1e6:,.1f} M parameters, {model.num_tokens} tokens at {model.image_px} px"
    yield "model", size
    work = f"{si(flops.train_flops(model), 'FLOP')} an image, {si(found.total_flops, 'FLOP')} in all"
    yield "compute", f"{config.steps:,} steps × {config.global_batch:,} = {images:,} images; {work}"
    shares = f"{_time(best.compute_s)} of computation, {_time(best.exposed_s)} of communication that nothing hides"
    yield "step", f"{_time(best.step_s)}: {shares}"
    sent = f"each sends {_decimal(1e9 * best.traffic_gb)} under ZeRO-{best.zero_stage}"
    yield "", f"{best.images_per_s:,.0f} images/s, {best.efficiency:.0%} of {best.gpus} times one GPU; {sent}"


def _of_memory(found: Forecast, best: Point) -> Iterator[tuple[str, str]]:
    held, recompute = best.memory, found.config.speed.recompute
    usable = USABLE * found.machine.memory_gib * GIB
    times = f"{best.accumulate} × {best.micro_batch}" if best.accumulate > 1 else f"{best.micro_batch}"
    again = "" if recompute == "none" else f", {recompute} recomputation"
    yield (
        "memory",
        f"{_binary(held.total)} of the {_binary(usable)} that can be used; {best.fits:,} images at once would fit",
    )
    yield (
        "",
        f"weights {_binary(held.weights)}, gradients {_binary(held.gradients)}, optimizer {_binary(held.optimizer)}",
    )
    activations = f"activations {_binary(held.activations)} ({times} images{again})"
    yield "", f"{activations}, buffers of DeepSpeed {_binary(held.buffers)}"
    if held.update > held.activations + held.buffers:
        yield "", f"most is held in the optimizer's step: {_binary(held.update)} instead of the last two"


def _of_upkeep(found: Forecast, best: Point) -> Iterator[tuple[str, str]]:
    upkeep, every = found.upkeep(best), found.config.checkpoint_every
    size = f"{_decimal(upkeep.num_bytes)} of fp32 weights and moments, {_decimal(upkeep.num_bytes / best.gpus)} a GPU"
    yield "checkpoint", f"{size}, every {every:,} steps or {_time(upkeep.every_s)}"
    yield "", f"{_time(upkeep.stall_s)} to copy while training waits, then {_time(upkeep.write_s)} to write behind it"
    faults, steps = 86400 * found.days(best) / upkeep.mtbf_s, max(1, round(upkeep.best_s / best.step_s))
    often = f"one in {_time(upkeep.mtbf_s)}, so {faults:.2g} are expected"
    yield "faults", f"{often}; they and checkpoints take {100 * upkeep.lost:.2g}% of the time"
    yield "", f"that is least with a checkpoint every {steps:,} steps"


def _of_cuts(found: Forecast) -> Iterator[str]:
    if not found.config.micro_batch and any(point.accumulate > 1 for point in found.points):
        yield f"N × M images at once: with --set {found.stage}.micro_batch=M; the recipe's 0 takes a whole part at once"


def _table(found: Forecast) -> list[str]:
    """The recipe's ZeRO stage on every number of GPUs, and all stages on the chosen one, which is marked."""
    header = ("", "GPUs", "ZeRO", "images at once", "memory", "sent/step", "step", "images/s", "efficiency", "time")
    shown = [p for p in found.points if p.zero_stage == found.config.zero_stage or p.gpus == found.gpus]
    rows = [header, *(_cells(found, point) for point in shown)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


def _cells(found: Forecast, point: Point) -> tuple[str, ...]:
    images = f"{point.accumulate} × {point.micro_batch}" if point.accumulate > 1 else f"{point.micro_batch}"
    return (
        ">" if point == found.chosen else "",
        f"{point.gpus}",
        f"{point.zero_stage}",
        images,
        _binary(point.memory.total),
        _decimal(1e9 * point.traffic_gb),
        _time(point.step_s),
        f"{point.images_per_s:,.0f}",
        f"{point.efficiency:.0%}",
        _time(86400 * found.days(point)),
    )


def _time(seconds: float) -> str:
    for size, unit, least in ((86400, "days", 2), (3600, "h", 2), (60, "min", 2), (1, "s", 1)):
        if seconds >= least * size:
            return f"{_count(seconds / size)} {unit}"
    return f"{_count(1000 * seconds)} ms"


def _count(number: float) -> str:
    return f"{number:,.0f}" if number >= 99.95 or not number else f"{number:#.3g}"


def _binary(size: float) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{1024 * size / GIB:.0f} MiB"


def _decimal(size: float) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def _wrapped(line: str, *, indent: int) -> str:
    return "\n".join(textwrap.wrap(line, WIDTH, subsequent_indent=" " * indent, break_on_hyphens=False))


def draw(found: Forecast, path: str) -> None:
    """Images a second over GPUs for each stage, beside what no communication would give. SVG, PNG or PDF by name."""
    if Path(path).suffix not in (".svg", ".png", ".pdf"):
        raise ValueError(f"--plot: {path!r} ends in none of .svg, .png, .pdf")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.6), layout="constrained")
    axes = figure.subplots()
    numbers = sorted({point.gpus for point in found.points})
    axes.plot(numbers, [n * found.training.rate for n in numbers], color="0.6", ls="--", label="no communication")
    for zero_stage, marker in zip(ZERO_STAGES, "osv", strict=True):
        points = [point for point in found.points if point.zero_stage == zero_stage]
        label = f"ZeRO-{zero_stage}: {points[-1].efficiency:.0%} at {points[-1].gpus}" if points else None
        axes.plot([p.gpus for p in points], [p.images_per_s for p in points], marker=marker, ms=4, label=label)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(numbers, [f"{n}" for n in numbers])
    axes.set_xlabel(f"{found.machine.name} GPUs")
    axes.set_ylabel("images/s, predicted")
    axes.set_title(f"{found.stage}: {flops.num_parameters(found.config.model) / 1e6:.0f} M parameters", loc="left")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.supxlabel("\n".join(found.assumptions[:2]), fontsize=7, color="0.35")
    figure.savefig(path, dpi=150)
