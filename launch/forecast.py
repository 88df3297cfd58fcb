"""`tessera plan`: what pre-training a recipe would take on 1 to 4096 GPUs, as a table, JSON or a figure."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline.models import flops, scaling
from pipeline.models.scaling import Machine, Point, Training
from pipeline.stage import Stage, in_order
from pipeline.stages.pretrain import Pretrain

MFU = 0.4  # of one GPU where nothing was measured: NVIDIA reports 43 % for ViT-g/14 on A100, 28 % on H100
GPUS = tuple(2**i for i in range(13))
STAGES = (1, 2, 3)
CHECKPOINT_BYTES = 12  # a parameter: fp32 master and two moments


@dataclass(frozen=True)
class Forecast:
    """The points of every number of GPUs and ZeRO stage that is possible. `measured` says where `rate` comes from."""

    stage: str
    machine: Machine
    training: Training
    steps: int
    measured: bool
    points: tuple[Point, ...]

    def at(self, gpus: int) -> list[Point]:
        return [point for point in self.points if point.gpus == gpus]

    @property
    def assumptions(self) -> str:
        machine, source = self.machine, "measured" if self.measured else f"assumed, {MFU:.0%} of the peak"
        return (
            f"{self.training.rate:.0f} images/s on one {machine.name} ({source}); NVLink {machine.nvlink / 1e9:.0f} "
            f"and network {machine.network / 1e9:.0f} GB/s a GPU, {machine.reached:.0%} of them reached; "
            f"{machine.gpus_per_node} GPUs a node; global batch {self.training.global_batch}"
        )


def forecast(
    stages: Sequence[Stage], *, gpu: str, gpus: int | None, images_per_s: float | None, network_gbps: float
) -> Forecast:
    """Of the first stage that pre-trains. ValueError for what does not exist or cannot fit."""
    if gpu not in scaling.MACHINES:
        raise ValueError(f"--gpu: {gpu!r} is not one of {', '.join(scaling.MACHINES)}")
    stage = next((stage for stage in in_order(stages) if isinstance(stage.config, Pretrain)), None)
    if stage is None:
        raise ValueError("plan: no stage of this recipe pre-trains; `tessera run RECIPE --dry-run` shows what it does")
    if any(value is not None and value <= 0 for value in (gpus, images_per_s, network_gbps)):
        raise ValueError("--gpus, --images-per-s, --network-gbps: must be positive")
    config: Pretrain = stage.config
    known = scaling.MACHINES[gpu]
    machine = Machine(known.name, known.peak_flops, known.memory_gib, known.nvlink, network=network_gbps * 1e9 / 8)
    rate = images_per_s or MFU * machine.peak_flops / flops.train_flops(config.model)
    training = Training(config.model, config.global_batch, rate, config.speed.recompute, config.micro_batch)
    asked: list[int] = sorted({*GPUS, *((gpus,) if gpus else ())})
    points = tuple(
        point
        for number in asked
        for zero_stage in STAGES
        if (point := scaling.predict(training, machine, gpus=number, zero_stage=zero_stage))
    )
    found = Forecast(stage.name, machine, training, config.steps, images_per_s is not None, points)
    if gpus and not found.at(gpus):
        raise ValueError(_why_not(found, gpus))
    return found


def _why_not(found: Forecast, gpus: int) -> str:
    batch, possible = found.training.global_batch, sorted({point.gpus for point in found.points})
    near = min(possible, key=lambda number: abs(number - gpus)) if possible else None
    if batch % gpus:
        return f"--gpus: {gpus} do not divide the global batch of {batch}; {near} would be right"
    gib = scaling.memory_gib(found.training, 1, gpus=gpus, zero_stage=3)
    return f"--gpus: one image takes {gib:.0f} GiB even under ZeRO-3; {found.stage}.speed.recompute=full takes less"


def render(found: Forecast, *, gpus: int | None, output: Literal["table", "json"]) -> str:
    """Every possible point; with `gpus`, that number in words first."""
    if output == "json":
        return json.dumps(_data(found), indent=1)
    said = [*_in_words(found, gpus), ""] if gpus else []
    rows = [("GPUs", "ZeRO", "micro-batch", "memory", "sent/step", "step", "images/s", "efficiency", "days")]
    rows += [_cells(found, point) for point in found.points]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([*said, *table, "", f"Assumed: {found.assumptions}."])


def _data(found: Forecast) -> dict[str, Any]:
    points = [{**asdict(point), "step_s": point.step_s, "days": _days(found, point)} for point in found.points]
    return {"stage": found.stage, "gpu": found.machine.name, "assumptions": found.assumptions, "points": points}


def _days(found: Forecast, point: Point) -> float:
    return found.steps * point.step_s / 86400


def _cells(found: Forecast, point: Point) -> tuple[str, ...]:
    micro = f"{point.accumulate} × {point.micro_batch}" if point.accumulate > 1 else f"{point.micro_batch}"
    step = f"{1000 * point.step_s:,.0f} ms"
    sizes = (f"{point.memory_gib:.1f} GiB", f"{point.traffic_gb:.2f} GB", step, f"{point.images_per_s:,.0f}")
    days = _days(found, point)
    return (
        f"{point.gpus}",
        f"{point.zero_stage}",
        micro,
        *sizes,
        f"{point.efficiency:.0%}",
        f"{days:,.1f}" if days < 100 else f"{days:,.0f}",
    )


def _in_words(found: Forecast, gpus: int) -> Iterator[str]:
    best = max(found.at(gpus), key=lambda point: point.images_per_s)
    parameters, days = flops.num_parameters(found.training.model), _days(found, best)
    yield f"{found.stage} on {gpus} {found.machine.name}: by this, ZeRO-{best.zero_stage} is fastest"
    yield f"  time        {days:,.2f} days for {found.steps:,} steps: {24 * days * gpus:,.0f} GPU hours"
    yield (
        f"  step        {1000 * best.step_s:,.0f} ms: {1000 * best.compute_s:,.0f} ms of computation and "
        f"{1000 * best.exposed_s:,.1f} ms of communication that nothing hides"
    )
    yield (
        f"  memory      {best.memory_gib:.1f} of {found.machine.memory_gib:.0f} GiB, with micro-batches of "
        f"{best.micro_batch} images"
    )
    yield f"  checkpoint  {CHECKPOINT_BYTES * parameters / 1e9:.1f} GB: fp32 weights and two moments"


def draw(found: Forecast, path: str) -> None:
    """Images a second over GPUs for each stage, beside what no communication would give. SVG, PNG or PDF by name."""
    if Path(path).suffix not in (".svg", ".png", ".pdf"):
        raise ValueError(f"--plot: {path!r} ends in none of .svg, .png, .pdf")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.6), layout="constrained")
    axes = figure.subplots()
    numbers = sorted({point.gpus for point in found.points})
    axes.plot(numbers, [n * found.training.rate for n in numbers], color="0.6", ls="--", label="no communication")
    for zero_stage, marker in zip(STAGES, "osv", strict=True):
        points = [point for point in found.points if point.zero_stage == zero_stage]
        label = f"ZeRO-{zero_stage}: {points[-1].efficiency:.0%} at {points[-1].gpus}" if points else None
        axes.plot([p.gpus for p in points], [p.images_per_s for p in points], marker=marker, ms=4, label=label)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(numbers, [f"{n}" for n in numbers])
    axes.set_xlabel(f"{found.machine.name} GPUs")
    axes.set_ylabel("images/s, predicted")
    axes.set_title(f"{found.stage}: {flops.num_parameters(found.training.model) / 1e6:.0f} M parameters", loc="left")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.supxlabel(found.assumptions.replace("; ", ";\n", 1), fontsize=7, color="0.35")
    figure.savefig(path, dpi=150)
