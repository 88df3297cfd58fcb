"""`tessera plan`: what pre-training a recipe would take on 1 to 4096 GPUs. Knows not how that is printed."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from launch.interruption import GPU_MTBF_H, RESTART_S, Upkeep, upkeep
from launch.remedy import Setup, check
from pipeline.models import flops, memory, scaling
from pipeline.models.machine import MACHINES, Machine
from pipeline.models.memory import Load
from pipeline.models.scaling import MFU, USABLE, Point, Training
from pipeline.stage import Stage, in_order
from pipeline.stages.pretrain import Pretrain
from pipeline.train import optim

__all__ = ["MFU", "Asked", "Forecast", "forecast"]

GPUS = tuple(2**i for i in range(13))
ZERO_STAGES = (1, 2, 3)


@dataclass(frozen=True)
class Asked:
    """What the command line says. `gpus` is the number to say more of, None for the recipe's own.

    storage_gbps: what a node writes. price: of an hour of a GPU. mtbf_hours: from one fault of a GPU to the next.
    """

    gpu: str = "h100"
    gpus: int | None = None
    images_per_s: float | None = None
    network_gbps: float = 400
    storage_gbps: float = 10
    price: float | None = None
    mtbf_hours: float = GPU_MTBF_H

    def __post_init__(self) -> None:
        if self.gpu.lower() not in MACHINES:
            raise ValueError(f"--gpu: {self.gpu!r} is not one of {', '.join(MACHINES)}")
        for name in ("gpus", "images_per_s", "network_gbps", "storage_gbps", "price", "mtbf_hours"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"--{name.replace('_', '-')}: must be positive, got {value:g}")

    @property
    def machine(self) -> Machine:
        return dataclasses.replace(MACHINES[self.gpu.lower()], network=self.network_gbps * 1e9 / 8)


@dataclass(frozen=True)
class Forecast:
    """The points of every number of GPUs and ZeRO stage that is possible. `gpus`: the number to say more of."""

    stage: str
    config: Pretrain
    machine: Machine
    training: Training
    asked: Asked
    gpus: int | None
    points: tuple[Point, ...]

    @property
    def chosen(self) -> Point | None:
        """`gpus` of them, as the recipe is."""
        return next((p for p in self.points if (p.gpus, p.zero_stage) == (self.gpus, self.config.zero_stage)), None)

    @property
    def total_flops(self) -> int:
        return self.config.steps * self.config.global_batch * flops.train_flops(self.config.model)

    def upkeep(self, point: Point) -> Upkeep:
        """Of checkpoints that hold fp32 weights and the optimizer's moments, as often as the recipe saves them."""
        values = (1 + self.training.load.moments) * flops.num_parameters(self.config.model)
        return upkeep(
            memory.MASTER_BYTES * values,
            gpus=point.gpus,
            machine=self.machine,
            every_s=self.config.checkpoint_every * point.step_s,
            storage=self.asked.storage_gbps * 1e9 / 8,
            gpu_mtbf_h=self.asked.mtbf_hours,
        )

    def days(self, point: Point) -> float:
        """Steps x time of a step, over the share of the time that is not lost to checkpoints and faults."""
        kept = 1 - self.upkeep(point).lost
        return self.config.steps * point.step_s / 86400 / kept if kept else math.inf

    def gpu_hours(self, point: Point) -> float:
        return 24 * self.days(point) * point.gpus

    def cost(self, point: Point) -> float | None:
        """GPU hours x price; None where no price was given."""
        return None if self.asked.price is None else self.asked.price * self.gpu_hours(point)

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What the figures rest on beside the recipe, a line each."""
        machine, load = self.machine, self.training.load
        peak = machine.peak_flops if load.precision == "bf16" else machine.peak_flops_fp32
        source = "measured"
        if self.asked.images_per_s is None:
            source = f"{MFU:.0%} of {peak / 1e12:.0f} TFLOP/s in {load.precision}; --images-per-s if you measured it"
        return (
            f"{self.training.rate:,.0f} images/s on one {machine.name}: {source}",
            "as many however few images it computes at once, though a handful use it less",
            f"GB/s of a GPU: {machine.link / 1e9:.0f} in its node of {machine.gpus_per_node}, "
            f"{machine.network / 1e9:g} to others (--network-gbps), {machine.host / 1e9:.0f} to its host, "
            f"{machine.reached:.0%} reached",
            f"a node writes {self.asked.storage_gbps / 8:g} GB/s to storage (--storage-gbps)",
            f"{USABLE:.0%} of {machine.memory_gib:g} GiB can be used; the rest is CUDA's and lost between tensors",
            f"a fault in {self.asked.mtbf_hours:,.0f} h of a GPU (--mtbf-hours), {RESTART_S / 60:.0f} min to go on",
            "ZeRO-3 fetches every weight in time, which is its best case",
        )


def forecast(stages: Sequence[Stage], asked: Asked) -> Forecast:
    """Of the first stage that pre-trains. ValueError where none does, or where the recipe as it is cannot fit."""
    stage = next((stage for stage in in_order(stages) if isinstance(stage.config, Pretrain)), None)
    if stage is None:
        raise ValueError("plan: no stage of this recipe pre-trains; `tessera run RECIPE --dry-run` shows what it does")
    config, machine = stage.config, asked.machine
    load = Load(config.model, config.precision, config.speed.recompute, len(optim.states(config.optim)))
    rate = asked.images_per_s or scaling.assumed_rate(load, machine)
    training = Training(load, config.global_batch, rate, config.micro_batch, config.objective.mixes)
    gpus = asked.gpus or stage.resources.workers
    if gpus:
        check(Setup(training, machine, gpus, config.zero_stage), stage=stage.name)
    points = tuple(
        point
        for number in sorted({*GPUS, *((gpus,) if gpus else ())})
        for zero_stage in ZERO_STAGES
        if (point := scaling.predict(training, machine, gpus=number, zero_stage=zero_stage))
    )
    return Forecast(stage.name, config, machine, training, asked, gpus, points)
