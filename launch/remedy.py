"""Whether pre-training fits into the memory of its GPUs as the recipe is, and what would if it does not."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.models import memory, scaling
from pipeline.models.machine import MACHINES, Machine
from pipeline.models.scaling import GIB, USABLE, Training

_MOST_GPUS = 4096


@dataclass(frozen=True)
class Setup:
    """Training as it would be run: `training.micro_batch` images at once, or a GPU's whole part where that is 0."""

    training: Training
    machine: Machine
    gpus: int
    zero_stage: int

    @property
    def part(self) -> int:
        return scaling.largest_part(self.training.global_batch, gpus=self.gpus, unit=self.training.unit)

    @property
    def images(self) -> int:
        """At once."""
        most = min(self.training.micro_batch or self.part, self.part)
        return scaling.cut(self.part, most=most, unit=self.training.unit)[1]

    @property
    def fits(self) -> int:
        """Images at once that memory has room for."""
        return scaling.most_images(self.training, self.machine, gpus=self.gpus, zero_stage=self.zero_stage)

    @property
    def is_possible(self) -> bool:
        return self.part > 0 and self.images <= self.fits

    def gib(self, images: int) -> float:
        held = memory.in_gang(self.training.load, zero_stage=self.zero_stage, gpus=self.gpus, micro_batch=images)
        return held.total / GIB


def check(setup: Setup, *, stage: str) -> None:
    """ValueError for what cannot run, with the field, its value, and changes of which each would be enough."""
    training, unit = setup.training, setup.training.unit
    if training.micro_batch and training.micro_batch < unit:
        raise ValueError(f"{stage}.micro_batch: images are mixed in pairs, so it must be at least 2, got 1")
    if not setup.part:
        what = "pairs of images" if training.paired else "images"
        raise ValueError(
            f"--gpus: a step has {training.global_batch // unit} {what}, got {setup.gpus}; so many or fewer would be "
            "right"
        )
    if setup.is_possible:
        return
    room = f"the {USABLE * setup.machine.memory_gib:.0f} GiB that can be used of one {setup.machine.name}"
    remedy = f"{' or '.join([*_ways(setup, stage)][:3]) or 'only a smaller model'} would fit"
    if setup.fits:
        whole = "" if training.micro_batch else f", a GPU's whole part of {setup.part} images at once,"
        raise ValueError(
            f"{stage}.micro_batch: {training.micro_batch}{whole} takes {setup.gib(setup.images):,.0f} GiB, more than "
            f"{room}; {remedy}"
        )
    raise ValueError(
        f"{stage}.zero_stage: {setup.zero_stage} on {setup.gpus} GPUs takes {setup.gib(unit):,.0f} GiB with {unit} "
        f"image{'s' * (unit > 1)} at once, more than {room}; {remedy}"
    )


def _ways(setup: Setup, stage: str) -> Iterator[str]:
    """One change at a time, the cheapest first. Where not one image fits, micro-batches are taken to be made small."""
    training = setup.training
    if setup.fits:
        accumulate, images = scaling.cut(setup.part, most=setup.fits, unit=training.unit)
        yield f"--set {stage}.micro_batch={images} ({accumulate} of them a step)"
    else:
        training = dataclasses.replace(training, micro_batch=training.unit)
    as_is = dataclasses.replace(setup, training=training)
    for zero_stage in range(setup.zero_stage + 1, 4):
        if dataclasses.replace(as_is, zero_stage=zero_stage).is_possible:
            yield f"--set {stage}.zero_stage={zero_stage}"
            break
    again = dataclasses.replace(training, load=dataclasses.replace(training.load, recompute="full"))
    if dataclasses.replace(as_is, training=again).is_possible:
        yield f"--set {stage}.speed.recompute=full"
    gpus = 2 * setup.gpus
    while gpus <= _MOST_GPUS:
        if dataclasses.replace(as_is, gpus=gpus).is_possible:
            yield f"--gpus {gpus}"
            break
        gpus *= 2
    for name, machine in sorted(MACHINES.items(), key=lambda item: item[1].memory_gib):
        if dataclasses.replace(as_is, machine=machine).is_possible:
            yield f"--gpu {name}"
            break
