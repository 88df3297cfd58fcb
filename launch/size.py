"""How much a stage trains: compute, memory and time, in closed form, before it runs. Knows neither torch nor Ray."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pipeline.datasets.fractals import Fractals
from pipeline.models import flops
from pipeline.models.origin import with_new_head
from pipeline.models.variant import ViTConfig
from pipeline.stage import Stage
from pipeline.stages.finetune import Finetune
from pipeline.stages.prepare import Prepare
from pipeline.stages.pretrain import Pretrain

DEVICES = ("H100", "A100")  # what hours are told for
MFU = 0.4  # NVIDIA reports 43 % for ViT-g/14 on A100, and 28 % on H100 "out of the box"
GPU_GIB = 80
GIB = 2**30


@dataclass(frozen=True)
class Cost:
    """What a model takes. Memory is an estimate for one worker; `hours`, by device, one for all of them at `mfu`.

    `state_gib` are weights, gradients and Adam's moments, `activations_gib` those of a micro-batch. A new head, whose
    classes are not known yet, is left out. No hours without GPUs.
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
    mfu: float = MFU


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
    share = _Share(stage, config.global_batch, always_gang=True, even=bool(config.objective.mixup))
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
    """How a batch is divided among the workers of a stage. `even`: micro-batches must be, since mixup mixes pairs."""

    stage: Stage
    batch: int
    always_gang: bool = False
    even: bool = False

    @property
    def workers(self) -> int:
        return self.stage.resources.workers or 1

    @property
    def in_gang(self) -> bool:
        return self.always_gang or self.workers > 1

    @property
    def micro_batch(self) -> int:
        return self.stage.config.micro_batch or -(-self.batch // self.workers)

    def state_gib(self, model: ViTConfig, zero_stage: int) -> float:
        """Alone there is no ZeRO, and gradients in bf16 have float32 copies that they are added up in."""
        precision = self.stage.config.precision
        if self.in_gang:
            return flops.model_state_bytes(model, zero_stage=zero_stage, gpus=self.workers, precision=precision) / GIB
        copies = 4 * flops.num_parameters(model) if precision == "bf16" else 0
        return (flops.model_state_bytes(model, zero_stage=0, gpus=1, precision=precision) + copies) / GIB

    def activations_gib(self, model: ViTConfig, micro_batch: int) -> float:
        config = self.stage.config
        kept = flops.activation_bytes(model, precision=config.precision, recompute=config.speed.recompute)
        return micro_batch * kept / GIB


def _cost(share: _Share, model: ViTConfig, *, images: int) -> Cost:
    total = images * flops.train_flops(model)
    hours = {name: total / (share.workers * flops.PEAK_FLOPS[name] * MFU) / 3600 for name in DEVICES}
    return Cost(
        parameters=flops.num_parameters(model),
        tokens=model.num_tokens,
        image_px=model.image_px,
        forward_gmac=flops.forward_macs(model) / 1e9,
        train_gflop_per_image=flops.train_flops(model) / 1e9,
        exaflops=total / 1e18,
        state_gib=share.state_gib(model, share.stage.config.zero_stage),
        activations_gib=share.activations_gib(model, share.micro_batch),
        hours=hours if share.stage.resources.gpus_per_worker else {},
    )


def _warnings(share: _Share, model: ViTConfig) -> Iterator[str]:
    batch, workers, micro_batch = share.batch, share.workers, share.micro_batch
    if batch % workers or (share.in_gang and batch // workers % micro_batch):
        yield (
            f"a batch of {batch} cannot be divided among {workers} workers in micro-batches of {micro_batch}; "
            f"a multiple of {workers * micro_batch} would be right"
        )
        return
    gib = share.state_gib(model, share.stage.config.zero_stage) + share.activations_gib(model, micro_batch)
    if share.stage.resources.gpus_per_worker and gib > GPU_GIB:
        yield f"{gib:.0f} GiB are more than the {GPU_GIB} GiB of a GPU; {_remedy(share, model)}"


def _remedy(share: _Share, model: ViTConfig) -> str:
    """The largest micro-batch that fits, at the lowest ZeRO stage at which one does."""
    name, config = share.stage.name, share.stage.config
    part, least = share.batch // share.workers, 2 if share.even else 1
    for zero_stage in range(config.zero_stage, 4):
        for micro_batch in range(part, 0, -1):
            gib = share.state_gib(model, zero_stage) + share.activations_gib(model, micro_batch)
            if part % micro_batch == 0 and micro_batch % least == 0 and gib <= GPU_GIB:
                zero = f" --set {name}.zero_stage={zero_stage}" if zero_stage != config.zero_stage else ""
                return f"--set {name}.micro_batch={micro_batch}{zero} makes it {gib:.0f} GiB"
    return f"not even micro_batch={least} and zero_stage=3 fit: more GPUs would, or a smaller model"
