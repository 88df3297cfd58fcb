"""How much a stage trains: compute, memory and time, in closed form, before it runs. Knows neither torch nor Ray."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pipeline.datasets.fractals import Fractals
from pipeline.models import flops, memory, scaling
from pipeline.models.memory import Load, Memory
from pipeline.models.origin import with_new_head
from pipeline.models.variant import ViTConfig
from pipeline.stage import Stage
from pipeline.stages.finetune import Finetune
from pipeline.stages.prepare import Prepare
from pipeline.stages.pretrain import Pretrain
from pipeline.train import optim

DEVICES = ("H100", "A100")  # what hours are told for
GPU_GIB = 80
GIB = 2**30


@dataclass(frozen=True)
class Cost:
    """What a model takes. Memory is an estimate for one worker; `hours`, by device, one for all of them at `mfu`.

    `state_gib` are weights, gradients, the optimizer's state and DeepSpeed's buffers, `activations_gib` those of a
    micro-batch. A new head, whose classes are not known yet, is left out. No hours without GPUs.
    """

    parameters: int
    tokens: int
    image_px: int
    forward_gmac: float
    train_gflop_per_image: float
    exaflops: float
    state_gib: float
    activations_gib: float
    hours: Mapping[str, float]
    mfu: float = scaling.MFU


@dataclass(frozen=True)
class Training:
    """How much is trained: `trials` times `steps` steps of `batch` images, `images` in all.

    `choosing` of the trials are for the learning rate. `epochs` is None where only the disk knows, `cost` where the
    weights are not of this recipe.
    """

    trials: int
    choosing: int
    steps: int
    batch: int
    images: int
    epochs: float | None
    workers: int
    micro_batch: int
    zero_stage: int
    cost: Cost | None
    warnings: tuple[str, ...]


def training(stage: Stage) -> Training | None:
    """How much a stage trains; None for one that does not."""
    if isinstance(stage.config, Pretrain):
        return _pretraining(stage, stage.config)
    return _fine_tuning(stage, stage.config) if isinstance(stage.config, Finetune) else None


def _pretraining(stage: Stage, config: Pretrain) -> Training:
    num_samples = _num_samples(stage.needs.get("shards"), config.split)
    images = config.steps * config.global_batch
    share = _Share(stage, config.global_batch, always_gang=True, unit=2 if config.objective.mixes else 1)
    return Training(
        trials=1,
        choosing=0,
        steps=config.steps,
        batch=config.global_batch,
        images=images,
        epochs=images / num_samples if num_samples else None,
        workers=share.workers,
        micro_batch=share.micro_batch,
        zero_stage=config.zero_stage,
        cost=_cost(share, config.model, images=images),
        warnings=tuple(_warnings(share, config.model)),
    )


def _fine_tuning(stage: Stage, config: Finetune) -> Training:
    """A trial for every learning rate, if there are several to choose among, and one for every seed."""
    sizes = max(1, len(config.per_class))
    choosing = sizes * len(config.lrs) if len(config.lrs) > 1 else 0
    trials = choosing + sizes * len(config.seeds)
    images = trials * config.steps * config.batch
    share, pretrained = _Share(stage, config.batch), stage.needs["weights"].config
    model, warnings = None, ()
    if isinstance(pretrained, Pretrain):
        try:
            model = with_new_head(pretrained.model, num_classes=0, image_px=config.view.image_px)
            warnings = tuple(_warnings(share, model))
        except ValueError as error:
            warnings = (f"view.{error}",)
    return Training(
        trials=trials,
        choosing=choosing,
        steps=config.steps,
        batch=config.batch,
        images=images,
        epochs=None,
        workers=share.workers,
        micro_batch=share.micro_batch,
        zero_stage=config.zero_stage,
        cost=_cost(share, model, images=images) if model else None,
        warnings=warnings,
    )


def _num_samples(shards: Stage | None, split: str) -> int | None:
    """Samples of a split where the config says it; a folder would have to be listed."""
    if shards is None or not isinstance(shards.config, Prepare) or not isinstance(shards.config.source, Fractals):
        return None
    return shards.config.source.splits().get(split)


@dataclass(frozen=True)
class _Share:
    """What the worker that has most does of a batch. `unit`: images that stay together, two where they are mixed."""

    stage: Stage
    batch: int
    always_gang: bool = False
    unit: int = 1

    @property
    def workers(self) -> int:
        return self.stage.resources.workers or 1

    @property
    def in_gang(self) -> bool:
        return self.always_gang or self.workers > 1

    @property
    def part(self) -> int:
        """0 where some worker would have no image."""
        return scaling.largest_part(self.batch, gpus=self.workers, unit=self.unit)

    @property
    def micro_batch(self) -> int:
        part = self.part or self.unit
        most = max(self.unit, min(self.stage.config.micro_batch or part, part))
        return scaling.cut(part, most=most, unit=self.unit)[1] if self.in_gang else most

    def load(self, model: ViTConfig) -> Load:
        config = self.stage.config
        trained = config.optim if isinstance(config, Pretrain) else config.optim(max(config.lrs))
        return Load(model, config.precision, config.speed.recompute, len(optim.states(trained)))

    def memory(self, model: ViTConfig, *, zero_stage: int, micro_batch: int) -> Memory:
        load = self.load(model)
        if not self.in_gang:
            return memory.alone(load, micro_batch=micro_batch)
        return memory.in_gang(load, zero_stage=zero_stage, gpus=self.workers, micro_batch=micro_batch)


def _cost(share: _Share, model: ViTConfig, *, images: int) -> Cost:
    total = images * flops.train_flops(model)
    hours = {name: total / (share.workers * flops.PEAK_FLOPS[name] * scaling.MFU) / 3600 for name in DEVICES}
    held = share.memory(model, zero_stage=share.stage.config.zero_stage, micro_batch=share.micro_batch)
    return Cost(
        parameters=flops.num_parameters(model),
        tokens=model.num_tokens,
        image_px=model.image_px,
        forward_gmac=flops.forward_macs(model) / 1e9,
        train_gflop_per_image=flops.train_flops(model) / 1e9,
        exaflops=total / 1e18,
        state_gib=(held.states + held.buffers) / GIB,
        activations_gib=held.activations / GIB,
        hours=hours if share.stage.resources.gpus_per_worker else {},
    )


def _warnings(share: _Share, model: ViTConfig) -> Iterator[str]:
    if share.in_gang and not share.part:
        yield (
            f"a batch of {share.batch} does not give each of {share.workers} workers "
            f"{'a pair of images' if share.unit > 1 else 'an image'}; at most {share.batch // share.unit} workers "
            "would be right"
        )
        return
    held = share.memory(model, zero_stage=share.stage.config.zero_stage, micro_batch=share.micro_batch)
    gib = held.total / GIB
    if share.stage.resources.gpus_per_worker and gib > GPU_GIB:
        yield f"{gib:.0f} GiB are more than the {GPU_GIB} GiB of a GPU; {_remedy(share, model)}"


def _remedy(share: _Share, model: ViTConfig) -> str:
    """The largest micro-batch that fits, at the lowest ZeRO stage at which one does."""
    name, config = share.stage.name, share.stage.config
    for zero_stage in range(config.zero_stage, 4):
        without = share.memory(model, zero_stage=zero_stage, micro_batch=0)
        room = int((scaling.USABLE * GPU_GIB * GIB - without.total) // share.load(model).image_bytes)
        if room >= share.unit:
            _, images = scaling.cut(share.part, most=min(share.part, room), unit=share.unit)
            zero = f" --set {name}.zero_stage={zero_stage}" if zero_stage != config.zero_stage else ""
            gib = share.memory(model, zero_stage=zero_stage, micro_batch=images).total / GIB
            return f"--set {name}.micro_batch={images}{zero} makes it {gib:.0f} GiB"
    return f"not even micro_batch={share.unit} and zero_stage=3 fit: more GPUs would, or a smaller model"
